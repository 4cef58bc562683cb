package trigger

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// has_related as SQL against a plain count over rows in memory; the conditions on
// each row are still decided by evaluation.

type relatedRow struct {
	id, org string
	row     change.Row
	cells   map[string]string // of columns that hold a value
}

type relatedWorld struct {
	schemas map[string]*Schema
	rows    map[string][]relatedRow
	sets    map[string]*Set // by leaf and type
}

func (w *relatedWorld) holds(t *rapid.T, n map[string]any, objectType string, r *relatedRow) bool {
	var result bool
	switch n["type"] {
	case "and", "or":
		queries, _ := n["queries"].([]any)
		result = n["type"] == "and" || len(queries) == 0
		for _, q := range queries {
			h := w.holds(t, q.(map[string]any), objectType, r)
			if n["type"] == "and" {
				result = result && h
			} else {
				result = result || h
			}
		}
	case "object_type":
		result = true
	case "has_related":
		least, most := 1, 1<<30
		if m, ok := n["at_most"].(int); ok {
			least, most = 0, m
		}
		if l, ok := n["at_least"].(int); ok {
			least = l
		}
		other := n["related_object_type"].(string)
		count := 0
		for i := range w.rows[other] {
			o := &w.rows[other][i]
			mine, ok := r.cells[n["this_field_name"].(string)]
			theirs, ok2 := o.cells[n["related_field_name"].(string)]
			same := w.schemas[objectType].Organization == "" || w.schemas[other].Organization == "" || r.org != "" && r.org == o.org
			if ok && ok2 && mine == theirs && same && w.holds(t, n["related_query"].(map[string]any), other, o) {
				count++
			}
		}
		result = least <= count && count <= most
	default:
		plain := map[string]any{}
		for k, v := range n {
			if k != "negate" {
				plain[k] = v
			}
		}
		query := asJSON(map[string]any{"type": "and", "queries": []any{map[string]any{"type": "object_type", "object_type": objectType}, plain}})
		set := w.sets[objectType+string(query)]
		if set == nil {
			set = NewSet()
			set.SetSchema(*w.schemas[objectType], relationOf(w.schemas[objectType]))
			if err := set.Put(Definition{ID: 1, Organization: "X", ObjectType: objectType, Query: query}); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			w.sets[objectType+string(query)] = set
		}
		fired, _, err := set.Match(nil, &change.Change{
			Object: &change.Object{Type: objectType}, Relation: relationOf(w.schemas[objectType]), After: r.row, ID: r.id, Organization: "X",
		})
		if err != nil {
			t.Fatalf("%v", err)
		}
		result = len(fired) == 1
	}
	negate, _ := n["negate"].(bool)
	return result != negate
}

func genRelated(t *rapid.T, p *sqlPools, w *relatedWorld, objectType string, depth int, group bool) map[string]any {
	s := w.schemas[objectType]
	n := map[string]any{}
	switch k := rapid.IntRange(0, 7).Draw(t, "node"); {
	case k < 2 && group:
		n["type"] = pick(t, []string{"and", "or"})
		queries := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			queries = append(queries, genRelated(t, p, w, objectType, depth, false))
		}
		n["queries"] = queries
	case k < 6 && depth > 0:
		relation := pick(t, s.Relations)
		n["type"], n["this_object_type"], n["related_object_type"] = "has_related", objectType, relation.RelatedType
		n["this_field_name"], n["related_field_name"] = relation.Column, relation.RelatedColumn
		if rapid.IntRange(0, 2).Draw(t, "at least") == 0 {
			n["at_least"] = rapid.IntRange(0, 3).Draw(t, "least")
		}
		if rapid.IntRange(0, 2).Draw(t, "at most") == 0 {
			least, _ := n["at_least"].(int)
			n["at_most"] = least + rapid.IntRange(0, 2).Draw(t, "more")
		}
		n["related_query"] = genRelated(t, p, w, relation.RelatedType, depth-1, true)
	case k == 6:
		n["type"] = "match_all"
		return n
	default:
		return genSQLNode(t, p, s, 0)
	}
	if rapid.IntRange(0, 2).Draw(t, "negate") == 0 {
		n["negate"] = true
	}
	return n
}

