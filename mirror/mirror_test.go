package mirror

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// The tests hold a store against a naive model, maps of rows as they should be,
// and walk over its pages, indexes and lists to see that they agree.

// The test's table, in three layouts of the stream: one in another order, one
// without a kept column.
var (
	wide    = relation("id", "org", "name", "lead_id", "noise", "owner", "custom")
	shifted = relation("owner", "custom", "lead_id", "name", "org", "id")
	narrow  = relation("id", "org", "name", "custom")
)

func relation(columns ...string) *change.Relation {
	r := &change.Relation{Schema: "public", Name: "contacts", Identity: change.IdentityFull}
	for _, c := range columns {
		r.Columns = append(r.Columns, change.Column{Name: c})
	}
	return r
}

// specs are the shapes of tables that the tests go through.
var specs = []Spec{
	{Type: "contact", Columns: []string{"lead_id", "name", "owner"}, Links: []int{0, 2}, ByOrganization: true, Custom: "custom", Members: []string{"cf_b", "cf_a"}},
	{Type: "contact", Columns: []string{"name", "id", "lead_id"}, Links: []int{2, 1}, ID: "id", ByOrganization: true},
	{Type: "contact", Columns: []string{"lead_id", "custom"}, Links: []int{0}, Custom: "custom", Members: []string{"cf_a"}},
	{Type: "contact", Columns: []string{"name"}, ID: "id"},
	{Type: "contact", Custom: "custom", Members: []string{"cf_a"}, ByOrganization: true},
}

// modelRow is a kept row as it should be: its organization and the kept cells,
// each "n", "u" or "t" and the text.
type modelRow struct {
	organization string
	cells        []string
}

func (r modelRow) equal(o modelRow) bool {
	return r.organization == o.organization && slices.Equal(r.cells, o.cells)
}

// model is a table as it should be.
type model struct {
	spec    Spec
	columns []string
	rows    map[string]modelRow
}

func newModel(spec Spec) *model {
	m := &model{spec: spec, columns: slices.Clone(spec.Columns), rows: map[string]modelRow{}}
	if spec.Custom != "" && !slices.Contains(spec.Columns, spec.Custom) {
		m.columns = append(m.columns, spec.Custom)
	}
	return m
}

func (m *model) put(id, organization string, rel *change.Relation, row change.Row) {
	cells, err := row.Decode(nil)
	if err != nil {
		panic(err)
	}
	before, had := m.rows[id]
	now := modelRow{organization: organization}
	for i, name := range m.columns {
		kept := "n"
		if at := rel.Index(name); at >= 0 {
			kept = string(cells[at].Kind) + string(cells[at].Data)
		} else if had {
			kept = before.cells[i]
		}
		switch {
		case name == m.spec.ID:
			kept = "t" + id
		case kept == "u" && had:
			kept = before.cells[i]
		case kept[0] == 't' && name == m.spec.Custom && !slices.Contains(m.spec.Columns, name):
			kept = reduceNaively(kept[1:], m.spec.Members)
		}
		now.cells = append(now.cells, kept)
	}
	m.rows[id] = now
}

func (m *model) rename(list []Renamed) {
	moved := map[string]modelRow{}
	for _, r := range list {
		if row, ok := m.rows[r.Old]; ok && r.Old != r.New {
			delete(m.rows, r.Old)
			row.cells = slices.Clone(row.cells)
			if i := slices.Index(m.columns, m.spec.ID); i >= 0 {
				row.cells[i] = "t" + r.New
			}
			moved[r.New] = row
		}
	}
	maps.Copy(m.rows, moved)
}

// reduceNaively does what members does, by way of a full decode.
func reduceNaively(text string, wanted []string) string {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return "n"
	}
	var parts []string
	for _, name := range slices.Compact(slices.Sorted(slices.Values(wanted))) {
		if v, ok := object[name]; ok {
			key, _ := json.Marshal(name)
			parts = append(parts, string(key)+":"+string(v))
		}
	}
	if len(parts) == 0 {
		return "n"
	}
	return "t{" + strings.Join(parts, ",") + "}"
}

