package trigger

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// Whatever is expected, and then comes or doesn't, while triggers come and go: what fires is the same.
func TestExpect(t *testing.T) {
	t.Parallel()
	schema := Schema{ObjectType: "lead", ID: "id", Organization: "organization_id", Fields: []Field{
		{"id", KindText, false}, {"organization_id", KindText, false}, {"status_id", KindText, false},
	}}
	relation := relationOf(&schema)
	object, other := &change.Object{Type: "lead"}, &change.Object{Type: "unknown"}
	fired := 0
	rapid.Check(t, func(t *rapid.T) {
		s := NewSet()
		s.SetSchema(schema, relation)
		names := []string{"a", "b", "c", "d", strings.Repeat("x", shortName+1)}
		id := int64(0)
		live := map[int64]string{}
		draw := func(c *change.Change) {
			org := rapid.SampledFrom(append([]string{"nobody"}, names...)).Draw(t, "organization")
			*c = change.Change{Object: object, Relation: relation, BeforeRelation: relation, ID: "1", Organization: org}
			if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
				c.Object = other
			}
			row := func() change.Row {
				return rowOf(relation, cols{"id": "1", "organization_id": org, "status_id": rapid.SampledFrom([]string{"C", "Q"}).Draw(t, "status")})
			}
			if c.After = row(); rapid.Bool().Draw(t, "update") {
				c.Before, c.OldOrganization = row(), org
			}
		}
		pool := make([]change.Change, 2*Window)
		for i := range pool {
			draw(&pool[i])
		}
		some := func() *change.Change { return &pool[rapid.IntRange(0, len(pool)-1).Draw(t, "change")] }
		edit := func() { // an organization's triggers go, or one more comes
			org := rapid.SampledFrom(names).Draw(t, "organization")
			gone := false
			for _, id := range slices.Sorted(maps.Keys(live)) {
				if live[id] == org && rapid.Bool().Draw(t, "goes") {
					s.Remove(id)
					delete(live, id)
					gone = true
				}
			}
			if gone && rapid.Bool().Draw(t, "none for now") {
				return
			}
			id++
			if err := s.Put(Definition{ID: id, Version: 1, Organization: org, ObjectType: "lead", Query: json.RawMessage(q("lead", fc("status_id", term("C"))))}); err != nil {
				t.Fatal(err)
			}
			live[id] = org
		}
		for range rapid.IntRange(1, 20).Draw(t, "rounds") {
			for range rapid.IntRange(0, 4).Draw(t, "edits") {
				edit()
			}
			next := make([]*change.Change, rapid.IntRange(0, Window+3).Draw(t, "many"))
			for i := range next {
				next[i] = some()
			}
			s.Expect(next)
			for _, c := range next {
				switch rapid.IntRange(0, 9).Draw(t, "between") {
				case 0:
					continue // it doesn't come
				case 1:
					draw(c) // the caller uses its memory for another one
				case 2, 3:
					edit()
					edit()
				}
				fired += compareMatch(t, s, c)
			}
		}
	})
	if fired == 0 {
		t.Error("nothing fired: the test shows nothing")
	}
}

func compareMatch(t *rapid.T, s *Set, c *change.Change) int {
	t.Helper()
	got, _, err := s.Match(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := s.matchAll(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("organization %s: fires %v, want %v", c.Organization, got, want)
	}
	return len(got)
}
