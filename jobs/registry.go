package jobs

// The registry names the action types. It is asked twice: when a pipeline or a
// trigger is saved (is this type known, are these its parameters, do the
// templates parse) and when an action runs. What is refused at save never
// becomes a failed action.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

var actionTypePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// MaxAttemptsLimit is the largest max_attempts that an action may ask for.
const MaxAttemptsLimit = 100

// commonParams are the parameters that every action type takes.
var commonParams = []string{"on_error", "max_attempts"}

// Registry holds the handlers by action type. It is safe for concurrent use.
type Registry struct {
	mu      sync.RWMutex
	entries map[string]*registration
}

type registration struct {
	handler  Handler
	declared bool // the parameters are declared: others are refused
	required []string
	optional []string
	channel  string
}

// NewRegistry makes an empty registry; Defaults makes one with the built-in types.
func NewRegistry() *Registry { return &Registry{entries: map[string]*registration{}} }

// RegisterOption adds to what the registry knows about an action type.
type RegisterOption func(*registration)

// WithParams declares a type's parameters: a required one that is missing and
// any that is in neither list are refused at save. Without it every parameter is
// taken. on_error and max_attempts belong to every type and need not be declared.
func WithParams(required []string, optional ...string) RegisterOption {
	return func(r *registration) { r.declared, r.required, r.optional = true, required, optional }
}

// WithChannel says that the type sends something to the lead, over that channel:
// it does not run for a lead that is suppressed there.
func WithChannel(channel string) RegisterOption {
	return func(r *registration) { r.channel = channel }
}

// Channel is the channel over which a type sends, "" for none.
func (r *Registry) Channel(actionType string) string {
	if reg := r.lookup(actionType); reg != nil {
		return reg.channel
	}
	return ""
}

// Register adds an action type: lower-case letters, digits and underscores, 63
// at most, the first a letter. A type that is already there is refused.
func (r *Registry) Register(actionType string, h Handler, opts ...RegisterOption) error {
	if !actionTypePattern.MatchString(actionType) {
		return fmt.Errorf("action type %q: use lower-case letters, digits and underscores, at most 63, beginning with a letter", actionType)
	}
	if h == nil {
		return fmt.Errorf("action type %q: the handler is nil", actionType)
	}
	reg := &registration{handler: h}
	for _, opt := range opts {
		opt(reg)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.entries[actionType]; taken {
		return fmt.Errorf("action type %q is already registered: choose another name", actionType)
	}
	r.entries[actionType] = reg
	return nil
}

// Handler is the type's handler.
func (r *Registry) Handler(actionType string) (Handler, bool) {
	reg := r.lookup(actionType)
	if reg == nil {
		return nil, false
	}
	return reg.handler, true
}

// Types are the registered action types, sorted.
func (r *Registry) Types() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.entries))
}

func (r *Registry) lookup(actionType string) *registration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.entries[actionType]
}

// Validate checks an action before it is saved. The error is one line that names
// the parameter and says what to do.
func (r *Registry) Validate(actionType string, params json.RawMessage) error {
	reg := r.lookup(actionType)
	if reg == nil {
		return unknownType(actionType, r.Types())
	}
	m, err := decodeParams(params)
	if err != nil {
		return err
	}
	if _, err := OnErrorOf(params); err != nil {
		return err
	}
	if _, err := MaxAttemptsOf(params, 1); err != nil {
		return err
	}
	if reg.declared {
		if err := checkNames(actionType, m, reg.required, reg.optional); err != nil {
			return err
		}
	}
	if err := checkTemplates(m); err != nil {
		return err
	}
	if v, ok := reg.handler.(Validator); ok {
		if err := v.Validate(params); err != nil {
			return fmt.Errorf("action type %q: %w", actionType, err)
		}
	}
	return nil
}

// References are the stages of its own pipeline that an action's parameters name,
// and the queries that stand in them.
func (r *Registry) References(actionType string, params json.RawMessage) (stages []StageRef, queries []QueryRef) {
	if reg := r.lookup(actionType); reg != nil {
		if h, ok := reg.handler.(Referrer); ok {
			stages, queries = h.References(params)
		}
	}
	if o, err := OnErrorOf(params); err == nil && o.Policy == OnErrorStage {
		stages = append(stages, StageRef{"/on_error/stage", o.Stage, false})
	}
	return stages, queries
}

// OnError is the same as OnErrorOf.
func (r *Registry) OnError(params json.RawMessage) (OnError, error) { return OnErrorOf(params) }