func asModel(t failer, table *Table, r Row) modelRow {
	t.Helper()
	cells, err := r.Image().Decode(nil)
	if err != nil {
		t.Fatalf("%s: %v", r.ID(), err)
	}
	if len(cells) != len(table.Relation().Columns) {
		t.Fatalf("%s: %d cells", r.ID(), len(cells))
	}
	m := modelRow{organization: r.Organization()}
	for _, c := range cells {
		m.cells = append(m.cells, string(c.Kind)+string(c.Data))
	}
	return m
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// same fails unless the table is what the model says, in every way to ask it.
func same(t failer, table *Table, m *model) {
	t.Helper()
	sound(t, table)
	if table.Len() != len(m.rows) {
		t.Fatalf("%d rows, want %d", table.Len(), len(m.rows))
	}
	for id, want := range m.rows {
		r, ok := table.Get(id)
		if !ok || string(r.ID()) != id {
			t.Fatalf("%q is missing", id)
		}
		if got := asModel(t, table, r); !got.equal(want) {
			t.Fatalf("%q is %q, want %q", id, got, want)
		}
	}
	seen := 0
	table.Each(func(r Row) bool {
		if seen++; !asModel(t, table, r).equal(m.rows[string(r.ID())]) {
			t.Fatalf("Each gives %q", r.ID())
		}
		return true
	})
	if seen != len(m.rows) {
		t.Fatalf("Each gives %d rows, want %d", seen, len(m.rows))
	}
	for link, column := range m.spec.Links {
		groups := map[string][]string{"t": nil, "tnobody": nil}
		for id, r := range m.rows {
			groups[r.cells[column]] = append(groups[r.cells[column]], id)
		}
		for value, want := range groups {
			if value[0] != 't' {
				continue
			}
			got := gather(t, m, table, func(f func(Row) bool) { table.Linked(link, []byte(value[1:]), f) })
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("%s = %q: %q, want %q", m.columns[column], value[1:], got, want)
			}
		}
	}
	if m.spec.ByOrganization {
		groups := map[string][]string{"": nil, "nobody": nil}
		for id, r := range m.rows {
			groups[r.organization] = append(groups[r.organization], id)
		}
		for organization, want := range groups {
			got := gather(t, m, table, func(f func(Row) bool) { table.InOrganization(organization, f) })
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("organization %q: %q, want %q", organization, got, want)
			}
		}
	}
}

func gather(t failer, m *model, table *Table, walk func(func(Row) bool)) []string {
	t.Helper()
	var ids []string
	walk(func(r Row) bool {
		if !asModel(t, table, r).equal(m.rows[string(r.ID())]) {
			t.Fatalf("a list gives %q", r.ID())
		}
		ids = append(ids, string(r.ID()))
		return true
	})
	slices.Sort(ids)
	return ids
}

// sound fails when the table's parts don't agree with each other.
func sound(t failer, table *Table) {
	t.Helper()
	r := &table.rows
	soundIndex(t, "ids", &r.ids)
	soundSlab(t, &r.slab, r.n)
	if n := entries(&r.ids); n != r.n {
		t.Fatalf("%d ids for %d rows", n, r.n)
	}
	for list := range r.lists {
		var firsts []uint32
		if r.isOrganization(list) {
			firsts = r.heads
		} else {
			x := &r.links[r.linkOf(list)]
			soundIndex(t, "link", x)
			for i := range x.segments {
				for _, slot := range x.segments[i].slots {
					firsts = append(firsts, uint32(slot))
				}
			}
		}
		n := 0
		for _, place := range firsts {
			before := uint32(0)
			for place != 0 {
				if e := r.entry(place); previous(e.bytes, list) != before {
					t.Fatalf("list %d: the previous row of %q is not the previous one", list, e.id)
				}
				before, place = place, next(r.slab.at(place), list)
				n++
			}
		}
		want := 0
		table.Each(func(row Row) bool {
			e := entry{image: row.image, organization: row.organization}
			if r.isOrganization(list) {
				want++
			} else if _, ok := r.key(list, &e); ok {
				want++
			}
			return true
		})
		if n != want {
			t.Fatalf("list %d has %d rows, want %d", list, n, want)
		}
	}
}

func entries(x *index) int {
	n := 0
	for i := range x.segments {
		n += int(x.segments[i].n)
	}
	return n
}

