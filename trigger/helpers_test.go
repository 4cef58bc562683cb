package trigger

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	_ "time/tzdata" // tests name time zones

	"github.com/pgautomate/pgautomate/change"
)

// leadSchema is the fixture of the acceptance cases.
var leadSchema = Schema{
	ObjectType: "lead", Custom: "custom", ID: "id",
	Fields: []Field{
		{"id", KindNumber, false}, {"organization_id", KindText, false}, {"status_id", KindText, false},
		{"owner_id", KindText, false}, {"source", KindText, false}, {"value", KindNumber, false},
		{"big", KindNumber, false}, {"is_vip", KindBool, false}, {"close_date", KindDate, false},
		{"created_at", KindTimestampTZ, false}, {"seen_at", KindTimestamp, false}, {"tags", KindText, true},
		{"custom", KindJSON, false}, {"description", KindText, false}, {"ref", KindOther, false},
		{"code", KindPadded, false}, {"scores", KindNumber, true}, {"title", KindText, false},
	},
}

var leadObject = &change.Object{Type: "lead", Schema: "public", Table: "lead", ID: "id", Organization: "organization_id", Custom: "custom"}

func relationOf(s *Schema) *change.Relation {
	r := &change.Relation{OID: 1, Schema: "public", Name: s.ObjectType, Identity: change.IdentityFull}
	for _, f := range s.Fields {
		r.Columns = append(r.Columns, change.Column{Name: f.Name})
	}
	return r
}

var leadRelation = relationOf(&leadSchema)

// cols is a row by column name, in Postgres's text form; a column that is not named is NULL.
type cols map[string]string

const unchangedCell = "\x00unchanged"

func rowOf(r *change.Relation, c cols) change.Row {
	if c == nil {
		return nil
	}
	cells := make([]change.Cell, len(r.Columns))
	known := 0
	for i, col := range r.Columns {
		v, ok := c[col.Name]
		switch {
		case !ok:
			cells[i].Kind = change.Null
		case v == unchangedCell:
			cells[i].Kind = change.Unchanged
			known++
		default:
			cells[i] = change.Cell{Kind: change.Text, Data: []byte(v)}
			known++
		}
	}
	if known != len(c) {
		panic(fmt.Sprintf("%v names a column that is not in %s", c, r))
	}
	return change.MakeRow(cells)
}

// leadChange is the change of a lead of organization A.
func leadChange(before, after cols) *change.Change {
	c := &change.Change{
		Object: leadObject, Relation: leadRelation, BeforeRelation: leadRelation,
		Before: rowOf(leadRelation, before), After: rowOf(leadRelation, after), ID: "1",
	}
	if before != nil {
		c.OldOrganization = "A"
	}
	if after != nil {
		c.Organization = "A"
	}
	return c
}

// q wraps nodes as user interfaces do.
func q(objectType string, nodes ...string) string {
	return `{"type":"and","queries":[{"type":"object_type","object_type":"` + objectType + `"},{"type":"and","queries":[` + strings.Join(nodes, ",") + `]}]}`
}

func fc(field, condition string) string {
	f := `{"type":"regular_field","object_type":"lead","field_name":"` + field + `"}`
	if strings.HasPrefix(field, "cf_") {
		f = `{"type":"custom_field","custom_field_id":"` + field + `"}`
	}
	return `{"type":"field_condition","field":` + f + `,"condition":` + condition + `}`
}

func not(node string) string { return strings.TrimSuffix(node, "}") + `,"negate":true}` }
func and(nodes ...string) string {
	return `{"type":"and","queries":[` + strings.Join(nodes, ",") + `]}`
}
func or(nodes ...string) string {
	return `{"type":"or","queries":[` + strings.Join(nodes, ",") + `]}`
}

func term(values ...string) string {
	b, _ := json.Marshal(values)
	return `{"type":"term","values":` + string(b) + `}`
}

func exact(value string) string {
	b, _ := json.Marshal(value)
	return `{"type":"text","mode":"exact_value","value":` + string(b) + `}`
}

const (
	exists   = `{"type":"exists"}`
	matchAll = `{"type":"match_all"}`
)

func newLeadSet(t testing.TB, queries ...string) *Set {
	t.Helper()
	s := NewSet()
	s.SetSchema(leadSchema, leadRelation)
	for i, query := range queries {
		if err := s.Put(Definition{ID: int64(i + 1), Version: 1, Organization: "A", ObjectType: "lead", Query: json.RawMessage(query)}); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	return s
}

func match(t testing.TB, s *Set, c *change.Change) ([]Firing, Counters) {
	t.Helper()
	f, n, err := s.Match(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	return f, n
}

func problemsOf(t testing.TB, err error) []Problem {
	t.Helper()
	var v *ValidationError
	if !errors.As(err, &v) {
		t.Fatalf("want a ValidationError, got %v", err)
	}
	return v.Problems
}

// only makes schemas known.
func only(schemas ...*Schema) Schemas {
	return func(objectType string) *Schema {
		for _, s := range schemas {
			if s != nil && s.ObjectType == objectType {
				return s
			}
		}
		return nil
	}
}
