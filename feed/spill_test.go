package feed

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// fan nets one transaction several times: in memory, and in files from several
// moments on, with hashes that collide or not.
type fan struct {
	nets  []*netter
	files spills
}

func newFan(t *rapid.T, indexed bool) *fan {
	f := &fan{}
	for _, limit := range []int{0, -1, rapid.IntRange(1, 20_000).Draw(t, "limit")} {
		bits := rapid.SampledFrom([]uint{0, 2, 6, 64}).Draw(t, "bits of hashes")
		n := &netter{limit: limit}
		n.opened = func(s *spill) {
			f.files.add(s)
			good := s.hash
			s.hash = func(typ string, id []byte) uint64 { return good(typ, id) &^ (1<<(64-bits) - 1) }
		}
		n.begin(1)
		if indexed {
			n.index(0)
		}
		f.nets = append(f.nets, n)
	}
	return f
}

func (f *fan) close() { f.files.closeAll() }

func (f *fan) insert(l *layout, row []byte) {
	for _, n := range f.nets {
		n.insert(l, row)
	}
}

func (f *fan) update(l *layout, oldKind byte, old, row []byte) {
	for _, n := range f.nets {
		n.update(l, oldKind, old, row)
	}
}

func (f *fan) delete(l *layout, oldKind byte, old []byte) {
	for _, n := range f.nets {
		n.delete(l, oldKind, old)
	}
}

func (f *fan) truncate(l *layout) {
	for _, n := range f.nets {
		n.truncate(l)
	}
}

// finish gives what memory made of it, after it was compared with the others.
func (f *fan) finish(t *rapid.T) *change.Commit {
	want, _ := f.nets[0].finish()
	for i, n := range f.nets[1:] {
		got, _ := n.finish()
		if got.Large == nil && i == 0 && len(want.Changes) > 0 {
			t.Fatal("not in files")
		}
		for range 2 { // as for a second attempt
			if diff := cmp.Diff(show(want), show(got)); diff != "" {
				t.Fatalf("limit %d: memory -, files +:\n%s", n.limit, diff)
			}
			compare(t, want, got)
		}
	}
	return want
}

// compare looks at what show leaves out.
func compare(t *rapid.T, want, got *change.Commit) {
	i := 0
	err := got.Each(func(g *change.Change) error {
		w := &want.Changes[i]
		i++
		if w.Relation != g.Relation || w.BeforeRelation != g.BeforeRelation || w.Object != g.Object || !slices.Equal(w.Before, g.Before) ||
			!slices.Equal(w.After, g.After) || (w.Before == nil) != (g.Before == nil) || (w.After == nil) != (g.After == nil) {
			t.Fatalf("change %d: %+v, not %+v", i, g, w)
		}
		return nil
	})
	if err != nil || i != len(want.Changes) {
		t.Fatalf("%d changes of %d: %v", i, len(want.Changes), err)
	}
	if !slices.Equal(want.Truncated, got.Truncated) {
		t.Fatal("truncated")
	}
}

// TestFilesEqualMemory feeds what no server would send, too: whatever comes, in
// files it comes to the same as in memory.
func TestFilesEqualMemory(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long ", 20_000)
	layouts := []*layout{full, full, full, full, keyed, widened, orgless, idless, noOrgCol, newLayout(keyRel, noOrgCol.object)}
	rapid.Check(t, func(t *rapid.T) {
		n := newFan(t, true)
		defer n.close()
		ids := rapid.SampledFrom([]int{3, 30, 3000}).Draw(t, "ids")
		values := []string{"a", "b", "~", "^", "", strings.Repeat("r", 1000)}
		if rapid.IntRange(0, 4).Draw(t, "with long") == 0 {
			values = append(values, long)
		}
		drawRow := func(l *layout) change.Row {
			var cells []string
			for i := range l.relation.Columns {
				if i == l.id {
					id := strconv.Itoa(rapid.IntRange(0, ids).Draw(t, "id"))
					if id == "0" {
						id = rapid.SampledFrom([]string{"~", "", "^", "0"}).Draw(t, "odd id")
					}
					cells = append(cells, id)
				} else {
					cells = append(cells, rapid.SampledFrom(values).Draw(t, "value"))
				}
			}
			return row(cells...)
		}
		var known []change.Row // rows as they were sent last
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			l := rapid.SampledFrom(layouts).Draw(t, "layout")
			old := drawRow(l)
			if len(known) > 0 && rapid.IntRange(0, 3).Draw(t, "known") > 0 {
				if k := rapid.SampledFrom(known).Draw(t, "old"); sameWidth(l, k) {
					old = k
				}
			}
			kind := rapid.SampledFrom([]byte{oldFull, oldFull, oldKey, oldNone}).Draw(t, "kind")
			now := drawRow(l)
			switch rapid.IntRange(0, 30).Draw(t, "op") {
			case 0:
				n.truncate(l)
			case 1, 2, 3, 4, 5, 6:
				if kind == oldNone {
					kind = oldKey
				}
				n.delete(l, kind, old)
			case 7, 8, 9, 10, 11, 12, 13, 14:
				n.insert(l, now)
				known = append(known, now)
			default:
				n.update(l, kind, old, now)
				known = append(known, now)
			}
		}
		n.finish(t)
	})
}

