package notification

// What a workflow's steps need of the payload, checked when a trigger comes: so
// that the caller hears of it, not a failed job an hour later.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// variable is what a step's content declares of the payload.
type variable struct {
	Name         string          `json:"name"`
	Type         string          `json:"type"`
	Required     bool            `json:"required"`
	DefaultValue json.RawMessage `json:"defaultValue"`
}

func variablesOf(raw json.RawMessage) []variable {
	var list []variable
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return list
}

// reserved names what the steps' content uses and the trigger doesn't give.
func reserved(steps []dbq.FindWorkflowRow, p *prepared) string {
	missing := ""
	for _, name := range []string{"tenant", "actor"} {
		given := name == "actor" && p.actor != nil || name == "tenant" && (p.tenant != nil || p.newTenant != nil)
		if given || missing != "" {
			continue
		}
		for i := range steps {
			if steps[i].StepActive && slices.ContainsFunc(variablesOf(steps[i].StepVariables), func(v variable) bool {
				return v.Required && (v.Name == name || strings.HasPrefix(v.Name, name+"."))
			}) {
				missing = name
			}
		}
	}
	return missing
}

// checkPayload refuses a payload that lacks what is required, puts defaults in,
// and applies the schema.
func (p *prepared) checkPayload(steps []dbq.FindWorkflowRow, schema json.RawMessage, validate bool) error {
	payload, err := object(p.payload)
	if err != nil {
		return unprocessable("payload", "payload must be an object")
	}
	var missing []string
	changed := false
	need := func(name, kind string, ok bool) {
		if text := name + " (" + kind + ")"; !ok && !slices.Contains(missing, text) {
			missing = append(missing, text)
		}
	}
	for i := range steps {
		for _, v := range variablesOf(steps[i].StepVariables) {
			if v.Name == "" || isReserved(v.Name) {
				continue
			}
			value, there := lookup(payload, v.Name)
			if there && value != nil && kindFits(v.Type, value) {
				continue
			}
			if len(v.DefaultValue) > 0 && string(v.DefaultValue) != "null" && string(v.DefaultValue) != `""` && !there {
				var value any
				if decode(v.DefaultValue, &value) == nil {
					set(payload, v.Name, value)
					changed = true
					continue
				}
			}
			if v.Required {
				need(v.Name, kindName(v.Type), false)
			}
		}
		settings := parseSettings(steps[i].StepType, steps[i].StepSettings)
		if steps[i].StepType == "delay" && settings.Type == "scheduled" {
			value, _ := lookup(payload, settings.DelayPath)
			_, ok := instant(value)
			need(settings.DelayPath, "ISO Date", ok)
		}
	}
	if len(missing) > 0 {
		return &RefusedError{
			Status: 400, Message: "payload is missing required key(s) and type(s): " + strings.Join(missing, ", "),
		}
	}
	if validate && len(schema) > 0 && string(schema) != "null" {
		if err := checkSchema(schema, payload); err != nil {
			return err
		}
	}
	if changed {
		if p.payload, err = json.Marshal(payload); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
	}
	return nil
}

func isReserved(name string) bool {
	head, _, _ := strings.Cut(name, ".")
	return slices.Contains([]string{"subscriber", "step", "steps", "actor", "tenant", "organization", "workflow"}, head)
}

func kindName(kind string) string {
	switch strings.ToLower(kind) {
	case "array":
		return "Array"
	case "boolean":
		return "Boolean"
	default:
		return "Value"
	}
}

// kindFits says whether a value has the kind declared. The empty string and the
// empty list are values.
func kindFits(kind string, value any) bool {
	switch strings.ToLower(kind) {
	case "array":
		_, ok := value.([]any)
		return ok
	case "boolean":
		_, ok := value.(bool)
		return ok
	default:
		return true
	}
}

// CheckSchema says whether a JSON schema can be one.
func CheckSchema(schema json.RawMessage) error {
	_, err := compileSchema(schema)
	return err
}

// schemaName stands for the schema in errors about it.
const schemaName = "schema:payload"

func compileSchema(schema json.RawMessage) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("payloadSchema: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // nothing is fetched
	if err := c.AddResource(schemaName, doc); err != nil {
		return nil, fmt.Errorf("payloadSchema: %w", err)
	}
	compiled, err := c.Compile(schemaName)
	if err != nil {
		return nil, fmt.Errorf("payloadSchema: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	return compiled, nil
}

func checkSchema(schema json.RawMessage, payload map[string]any) error {
	compiled, err := compileSchema(schema)
	if err != nil {
		return &RefusedError{Status: 400, Message: err.Error()}
	}
	err = compiled.Validate(payload)
	if err == nil {
		return nil
	}
	refused := &RefusedError{Status: 400, Message: "the payload violates the workflow's payloadSchema"}
	invalid, ok := err.(*jsonschema.ValidationError) //nolint:errorlint // as Validate documents
	if !ok {
		refused.Message += ": " + err.Error()
		return refused
	}
	for _, unit := range invalid.BasicOutput().Errors {
		if unit.Error == nil {
			continue
		}
		refused.Errors = append(refused.Errors, FieldError{
			Field: strings.TrimPrefix(unit.InstanceLocation, "/"), Message: unit.Error.String(), SchemaPath: unit.KeywordLocation,
		})
	}
	return refused
}

// object reads a JSON object, numbers exact.
func object(raw json.RawMessage) (map[string]any, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return map[string]any{}, nil
	}
	var m map[string]any
	if err := decode(raw, &m); err != nil {
		return nil, err
	}
	if m == nil {
		m = map[string]any{}
	}
	return m, nil
}

func decode(raw json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}

// lookup finds a value by path, a.b or payload.a.b.
func lookup(m map[string]any, path string) (any, bool) {
	if v, ok := m[path]; ok {
		return v, true
	}
	if rest, ok := strings.CutPrefix(path, "payload."); ok {
		if v, ok := lookup(m, rest); ok {
			return v, true
		}
	}
	var v any = m
	for part := range strings.SplitSeq(path, ".") {
		o, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = o[part]; !ok {
			return nil, false
		}
	}
	return v, path != ""
}

func set(m map[string]any, path string, value any) {
	path = strings.TrimPrefix(path, "payload.")
	head, rest, nested := strings.Cut(path, ".")
	if !nested {
		m[head] = value
		return
	}
	inner, ok := m[head].(map[string]any)
	if !ok {
		inner = map[string]any{}
		m[head] = inner
	}
	set(inner, rest, value)
}

// instant reads an ISO 8601 instant; one without a zone is UTC.
func instant(v any) (time.Time, bool) {
	s, ok := v.(string)
	if !ok {
		return time.Time{}, false
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
