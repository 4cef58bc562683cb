package feed

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// row builds a Row: "~" is NULL, "^" is an unchanged TOASTed value.
func row(cells ...string) change.Row {
	list := make([]change.Cell, len(cells))
	for i, c := range cells {
		switch c {
		case "~":
			list[i] = change.Cell{Kind: change.Null}
		case "^":
			list[i] = change.Cell{Kind: change.Unchanged}
		default:
			list[i] = change.Cell{Kind: change.Text, Data: []byte(c)}
		}
	}
	return change.MakeRow(list)
}

func text(r change.Row) string {
	if r == nil {
		return "-"
	}
	cells, err := r.Decode(nil)
	if err != nil {
		return err.Error()
	}
	var s []string
	for _, c := range cells {
		switch c.Kind {
		case change.Null:
			s = append(s, "~")
		case change.Unchanged:
			s = append(s, "^")
		default:
			s = append(s, string(c.Data))
		}
	}
	return strings.Join(s, ",")
}

// show gives a commit's changes one a line.
func show(c *change.Commit) []string {
	var out []string
	err := c.Each(func(ch *change.Change) error {
		before := text(ch.Before)
		if ch.BeforeUnknown {
			before = "?"
		}
		s := fmt.Sprintf("%s %s: %s -> %s", ch.Object.Type, ch.ID, before, text(ch.After))
		if ch.OldID != "" {
			s += " was " + ch.OldID
		}
		s += fmt.Sprintf(" [%s>%s]", ch.OldOrganization, ch.Organization)
		out = append(out, s)
		return nil
	})
	if err != nil {
		return []string{err.Error()}
	}
	for _, n := range c.Notes {
		out = append(out, fmt.Sprintf("note %s %d %v", n.Kind, n.Count, n.Detail["reason"]))
	}
	return out
}

var (
	lead     = &change.Object{Type: "lead", Schema: "public", Table: "lead", ID: "id", Organization: "org"}
	fullRel  = leadRelation(change.IdentityFull, "id", "org", "v", "doc")
	keyRel   = leadRelation(change.IdentityDefault, "id", "org", "v", "doc")
	full     = newLayout(fullRel, lead)
	keyed    = newLayout(keyRel, lead)
	widened  = newLayout(leadRelation(change.IdentityFull, "id", "org", "v", "doc", "extra"), lead)
	orgless  = newLayout(leadRelation(change.IdentityFull, "id", "v"), lead)
	idless   = newLayout(leadRelation(change.IdentityFull, "org", "v"), lead)
	noOrgCol = newLayout(fullRel, &change.Object{Type: "thing", ID: "id"})
)

func leadRelation(identity byte, columns ...string) *change.Relation {
	r := &change.Relation{OID: 1, Schema: "public", Name: "lead", Identity: identity}
	for _, c := range columns {
		r.Columns = append(r.Columns, change.Column{Name: c, Key: identity == change.IdentityFull || c == "id"})
	}
	return r
}