func soundIndex(t failer, name string, x *index) {
	t.Helper()
	var bytes int64
	for i := range x.segments {
		s := &x.segments[i]
		bytes += int64(len(s.slots)) * 8
		n := 0
		for at, slot := range s.slots {
			if slot == 0 {
				continue
			}
			n++
			hash := uint32(slot >> 32)
			if x.segment(hash) != s {
				t.Fatalf("%s: an entry is in the wrong segment", name)
			}
			found := false
			for c := x.seek(hash); c.row() != 0; {
				found = found || c.at == at
			}
			if !found {
				t.Fatalf("%s: an entry can't be reached", name)
			}
		}
		if n != int(s.n) || n == len(s.slots) {
			t.Fatalf("%s: %d entries in %d slots, %d counted", name, n, len(s.slots), s.n)
		}
	}
	if bytes != x.bytes {
		t.Fatalf("%s: %d bytes, %d counted", name, bytes, x.bytes)
	}
}

func soundSlab(t failer, s *slab, rows int) {
	t.Helper()
	var bytes int64
	var count [classes + 1]int
	used := len(s.big) - len(s.bigFree)
	for i := range s.pages {
		p := &s.pages[i]
		if p.data == nil {
			continue
		}
		bytes += int64(len(p.data))
		count[p.class]++
		free := 0
		for at := p.free; at != 0; at = binary.LittleEndian.Uint16(p.data[int(at-1)*unit:]) {
			free++
		}
		size := classSize(int(p.class))
		if int(p.used)+free != int(p.fresh)*unit/size {
			t.Fatalf("page %d: %d used, %d free, %d touched", i, p.used, free, int(p.fresh)*unit/size)
		}
		used += int(p.used)
	}
	for _, b := range s.big {
		bytes += int64(cap(b))
	}
	if used != rows {
		t.Fatalf("%d slots for %d rows", used, rows)
	}
	if bytes != s.bytes {
		t.Fatalf("%d bytes of pages, %d counted", bytes, s.bytes)
	}
	for class, n := range count {
		if n != int(s.count[class]) {
			t.Fatalf("class %d: %d pages, %d counted", class, n, s.count[class])
		}
		open := 0
		for number := s.open[class]; number != 0; number = s.pages[number].next {
			if s.pages[number].full() {
				t.Fatalf("page %d is full and open", number)
			}
			open++
		}
		for i := range s.pages {
			if p := &s.pages[i]; p.data != nil && int(p.class) == class && !p.full() {
				open--
			}
		}
		if open != 0 {
			t.Fatalf("class %d: pages with room are not open", class)
		}
	}
}

// ---- generators

func anID(t *rapid.T, label string) string {
	return rapid.SampledFrom([]string{"1", "2", "3", "4", "5", "6", "", "07", "3fa85f64-5717-4562-b3fc-2c963f66afa6", strings.Repeat("long", 50)}).Draw(t, label)
}

func anOrganization(t *rapid.T) string {
	return rapid.SampledFrom([]string{"org_1", "org_2", "org_3", ""}).Draw(t, "organization")
}

// aCell gives a value of a column. Sizes go through the slots' classes and past
// the pages.
func aCell(t *rapid.T, column string, unchanged bool) change.Cell {
	kinds := []byte{change.Null, change.Text, change.Text, change.Text}
	if unchanged && column != "id" {
		kinds = append(kinds, change.Unchanged)
	}
	kind := rapid.SampledFrom(kinds).Draw(t, column)
	if kind != change.Text {
		return change.Cell{Kind: kind}
	}
	var s string
	switch column {
	case "lead_id", "owner":
		s = rapid.SampledFrom([]string{"a", "b", "c", ""}).Draw(t, column)
	case "custom":
		s = rapid.SampledFrom([]string{
			`{"cf_a": 1, "cf_b": [1, {"x": "}"}]}`, `{"cf_b": "\"", "other": {"cf_a": 2}}`, `{}`, `{"cf_a": null}`, `[1]`, `null`, `{"cf_a": "\u00e9"}`,
		}).Draw(t, column)
	default:
		n := rapid.SampledFrom([]int{0, 1, 3, 20, 50, 127, 128, 130, 400, 600, 1000, 5000, largest - 40, largest, largest + 1, 40_000}).Draw(t, column)
		s = strings.Repeat("x", n)
	}
	return change.Cell{Kind: change.Text, Data: []byte(s)}
}