func unknownType(actionType string, known []string) error {
	hint := ""
	if n := nearest(actionType, known); n != "" {
		hint = fmt.Sprintf("; did you mean %q?", n)
	}
	return fmt.Errorf("action type %q is unknown%s (known: %s)", actionType, hint, strings.Join(known, ", "))
}

func checkNames(actionType string, m map[string]any, required, optional []string) error {
	known := slices.Concat(required, optional, commonParams)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if slices.Contains(known, name) {
			continue
		}
		hint := ""
		if n := nearest(name, known); n != "" {
			hint = fmt.Sprintf("; did you mean %q?", n)
		}
		slices.Sort(known)
		return fmt.Errorf("action type %q: unknown parameter %q%s (known: %s)", actionType, name, hint, strings.Join(known, ", "))
	}
	for _, name := range required {
		if v, there := m[name]; !there || v == nil || v == "" {
			return fmt.Errorf("action type %q: parameter %q is missing", actionType, name)
		}
	}
	return nil
}

// OnErrorPolicy is what happens to the lead's stage when an action failed for good.
type OnErrorPolicy string

// The policies of on_error.
const (
	OnErrorStop  OnErrorPolicy = "stop"  // the stage fails (the default)
	OnErrorSkip  OnErrorPolicy = "skip"  // the next action runs
	OnErrorStage OnErrorPolicy = "stage" // the lead moves to OnError.Stage
)

// OnError is an action's parameter on_error.
type OnError struct {
	Policy OnErrorPolicy
	// Stage is the name or id of a stage of the same pipeline, with OnErrorStage.
	Stage string
}

const onErrorForms = `use "stop", "skip" or {"stage": "name or id"}`

// OnErrorOf reads on_error out of an action's parameters; stop when it is not there.
func OnErrorOf(params json.RawMessage) (OnError, error) {
	m, err := decodeParams(params)
	if err != nil {
		return OnError{}, err
	}
	switch v := m["on_error"].(type) {
	case nil:
		return OnError{Policy: OnErrorStop}, nil
	case string:
		if p := OnErrorPolicy(v); p == OnErrorStop || p == OnErrorSkip {
			return OnError{Policy: p}, nil
		}
		return OnError{}, fmt.Errorf("on_error: %q is not known: %s", v, onErrorForms)
	case map[string]any:
		stage, ok := stageName(v["stage"])
		if !ok || len(v) != 1 {
			return OnError{}, fmt.Errorf("on_error: %s", onErrorForms)
		}
		return OnError{Policy: OnErrorStage, Stage: stage}, nil
	default:
		return OnError{}, fmt.Errorf("on_error: %s", onErrorForms)
	}
}

// MaxAttemptsOf reads max_attempts out of an action's parameters; fallback when
// it is not there.
func MaxAttemptsOf(params json.RawMessage, fallback int) (int, error) {
	m, err := decodeParams(params)
	if err != nil {
		return 0, err
	}
	v, there := m["max_attempts"]
	if !there || v == nil {
		return fallback, nil
	}
	if n, ok := v.(json.Number); ok {
		if i, err := strconv.Atoi(n.String()); err == nil && i >= 1 && i <= MaxAttemptsLimit {
			return i, nil
		}
	}
	return 0, fmt.Errorf("max_attempts: use a whole number from 1 to %d", MaxAttemptsLimit)
}

// stageName accepts a stage's name or id, as a string or a whole number.
func stageName(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, strings.TrimSpace(v) != ""
	case json.Number:
		_, err := strconv.ParseInt(v.String(), 10, 64)
		return v.String(), err == nil
	default:
		return "", false
	}
}

// decodeParams reads parameters with numbers kept exactly. Absent and null
// parameters are an empty object.
func decodeParams(params json.RawMessage) (map[string]any, error) {
	if len(bytes.TrimSpace(params)) == 0 {
		return map[string]any{}, nil
	}
	var v any
	if err := decodeJSON(params, &v); err != nil {
		return nil, fmt.Errorf("params: not valid JSON: %w", err)
	}
	switch v := v.(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return v, nil
	default:
		return nil, errors.New("params: use a JSON object")
	}
}

func decodeJSON(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}

// nearest is the known name closest to a mistyped one, or "" when none is close:
// at most a third of its letters differ.
func nearest(name string, known []string) string {
	best, bestDistance := "", len(name)/3+2
	for _, k := range known {
		if d := editDistance(strings.ToLower(name), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Close releases what the handlers hold open, such as idle connections. The
// registry can be used on.
func (r *Registry) Close() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var errs []error
	for _, reg := range r.entries {
		if c, ok := reg.handler.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
