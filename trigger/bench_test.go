package trigger

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// The benchmarks' world: a table of 32 columns (id, organization, 15 text, 8
// numbers, 3 booleans, 2 dates, a timestamp, jsonb), triggers of one to four conditions,
// updates of one to three columns.

type world struct {
	set      *Set
	schema   Schema
	relation *change.Relation
	object   *change.Object
	rnd      *rand.Rand
	orgs     int

	heapEach, loadEach float64 // bytes and microseconds for one trigger
}

func newWorld(b *testing.B, orgs, perOrg int) *world {
	b.Helper()
	w := &world{set: NewSet(), rnd: rand.New(rand.NewPCG(1, 2)), orgs: orgs, object: &change.Object{Type: "lead"}}
	w.schema = Schema{ObjectType: "lead", ID: "id", Custom: "custom", Fields: []Field{{"id", KindNumber, false}, {"organization_id", KindText, false}}}
	add := func(prefix string, n int, kind Kind) {
		for i := range n {
			w.schema.Fields = append(w.schema.Fields, Field{fmt.Sprintf("%s%d", prefix, i), kind, false})
		}
	}
	add("text", 15, KindText)
	add("number", 8, KindNumber)
	add("flag", 3, KindBool)
	add("day", 2, KindDate)
	add("at", 1, KindTimestampTZ)
	w.schema.Fields = append(w.schema.Fields, Field{"custom", KindJSON, false})
	w.relation = relationOf(&w.schema)
	w.set.SetSchema(w.schema, w.relation)

	before := heap()
	var took time.Duration
	id := int64(0)
	for o := range orgs {
		org := fmt.Sprintf("org_%d", o)
		for range perOrg {
			id++
			def := Definition{ID: id, Version: 1, Organization: org, ObjectType: "lead", Query: json.RawMessage(w.query())}
			start := time.Now()
			if err := w.set.Put(def); err != nil {
				b.Fatal(err)
			}
			took += time.Since(start)
		}
	}
	w.heapEach = float64(heap()-before) / max(float64(id), 1)
	w.loadEach = float64(took.Microseconds()) / max(float64(id), 1)
	return w
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (w *world) query() string {
	var nodes []string
	for range 1 + w.rnd.IntN(4) {
		var n string
		switch w.rnd.IntN(8) {
		case 0, 1, 2:
			n = fc(fmt.Sprintf("text%d", w.rnd.IntN(15)), term(w.word(), w.word()))
		case 3:
			n = fc(fmt.Sprintf("text%d", w.rnd.IntN(15)), exact(w.word()))
		case 4, 5:
			n = fc(fmt.Sprintf("number%d", w.rnd.IntN(8)), fmt.Sprintf(`{"type":"number_range","gte":%d}`, w.rnd.IntN(1000)))
		case 6:
			n = fc(fmt.Sprintf("flag%d", w.rnd.IntN(3)), `{"type":"boolean","value":true}`)
		case 7:
			n = fc(fmt.Sprintf("cf_%d", w.rnd.IntN(8)), term(w.word()))
		}
		nodes = append(nodes, n)
	}
	return q("lead", nodes...)
}

func (w *world) word() string { return fmt.Sprintf("value-%d", w.rnd.IntN(50)) }

func (w *world) cell(f Field) string {
	switch f.Kind {
	case KindNumber:
		return fmt.Sprintf("%d.%02d", w.rnd.IntN(1000), w.rnd.IntN(100))
	case KindBool:
		return []string{"t", "f"}[w.rnd.IntN(2)]
	case KindDate:
		return fmt.Sprintf("2026-%02d-01", 1+w.rnd.IntN(12))
	case KindTimestampTZ:
		return fmt.Sprintf("2026-%02d-01 10:00:00.123+00", 1+w.rnd.IntN(12))
	case KindJSON:
		s := "{"
		for i := range 8 {
			if i > 0 {
				s += ", "
			}
			s += fmt.Sprintf(`"cf_%d": %q`, i, w.word())
		}
		return s + "}"
	}
	return w.word()
}

const differentRows = 400

// changes gives updates of one to three columns, one in five an insert. Their rows are some hundred different ones, which
// stay in the processor's caches as those do that have just been received; their organizations are any.
func (w *world) changes(n int) []change.Change {
	all := make([]change.Change, n)
	for i := range all {
		if i >= differentRows {
			all[i] = all[i%differentRows]
			all[i].Organization = fmt.Sprintf("org_%d", w.rnd.IntN(w.orgs))
			if all[i].Before != nil {
				all[i].OldOrganization = all[i].Organization
			}
			continue
		}
		row := cols{}
		for _, f := range w.schema.Fields {
			row[f.Name] = w.cell(f)
		}
		org := fmt.Sprintf("org_%d", w.rnd.IntN(w.orgs))
		c := change.Change{Object: w.object, Relation: w.relation, BeforeRelation: w.relation, ID: "1", Organization: org}
		if w.rnd.IntN(5) > 0 {
			c.Before, c.OldOrganization = rowOf(w.relation, row), org
			for range 1 + w.rnd.IntN(3) {
				f := w.schema.Fields[2+w.rnd.IntN(len(w.schema.Fields)-2)]
				row[f.Name] = w.cell(f)
			}
		}
		c.After = rowOf(w.relation, row)
		all[i] = c
	}
	return all
}

// run measures the index, and looking through all triggers of the organization
// for comparison, in the same run.
func (w *world) run(b *testing.B) {
	b.Helper()
	changes := w.changes(20_000)
	one := func(match func([]Firing, *change.Change) ([]Firing, Counters, error), expect bool) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			var (
				dst   []Firing
				sum   Counters
				fired int
			)
			i := 0
			var next [Window]*change.Change
			for b.Loop() {
				if expect && i%Window == 0 {
					for k := range next {
						next[k] = &changes[(i+k)%len(changes)]
					}
					w.set.Expect(next[:])
				}
				var n Counters
				var err error
				if dst, n, err = match(dst[:0], &changes[i%len(changes)]); err != nil {
					b.Fatal(err)
				}
				sum.Add(n)
				fired += len(dst)
				i++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
			b.ReportMetric(w.heapEach, "heapB/trigger")
			b.ReportMetric(w.loadEach, "load-µs/trigger")
			b.ReportMetric(float64(sum.Candidates)/float64(b.N), "candidates/op")
			b.ReportMetric(float64(fired)/float64(b.N), "fires/op")
		}
	}
	b.Run("index", one(w.set.Match, true))
	b.Run("unexpected", one(w.set.Match, false))
	b.Run("scan", one(w.set.matchAll, false))
}

