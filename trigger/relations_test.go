package trigger

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// What the index brings up for triggers across relations against asking all of
// them about all objects.

func genAcross(t *rapid.T, objectType string, depth int) string {
	var leaf func() string
	related := func(other string) string {
		how := rapid.SampledFrom([]string{"", "", `,"at_least":2`, `,"at_most":1`, `,"at_least":1,"at_most":1`, `,"negate":true`, `,"at_most":0,"negate":true`}).Draw(t, "how many")
		return hasRelated(objectType, other, genAcross(t, other, depth+1), how)
	}
	leaf = func() string {
		n := rapid.IntRange(0, 5).Draw(t, "leaf")
		if n > 2 && depth < MaxRelated {
			if objectType == "lead" {
				return related("task")
			}
			return related("lead")
		}
		node := ""
		switch {
		case objectType == "lead" && n%2 == 0:
			node = fieldOf("lead", "status", term(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "status")))
		case objectType == "lead":
			node = fieldOf("lead", "day", rapid.SampledFrom([]string{exists, `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-03-27","which":"start"}}`}).Draw(t, "day"))
		case n%2 == 0:
			node = fieldOf("task", "kind", exact(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "kind")))
		default:
			node = fieldOf("task", "due", exists)
		}
		if rapid.Bool().Draw(t, "negated") {
			return not(node)
		}
		return node
	}
	if depth > 0 {
		switch rapid.IntRange(0, 3).Draw(t, "inner") {
		case 0:
			return matchAll
		case 1:
			return leaf()
		}
	}
	group := rapid.SampledFrom([]func(...string) string{and, or}).Draw(t, "group")
	q := group(leaf(), leaf())
	if rapid.IntRange(0, 3).Draw(t, "negated group") == 0 {
		q = not(q)
	}
	return q
}

func TestRelatedAgainstAll(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var queries []string
		for range rapid.IntRange(1, 6).Draw(t, "triggers") {
			queries = append(queries, and(`{"type":"object_type","object_type":"lead"}`, related0(t), genAcross(t, "lead", 0)))
		}
		w := newTimedWorld(t, time.UTC, queries...)
		for range rapid.IntRange(3, 15).Draw(t, "commits") {
			if rapid.IntRange(0, 6).Draw(t, "edit") == 0 {
				id := rapid.IntRange(1, len(queries)).Draw(t, "trigger")
				if rapid.Bool().Draw(t, "gone") {
					w.set.Remove(int64(id))
				} else if err := w.set.Put(Definition{
					ID: int64(id), Version: 2, Organization: "A", ObjectType: "lead", Query: json.RawMessage(queries[rapid.IntRange(0, len(queries)-1).Draw(t, "query")]),
				}); err != nil {
					t.Fatalf("%v", err)
				}
			}
			was := w.matching(w.now)
			var changes []change.Change
			touched := map[string]bool{}
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				objectType := rapid.SampledFrom([]string{"lead", "task"}).Draw(t, "type")
				id := strconv.Itoa(rapid.IntRange(1, 5).Draw(t, "id"))
				if touched[objectType+id] {
					continue
				}
				touched[objectType+id] = true
				row := cols{"organization_id": rapid.SampledFrom([]string{"A", "A", "A", "B"}).Draw(t, "organization")}
				maybe := func(name, value string) {
					if rapid.IntRange(0, 3).Draw(t, "has "+name) > 0 {
						row[name] = value
					}
				}
				ab := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "value")
				if objectType == "lead" {
					maybe("status", ab)
					maybe("day", "2026-03-2"+strconv.Itoa(rapid.IntRange(6, 7).Draw(t, "day")))
				} else {
					maybe("kind", ab)
					maybe("lead_id", strconv.Itoa(rapid.IntRange(1, 5).Draw(t, "lead")))
					maybe("due", "2026-03-26 00:00:00+00")
				}
				if rapid.IntRange(0, 4).Draw(t, "deleted") == 0 {
					row = nil
				}
				if row == nil && w.rows[objectType][id] == nil {
					continue
				}
				newID := id
				if row != nil && w.rows[objectType][id] != nil && rapid.IntRange(0, 9).Draw(t, "renamed") == 0 {
					other := strconv.Itoa(rapid.IntRange(6, 7).Draw(t, "new id"))
					if w.rows[objectType][other] == nil && !touched[objectType+other] {
						newID = other
						touched[objectType+other] = true
					}
				}
				if newID != id && objectType == "lead" {
					for key := range was {
						if n, old, _ := strings.Cut(key, " "); old == id {
							was[n+" "+newID] = true
						}
					}
				}
				changes = append(changes, w.edit(objectType, id, newID, row))
			}
			if len(changes) == 0 {
				continue
			}
			fired := w.commit(t, changes...)
			var want []string
			for key := range w.matching(w.now) {
				if !was[key] {
					want = append(want, key)
				}
			}
			slices.Sort(want)
			slices.Sort(fired)
			if !slices.Equal(want, fired) {
				t.Fatalf("should have fired %q but did %q", want, fired)
			}
		}
		for id := range queries {
			w.set.Remove(int64(id + 1))
		}
		r := &w.set.relations
		if n := len(r.roots) + len(r.begins) + len(r.ends) + len(r.watchers) + len(r.triggers); n > 0 {
			t.Fatalf("%d things are left of no triggers", n)
		}
	})
}

// related0 makes sure that a trigger is decided on the mirror.
func related0(t *rapid.T) string {
	return hasRelated("lead", "task", genAcross(t, "task", 1), rapid.SampledFrom([]string{"", `,"at_most":2`, `,"negate":true`}).Draw(t, "of tasks"))
}

// Negations around and inside: either of two values that come ends the match of a
// related row, and so begins that of the object.
func TestRelatedOpposite(t *testing.T) {
	t.Parallel()
	w := newTimedWorld(t, time.UTC, and(`{"type":"object_type","object_type":"lead"}`,
		hasRelated("lead", "task", and(not(fieldOf("task", "kind", exact("a"))), not(fieldOf("task", "due", exists))), `,"negate":true`)))
	w.commit(t, w.edit("lead", "1", "1", cols{"organization_id": "A"}), w.edit("task", "1", "1", cols{"organization_id": "A", "lead_id": "1"}))
	if fired := w.commit(t, w.edit("task", "1", "1", cols{"organization_id": "A", "lead_id": "1", "due": "2026-03-26 00:00:00+00"})); len(fired) != 1 {
		t.Errorf("fired %q", fired)
	}
}
