package trigger

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// matchAll is Match without the index: it evaluates all triggers of the group.
func (s *Set) matchAll(dst []Firing, c *change.Change) ([]Firing, Counters, error) {
	t := s.types[c.Object.Type]
	if t == nil || c.After == nil || c.Organization == "" || c.BeforeUnknown {
		return dst, Counters{}, nil
	}
	g := t.groups.get(c.Organization)
	if g == nil {
		return dst, Counters{}, nil
	}
	m := &s.m
	m.counters = Counters{}
	created := c.Before == nil || c.OldOrganization != c.Organization
	if err := m.load(t, g, c, created); err != nil {
		return dst, Counters{}, err
	}
	if !created && len(m.changed) == 0 {
		return dst, Counters{}, nil
	}
	for n := range g.used {
		if g.at(n).code != "" {
			m.hit(n)
		}
	}
	m.numbers = m.hits.list(m.numbers[:0], g.used)
	for m.at = 0; m.at < len(m.numbers); {
		dst = s.decide(dst, g, created)
	}
	return dst, m.counters, nil
}

// check verifies what must hold of every index: the postings are those of the
// live triggers, sorted, and slots know their ends and classes.
func (s *Set) check(t *rapid.T) {
	for _, g := range s.groups {
		if g == nil {
			continue
		}
		var want [2][]posting
		live, uses := uint32(0), make([]uint32, len(g.slots))
		for n := range g.used {
			e := g.at(n)
			if e.code == "" {
				continue
			}
			live++
			if at, ok := s.byID[e.id]; !ok || at != (place{g.number, n}) {
				t.Fatalf("trigger %d is not at %v", e.id, at)
			}
			for _, p := range s.poster.postings(e.program(), n, len(g.slots)) {
				if int(p.slot) < len(g.slots) {
					want[changes] = append(want[changes], p.posting)
					if g.slots[p.slot].classes&classBit(p.key>>classShift&classMask) == 0 {
						t.Fatalf("slot %d does not know of %x", p.slot, p.key)
					}
				}
				if p.creation {
					want[creations] = append(want[creations], p.posting)
				}
			}
			programSlots(e.program(), func(slot uint32) { uses[slot]++ })
		}
		if live != g.live || live == 0 {
			t.Fatalf("%d live triggers, counted %d", g.live, live)
		}
		for i := range g.slots {
			if g.slots[i].uses != uses[i] {
				t.Fatalf("slot %d has %d uses, counted %d", i, g.slots[i].uses, uses[i])
			}
			if g.slots[i].uses > 0 {
				if slot, ok := g.find(g.fields[i]); !ok || slot != uint32(i) {
					t.Fatalf("slot %d is not found", i)
				}
			}
		}
		for index := range want {
			got := g.index[index].all
			if c := g.index[index].big; c != nil {
				for i, list := range c.lists {
					if len(list) > chunkMax || i > 0 && (len(list) > 0 && list[0].less(c.least[i]) || !c.least[i-1].less(c.least[i])) {
						t.Fatalf("list %d of %d is out of order", i, len(c.lists))
					}
					got = append(got, list...)
				}
			} else {
				start := uint32(0)
				for i := range g.slots {
					end := g.slots[i].end[index]
					for _, p := range got[start:end] {
						if p.key>>slotShift != slotKey(uint32(i))>>slotShift {
							t.Fatalf("posting %x is in slot %d", p.key, i)
						}
					}
					start = end
				}
			}
			slices.SortFunc(want[index], func(a, b posting) int {
				if a.less(b) {
					return -1
				}
				return 1
			})
			if !slices.Equal(got, want[index]) {
				t.Fatalf("%d postings, want %d", len(got), len(want[index]))
			}
		}
	}
}

