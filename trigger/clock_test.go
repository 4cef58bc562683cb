package trigger

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/mirror"
)

// Timers against a clock that is looked at every ten minutes: all offsets are
// whole hours and all values whole ten minutes, so that nothing can happen
// between two looks.

const tenMinutes = 10 * time.Minute

var (
	timedLead = Schema{
		ObjectType: "lead", ID: "id", Organization: "organization_id",
		Fields: []Field{
			{"id", KindNumber, false}, {"organization_id", KindText, false}, {"day", KindDate, false}, {"moment", KindTimestampTZ, false}, {"status", KindText, false},
		},
		Relations: []Relation{{"id", "task", "lead_id"}},
	}
	timedTask = Schema{
		ObjectType: "task", ID: "id", Organization: "organization_id",
		Fields:    []Field{{"id", KindNumber, false}, {"organization_id", KindText, false}, {"lead_id", KindNumber, false}, {"due", KindTimestampTZ, false}, {"kind", KindText, false}},
		Relations: []Relation{{"lead_id", "lead", "id"}},
	}
	timedObjects = map[string]*change.Object{
		"lead": {Type: "lead", Schema: "public", Table: "lead", ID: "id", Organization: "organization_id"},
		"task": {Type: "task", Schema: "public", Table: "task", ID: "id", Organization: "organization_id"},
	}
	timedRelations = map[string]*change.Relation{"lead": relationOf(&timedLead), "task": relationOf(&timedTask)}
)

// fromNow is a bound that moves.
func fromNow(hours int, unit string) string {
	direction := "future"
	if hours < 0 {
		direction, hours = "past", -hours
	}
	end := "null"
	if unit == "day starts" {
		unit, end = "days", `"start"`
	}
	return fmt.Sprintf(`{"type":"offset","direction":%q,"moment":{"type":"now"},"offset":{%q:%d},"which_day_end":%s}`, direction, unit, hours, end)
}

func inRangeOf(field, from, before string) string {
	c := `{"type":"moment_range"`
	if from != "" {
		c += `,"on_or_after":` + from
	}
	if before != "" {
		c += `,"before":` + before
	}
	return fieldOf(field[:4], field[5:], c+"}")
}

func genWindow(t *rapid.T, field string) string {
	bound := func(name string) string {
		switch rapid.IntRange(0, 3).Draw(t, name) {
		case 0:
			return ""
		case 1:
			return `{"type":"fixed_local_date","value":"2026-03-` + strconv.Itoa(rapid.IntRange(27, 31).Draw(t, name+" day")) + `T00:00:00Z"}`
		default:
			return fromNow(rapid.IntRange(-30, 60).Draw(t, name+" by"), rapid.SampledFrom([]string{"hours", "hours", "days", "day starts"}).Draw(t, name+" unit"))
		}
	}
	from, before := bound("from"), bound("before")
	if from == "" && before == "" {
		before = fromNow(0, "seconds")
	}
	if rapid.Bool().Draw(t, "negated") {
		return not(inRangeOf(field, from, before))
	}
	return inRangeOf(field, from, before)
}

func genTimed(t *rapid.T) string {
	node := func() string {
		switch rapid.IntRange(0, 4).Draw(t, "node") {
		case 0:
			return fieldOf("lead", "status", exact("a"))
		case 1:
			return hasRelated("lead", "task", genWindow(t, "task due"), rapid.SampledFrom([]string{"", `,"at_least":2`, `,"at_most":1`, `,"negate":true`}).Draw(t, "how many"))
		case 2:
			return genWindow(t, "lead day")
		default:
			return genWindow(t, "lead moment")
		}
	}
	group := rapid.SampledFrom([]func(...string) string{and, or}).Draw(t, "group")
	return and(`{"type":"object_type","object_type":"lead"}`, group(genWindow(t, "lead moment"), node()), group(node(), node()))
}

type timedWorld struct {
	set    *Set
	store  *mirror.Store
	loc    *time.Location
	rows   map[string]map[string]cols
	timers map[int64]map[string]time.Time
	now    time.Time
	fired  []string
}