func TestSQLHasRelatedAgreesWithACount(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	matched, total := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		defer b.exec(t, "DROP TABLE IF EXISTS contact, lead, task")
		p := drawPools(t)
		w := &relatedWorld{schemas: map[string]*Schema{}, rows: map[string][]relatedRow{}, sets: map[string]*Set{}}
		oids := map[string]map[string]uint32{}
		b.genTable(t, &p, "lead", 5, "boss bigint")
		b.genTable(t, &p, "contact", 6, "lead_id text", "boss int")
		b.exec(t, "CREATE TABLE task (id int PRIMARY KEY, contact_id bigint, title text)") // for all organizations
		// An untyped literal: it takes the column's type.
		number := func(least, most int) string {
			if n := rapid.IntRange(least, most).Draw(t, "number"); n > 0 {
				return fmt.Sprintf("'%d'", n)
			}
			return "NULL"
		}
		// The other side's own type, so that they can be compared.
		for _, alter := range [][3]string{{"lead", "boss", "lead"}, {"contact", "lead_id", "lead"}, {"contact", "boss", "contact"}, {"task", "contact_id", "contact"}} {
			var typ string
			if err := b.conn.QueryRow(ctx, "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::regclass AND attname = 'id'", alter[2]).Scan(&typ); err != nil {
				t.Fatalf("%v", err)
			}
			b.exec(t, "ALTER TABLE "+alter[0]+" ALTER "+alter[1]+" TYPE "+typ+" USING "+alter[1]+"::text::"+typ)
		}
		for i := range 5 {
			b.exec(t, fmt.Sprintf("INSERT INTO task VALUES (%d, %s, $1)", i+1, number(0, 7)), pick(t, p.texts))
		}
		for i := range 6 {
			b.exec(t, fmt.Sprintf("UPDATE contact SET lead_id = %s, boss = %s WHERE id = '%d'", number(0, 5), number(0, 6), i+1))
			b.exec(t, fmt.Sprintf("UPDATE lead SET boss = %s WHERE id = '%d'", number(0, 5), i+1))
		}

		relations := map[string][]Relation{
			"lead":    {{"id", "contact", "lead_id"}, {"boss", "lead", "id"}, {"id", "lead", "boss"}},
			"contact": {{"lead_id", "lead", "id"}, {"boss", "contact", "id"}, {"id", "contact", "boss"}, {"id", "task", "contact_id"}},
			"task":    {{"contact_id", "contact", "id"}},
		}
		for _, name := range []string{"lead", "contact", "task"} {
			s := &Schema{ObjectType: name, ID: "id", Relations: relations[name]}
			s.Fields, oids[name] = b.describe(t, name)
			if name != "task" {
				s.Organization, s.Custom = "organization_id", "custom"
			}
			w.schemas[name] = s
			for _, row := range b.rows(t, "TABLE "+name+" ORDER BY id") {
				cells, err := row.Decode(nil)
				if err != nil {
					t.Fatalf("%v", err)
				}
				r := relatedRow{row: row, cells: map[string]string{}}
				for i, c := range cells {
					if c.Kind == change.Text {
						r.cells[s.Fields[i].Name] = string(c.Data)
					}
				}
				r.id, r.org = r.cells["id"], r.cells["organization_id"]
				w.rows[name] = append(w.rows[name], r)
			}
		}
		schemas := func(name string) *Schema { return w.schemas[name] }
		tables := func(name string) SQLTable {
			return SQLTable{Name: "public." + name, TypeOf: func(column string) uint32 { return oids[name][column] }}
		}
		for range 8 {
			objectType := pick(t, []string{"lead", "lead", "contact", "task"})
			n := genRelated(t, &p, w, objectType, MaxRelated, true)
			query := asJSON(map[string]any{"type": "and", "queries": []any{map[string]any{"type": "object_type", "object_type": objectType}, n}})
			o := SQLOptions{}
			if objectType != "task" {
				o.Organization = "A"
			}
			want := []string{}
			for i := range w.rows[objectType] {
				r := &w.rows[objectType][i]
				if r.org == o.Organization && w.holds(t, n, objectType, r) {
					want = append(want, r.id)
				}
			}
			slices.Sort(want)
			got := b.matching(t, string(query), objectType, schemas, tables, o)
			if !slices.Equal(got, want) {
				s, _ := CompileSQL(query, objectType, schemas, tables, o)
				for name, rows := range w.rows {
					for _, r := range rows {
						raw, _ := json.Marshal(r.cells)
						t.Logf("%s %s", name, raw)
					}
				}
				t.Fatalf("SQL finds %v, the count %v\n%s\nWHERE %s\nargs %q", got, want, query, s.Where, s.Args)
			}
			matched += len(got)
			total += len(w.rows[objectType])
		}
	})
	if matched == 0 || matched == total {
		t.Errorf("%d of %d rows matched: the generators miss each other", matched, total)
	}
	t.Logf("%d of %d rows matched", matched, total)
}