func TestNet(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 100_000)
	tests := []struct {
		name string
		do   func(n *netter)
		want []string
	}{
		{"insert", func(n *netter) { n.insert(full, row("1", "A", "x", "~")) }, []string{"lead 1: - -> 1,A,x,~ [>A]"}},
		{"default organization", func(n *netter) { n.insert(noOrgCol, row("1", "A", "x", "~")) }, []string{"thing 1: - -> 1,A,x,~ [>default]"}},
		{"NULL organization", func(n *netter) { n.insert(full, row("1", "~", "x", "~")) }, []string{"lead 1: - -> 1,~,x,~ [>]"}},
		{"insert, delete", func(n *netter) {
			n.insert(full, row("1", "A", "x", "~"))
			n.delete(full, oldFull, row("1", "A", "x", "~"))
		}, nil},
		{"insert, update", func(n *netter) {
			n.insert(full, row("1", "A", "x", "~"))
			n.update(full, oldFull, row("1", "A", "x", "~"), row("1", "A", "y", "~"))
		}, []string{"lead 1: - -> 1,A,y,~ [>A]"}},
		{"delete, insert", func(n *netter) {
			n.delete(full, oldFull, row("1", "A", "x", "~"))
			n.insert(full, row("1", "B", "y", "~"))
		}, []string{"lead 1: 1,A,x,~ -> 1,B,y,~ [A>B]"}},
		{"insert before delete, deferred unique", func(n *netter) {
			n.insert(full, row("1", "B", "y", "~"))
			n.delete(full, oldFull, row("1", "A", "x", "~"))
		}, []string{"lead 1: 1,A,x,~ -> 1,B,y,~ [A>B]"}},
		{"update twice", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("1", "A", "y", "~"))
			n.update(full, oldFull, row("1", "A", "y", "~"), row("1", "A", "z", "~"))
		}, []string{"lead 1: 1,A,x,~ -> 1,A,z,~ [A>A]"}},
		{"there and back", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("1", "A", "y", "~"))
			n.update(full, oldFull, row("1", "A", "y", "~"), row("1", "A", "x", "~"))
		}, nil},
		{"a no-op update", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("1", "A", "x", "~"))
		}, nil},
		{"empty text is not NULL", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "~", "~"), row("1", "A", "", "~"))
		}, []string{"lead 1: 1,A,~,~ -> 1,A,,~ [A>A]"}},
		{"id changes", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("2", "A", "x", "~"))
		}, []string{"lead 2: 1,A,x,~ -> 2,A,x,~ was 1 [A>A]"}},
		{"id changes twice, back", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("2", "A", "x", "~"))
			n.update(full, oldFull, row("2", "A", "x", "~"), row("1", "A", "y", "~"))
		}, []string{"lead 1: 1,A,x,~ -> 1,A,y,~ [A>A]"}},
		{"delete 2, update 1 to 2", func(n *netter) {
			n.delete(full, oldFull, row("2", "A", "two", "~"))
			n.update(full, oldFull, row("1", "A", "one", "~"), row("2", "A", "one", "~"))
		}, []string{"lead 2: 2,A,two,~ -> - [A>]", "lead 2: 1,A,one,~ -> 2,A,one,~ was 1 [A>A]"}},
		{"update 1 to 2, delete it, insert 1", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("2", "A", "x", "~"))
			n.delete(full, oldFull, row("2", "A", "x", "~"))
			n.insert(full, row("1", "A", "y", "~"))
		}, []string{"lead 1: 1,A,x,~ -> 1,A,y,~ [A>A]"}},
		{"moved, then gone: under the id it had", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("2", "A", "x", "~"))
			n.delete(full, oldFull, row("2", "A", "x", "~"))
		}, []string{"lead 1: 1,A,x,~ -> - [A>]"}},
		{"swap through a third id", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "one", "~"), row("3", "A", "one", "~"))
			n.update(full, oldFull, row("2", "A", "two", "~"), row("1", "A", "two", "~"))
			n.update(full, oldFull, row("3", "A", "one", "~"), row("2", "A", "one", "~"))
		}, []string{"lead 2: 1,A,one,~ -> 2,A,one,~ was 1 [A>A]", "lead 1: 2,A,two,~ -> 1,A,two,~ was 2 [A>A]"}},
		{"swap under a deferred unique", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "one", "~"), row("2", "A", "one", "~"))
			n.update(full, oldFull, row("2", "A", "two", "~"), row("1", "A", "two", "~"))
		}, []string{"lead 2: 1,A,one,~ -> 2,A,one,~ was 1 [A>A]", "lead 1: 2,A,two,~ -> 1,A,two,~ was 2 [A>A]"}},
		{"organization moves", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("1", "B", "x", "~"))
		}, []string{"lead 1: 1,A,x,~ -> 1,B,x,~ [A>B]"}},
		{"TOAST from the old row", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", big), row("1", "A", "y", "^"))
		}, []string{"lead 1: 1,A,x," + big + " -> 1,A,y," + big + " [A>A]"}},
		{"TOAST untouched is no change", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", big), row("1", "A", "x", "^"))
		}, nil},
		{"TOAST from the same commit", func(n *netter) {
			n.insert(keyed, row("1", "A", "x", big))
			n.update(keyed, oldNone, nil, row("1", "A", "y", "^"))
		}, []string{"lead 1: - -> 1,A,y," + big + " [>A]"}},
		{"TOAST unknown", func(n *netter) {
			n.update(keyed, oldNone, nil, row("1", "A", "y", "^"))
		}, []string{"lead 1: ? -> 1,A,y,^ [>A]"}},
		{"key only: update", func(n *netter) {
			n.update(keyed, oldNone, nil, row("1", "A", "y", "~"))
			n.update(keyed, oldNone, nil, row("1", "B", "y", "~"))
		}, []string{"lead 1: ? -> 1,B,y,~ [>B]"}},
		{"key only: id changes", func(n *netter) {
			n.update(keyed, oldKey, row("1", "~", "~", "~"), row("2", "A", "y", "~"))
		}, []string{"lead 2: ? -> 2,A,y,~ was 1 [>A]"}},
		{"key only: delete", func(n *netter) {
			n.delete(keyed, oldKey, row("1", "~", "~", "~"))
		}, []string{"lead 1: ? -> - [>]"}},
		{"key only: delete, insert", func(n *netter) {
			n.delete(keyed, oldKey, row("1", "~", "~", "~"))
			n.insert(keyed, row("1", "A", "y", "~"))
		}, []string{"lead 1: ? -> 1,A,y,~ [>A]"}},
		{"key only: insert, update, delete", func(n *netter) {
			n.insert(keyed, row("1", "A", "y", "~"))
			n.update(keyed, oldNone, nil, row("1", "A", "z", "~"))
			n.delete(keyed, oldKey, row("1", "~", "~", "~"))
		}, nil},
		{"identity switched inside the commit", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", big), row("1", "A", "y", "^"))
			n.update(keyed, oldNone, nil, row("1", "A", "z", "^"))
		}, []string{"lead 1: 1,A,x," + big + " -> 1,A,z," + big + " [A>A]"}},
		{"column added inside the commit", func(n *netter) {
			n.update(full, oldFull, row("1", "A", "x", "~"), row("1", "A", "y", "~"))
			n.update(widened, oldFull, row("1", "A", "y", "~", "~"), row("1", "A", "y", "~", "e"))
		}, []string{"lead 1: 1,A,x,~ -> 1,A,y,~,e [A>A]"}},
		{"truncate", func(n *netter) {
			n.insert(full, row("1", "A", "x", "~"))
			n.update(full, oldFull, row("2", "A", "x", "~"), row("2", "A", "y", "~"))
			n.truncate(full)
			n.insert(full, row("2", "A", "z", "~"))
			n.insert(full, row("3", "A", "x", "~"))
		}, []string{"lead 2: 2,A,x,~ -> 2,A,z,~ [A>A]", "lead 3: ? -> 3,A,x,~ [>A]", "note truncate_ignored 1 TRUNCATE names no rows: nothing fires for it"}},
		{"row of the wrong width", func(n *netter) {
			n.insert(full, row("1", "A"))
			n.insert(full, row("1", "A"))
			n.insert(full, row("1", "A", "x", "~"))
		}, []string{"lead 1: - -> 1,A,x,~ [>A]", "note undecodable 2 " + reasonWidth}},
		{"id column dropped", func(n *netter) { n.insert(idless, row("A", "x")) }, []string{"note undecodable 1 " + reasonNoID}},
		{"organization column dropped", func(n *netter) { n.insert(orgless, row("1", "x")) },
			[]string{"lead 1: - -> 1,x [>]", "note column_missing 1 the organization column org is not in the table"}},
		{"id appears, id vanishes", func(n *netter) {
			n.update(full, oldFull, row("~", "A", "x", "~"), row("1", "A", "x", "~"))
			n.update(full, oldFull, row("2", "A", "x", "~"), row("~", "A", "x", "~"))
		}, []string{"lead 1: - -> 1,A,x,~ [>A]", "lead 2: 2,A,x,~ -> - [A>]"}},
	}
	for _, test := range tests {
		// With other objects around, the index is used in place of the scan.
		// Nor does it matter when it goes to files: never, at once, or later.
		for _, v := range [][2]int{{0, 0}, {0, -1}, {0, 1}, {0, 1000}, {3 * scanLimit, 0}, {3 * scanLimit, -1}, {3 * scanLimit, 4000}} {
			others, limit := v[0], v[1]
			t.Run(fmt.Sprintf("%s/%d/%d", test.name, others, limit), func(t *testing.T) {
				t.Parallel()
				n := netter{limit: limit, dir: t.TempDir()}
				var files spills
				n.opened = files.add
				defer files.closeAll()
				n.begin(7)
				for i := range others {
					n.insert(full, row(fmt.Sprintf("other%d", i), "A", "x", "~"))
				}
				test.do(&n)
				for i := range others {
					n.delete(full, oldFull, row(fmt.Sprintf("other%d", i), "A", "x", "~"))
				}
				c, _ := n.finish()
				got := show(c)
				if others > 0 && test.name == "truncate" {
					// the others were truncated: deletes of rows that no longer are
					got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, "other") })
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("want -, got +:\n%s", diff)
				}
			})
		}
	}
}

