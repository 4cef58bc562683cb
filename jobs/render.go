package jobs

// Render puts the variables into an action's parameters. Parameters are JSON;
// each string in them that holds {{ or {% is a Liquid template of its own, so
// that what a variable holds can never change the JSON around it.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RenderOption changes how some parameters are rendered.
type RenderOption func(*renderOptions)

type renderOptions struct{ typed, html []string }

// KeepTypes names top-level parameters below which a string that is nothing but
// one expression, "{{ lead.score }}", becomes the value itself: a json.Number, a
// bool, an object, or nil. Elsewhere every template becomes text, nil the empty one.
func KeepTypes(params ...string) RenderOption {
	return func(o *renderOptions) { o.typed = append(o.typed, params...) }
}

// HTML names top-level parameters that are HTML: what stands between {{ and }} is
// escaped there, unless its last filter is raw or it is escaped already.
func HTML(params ...string) RenderOption {
	return func(o *renderOptions) { o.html = append(o.html, params...) }
}

// Render renders every template in params with vars; only variables that the
// templates evaluate are loaded. Numbers that stand in the parameters come back as
// json.Number. A template that doesn't parse or can't be rendered is a Permanent
// error that names the parameter, one that took too long a passing one; an error of
// a variable's loader, such as ErrNotVisible, comes back as it is.
func Render(ctx context.Context, params json.RawMessage, vars *Vars, opts ...RenderOption) (map[string]any, error) {
	var o renderOptions
	for _, opt := range opts {
		opt(&o)
	}
	m, err := knownParams(params)
	if err != nil {
		return nil, Permanent(err)
	}
	r, cfg := begin(ctx), utcFilters
	if loc := vars.zone(); loc != time.UTC {
		cfg = withFilters(loc)
	}
	out := make(map[string]any, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		asHTML, typed := slices.Contains(o.html, name), slices.Contains(o.typed, name)
		out[name], err = eachString(name, m[name], 0, func(path, s string) (any, error) {
			if !isTemplate(s) {
				return s, nil
			}
			t, err := compileTemplate(s)
			if err != nil {
				return nil, Permanent(templateError(path, err))
			}
			v, err := r.render(&cfg, t, vars, asHTML, typed)
			if err != nil {
				return nil, renderError(ctx, path, err)
			}
			return v, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mostKnown is how long parameters may be to be kept, in bytes; maxKnownBytes how much is kept of all.
const (
	mostKnown     = 16 << 10
	maxKnownBytes = 1 << 20
)

var known = newCache[map[string]any](maxKnownBytes)

// knownParams decodes parameters, or finds them decoded. Nobody may change what it gives.
func knownParams(params json.RawMessage) (map[string]any, error) {
	if len(params) > mostKnown {
		return decodeParams(params)
	}
	if m, ok := known.get(string(params)); ok {
		return m, nil
	}
	m, err := decodeParams(params)
	if err == nil {
		known.put(string(params), m)
	}
	return m, err
}

// renderError says what an error of rendering means. Slowness may be the machine's, or that of a process that was frozen
// meanwhile: it is worth another attempt.
func renderError(ctx context.Context, path string, err error) error {
	var load loadError
	switch {
	case errors.As(err, &load):
		return load.error
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errTooSlow):
		return templateError(path, err)
	default:
		return Permanent(templateError(path, err))
	}
}

// RenderString renders one template, as Render does a parameter of that name.
func RenderString(ctx context.Context, name, template string, vars *Vars, opts ...RenderOption) (string, error) {
	params, err := json.Marshal(map[string]string{name: template})
	if err != nil {
		return "", Permanent(err)
	}
	m, err := Render(ctx, params, vars, opts...)
	if err != nil {
		return "", err
	}
	return text(liquidValue(m[name]), false), nil
}

// CheckTemplate says whether a template parses; the error is one line.
func CheckTemplate(template string) error {
	if !isTemplate(template) {
		return nil
	}
	_, err := compileTemplate(template)
	return err
}

func checkTemplates(m map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		_, err := eachString(name, m[name], 0, func(path, s string) (any, error) {
			if err := CheckTemplate(s); err != nil {
				return nil, templateError(path, err)
			}
			return s, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func templateError(path string, err error) error {
	return fmt.Errorf("template in parameter %q: %w", path, err)
}

func isTemplate(s string) bool { return strings.Contains(s, "{{") || strings.Contains(s, "{%") }

// eachString copies a JSON value with every string in it, keys left alone,
// replaced by what f makes of it.
func eachString(path string, v any, depth int, f func(path, s string) (any, error)) (any, error) {
	if depth > maxParamsDepth {
		return nil, Permanentf("parameter %q is nested deeper than %d levels", excerpt(path), maxParamsDepth)
	}
	switch v := v.(type) {
	case string:
		return f(path, v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = eachString(path+"["+strconv.Itoa(i)+"]", e, depth+1, f); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			var err error
			if out[k], err = eachString(path+"."+k, v[k], depth+1, f); err != nil {
				return nil, err
			}
		}
		return out, nil
	default:
		return v, nil
	}
}