// TestManyInFiles lets tables grow and pages leave the smallest of caches.
func TestManyInFiles(t *testing.T) {
	t.Parallel()
	const rows = 20_000
	var nets [2]netter
	var files spills
	defer files.closeAll()
	nets[1].limit, nets[1].opened = 200_000, files.add
	var steps int
	nets[1].pause = func() error { steps++; return nil }
	var commits [2]*change.Commit
	for i := range nets {
		n := &nets[i]
		n.begin(1)
		id := func(i int) string { return strconv.Itoa(i * 7919 % rows) }
		for i := range rows {
			n.update(full, oldFull, row(id(i), "A", "x", "~"), row(id(i), "A", "y", "~"))
		}
		for i := range rows {
			switch i % 5 {
			case 0:
				n.delete(full, oldFull, row(id(i), "A", "y", "~"))
			case 1: // back
				n.update(full, oldFull, row(id(i), "A", "y", "~"), row(id(i), "A", "x", "~"))
			case 2:
				n.update(full, oldFull, row(id(i), "A", "y", "~"), row("new"+id(i), "A", "y", "~"))
			}
		}
		for i := range rows {
			if i%10 == 0 {
				n.insert(full, row(id(i), "A", "z", "~"))
			}
		}
		commits[i], _ = n.finish()
	}
	if commits[1].Large == nil || steps == 0 {
		t.Fatalf("not in files, or %d pauses", steps)
	}
	want, got := show(commits[0]), show(commits[1])
	if len(want) != rows/5*4 {
		t.Errorf("%d changes", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("memory -, files +:\n%s", diff)
	}
}

// TestFilesFail shows that no failure of the files goes unseen.
func TestFilesFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	readOnly, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	readOnly.Close()
	for _, test := range []struct {
		name  string
		dir   string
		spoil func(s *spill)
	}{
		{"no folder", filepath.Join(dir, "missing"), func(*spill) {}},
		{"rows", dir, func(s *spill) { s.rows.file.close(); s.rows.file.File, _ = os.Open(readOnly.Name()) }},
		{"entries", dir, func(s *spill) { s.entries.file.close(); s.entries.file.File, _ = os.Open(readOnly.Name()) }},
		{"index", dir, func(s *spill) { s.live.pages.file.close(); s.live.pages.file.File, _ = os.Open(readOnly.Name()) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			var files spills
			n := netter{limit: -1, dir: test.dir, opened: files.add}
			n.begin(1)
			net := func(i int) (err error) {
				defer rescue(&err)
				n.insert(full, row(strconv.Itoa(i), "A", "x", strings.Repeat("x", 100)))
				return nil
			}
			err := net(0)
			if err == nil {
				test.spoil(n.spill)
				for i := 1; i < 50_000 && err == nil; i++ {
					err = net(i)
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.dir) || strings.Contains(err.Error(), "\n") {
				t.Errorf("it says: %v", err)
			}
			if isPermanent(err) {
				t.Error("it is permanent")
			}
			files.closeAll()
			if list, _ := os.ReadDir(dir); len(list) != 1 {
				t.Errorf("%d files are left", len(list)-1)
			}
		})
	}
}

// TestPauseEnds: who asks for the session's end in a long walk gets it.
func TestPauseEnds(t *testing.T) {
	t.Parallel()
	var files spills
	defer files.closeAll()
	n := netter{limit: -1, opened: files.add, pause: func() error { return errStopping }}
	n.begin(1)
	net := func(i int) (err error) {
		defer rescue(&err)
		n.insert(full, row(strconv.Itoa(i), "A", "x", "~"))
		return nil
	}
	for i := range 2 * pauseEvery {
		if err := net(i); errors.Is(err, errStopping) {
			return
		}
	}
	t.Error("it went on")
}