// Random triggers, some of them in hundreds of copies, so that lists become
// long and keys hot; edits in between; and cells that were not sent. The index
// gives exactly what a scan gives, and, where all is known, the reference.
func TestIndexAgreesWithScan(t *testing.T) {
	t.Parallel()
	var fired, candidates, all uint64
	rapid.Check(t, func(t *rapid.T) {
		schema := genSchema(t)
		relation := relationOf(&schema)
		object := &change.Object{Type: "lead"}
		s := NewSet()
		s.SetSchema(schema, relation)
		defs := map[int64]Definition{}
		var originals []Definition // one of each query
		next := int64(0)
		put := func(d Definition) {
			if err := s.Put(d); err != nil {
				t.Fatalf("%s: %v", d.Query, err)
			}
			defs[d.ID] = d
		}
		edit := func() {
			switch rapid.IntRange(0, 7).Draw(t, "edit") {
			case 0: // take out a good part
				step := int64(rapid.IntRange(1, 5).Draw(t, "step"))
				for id := int64(0); id < next; id += step {
					s.Remove(id)
					delete(defs, id)
				}
			case 1: // there and back again: all is compiled anew from its source
				s.SetSchema(Schema{ObjectType: "lead", Fields: schema.Fields[:1], ID: "id"}, nil)
				s.SetSchema(schema, relation)
				s.TakeRecovered()
			case 2: // another version
				if len(defs) > 0 {
					ids := slices.Sorted(maps.Keys(defs))
					d := defs[pick(t, ids)]
					d.Version++
					d.Query = asJSON(pinned(genNode(t, &schema, 3, true)))
					put(d)
					originals = append(originals, d)
				}
			default:
				d := Definition{
					Version: 1, Organization: pick(t, []string{"A", "A", "B"}), ObjectType: "lead",
					Query: asJSON(pinned(genNode(t, &schema, 3, true))), Location: pick(t, refLocations),
				}
				for range pick(t, []int{1, 1, 1, 1, 1, 40, 700}) {
					d.ID = next
					next++
					put(d)
				}
				originals = append(originals, d)
			}
		}
		for range rapid.IntRange(1, 14).Draw(t, "edits") {
			edit()
		}
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			if rapid.IntRange(0, 4).Draw(t, "edit between") == 0 {
				edit()
				s.check(t)
			}
			c := &change.Change{Object: object, Relation: relation, BeforeRelation: relation, ID: "1", Organization: pick(t, []string{"A", "A", "B"})}
			after, afterRow := genObject(t, &schema, "1")
			before := refObject(nil)
			var beforeRow cols
			known := true
			if rapid.IntRange(0, 4).Draw(t, "insert") > 0 {
				old := "1"
				if rapid.IntRange(0, 4).Draw(t, "key change") == 0 {
					old, c.OldID = "2", "2"
				}
				before, beforeRow = genObject(t, &schema, old)
				c.OldOrganization = pick(t, []string{c.Organization, c.Organization, "B"})
				keep(t, &schema, before, after, beforeRow, afterRow)
			}
			if rapid.IntRange(0, 3).Draw(t, "some not sent") == 0 {
				for _, f := range schema.Fields[1:] {
					switch rapid.IntRange(0, 5).Draw(t, "not sent") {
					case 0:
						afterRow[f.Name], known = unchangedCell, false
					case 1:
						if beforeRow != nil {
							beforeRow[f.Name], known = unchangedCell, false
						}
					}
				}
			}
			c.Before, c.After = rowOf(relation, beforeRow), rowOf(relation, afterRow)
			if c.Before != nil && rapid.IntRange(0, 5).Draw(t, "altered inside") == 0 {
				// Another layout of the same columns, so that they are compared one by one.
				c.BeforeRelation = relationOf(&schema)
			}

			got, n, err := s.Match(nil, c)
			if err != nil || n.Poisoned > 0 || known && n.Indeterminate > 0 {
				t.Fatalf("%v %+v", err, n)
			}
			want, m, err := s.matchAll(nil, c)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) || n.Candidates > m.Candidates || n.Indeterminate > m.Indeterminate || n.TypeMismatch > m.TypeMismatch {
				for _, d := range originals {
					t.Logf("%d (%s, %s): %s", d.ID, d.Organization, d.Location, d.Query)
				}
				t.Fatalf("%v -> %v\n%s -> %s\ngot  %v %+v\nwant %v %+v", beforeRow, afterRow, c.OldOrganization, c.Organization, got, n, want, m)
			}
			fired, candidates, all = fired+uint64(len(got)), candidates+n.Candidates, all+m.Candidates
			if !known {
				continue
			}
			fires := map[int64]bool{}
			for _, f := range got {
				fires[f.TriggerID] = true
			}
			for _, o := range originals {
				d, ok := defs[o.ID]
				if !ok || d.Version != o.Version {
					continue
				}
				query := roundTrip(d.Query)
				holds := c.Organization == d.Organization && refHolds(query, after, d.Location) &&
					(before == nil || c.OldOrganization != d.Organization || !refHolds(query, before, d.Location))
				if holds != fires[d.ID] {
					t.Fatalf("%v -> %v: fires %v\n%s", beforeRow, afterRow, fires[d.ID], d.Query)
				}
			}
		}
		s.check(t)
		for id := range defs {
			s.Remove(id)
		}
		if s.Len() != 0 || s.types["lead"].groups.n != 0 {
			t.Fatalf("%d triggers, %d groups left", s.Len(), s.types["lead"].groups.n)
		}
	})
	if fired == 0 {
		t.Error("nothing fired: the generators miss each other")
	}
	t.Logf("%d fired of %d candidates of %d triggers", fired, candidates, all)
}