func newTimedWorld(t failer, loc *time.Location, queries ...string) *timedWorld {
	w := &timedWorld{
		set: NewSet(), store: mirror.New(), loc: loc, timers: map[int64]map[string]time.Time{},
		rows: map[string]map[string]cols{"lead": {}, "task": {}},
		now:  time.Date(2026, 3, 26, 12, 5, 0, 0, time.UTC),
	}
	w.set.SetSchema(timedLead, timedRelations["lead"])
	w.set.SetSchema(timedTask, timedRelations["task"])
	for i, query := range queries {
		def := Definition{ID: int64(i + 1), Version: 1, Organization: "A", ObjectType: "lead", Query: json.RawMessage(query), Location: loc}
		if err := w.set.Put(def); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		w.timers[def.ID] = map[string]time.Time{}
	}
	for _, spec := range w.set.Wanted() {
		w.store.Define(spec)
	}
	w.set.SetMirror(w.store)
	w.set.SetClock(w.now)
	return w
}

// arm sets the timers of all triggers that have none.
func (w *timedWorld) arm(t failer) {
	w.set.SetClock(w.now)
	for _, u := range w.set.Unarmed() {
		clear(w.timers[u.TriggerID])
		err := w.set.Arm(u.TriggerID, func(timer Timer) error {
			w.timers[u.TriggerID][timer.ObjectID] = timer.Due
			return nil
		})
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
}

func (w *timedWorld) take() {
	for _, timer := range w.set.TakeTimers(nil) {
		if timer.Due.IsZero() {
			delete(w.timers[timer.TriggerID], timer.ObjectID)
		} else {
			w.timers[timer.TriggerID][timer.ObjectID] = timer.Due
		}
	}
}

// advance fires what is due until then.
func (w *timedWorld) advance(to time.Time) {
	for {
		var first Timer
		for id, objects := range w.timers {
			for object, due := range objects {
				if !due.After(to) && (first.Due.IsZero() || due.Before(first.Due) || due.Equal(first.Due) && (id < first.TriggerID || id == first.TriggerID && object < first.ObjectID)) {
					first = Timer{id, object, due}
				}
			}
		}
		if first.Due.IsZero() {
			break
		}
		fired, _ := w.set.Due(nil, first)
		w.take()
		for _, f := range fired {
			w.fired = append(w.fired, fmt.Sprintf("%d %s at %s", f.TriggerID, f.ObjectID, first.Due.Format(time.RFC3339)))
		}
	}
	w.now = to
	w.set.SetClock(to)
}

// write is a commit that changes one row; nil deletes it.
func (w *timedWorld) write(t failer, objectType, oldID, id string, row cols) []string {
	return w.commit(t, w.edit(objectType, oldID, id, row))
}

// edit changes a row as a part of a commit.
func (w *timedWorld) edit(objectType, oldID, id string, row cols) change.Change {
	before := w.rows[objectType][oldID]
	ch := change.Change{Object: timedObjects[objectType], Relation: timedRelations[objectType], BeforeRelation: timedRelations[objectType], ID: id}
	if before != nil {
		ch.Before, ch.OldOrganization = rowOf(ch.Relation, before), before["organization_id"]
		if oldID != id {
			ch.OldID = oldID
		}
	}
	delete(w.rows[objectType], oldID)
	if row != nil {
		row["id"] = id
		ch.After, ch.Organization = rowOf(ch.Relation, row), row["organization_id"]
		w.rows[objectType][id] = row
	}
	return ch
}

func (w *timedWorld) commit(t failer, changes ...change.Change) []string {
	c := &change.Commit{Time: w.now, Changes: changes}
	for i := range c.Changes {
		if _, err := w.set.Consider(&c.Changes[i]); err != nil {
			t.Fatalf("%v", err)
		}
	}
	if err := w.store.Apply(c); err != nil {
		t.Fatalf("%v", err)
	}
	fired, _ := w.set.Settle(nil)
	w.take()
	var list []string
	for _, f := range fired {
		list = append(list, fmt.Sprintf("%d %s", f.TriggerID, f.ObjectID))
	}
	return list
}

// matching asks every trigger of every lead at a moment.
func (w *timedWorld) matching(at time.Time) map[string]bool {
	w.set.SetClock(at)
	m := map[string]bool{}
	for id, rt := range w.set.relations.triggers {
		for lead := range w.rows["lead"] {
			if w.set.verdict(rt, lead, "") == isTrue {
				m[fmt.Sprintf("%d %s", id, lead)] = true
			}
		}
	}
	w.set.SetClock(w.now)
	return m
}

func TestTimersAgainstTheClock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		loc := refLocations[rapid.IntRange(0, len(refLocations)-1).Draw(t, "zone")]
		if _, offset := time.Date(2026, 3, 28, 0, 0, 0, 0, loc).Zone(); offset%600 != 0 {
			loc = time.UTC
		}
		w := newTimedWorld(t, loc, genTimed(t), genTimed(t))
		w.arm(t)
		value := func(name string) string {
			return w.now.Truncate(tenMinutes).Add(time.Duration(rapid.IntRange(-300, 500).Draw(t, name)) * tenMinutes).Format("2006-01-02 15:04:05+00")
		}
		for range rapid.IntRange(4, 10).Draw(t, "steps") {
			was := w.matching(w.now)
			to := w.now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "wait")) * tenMinutes)
			var want []string
			for at := w.now.Truncate(tenMinutes).Add(tenMinutes + time.Microsecond); at.Before(to); at = at.Add(tenMinutes) {
				// A day starts at the moment itself, the bounds of moments pass a value after it.
				for _, at := range []time.Time{at.Add(-time.Microsecond), at} {
					is := w.matching(at)
					for _, key := range slices.Sorted(maps.Keys(is)) {
						if !was[key] {
							want = append(want, key+" at "+at.Format(time.RFC3339))
						}
					}
					was = is
				}
			}
			w.fired = nil
			w.advance(to)
			slices.Sort(want)
			slices.Sort(w.fired)
			if !slices.Equal(want, w.fired) {
				t.Fatalf("until %s the clock should have fired\n%s\nbut did\n%s", to, strings.Join(want, "\n"), strings.Join(w.fired, "\n"))
			}

			if rapid.IntRange(0, 5).Draw(t, "read anew") == 0 {
				w.set.Disarm()
				w.arm(t)
			}
			objectType := rapid.SampledFrom([]string{"lead", "lead", "task"}).Draw(t, "type")
			id := strconv.Itoa(rapid.IntRange(1, 4).Draw(t, "id"))
			newID := id
			var row cols
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
			case 1:
				newID = strconv.Itoa(rapid.IntRange(1, 4).Draw(t, "new id"))
				if w.rows[objectType][newID] != nil || w.rows[objectType][id] == nil {
					newID = id
				}
				fallthrough
			default:
				row = cols{"organization_id": rapid.SampledFrom([]string{"A", "A", "A", "B"}).Draw(t, "organization")}
				if objectType == "task" {
					row["lead_id"] = strconv.Itoa(rapid.IntRange(1, 4).Draw(t, "lead"))
					row["due"] = value("due")
				} else {
					row["moment"], row["day"] = value("moment"), value("day")[:10]
					row["status"] = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "status")
				}
			}
			if newID != id && rapid.Bool().Draw(t, "nothing else") {
				row = maps.Clone(w.rows[objectType][id])
			}
			if row == nil && w.rows[objectType][id] == nil {
				continue
			}
			was = w.matching(w.now)
			if newID != id && objectType == "lead" {
				for key := range was {
					if n, old, _ := strings.Cut(key, " "); old == id {
						was[n+" "+newID] = true
					}
				}
			}
			fired := w.write(t, objectType, id, newID, row)
			want = nil
			for key := range w.matching(w.now) {
				if !was[key] {
					want = append(want, key)
				}
			}
			slices.Sort(want)
			slices.Sort(fired)
			if !slices.Equal(want, fired) {
				t.Fatalf("the commit at %s should have fired %q but did %q", w.now, want, fired)
			}
		}
	})
}

// A row that only gets another id keeps its moment.
func TestTimersFollowIDs(t *testing.T) {
	t.Parallel()
	w := newTimedWorld(t, time.UTC, and(`{"type":"object_type","object_type":"lead"}`, inRangeOf("lead moment", "", fromNow(0, "seconds"))))
	w.arm(t)
	row := cols{"organization_id": "A", "moment": w.now.Add(time.Hour).Format(time.RFC3339)}
	w.write(t, "lead", "1", "1", row)
	w.write(t, "lead", "1", "2", maps.Clone(row))
	w.advance(w.now.Add(2 * time.Hour))
	if len(w.fired) != 1 || !strings.HasPrefix(w.fired[0], "1 2 at") {
		t.Errorf("fired: %q", w.fired)
	}
}