func aRow(t *rapid.T, unchanged bool) (*change.Relation, change.Row) {
	rel := rapid.SampledFrom([]*change.Relation{wide, wide, shifted, narrow}).Draw(t, "relation")
	cells := make([]change.Cell, len(rel.Columns))
	for i, c := range rel.Columns {
		cells[i] = aCell(t, c.Name, unchanged)
	}
	return rel, change.MakeRow(cells)
}

// ---- the properties

func TestStoreIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom(specs).Draw(t, "spec")
		s := New()
		s.Define(spec)
		m := newModel(spec)
		var saved *model
		var savedOther bool
		table := func() *Table { return s.Table("contact") }
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id, org := anID(t, "id"), anOrganization(t)
				rel, row := aRow(t, true)
				before, had := m.rows[id]
				m.put(id, org, rel, row)
				changed, err := table().Put(id, org, rel, row)
				if err != nil {
					t.Fatal(err)
				}
				if want := !had || !before.equal(m.rows[id]); changed != want {
					t.Fatalf("changed: %v, want %v", changed, want)
				}
			},
			"put text": func(t *rapid.T) {
				id, org := anID(t, "id"), anOrganization(t)
				kept := relation(m.columns...)
				cells := make([]change.Cell, len(m.columns))
				values := make([][]byte, len(m.columns))
				for i, c := range m.columns {
					cells[i] = aCell(t, c, false)
					if cells[i].Kind == change.Text {
						values[i] = append([]byte{}, cells[i].Data...)
					}
				}
				m.put(id, org, kept, change.MakeRow(cells))
				if _, err := table().PutText(id, org, values); err != nil {
					t.Fatal(err)
				}
			},
			"delete": func(t *rapid.T) {
				id := anID(t, "id")
				_, had := m.rows[id]
				delete(m.rows, id)
				if table().Delete(id) != had {
					t.Fatalf("Delete says %v", !had)
				}
			},
			"rename": func(t *rapid.T) {
				var list []Renamed
				for i := range rapid.IntRange(1, 4).Draw(t, "n") {
					r := Renamed{anID(t, "old"), anID(t, "new")}
					if i == 0 || !slices.ContainsFunc(list, func(o Renamed) bool { return o.Old == r.Old || o.New == r.New }) {
						list = append(list, r)
					}
				}
				m.rename(list)
				if _, err := table().RenameAll(list); err != nil {
					t.Fatal(err)
				}
			},
			"clear": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "seldom") != 0 {
					t.Skip()
				}
				clear(m.rows)
				table().Clear()
			},
			"define": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") != 0 {
					t.Skip()
				}
				clear(m.rows)
				s.Drop("contact")
				s.Define(Spec{Type: "other"})
				s.Define(spec)
			},
			"begin": func(t *rapid.T) {
				if saved != nil {
					t.Skip()
				}
				s.Begin()
				saved = newModel(spec)
				maps.Copy(saved.rows, m.rows)
				savedOther = s.Table("other") != nil
			},
			"commit": func(*rapid.T) {
				s.Commit()
				saved = nil
			},
			"rollback": func(t *rapid.T) {
				if err := s.Rollback(); err != nil {
					t.Fatal(err)
				}
				if saved != nil {
					m, saved = saved, nil
					if (s.Table("other") != nil) != savedOther {
						t.Fatal("tables are not as they were")
					}
				}
			},
			"": func(t *rapid.T) { same(t, table(), m) },
		})
	})
}