// modelRow is a row of the model: it knows what happened to it.
type modelRow struct {
	existed  bool
	before   []string
	now      []string // nil: gone
	original string   // id
}

// TestNetAgainstModel lets a table live through random statements, with rows as
// things that have an identity of their own, and compares.
func TestNetAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.IntRange(2, 6).Draw(t, "ids")
		if rapid.Bool().Draw(t, "many") {
			ids = 30
		}
		withOld := rapid.Bool().Draw(t, "full")
		deferred := withOld && rapid.Bool().Draw(t, "deferred unique")
		l := keyed
		if withOld {
			l = full
		}
		drawID := func() string { return strconv.Itoa(rapid.IntRange(1, ids).Draw(t, "id")) }
		serial := 0
		drawRow := func(id string) []string {
			v := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "v")
			if deferred { // rows of one id must differ, or nobody could tell them apart
				serial++
				v += strconv.Itoa(serial)
			}
			return []string{id, rapid.SampledFrom([]string{"A", "B", "~"}).Draw(t, "org"), v, "~"}
		}

		var rows []*modelRow // in order of first touch; untouched ones before
		untouched := map[*modelRow]bool{}
		var touched []*modelRow
		for i := 1; i <= ids; i++ {
			if rapid.Bool().Draw(t, "exists") {
				r := &modelRow{existed: true, original: strconv.Itoa(i)}
				r.before = drawRow(r.original)
				r.now = r.before
				rows = append(rows, r)
				untouched[r] = true
			}
		}
		touch := func(r *modelRow) {
			if untouched[r] || !slices.Contains(touched, r) {
				delete(untouched, r)
				touched = append(touched, r)
			}
		}
		alive := func(id string) (out []*modelRow) {
			for _, r := range rows {
				if r.now != nil && r.now[0] == id {
					out = append(out, r)
				}
			}
			return out
		}

		n := newFan(t, false)
		defer n.close()
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"insert", "update", "delete", "move"}).Draw(t, "op") {
			case "insert":
				id := drawID()
				if len(alive(id)) > 0 {
					continue
				}
				now := drawRow(id)
				n.insert(l, row(now...))
				var back *modelRow
				for _, r := range touched {
					if r.existed && r.now == nil && r.original == id {
						back = r
					}
				}
				if back == nil {
					back = &modelRow{original: id}
					rows = append(rows, back)
					touched = append(touched, back)
				}
				back.now = now
			case "update", "move":
				if len(rows) == 0 {
					continue
				}
				r := rapid.SampledFrom(rows).Draw(t, "row")
				if r.now == nil {
					continue
				}
				id := r.now[0]
				if rapid.Bool().Draw(t, "key") {
					id = drawID()
					if others := alive(id); len(others) > 0 && id != r.now[0] && (!deferred || len(others) > 1) {
						continue
					}
				}
				old, now := r.now, drawRow(id)
				touch(r)
				switch {
				case withOld:
					n.update(l, oldFull, row(old...), row(now...))
				case id != old[0]:
					n.update(l, oldKey, row(old[0], "~", "~", "~"), row(now...))
				default:
					n.update(l, oldNone, nil, row(now...))
				}
				r.now = now
			case "delete":
				if len(rows) == 0 {
					continue
				}
				r := rapid.SampledFrom(rows).Draw(t, "row")
				if r.now == nil {
					continue
				}
				touch(r)
				if withOld {
					n.delete(l, oldFull, row(r.now...))
				} else {
					n.delete(l, oldKey, row(r.now[0], "~", "~", "~"))
				}
				r.now = nil
			}
		}
		c := n.finish(t)

		var want []string
		for _, r := range touched {
			if !r.existed && r.now == nil {
				continue
			}
			if r.existed && r.now != nil && withOld && slices.Equal(r.before, r.now) {
				continue
			}
			var before, after change.Row
			oldOrg, org := "", ""
			if r.existed && withOld {
				before = row(r.before...)
				oldOrg = strings.Trim(r.before[1], "~")
			}
			id, oldID := r.original, ""
			if r.now != nil {
				after = row(r.now...)
				org = strings.Trim(r.now[1], "~")
				id = r.now[0]
				if r.existed && id != r.original {
					oldID = r.original
				}
			}
			want = append(want, show(&change.Commit{Changes: []change.Change{{
				Object: lead, Before: before, After: after, BeforeUnknown: r.existed && !withOld,
				ID: id, OldID: oldID, Organization: org, OldOrganization: oldOrg,
			}}})...)
		}
		got := show(c)
		if deferred {
			// A replacement under a deferred constraint may be told as an update
			// or, where the model's rows stay apart, as gone and created.
			checkDeferred(t, touched, c)
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("want -, got +:\n%s", diff)
		}
	})
}

// checkDeferred compares what can't depend on how rows of one id are paired:
// the rows before and the rows after.
func checkDeferred(t *rapid.T, touched []*modelRow, c *change.Commit) {
	var before, after, gotBefore, gotAfter []string
	for _, r := range touched {
		if r.existed && r.now != nil && slices.Equal(r.before, r.now) {
			continue
		}
		if r.existed {
			before = append(before, text(row(r.before...)))
		}
		if r.now != nil {
			after = append(after, text(row(r.now...)))
		}
	}
	for _, ch := range c.Changes {
		if ch.Before != nil {
			gotBefore = append(gotBefore, text(ch.Before))
		}
		if ch.After != nil {
			gotAfter = append(gotAfter, text(ch.After))
		}
	}
	for _, s := range [][]string{before, after, gotBefore, gotAfter} {
		slices.Sort(s)
	}
	if diff := cmp.Diff(before, gotBefore); diff != "" {
		t.Fatalf("rows before: want -, got +:\n%s", diff)
	}
	if diff := cmp.Diff(after, gotAfter); diff != "" {
		t.Fatalf("rows after: want -, got +:\n%s", diff)
	}
}