// keep makes some of an object's fields those that it had before.
func keep(t *rapid.T, schema *Schema, before, after refObject, beforeRow, afterRow cols) {
	for _, f := range schema.Fields[1:] {
		if rapid.IntRange(0, 2).Draw(t, "keep") == 0 {
			continue
		}
		delete(afterRow, f.Name)
		if v, ok := beforeRow[f.Name]; ok {
			afterRow[f.Name] = v
		}
		names := []string{f.Name}
		if f.Name == schema.Custom {
			for _, key := range poolKeys {
				names = append(names, "custom."+key)
			}
		}
		for _, name := range names {
			delete(after, name)
			if v, ok := before[name]; ok {
				after[name] = v
			}
		}
	}
}

// What brings a trigger up, and what does not.
func TestCandidates(t *testing.T) {
	t.Parallel()
	number := func(bounds string) string { return fc("value", `{"type":"number_range",`+bounds+`}`) }
	since := func(day string) string {
		return fc("close_date", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"`+day+`","which":"start"}}`)
	}
	tests := []struct {
		name          string
		query         string
		before, after cols
		want          uint64
	}{
		{"the new value", q("lead", statusC), status("Q"), status("C"), 1},
		{"another value", q("lead", statusC), status("Q"), status("L"), 0},
		{"the value before", q("lead", statusC), status("C"), status("L"), 0},
		{"another field", q("lead", statusC), cols{"status_id": "C", "source": "a"}, cols{"status_id": "C", "source": "b"}, 0},
		{"negated: the value before", q("lead", not(statusC)), status("C"), status("L"), 1},
		{"negated: the new value", q("lead", not(statusC)), status("L"), status("C"), 0},
		{"guard holds", q("lead", statusC, fc("source", term("web"))), status("Q"), cols{"status_id": "C", "source": "web"}, 1},
		{"guard does not", q("lead", statusC, fc("source", term("web"))), status("Q"), cols{"status_id": "C", "source": "ads"}, 0},
		{"guard has no value", q("lead", statusC, fc("source", exact("web"))), status("Q"), status("C"), 0},
		{"guard was not sent", q("lead", statusC, fc("source", term("web"))), status("Q"), cols{"status_id": "C", "source": unchangedCell}, 1},
		{"bound crossed", q("lead", number(`"gte":10`)), cols{"value": "1"}, cols{"value": "20"}, 1},
		{"bound not reached", q("lead", number(`"gte":10`)), cols{"value": "1"}, cols{"value": "9"}, 0},
		{"bound crossed downwards", q("lead", number(`"gte":10`)), cols{"value": "20"}, cols{"value": "1"}, 0},
		{"negated: bound crossed downwards", q("lead", not(number(`"gte":10`))), cols{"value": "20"}, cols{"value": "1"}, 1},
		{"upper bound crossed downwards", q("lead", number(`"lt":10`)), cols{"value": "20"}, cols{"value": "1"}, 1},
		{"range entered", q("lead", number(`"gte":10,"lt":20`)), cols{"value": "30"}, cols{"value": "15"}, 1},
		{"range left", q("lead", not(number(`"gte":10,"lt":20`))), cols{"value": "15"}, cols{"value": "30"}, 1},
		{"range jumped over", q("lead", number(`"gte":10,"lt":20`)), cols{"value": "1"}, cols{"value": "30"}, 0},
		{"range not reached", q("lead", number(`"gte":10,"lt":20`)), nil, cols{"value": "30"}, 0},
		{"guard is a range", q("lead", statusC, number(`"lt":10`)), status("Q"), cols{"status_id": "C", "value": "11"}, 0},
		{"guard is a date, met", q("lead", statusC, since("2026-01-01")), status("Q"), cols{"status_id": "C", "close_date": "2026-01-01"}, 1},
		{"guard is a date, not met", q("lead", statusC, since("2026-01-01")), status("Q"), cols{"status_id": "C", "close_date": "2025-12-31"}, 0},
		{"from nothing", q("lead", number(`"lt":10`)), cols{}, cols{"value": "1"}, 1},
		{"from nothing, above", q("lead", number(`"lt":10`)), cols{}, cols{"value": "11"}, 0},
		{"from NaN", q("lead", number(`"gte":10`)), cols{"value": "NaN"}, cols{"value": "10"}, 1},
		{"negated: to NaN", q("lead", not(number(`"gte":10`))), cols{"value": "12"}, cols{"value": "NaN"}, 1},
		{"value appears", q("lead", fc("title", exists)), cols{}, cols{"title": "x"}, 1},
		{"value changes", q("lead", fc("title", exists)), cols{"title": "y"}, cols{"title": "x"}, 0},
		{"value goes", q("lead", not(fc("title", exists))), cols{"title": "x"}, cols{}, 1},
		{"element added", q("lead", fc("tags", term("a"))), cols{"tags": "{b}"}, cols{"tags": "{b,a}"}, 1},
		{"element was there", q("lead", fc("tags", term("a"))), cols{"tags": "{a}"}, cols{"tags": "{b,a}"}, 0},
		{"wrong type", q("lead", fc("cf_x", `{"type":"number_range","gte":1}`)), cols{}, cols{"custom": `{"cf_x": "12"}`}, 1},
		{"created: access", q("lead", statusC, number(`"gte":10`)), nil, cols{"status_id": "C", "value": "11"}, 1},
		{"created: guard", q("lead", statusC, number(`"gte":10`)), nil, cols{"status_id": "C", "value": "1"}, 0},
		{"created: other value", q("lead", statusC), nil, status("Q"), 0},
		{"created: or", q("lead", or(statusC, fc("source", term("web")))), nil, cols{"source": "web"}, 1},
		{"created: or, neither", q("lead", or(statusC, fc("source", term("web")))), nil, cols{"source": "ads"}, 0},
		{"created: nothing to be found by", q("lead", not(statusC)), nil, status("C"), 1},
		{"created: match_all", q("lead", matchAll), nil, status("C"), 1},
		{"match_all otherwise", q("lead", matchAll), status("Q"), status("C"), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newLeadSet(t, tt.query)
			if _, n := match(t, s, leadChange(tt.before, tt.after)); n.Candidates != tt.want {
				t.Errorf("%d candidates, want %d", n.Candidates, tt.want)
			}
		})
	}
}

// Objects with many custom fields: found however their keys are ordered.
func TestManyMembers(t *testing.T) {
	t.Parallel()
	var queries, sorted, shuffled []string
	for i := range 120 {
		queries = append(queries, q("lead", fc(fmt.Sprintf("cf_%d", i), term("gold"))))
		sorted = append(sorted, fmt.Sprintf(`"cf_%d": "gold"`, i)) // shorter ones first, as jsonb prints them
		shuffled = append(shuffled, fmt.Sprintf(`"cf_%d": "gold"`, i*7%120))
	}
	s := newLeadSet(t, queries...)
	for name, custom := range map[string]string{
		"sorted":   strings.Join(sorted, ", "),
		"shuffled": strings.Join(shuffled, ", "),
		"escaped":  strings.Join(sorted[:119], ", ") + `, "cf_\u00311\u0039": "gold"`,
		"twice":    strings.Join(sorted, ", ") + `, "cf_3": "silver", "cf_3": "gold"`,
	} {
		if f, _ := match(t, s, leadChange(cols{}, cols{"custom": "{" + custom + "}"})); len(f) != 120 {
			t.Errorf("%s: %d fire", name, len(f))
		}
		if f, _ := match(t, s, leadChange(cols{"custom": "{" + custom + "}"}, cols{"custom": "{" + custom + `, "x": 1}`})); len(f) != 0 {
			t.Errorf("%s: %d fire again", name, len(f))
		}
	}
}

// A poisoned trigger leaves nothing in the index, and its number is used again.
func TestPoisonLeavesNothingPosted(t *testing.T) {
	t.Parallel()
	for _, copies := range []int{1, 2000} {
		s := newLeadSet(t, slices.Repeat([]string{qs}, copies)...)
		s.groups[0].at(0).code = "\x04\x02\x63\x00" + s.groups[0].at(0).code
		if f, n := match(t, s, leadChange(status("Q"), status("C"))); n.Poisoned != 1 || len(f) != copies-1 {
			t.Fatalf("%d firings, %+v", len(f), n)
		}
		if copies > 1 {
			for _, p := range s.poster.postings(s.groups[0].at(1).program(), 0, 1) {
				if s.groups[0].has(p.posting) {
					t.Error("still posted")
				}
			}
		}
		if err := s.Put(Definition{ID: 1, Organization: "A", Query: json.RawMessage(qs)}); err != nil {
			t.Fatal(err)
		}
		if f, n := match(t, s, leadChange(status("Q"), status("C"))); n.Poisoned != 0 || len(f) != copies {
			t.Fatalf("%d firings, %+v", len(f), n)
		}
	}
}

func (g *group) has(p posting) bool {
	for _, x := range g.index {
		if slices.Contains(x.all, p) || x.big != nil && slices.ContainsFunc(x.big.lists, func(l []posting) bool { return slices.Contains(l, p) }) {
			return true
		}
	}
	return false
}

// The prefixes of ordered values keep the order.
func TestPrefixesAreMonotone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(
			rapid.SampledFrom(slices.Concat(poolNumbers, []string{"Infinity", "-Infinity", "1e200", "1e-200", "-1e200", "-1e-200", "1e126", "9.99e126", "1e127", "1e-128"})),
			rapid.StringMatching(`-?[0-9]{1,14}(\.[0-9]{1,14})?(e-?[0-9]{1,3})?`),
		)
		x, _ := appendNumber(nil, number.Draw(t, "x"))
		y, _ := appendNumber(nil, number.Draw(t, "y"))
		px, py := numberPrefix(x), numberPrefix(y)
		if px > valueMask || py > valueMask {
			t.Fatalf("%x %x", px, py)
		}
		if order := strings.Compare(string(x), string(y)); order < 0 && px > py || order > 0 && px < py || order == 0 && px != py {
			t.Fatalf("%x < %x, but %x and %x", x, y, px, py)
		}
		moment := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 1, -1, infinity, negInfinity}))
		a, b := moment.Draw(t, "a"), moment.Draw(t, "b")
		if a <= b != (dayPrefix(a) <= dayPrefix(b)) && dayPrefix(a) != dayPrefix(b) || dayPrefix(a) > valueMask {
			t.Fatalf("days %d %d", a, b)
		}
		if a <= b != (instantPrefix(a) <= instantPrefix(b)) && instantPrefix(a) != instantPrefix(b) || instantPrefix(a) > valueMask {
			t.Fatalf("instants %d %d", a, b)
		}
		for class := uint64(classText); class < classCount; class++ {
			v, w := rapid.Uint64Range(0, valueMask).Draw(t, "v"), rapid.Uint64Range(0, valueMask).Draw(t, "w")
			if class >= classDay && rapid.Bool().Draw(t, "days") {
				v, w = dayPrefix(rapid.Int64Range(-400_000, 400_000).Draw(t, "v")), dayPrefix(rapid.Int64Range(-400_000, 400_000).Draw(t, "w"))
			}
			if gv, gw := guardValue(class, v), guardValue(class, w); v <= w && gv > gw || v >= w && gv < gw || gv > guardMask {
				t.Fatalf("class %d: %x -> %x, %x -> %x", class, v, gv, w, gw)
			}
		}
	})
}