func BenchmarkMillion(b *testing.B) { newWorld(b, 20_000, 50).run(b) }

func BenchmarkMillionIn2000(b *testing.B) { newWorld(b, 2_000, 500).run(b) }

func BenchmarkOneOrganization(b *testing.B) { newWorld(b, 1, 10_000).run(b) }

func BenchmarkOneOrganization100000(b *testing.B) { newWorld(b, 1, 100_000).run(b) }

// 100,000 triggers of one organization that nearly all wait for one of five
// values of a field, and for one of 2,000 of another or for a number.
func BenchmarkHotValues(b *testing.B) {
	w := newWorld(b, 1, 0)
	for id := range int64(100_000) {
		nodes := []string{fc("text0", term(fmt.Sprintf("value-%d", w.rnd.IntN(5))))}
		if w.rnd.IntN(4) > 0 {
			nodes = append(nodes, fc("text1", term(fmt.Sprintf("value-%d", w.rnd.IntN(2000)))))
		} else {
			nodes = append(nodes, fc("number0", fmt.Sprintf(`{"type":"number_range","gte":%d,"lt":%d}`, 10*id, 10*id+10)))
		}
		def := Definition{ID: id, Version: 1, Organization: "org_0", ObjectType: "lead", Query: json.RawMessage(q("lead", nodes...))}
		if err := w.set.Put(def); err != nil {
			b.Fatal(err)
		}
	}
	w.run(b)
}

// What an edit costs where it costs most, and the longest of them.
func BenchmarkEditAmongMillion(b *testing.B) {
	w := newWorld(b, 1, 1_000_000)
	longest := time.Duration(0)
	for b.Loop() {
		def := Definition{ID: 1 + w.rnd.Int64N(1_000_000), Version: 2, Organization: "org_0", ObjectType: "lead", Query: json.RawMessage(w.query())}
		start := time.Now()
		if err := w.set.Put(def); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(start))
	}
	b.ReportMetric(float64(longest.Microseconds()), "longest-µs")
}

func BenchmarkPut(b *testing.B) {
	s := newLeadSet(b)
	def := Definition{ID: 1, Organization: "A", ObjectType: "lead", Query: json.RawMessage(q("lead", statusC, fc("value", `{"type":"number_range","gte":10}`)))}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Put(def); err != nil {
			b.Fatal(err)
		}
	}
}