// TestLoaderIsTheCheckpoint makes a history, loads a table from the snapshot at
// its end while it undoes the history, and expects the rows of its beginning.
func TestLoaderIsTheCheckpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom(specs).Draw(t, "spec")
		type stored struct {
			organization string
			rel          *change.Relation
			row          change.Row
		}
		live := map[string]stored{}
		m := newModel(spec)
		some := func() stored {
			org := anOrganization(t)
			rel, row := aRow(t, false)
			for rel == narrow { // it lacks columns: what they were is not in it
				rel, row = aRow(t, false)
			}
			return stored{org, rel, row}
		}
		for range rapid.IntRange(0, 8).Draw(t, "rows") {
			id, r := anID(t, "id"), some()
			live[id] = r
			m.put(id, r.organization, r.rel, r.row)
		}
		object := &change.Object{Type: "contact"}
		var commits []*change.Commit
		for range rapid.IntRange(0, 12).Draw(t, "commits") {
			// Net changes of one commit: each row that there was, at most once; ids may
			// go from one to the other.
			c := &change.Commit{}
			after := maps.Clone(live)
			ids := rapid.Permutation(slices.Sorted(maps.Keys(live))).Draw(t, "order")
			touched := ids[:rapid.IntRange(0, len(ids)).Draw(t, "touched")]
			for _, id := range touched {
				delete(after, id)
			}
			for _, id := range touched {
				old := live[id]
				ch := change.Change{Object: object, ID: id, Before: old.row, BeforeRelation: old.rel, OldOrganization: old.organization, Relation: old.rel}
				if rapid.Bool().Draw(t, "updated") {
					now := some()
					to := id
					if id != "" && rapid.Bool().Draw(t, "renamed") { // change.Change can't say that the id was ""
						to = anID(t, "to")
					}
					if _, taken := after[to]; !taken {
						after[to] = now
						ch.Relation, ch.After, ch.Organization, ch.ID = now.rel, now.row, now.organization, to
						if to != id {
							ch.OldID = id
						}
					}
				}
				c.Changes = append(c.Changes, ch)
			}
			for range rapid.IntRange(0, 2).Draw(t, "inserted") {
				id := anID(t, "id")
				if _, taken := after[id]; taken {
					continue
				}
				if _, was := live[id]; was && !slices.ContainsFunc(c.Changes, func(ch change.Change) bool { return ch.OldID == id }) {
					continue // delete and insert of one id are an update
				}
				now := some()
				after[id] = now
				c.Changes = append(c.Changes, change.Change{Object: object, ID: id, Relation: now.rel, After: now.row, Organization: now.organization})
			}
			live = after
			commits = append(commits, c)
		}

		s := New()
		l := s.Load(spec)
		snapshot := rapid.Permutation(slices.Sorted(maps.Keys(live))).Draw(t, "snapshot")
		for len(snapshot)+len(commits) > 0 {
			if len(commits) == 0 || len(snapshot) > 0 && rapid.Bool().Draw(t, "row first") {
				r := live[snapshot[0]]
				if err := l.Put(snapshot[0], r.organization, r.rel, r.row); err != nil {
					t.Fatal(err)
				}
				snapshot = snapshot[1:]
				continue
			}
			if err := l.UndoCommit(commits[0]); err != nil {
				t.Fatal(err)
			}
			commits = commits[1:]
		}
		same(t, l.Done(), m)
	})
}

// TestApply: what a commit did, by way of its net changes.
func TestApply(t *testing.T) {
	s := New()
	spec := Spec{Type: "contact", Columns: []string{"name", "lead_id"}, Links: []int{1}, ByOrganization: true}
	s.Define(spec)
	m := newModel(spec)
	object := &change.Object{Type: "contact"}
	row := func(name string) change.Row {
		cells := make([]change.Cell, len(wide.Columns))
		for i := range cells {
			cells[i] = change.Cell{Kind: change.Text, Data: []byte(wide.Columns[i].Name)}
		}
		cells[2].Data = []byte(name)
		if name == "-" {
			cells[2] = change.Cell{Kind: change.Unchanged}
		}
		return change.MakeRow(cells)
	}
	put := func(id, oldID, name string) change.Change {
		return change.Change{Object: object, ID: id, OldID: oldID, Relation: wide, After: row(name), Organization: "o"}
	}
	gone := func(id string) change.Change { return change.Change{Object: object, ID: id, Relation: wide} }
	apply := func(changes ...change.Change) {
		t.Helper()
		changes = append(changes, change.Change{Object: &change.Object{Type: "nobody's"}, ID: "1", After: row("x"), Relation: wide})
		if err := s.Apply(&change.Commit{Changes: changes}); err != nil {
			t.Fatal(err)
		}
		same(t, s.Table("contact"), m)
	}
	m.put("1", "o", wide, row("one"))
	m.put("2", "o", wide, row("two"))
	m.put("3", "o", wide, row("three"))
	apply(put("1", "", "one"), put("2", "", "two"), put("3", "", "three"))

	// Two swap their ids; the third's is taken over by a new row.
	m.put("1", "o", wide, row("two"))
	m.put("2", "o", wide, row("one"))
	m.put("4", "o", wide, row("three"))
	m.put("3", "o", wide, row("new"))
	apply(put("2", "1", "-"), put("1", "2", "-"), put("3", "", "new"), put("4", "3", "-"))

	// One takes the id of another that goes.
	m.put("1", "o", wide, row("one"))
	delete(m.rows, "2")
	apply(put("1", "2", "-"), gone("1"))

	clear(m.rows)
	m.put("9", "o", wide, row("nine"))
	if err := s.Apply(&change.Commit{Truncated: []*change.Object{object, {Type: "nobody's"}}, Changes: []change.Change{gone("1"), put("9", "", "nine")}}); err != nil {
		t.Fatal(err)
	}
	same(t, s.Table("contact"), m)
}

