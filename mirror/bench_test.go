package mirror

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// The benchmarks' table: contacts with a UUID as id and one as link to their
// lead, an organization, and two columns of text. Each lead has three contacts,
// each organization a thousand.

var benchRelation = relation("id", "organization_id", "lead_id", "email", "title", "noise")

type benchTable struct {
	store *Store
	table *Table
	ids   []string
	leads [][]byte
	rows  []change.Row // of some, to put again
	own   int          // bytes of ids and kept values
	heap  uint64
	worst time.Duration // of all that were put
}

func uuid(n uint64) string {
	a, b := n*0x9E3779B97F4A7C15, n*0xC2B2AE3D27D4EB4F
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", uint32(a), uint16(a>>32), uint16(a>>48), uint16(b), b>>16)
}

func benchRow(rnd *rand.Rand, id, lead string) change.Row {
	cell := func(s string) change.Cell { return change.Cell{Kind: change.Text, Data: []byte(s)} }
	return change.MakeRow([]change.Cell{
		cell(id), cell("org"), cell(lead), cell(fmt.Sprintf("someone.%d@example.com", rnd.IntN(1e6))),
		cell([]string{"CEO", "Head of Sales", "Account Executive", ""}[rnd.IntN(4)]), cell("not kept, of any length"),
	})
}

func newBenchTable(b *testing.B, n int) *benchTable {
	b.Helper()
	w := &benchTable{store: New(), ids: make([]string, 0, n), leads: make([][]byte, 0, n/3+1)}
	for i := range n {
		w.ids = append(w.ids, uuid(uint64(i+1)))
		if i%3 == 0 {
			w.leads = append(w.leads, []byte(uuid(uint64(n+i))))
		}
	}
	before := heap()
	w.table = w.store.Define(Spec{
		Type: "contact", Columns: []string{"lead_id", "email", "title"}, Links: []int{0}, ByOrganization: true,
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, id := range w.ids {
		row := benchRow(rnd, id, string(w.leads[rnd.IntN(len(w.leads))]))
		start := time.Now()
		if _, err := w.table.Put(id, fmt.Sprint("org_", i%max(1, n/1000)), benchRelation, row); err != nil {
			b.Fatal(err)
		}
		w.worst = max(w.worst, time.Since(start))
	}
	w.heap = heap() - before
	w.table.Each(func(r Row) bool {
		w.own += len(r.ID())
		cells, _ := r.Image().Decode(nil)
		for _, c := range cells {
			w.own += len(c.Data)
		}
		return true
	})
	for range 1 << 12 {
		w.rows = append(w.rows, benchRow(rnd, "", string(w.leads[rnd.IntN(len(w.leads))])))
	}
	return w
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const benchRows = 1_000_000

// BenchmarkMemory reports the bytes of a row: of the heap, as Bytes says, and
// those that are neither its id nor a value.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		w := newBenchTable(b, benchRows)
		b.ReportMetric(float64(w.heap)/benchRows, "heap-B/row")
		b.ReportMetric(float64(w.table.Bytes())/benchRows, "B/row")
		b.ReportMetric(float64(w.own)/benchRows, "own-B/row")
		b.ReportMetric(float64(w.table.Bytes()-int64(w.own))/benchRows, "overhead-B/row")
		b.ReportMetric(float64(w.worst.Microseconds()), "worst-put-µs")
		w.ids, w.leads, w.rows = nil, nil, nil
		runtime.GC()
		start := time.Now()
		runtime.GC()
		b.ReportMetric(float64(time.Since(start).Microseconds()), "gc-µs")
		runtime.KeepAlive(w.store)
	}
}

// BenchmarkPut changes rows that there are, of a large table and in any order.
func BenchmarkPut(b *testing.B) {
	w := newBenchTable(b, benchRows)
	rnd := rand.New(rand.NewPCG(5, 6))
	for b.Loop() {
		i := rnd.IntN(benchRows)
		if _, err := w.table.Put(w.ids[i], "org_1", benchRelation, w.rows[rnd.IntN(len(w.rows))]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPutBatch is Put with a journal, 1,000 rows to the batch.
func BenchmarkPutBatch(b *testing.B) {
	w := newBenchTable(b, benchRows)
	rnd := rand.New(rand.NewPCG(5, 6))
	n := 0
	for b.Loop() {
		if n%1000 == 0 {
			w.store.Commit()
			w.store.Begin()
		}
		n++
		i := rnd.IntN(benchRows)
		if _, err := w.table.Put(w.ids[i], "org_1", benchRelation, w.rows[rnd.IntN(len(w.rows))]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet gets a row's image, of a table that fits no cache and of one that does.
func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1000, benchRows} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newBenchTable(b, n)
			rnd := rand.New(rand.NewPCG(5, 6))
			sum := 0
			for b.Loop() {
				r, ok := w.table.Get(w.ids[rnd.IntN(n)])
				if !ok {
					b.Fatal("missing")
				}
				sum += len(r.Image())
			}
			_ = sum
		})
	}
}

// BenchmarkLinked finds the three contacts of a lead.
func BenchmarkLinked(b *testing.B) {
	w := newBenchTable(b, benchRows)
	rnd := rand.New(rand.NewPCG(5, 6))
	hits := 0
	for b.Loop() {
		w.table.Linked(0, w.leads[rnd.IntN(len(w.leads))], func(r Row) bool {
			hits += len(r.Image()[:1])
			return true
		})
	}
	b.ReportMetric(float64(hits)/float64(b.N), "rows/op")
}

func BenchmarkMembers(b *testing.B) {
	m := newMembers([]string{"cf_budget", "cf_region"})
	text := []byte(`{"cf_a": "some text", "cf_list": ["a", "b", {"x": 1}], "cf_budget": 120000, "cf_region": "EMEA", "cf_note": "a longer text with \"quotes\" in it"}`)
	var dst []byte
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		dst, _ = m.reduce(dst[:0], text)
	}
}
