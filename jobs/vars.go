package jobs

// Vars are what the templates of one action may name. A row is read only when a
// template really asks for it: an action that names no lead needs no lead row,
// and then also runs while that row is not visible yet.

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Vars holds the template variables of one action. Each lazy one is loaded at
// most once. It is safe for concurrent use; a nil *Vars holds nothing.
type Vars struct {
	mu       sync.Mutex
	entries  map[string]*variable
	location *time.Location
}

type variable struct {
	mu     sync.Mutex
	load   func(ctx context.Context) (any, error)
	loaded bool
	value  any
}

// NewVars makes an empty set.
func NewVars() *Vars { return &Vars{entries: map[string]*variable{}} }

// Set gives a variable its value: anything that encoding/json can write, a
// time.Time, or a json.Number. Later calls replace earlier ones.
func (v *Vars) Set(name string, value any) {
	v.put(name, &variable{loaded: true, value: liquidValue(value)})
}

// SetLazy names a variable whose value load fetches when a template first asks
// for it. An error of load ends the rendering and is returned as it is, so that
// ErrNotVisible stays what it is; it is not remembered.
func (v *Vars) SetLazy(name string, load func(ctx context.Context) (any, error)) {
	v.put(name, &variable{load: load})
}

// SetLocation sets the time zone in which the date filter shows instants and
// reads times without one: the organization's. Default UTC.
func (v *Vars) SetLocation(loc *time.Location) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.location = loc
}

func (v *Vars) put(name string, e *variable) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.entries[name] = e
}

// Names are the variables' names, sorted.
func (v *Vars) Names() []string {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.entries))
}

// Loaded says whether the variable's value is there without a further load.
func (v *Vars) Loaded(name string) bool {
	e := v.entry(name)
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.loaded
}

// Get is the variable's value, loaded if need be; nil when there is none of that
// name. Objects are map[string]any, whole numbers that fit are int.
func (v *Vars) Get(ctx context.Context, name string) (any, error) {
	e := v.entry(name)
	if e == nil {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.loaded {
		value, err := e.load(ctx)
		if err != nil {
			return nil, err
		}
		e.value, e.loaded, e.load = liquidValue(value), true, nil
	}
	return e.value, nil
}

func (v *Vars) entry(name string) *variable {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.entries[name]
}

func (v *Vars) zone() *time.Location {
	if v == nil {
		return time.UTC
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.location == nil {
		return time.UTC
	}
	return v.location
}