// TestLoaderText loads rows as a query gives them.
func TestLoaderText(t *testing.T) {
	s := New()
	s.Define(Spec{Type: "contact"})
	s.Define(Spec{Type: "account"})
	l := s.Load(Spec{
		Type: "contact", Columns: []string{"id", "lead_id"}, ID: "id", Links: []int{1}, Custom: "custom", Members: []string{"cf_a"},
	})
	names := make([]string, 0, 3)
	for _, c := range l.Relation().Columns {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"id", "lead_id", "custom"}) {
		t.Fatal(names)
	}
	put := func(id string, values ...[]byte) {
		t.Helper()
		if err := l.PutText(id, "o", values); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Undo("2", "o", relation("id", "lead_id"), change.MakeRow([]change.Cell{{Kind: change.Null}, {Kind: change.Text, Data: []byte("a")}})); err != nil {
		t.Fatal(err)
	}
	if err := l.Undo("3", "", nil, nil); err != nil {
		t.Fatal(err)
	}
	put("1", []byte("1"), []byte("a"), []byte(`{"cf_b": 1, "cf_a": 2}`))
	put("2", []byte("2"), nil, nil)
	put("3", []byte("3"), []byte("a"), nil)
	put("4", []byte("4"), nil, []byte(`{"cf_b": 1}`))
	if err := l.PutText("5", "o", nil); !errors.Is(err, ErrValues) {
		t.Fatal(err)
	}
	if l.Len() != 3 || l.Undone() != 2 || l.Bytes() == 0 || s.Table("contact").Len() != 0 {
		t.Fatal(l.Len(), l.Undone(), l.Bytes())
	}
	table := l.Done()
	if s.Table("contact") != table || !slices.Equal(s.Types(), []string{"account", "contact"}) {
		t.Fatal(s.Types())
	}
	m := newModel(table.Spec())
	m.rows["1"] = modelRow{"o", []string{"t1", "ta", `t{"cf_a":2}`}}
	m.rows["2"] = modelRow{"o", []string{"t2", "ta", "n"}}
	m.rows["4"] = modelRow{"o", []string{"t4", "n", "n"}}
	same(t, table, m)
}

