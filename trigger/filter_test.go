package trigger

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

const event = `{"action":"updated","object_type":"lead","object_id":"7","organization_id":"A","changed_fields":["status_id","tags"],
	"data":{"status_id":"C","value":10.50,"tags":["a","b"],"note":null,"custom":{"x":{"y":[1,2]}}},"previous_data":{"status_id":"Q","tags":["a"]}}`

func changedTo(name string) string {
	return `{"type":"field_accessor","field":"changed_fields","filter":{"type":"contains","value":"` + name + `"}}`
}

func TestFilter(t *testing.T) {
	t.Parallel()
	data := func(field, filter string) string {
		return `{"type":"field_accessor","field":"data","filter":{"type":"field_accessor","field":"` + field + `","filter":` + filter + `}}`
	}
	for _, tt := range []struct {
		filter string
		want   bool
		needs  []string
	}{
		{changedTo("status_id"), true, []string{"status_id"}},
		{changedTo("value"), false, []string{"value"}},
		{`{"type":"field_accessor","field":"changed_fields","filter":{"type":"any_array_value","filter":{"type":"equals","value":"tags"}}}`, true, []string{"tags"}},
		{`{"type":"and","filters":[` + data("status_id", `{"type":"non_null"}`) + `,` + changedTo("tags") + `]}`, true, []string{"tags"}},
		{`{"type":"or","filters":[` + changedTo("value") + `,` + changedTo("tags") + `]}`, true, []string{"value", "tags"}},
		{`{"type":"or","filters":[` + changedTo("value") + `,{"type":"not","filter":` + changedTo("tags") + `}]}`, false, nil},
		{`{"type":"or","filters":[]}`, true, nil},
		{`{"type":"not","filter":` + changedTo("value") + `}`, true, nil},
		{data("status_id", `{"type":"equals","value":"C"}`), true, nil},
		{data("status_id", `{"type":"not_equals","value":"C"}`), false, nil},
		{data("value", `{"type":"equals","value":10.5}`), true, nil},
		{data("value", `{"type":"equals","value":"10.50"}`), true, nil},
		{data("value", `{"type":"equals","value":"10.5"}`), false, nil},
		{data("note", `{"type":"is_null"}`), true, nil},
		{data("nothing", `{"type":"is_null"}`), true, nil},
		{data("tags", `{"type":"contains","value":"b"}`), true, nil},
		{data("tags", `{"type":"equals","value":"b"}`), false, nil},
		{data("status_id", `{"type":"contains","value":"C"}`), true, nil},
		{data("custom", `{"type":"field_accessor","field":"x","filter":{"type":"field_accessor","field":"y","filter":{"type":"contains","value":2}}}`), true, nil},
		{data("value", `{"type":"field_accessor","field":"x","filter":{"type":"is_null"}}`), true, nil},
		{`{"type":"field_accessor","field":"previous_data","filter":{"type":"field_accessor","field":"status_id","filter":{"type":"equals","value":"Q"}}}`, true, nil},
		{`{"type":"field_accessor","field":"action","filter":{"type":"equals","value":"created"}}`, false, nil},
	} {
		f, err := ParseFilter([]byte(tt.filter))
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		d := json.NewDecoder(bytes.NewReader([]byte(event)))
		d.UseNumber()
		var e any
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if f.Holds(e) != tt.want {
			t.Errorf("%s: %v", tt.filter, !tt.want)
		}
		if got := f.needs(); !slices.Equal(got, tt.needs) {
			t.Errorf("%s needs %q, want %q", tt.filter, got, tt.needs)
		}
	}
}

func TestFilterRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ filter, pointer, code, nearest string }{
		{`{"type":"equal","value":1}`, "", CodeUnknownNode, `{"type":"equals","value":1}`},
		{`{"type":"field_accessor","field":"changed_field","filter":{"type":"non_null"}}`, "/field", CodeUnknownField, `"changed_fields"`},
		{`{"type":"and","filters":[{"type":"contains"}]}`, "/filters/0", CodeMissingMember, `{"type":"contains","value":""}`},
		{`{"type":"not"}`, "", CodeMissingMember, `{"type":"not","filter":{"type":"non_null"}}`},
		{`{"type":"is_null","value":1}`, "", CodeUnknownMember, `{"type":"is_null"}`},
		{`{"type":"equals","value":[1]}`, "/value", CodeTypeMismatch, ""},
		{`{`, "", CodeInvalidJSON, ""},
	} {
		_, err := ParseFilter([]byte(tt.filter))
		if p := problemsOf(t, err)[0]; p.Pointer != tt.pointer || p.Code != tt.code || string(p.Nearest) != tt.nearest {
			t.Errorf("%s\ngot  %s %s %s: %s\nwant %s %s %s", tt.filter, p.Pointer, p.Code, p.Nearest, p.Message, tt.pointer, tt.code, tt.nearest)
		}
	}
}