func TestUndoCommitRefuses(t *testing.T) {
	object := &change.Object{Type: "contact"}
	for _, c := range []*change.Commit{
		{Truncated: []*change.Object{object}},
		{Changes: []change.Change{{Object: object, ID: "1", BeforeUnknown: true}}},
	} {
		if err := New().Load(specs[0]).UndoCommit(c); !errors.Is(err, ErrNotUndoable) {
			t.Fatal(err)
		}
		if err := New().Load(Spec{Type: "another"}).UndoCommit(c); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyRows goes through growth, splits and shrinking of the indexes.
func TestManyRows(t *testing.T) {
	const n = 60_000
	s := New()
	table := s.Define(Spec{Type: "contact", Columns: []string{"name", "lead_id"}, Links: []int{1}, ByOrganization: true})
	m := newModel(table.Spec())
	rnd := rand.New(rand.NewPCG(1, 2))
	put := func(i int) {
		values := [][]byte{bytes.Repeat([]byte("n"), rnd.IntN(100)), []byte(fmt.Sprint("lead", rnd.IntN(n/2)))}
		id, org := fmt.Sprint(i), fmt.Sprint("org", i%1000)
		if _, err := table.PutText(id, org, values); err != nil {
			t.Fatal(err)
		}
		m.rows[id] = modelRow{org, []string{"t" + string(values[0]), "t" + string(values[1])}}
	}
	remove := func(i int) {
		table.Delete(fmt.Sprint(i))
		delete(m.rows, fmt.Sprint(i))
	}
	for i := range n {
		put(i)
	}
	same(t, table, m)
	if table.rows.ids.depth < 2 {
		t.Fatal("the index was never split")
	}
	full := table.Bytes()
	s.Begin()
	kept := newModel(table.Spec())
	maps.Copy(kept.rows, m.rows)
	for i := range n {
		if i%2 == 0 {
			remove(i)
		} else {
			put(i)
		}
	}
	same(t, table, m)
	if err := s.Rollback(); err != nil {
		t.Fatal(err)
	}
	m = kept
	same(t, table, m)
	for i := range n {
		remove(i)
	}
	same(t, table, m)
	if empty := table.Bytes(); empty > full/4 {
		t.Fatalf("empty, the table holds %d bytes of %d", empty, full)
	}
}

// TestOneListOfMany: a row leaves a long list at once, wherever it stands.
func TestOneListOfMany(t *testing.T) {
	const n = 200_000
	s := New()
	table := s.Define(Spec{Type: "contact", Columns: []string{"lead_id"}, Links: []int{0}, ByOrganization: true})
	for i := range n {
		if _, err := table.PutText(fmt.Sprint(i), "o", [][]byte{[]byte("one")}); err != nil {
			t.Fatal(err)
		}
	}
	// In the order of the list, against it, and from the middle: were it not for
	// the links to the previous row, this would take hours.
	for i := range n {
		id := i
		if i%3 == 0 {
			id = n - 1 - i
		}
		table.Delete(fmt.Sprint(id))
	}
	for i := range n {
		table.Delete(fmt.Sprint(i))
	}
	sound(t, table)
	if table.Len() != 0 {
		t.Fatal(table.Len())
	}
}

// TestChurn: a million updates of a thousand rows need no more memory than the
// first fifty thousand.
func TestChurn(t *testing.T) {
	s := New()
	table := s.Define(Spec{Type: "contact", Columns: []string{"name", "lead_id"}, Links: []int{1}, ByOrganization: true})
	rnd := rand.New(rand.NewPCG(3, 4))
	text := bytes.Repeat([]byte("x"), 2000)
	var warm int64
	for i := range 1_000_000 {
		id := fmt.Sprint(rnd.IntN(1000))
		switch rnd.IntN(20) {
		case 0:
			table.Delete(id)
		case 1:
			if _, err := table.Rename(id, fmt.Sprint(rnd.IntN(1000))); err != nil {
				t.Fatal(err)
			}
		default:
			values := [][]byte{text[:rnd.IntN(len(text))], []byte(fmt.Sprint(rnd.IntN(300)))}
			if _, err := table.PutText(id, fmt.Sprint(rnd.IntN(10)), values); err != nil {
				t.Fatal(err)
			}
		}
		if i == 50_000 {
			warm = s.Bytes()
		}
	}
	sound(t, table)
	if now := s.Bytes(); now > warm*5/4 {
		t.Fatalf("grew from %d to %d bytes", warm, now)
	}
}

// TestSizesMove: rows that all outgrow their slots leave no pages behind.
func TestSizesMove(t *testing.T) {
	s := New()
	table := s.Define(Spec{Type: "contact", Columns: []string{"name"}})
	text := bytes.Repeat([]byte("x"), 1000)
	const n = 20_000
	for size := 10; size <= 1000; size += 90 {
		for i := range n {
			if _, err := table.PutText(fmt.Sprint(i), "o", [][]byte{text[:size]}); err != nil {
				t.Fatal(err)
			}
		}
		if got, most := table.Bytes(), int64(n*(size+64)*5/4+2<<20); got > most {
			t.Fatalf("%d rows of %d bytes take %d, want less than %d", n, size, got, most)
		}
	}
	sound(t, table)
}

func TestJournal(t *testing.T) {
	s := New()
	table := s.Define(Spec{Type: "contact", Columns: []string{"name"}})
	put := func(id, name string) {
		t.Helper()
		if _, err := table.PutText(id, "o", [][]byte{[]byte(name)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Rollback(); err != nil {
		t.Fatal(err)
	}
	put("1", "one")
	s.Begin()
	put("1", "one") // no change, no note
	if n := s.JournalBytes(); n != 0 {
		t.Fatalf("the journal holds %d bytes for nothing", n)
	}
	for i := range 100 {
		put(fmt.Sprint(i), strings.Repeat("y", 50_000))
	}
	put("1", "other")
	if n := s.JournalBytes(); n < 50_000 || n > 200_000 {
		t.Fatalf("the journal holds %d bytes", n)
	}
	for i := range 100 {
		put(fmt.Sprint(i), strings.Repeat("z", 50_000))
	}
	if n := s.JournalBytes(); n < 100*50_000 || n > 100*100_000 {
		t.Fatalf("the journal holds %d bytes", n)
	}
	s.Commit()
	if n := s.JournalBytes(); n > keepChunks {
		t.Fatalf("after Commit the journal holds %d bytes", n)
	}
	s.Begin()
	table.Clear()
	if n := s.JournalBytes(); n < 100*50_000 {
		t.Fatalf("with a cleared table the journal holds %d bytes", n)
	}
	s.Forget()
	if n := s.JournalBytes(); n != 0 {
		t.Fatalf("after Forget the journal holds %d bytes", n)
	}
	put("2", "two")
	if err := s.Rollback(); !errors.Is(err, ErrForgotten) {
		t.Fatal(err)
	}
	s.Begin()
	put("2", "three")
	s.Forget()
	s.Commit()
	if r, _ := table.Get("2"); !strings.HasSuffix(string(r.Image()), "three") {
		t.Fatal("Commit after Forget lost a change")
	}
	s.Begin()
	defer func() {
		if recover() == nil {
			t.Fatal("Begin inside Begin")
		}
	}()
	s.Begin()
}

func TestMalformed(t *testing.T) {
	s := New()
	table := s.Define(specs[0])
	for name, row := range map[string]change.Row{
		"nil": nil, "short": {0, 3, 't'}, "few columns": change.MakeRow([]change.Cell{{Kind: change.Null}}),
	} {
		if _, err := table.Put("1", "o", wide, row); !errors.Is(err, change.ErrMalformedRow) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if _, err := table.PutText("1", "o", make([][]byte, 1)); !errors.Is(err, ErrValues) {
		t.Fatal(err)
	}
	if table.Len() != 0 {
		t.Fatal("a malformed row was kept")
	}
}

// TestFull: a table without room changes nothing, and says so.
func TestFull(t *testing.T) {
	s := New()
	table := s.Define(Spec{Type: "contact", Columns: []string{"name"}, ByOrganization: true})
	m := newModel(table.Spec())
	put := func(id string, size int) error {
		_, err := table.PutText(id, "o", [][]byte{bytes.Repeat([]byte("x"), size)})
		if err == nil {
			m.rows[id] = modelRow{"o", []string{"t" + strings.Repeat("x", size)}}
		}
		return err
	}
	if err := put("1", 10); err != nil {
		t.Fatal(err)
	}
	slab := &table.rows.slab
	slab.pages = append(slab.pages, make([]page, maxPages-len(slab.pages))...)
	s.Begin()
	for _, id := range []string{"1", "2"} {
		if err := put(id, 1000); !errors.Is(err, ErrFull) {
			t.Fatalf("%s: %v", id, err)
		}
	}
	same(t, table, m)
	if err := put("3", largest); err != nil { // large rows have no pages
		t.Fatal(err)
	}
	same(t, table, m)
	delete(m.rows, "3")
	if err := s.Rollback(); err != nil {
		t.Fatal(err)
	}
	same(t, table, m)
}

func TestSlotClasses(t *testing.T) {
	before := 0
	for size := 1; size <= largest; size++ {
		class := classOf(size)
		if class < before || class > classes || classSize(class) < size || class > 1 && classSize(class-1) >= size {
			t.Fatalf("%d bytes: class %d of %d bytes", size, class, classSize(class))
		}
		if waste := classSize(class) - size; waste >= unit && waste*8 > size {
			t.Fatalf("%d bytes waste %d", size, waste)
		}
		before = class
	}
	if before != classes {
		t.Fatalf("%d classes", before)
	}
}

func TestOrganizations(t *testing.T) {
	n := newNames(New().seed)
	want := map[uint32]string{0: ""}
	for i := range 20_000 {
		name := strings.Repeat(fmt.Sprint("org", i), 1+i%3*i/1000)
		want[n.number(name)] = name
	}
	if len(want) != 20_001 {
		t.Fatalf("%d numbers", len(want))
	}
	for number, name := range want {
		if n.name(number) != name || n.number(name) != number {
			t.Fatalf("%d is %q", number, n.name(number))
		}
	}
	if _, ok := n.find("nobody"); ok {
		t.Fatal("nobody has a number")
	}
}
