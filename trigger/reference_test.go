package trigger

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// A second evaluator, written straight from the grammar, on decoded Go values
// and the decoded JSON of the query: it shares nothing with the engine.
// Random schemas, triggers and changes go through both.

// refObject is an object: nil elements are NULLs. A field that is not in it has no value.
type refObject map[string][]any // string, bool, *big.Rat, refNumber, refDate, time.Time, refJunk

type (
	refNumber string // NaN, Infinity, -Infinity
	refDate   string // YYYY-MM-DD, infinity, -infinity: its text sorts as it should between years 1000 and 9999
	refJunk   struct{}
)

func refHolds(n map[string]any, o refObject, loc *time.Location) bool {
	var r bool
	switch n["type"] {
	case "and", "or":
		queries, _ := n["queries"].([]any)
		r = n["type"] == "and" || len(queries) == 0
		for _, q := range queries {
			h := refHolds(q.(map[string]any), o, loc)
			if n["type"] == "and" {
				r = r && h
			} else {
				r = r || h
			}
		}
	case "object_type", "match_all":
		r = true
	case "id":
		r = refEqual(o["#id"][0], fmt.Sprint(n["value"]))
	case "field_condition":
		f := n["field"].(map[string]any)
		name, _ := f["field_name"].(string)
		if name == "" {
			name = "custom." + f["custom_field_id"].(string)
		}
		for _, v := range o[name] {
			r = r || v != nil && refMeets(v, n["condition"].(map[string]any), loc)
		}
	default:
		panic(n["type"])
	}
	negate, _ := n["negate"].(bool)
	return r != negate
}

func refMeets(v any, c map[string]any, loc *time.Location) bool {
	switch c["type"] {
	case "exists":
		return true
	case "text":
		s, ok := v.(string)
		return ok && strings.ToLower(s) == strings.ToLower(c["value"].(string)) //nolint:staticcheck // not EqualFold: simple lower case is the rule
	case "term", "reference":
		list, _ := c["values"].([]any)
		if c["type"] == "reference" {
			list, _ = c["object_ids"].([]any)
		}
		return slices.ContainsFunc(list, func(l any) bool { return refEqual(v, fmt.Sprint(l)) })
	case "boolean":
		return v == c["value"]
	case "number_range":
		for bound, limit := range c {
			if bound == "type" {
				continue
			}
			r, _ := new(big.Rat).SetString(limit.(json.Number).String())
			var order int
			switch v := v.(type) {
			case *big.Rat:
				order = v.Cmp(r)
			case refNumber:
				switch v {
				case "NaN":
					return false
				case "Infinity":
					order = 1
				default:
					order = -1
				}
			default:
				return false
			}
			if !map[string]bool{"gte": order >= 0, "gt": order > 0, "lte": order <= 0, "lt": order < 0}[bound] {
				return false
			}
		}
		return true
	case "moment_range":
		for bound, m := range c {
			moment, ok := m.(map[string]any)
			if !ok {
				continue
			}
			day, err := time.ParseInLocation(time.DateOnly, moment["value"].(string), loc)
			if err != nil {
				panic(err)
			}
			if moment["which"] == "end" {
				day = day.AddDate(0, 0, 1)
			}
			var atOrAfter bool
			switch v := v.(type) {
			case refDate:
				atOrAfter = v == "infinity" || v != "-infinity" && string(v) >= day.Format(time.DateOnly)
			case time.Time:
				atOrAfter = !v.Before(day)
			default:
				return false
			}
			if atOrAfter != (bound == "on_or_after") {
				return false
			}
		}
		return true
	}
	panic(c["type"])
}

func refEqual(v any, literal string) bool {
	switch v := v.(type) {
	case string:
		return v == literal
	case bool:
		return fmt.Sprint(v) == literal
	case *big.Rat:
		r, ok := new(big.Rat).SetString(literal)
		return ok && v.Cmp(r) == 0
	case refDate:
		return string(v) == literal
	}
	return false
}

// Generators. Pools are small, so that values meet conditions often.

var (
	poolText    = []string{"", "a", "A", "b c", "É", "é", `x"y\z`, "NULL", "{,}", "CEO", "Ceo", " CEO", "12", "true", "Straße\n"}
	poolNumbers = []string{"0", "1", "1.0", "-1.5", "-1.50", "999.99", "1000", "1000.00", "9007199254740992", "9007199254740993", "0.001", "1e+20", "100000000000000000000", "-3"}
	poolDates   = []string{"2025-12-31", "2026-01-01", "2026-03-29", "2026-03-30", "2026-12-31", "2027-01-01", "1999-12-31"}
	poolTimes   = []string{"2025-12-31T23:00:00Z", "2025-12-31T22:59:59.999999Z", "2026-03-29T22:00:00Z", "2026-03-28T23:00:00Z", "2027-01-01T03:00:00Z", "1999-06-01T00:00:00.5Z", "2026-12-31T23:59:59Z"}
	poolKeys    = []string{"cf_x", "cf_y", `cf "z"`}
)

func pick[T any](t *rapid.T, pool []T) T { return rapid.SampledFrom(pool).Draw(t, "pick") }

func genScalar(t *rapid.T, kind Kind) (value any, text string) {
	special := rapid.IntRange(0, 9).Draw(t, "special") == 0
	switch kind {
	case KindBool:
		b := rapid.Bool().Draw(t, "bool")
		return b, map[bool]string{true: "t", false: "f"}[b]
	case KindNumber:
		if special {
			s := pick(t, []string{"NaN", "Infinity", "-Infinity"})
			return refNumber(s), s
		}
		s := pick(t, poolNumbers)
		r, _ := new(big.Rat).SetString(s)
		return r, s
	case KindDate:
		s := pick(t, poolDates)
		if special {
			s = pick(t, []string{"infinity", "-infinity"})
		}
		return refDate(s), s
	case KindTimestamp, KindTimestampTZ:
		at, _ := time.Parse(time.RFC3339Nano, pick(t, poolTimes))
		if kind == KindTimestamp {
			return at, at.Format("2006-01-02 15:04:05.999999")
		}
		zone := pick(t, []int{0, 3600, -3 * 3600, 5*3600 + 1800})
		text := at.In(time.FixedZone("", zone)).Format("2006-01-02 15:04:05.999999-07:00")
		return at, strings.TrimSuffix(text, ":00")
	}
	s := pick(t, poolText)
	return s, s
}

func quoteElement(s string) string {
	if s != "" && !strings.EqualFold(s, "null") && !strings.ContainsAny(s, `{},"\ `+"\n\t") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// genJSON gives a JSON value, what the reference takes it for, and its text.
func genJSON(t *rapid.T, depth int) (elements []any, text string) {
	switch n := rapid.IntRange(0, 9).Draw(t, "json"); {
	case n == 0:
		return []any{nil}, "null"
	case n == 1:
		return []any{refJunk{}}, `{"cf_x": [1, "a", {"b": "}"}]}`
	case n == 2 && depth > 0:
		text = "["
		for i := range rapid.IntRange(0, 3).Draw(t, "n") {
			e, s := genJSON(t, 0)
			if i > 0 {
				text += ", "
			}
			elements, text = append(elements, e...), text+s
		}
		return elements, text + "]"
	case n < 5:
		v, s := genScalar(t, KindNumber)
		if _, ok := v.(refNumber); ok {
			v, s = big.NewRat(5, 1), "5.0"
		}
		return []any{v}, s
	case n == 5:
		b := rapid.Bool().Draw(t, "bool")
		return []any{b}, fmt.Sprint(b)
	default:
		v, _ := genScalar(t, KindText)
		b, _ := json.Marshal(v)
		return []any{v}, string(b)
	}
}

func genSchema(t *rapid.T) Schema {
	s := Schema{ObjectType: "lead", ID: "id", Fields: []Field{{"id", pick(t, []Kind{KindNumber, KindText}), false}}}
	for i := range rapid.IntRange(1, 7).Draw(t, "columns") {
		s.Fields = append(s.Fields, Field{
			Name:  fmt.Sprintf("c%d", i),
			Kind:  pick(t, []Kind{KindText, KindBool, KindNumber, KindDate, KindTimestamp, KindTimestampTZ, KindOther}),
			Array: rapid.IntRange(0, 3).Draw(t, "array") == 0,
		})
	}
	if rapid.Bool().Draw(t, "has custom") {
		s.Custom = "custom"
		s.Fields = append(s.Fields, Field{"custom", KindJSON, false})
	}
	return s
}

func genObject(t *rapid.T, s *Schema, id string) (refObject, cols) {
	o, c := refObject{}, cols{"id": id}
	for _, f := range s.Fields {
		if f.Name == "id" {
			v := any(id)
			if f.Kind == KindNumber {
				v, _ = new(big.Rat).SetString(id)
			}
			o["id"], o["#id"] = []any{v}, []any{v}
			continue
		}
		if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
			continue
		}
		switch {
		case f.Name == s.Custom:
			text := "{"
			for _, key := range poolKeys {
				if rapid.Bool().Draw(t, "missing") {
					continue
				}
				elements, value := genJSON(t, 1)
				o["custom."+key] = elements
				k, _ := json.Marshal(key)
				if text != "{" {
					text += ", "
				}
				text += string(k) + ": " + value
			}
			c[f.Name] = text + "}"
		case f.Array:
			var texts []string
			for range rapid.IntRange(0, 3).Draw(t, "n") {
				if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
					o[f.Name], texts = append(o[f.Name], nil), append(texts, "NULL")
					continue
				}
				v, text := genScalar(t, f.Kind)
				o[f.Name], texts = append(o[f.Name], v), append(texts, quoteElement(text))
			}
			c[f.Name] = "{" + strings.Join(texts, ",") + "}"
		default:
			v, text := genScalar(t, f.Kind)
			o[f.Name], c[f.Name] = []any{v}, text
		}
	}
	return o, c
}

// genNode gives a node as a value that becomes JSON. emptyGroups are left out
// where De Morgan is to hold: an empty or is true.
func genNode(t *rapid.T, s *Schema, depth int, emptyGroups bool) map[string]any {
	n := map[string]any{}
	switch k := rapid.IntRange(0, 11).Draw(t, "node"); {
	case k < 4 && depth > 0:
		n["type"] = pick(t, []string{"and", "or"})
		least := 1
		if emptyGroups {
			least = 0
		}
		queries := []any{}
		for range rapid.IntRange(least, 4).Draw(t, "n") {
			queries = append(queries, genNode(t, s, depth-1, emptyGroups))
		}
		n["queries"] = queries
	case k == 4:
		n["type"] = "match_all"
	case k == 5:
		n["type"], n["value"] = "id", pick(t, []string{"1", "2"})
	default:
		f := pick(t, s.Fields)
		n["type"] = "field_condition"
		n["field"] = map[string]any{"type": "regular_field", "object_type": "lead", "field_name": f.Name}
		if f.Name == s.Custom {
			n["field"] = map[string]any{"type": "custom_field", "custom_field_id": pick(t, poolKeys)}
		}
		n["condition"] = genCondition(t, f.Kind)
	}
	if rapid.IntRange(0, 2).Draw(t, "negate") == 0 {
		n["negate"] = true
	}
	return n
}

func genCondition(t *rapid.T, kind Kind) map[string]any {
	types := []string{"exists", "term"}
	switch kind {
	case KindText, KindOther:
		types = append(types, "text", "text", "reference")
	case KindBool:
		types = append(types, "boolean")
	case KindNumber:
		types = append(types, "number_range", "number_range")
	case KindDate, KindTimestamp, KindTimestampTZ:
		types = []string{"exists", "moment_range", "moment_range"}
	case KindJSON:
		types = append(types, "text", "boolean", "number_range", "reference")
	}
	c := map[string]any{"type": pick(t, types)}
	switch c["type"] {
	case "text":
		c["mode"], c["value"] = "exact_value", pick(t, poolText)
	case "boolean":
		c["value"] = rapid.Bool().Draw(t, "value")
	case "term", "reference":
		key := map[any]string{"term": "values", "reference": "object_ids"}[c["type"]]
		values := []any{}
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			switch kind {
			case KindNumber:
				values = append(values, pick(t, []any{pick(t, poolNumbers), json.Number(pick(t, poolNumbers))}))
			case KindBool:
				values = append(values, pick(t, []any{true, false, "true", "false"}))
			case KindJSON:
				values = append(values, pick(t, []any{pick(t, poolNumbers), json.Number(pick(t, poolNumbers)), pick(t, poolText), true}))
			default:
				values = append(values, pick(t, poolText))
			}
		}
		c[key] = values
	case "number_range":
		for _, b := range []string{"gte", "gt", "lte", "lt"} {
			if rapid.IntRange(0, 2).Draw(t, b) == 0 {
				c[b] = json.Number(pick(t, poolNumbers))
			}
		}
		if len(c) == 1 {
			c["gte"] = json.Number(pick(t, poolNumbers))
		}
	case "moment_range":
		for i, b := range []string{"on_or_after", "before"} {
			if rapid.Bool().Draw(t, b) || i == 1 && len(c) == 1 {
				c[b] = map[string]any{"type": "fixed_local_date", "value": pick(t, poolDates), "which": pick(t, []string{"start", "end"})}
			}
		}
	}
	return c
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func pinned(n map[string]any) map[string]any {
	return map[string]any{"type": "and", "queries": []any{map[string]any{"type": "object_type", "object_type": "lead"}, n}}
}

// roundTrip gives the query as its JSON decodes, with exact numbers.
func roundTrip(raw json.RawMessage) (n map[string]any) {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&n); err != nil {
		panic(err)
	}
	return n
}

var refLocations = func() (all []*time.Location) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata"} {
		l, err := time.LoadLocation(name)
		if err != nil {
			panic(err)
		}
		all = append(all, l)
	}
	return all
}()

func TestAgreesWithReference(t *testing.T) {
	t.Parallel()
	fired, total := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		schema := genSchema(t)
		relation := relationOf(&schema)
		object := &change.Object{Type: "lead"}
		s := NewSet()
		if rapid.Bool().Draw(t, "schema first") {
			s.SetSchema(schema, relation)
		}
		defs := map[int64]Definition{}
		for range rapid.IntRange(1, 12).Draw(t, "triggers") {
			d := Definition{
				ID: int64(rapid.IntRange(1, 8).Draw(t, "id")), Version: int32(rapid.IntRange(1, 9).Draw(t, "version")),
				Organization: pick(t, []string{"A", "B"}), ObjectType: "lead",
				Query:    asJSON(pinned(genNode(t, &schema, 3, true))),
				Location: pick(t, refLocations),
			}
			err := s.Put(d)
			if _, known := s.types["lead"]; known && err != nil {
				t.Fatalf("%s: %v", d.Query, err)
			}
			defs[d.ID] = d
			if rapid.IntRange(0, 5).Draw(t, "remove") == 0 {
				s.Remove(d.ID)
				delete(defs, d.ID)
			}
		}
		if rapid.Bool().Draw(t, "altered") { // there and back again: all is compiled anew from its source
			all := schema
			schemaWithout := Schema{ObjectType: "lead", Fields: schema.Fields[:1], ID: "id"}
			s.SetSchema(schemaWithout, nil)
			s.SetSchema(all, relation)
		}
		s.SetSchema(schema, relation)
		if s.Len() != len(defs) {
			t.Fatalf("%d triggers, want %d; broken: %v", s.Len(), len(defs), s.Broken())
		}

		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			c := &change.Change{Object: object, Relation: relation, BeforeRelation: relation, ID: "1"}
			var before, after refObject
			var beforeRow, afterRow cols
			if rapid.IntRange(0, 4).Draw(t, "insert") > 0 {
				old := "1"
				if rapid.IntRange(0, 4).Draw(t, "key change") == 0 {
					old, c.OldID = "2", "2"
				}
				before, beforeRow = genObject(t, &schema, old)
				c.OldOrganization = pick(t, []string{"A", "A", "B"})
			}
			if rapid.IntRange(0, 9).Draw(t, "delete") > 0 || before == nil {
				after, afterRow = genObject(t, &schema, "1")
				if before != nil { // change a few columns only
					for _, f := range schema.Fields {
						if f.Name == "id" || rapid.IntRange(0, 1).Draw(t, "keep") == 0 {
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
				c.Organization = pick(t, []string{"A", "A", "B"})
			}
			c.Before, c.After = rowOf(relation, beforeRow), rowOf(relation, afterRow)

			var want []Firing
			for id, d := range defs {
				query := roundTrip(d.Query)
				total++
				if after == nil || c.Organization != d.Organization || !refHolds(query, after, d.Location) {
					continue
				}
				created := before == nil || c.OldOrganization != d.Organization
				if created || !refHolds(query, before, d.Location) {
					want = append(want, Firing{id, d.Version, d.Organization, created, nil})
				}
			}
			got, n, err := s.Match(nil, c)
			if err != nil || n.Indeterminate+n.Poisoned > 0 {
				t.Fatalf("%v %+v", err, n)
			}
			byID := func(a, b Firing) int { return int(a.TriggerID - b.TriggerID) }
			slices.SortFunc(want, byID)
			slices.SortFunc(got, byID)
			if !slices.Equal(got, want) {
				for _, d := range defs {
					t.Logf("%d (%s, %s): %s", d.ID, d.Organization, d.Location, d.Query)
				}
				t.Fatalf("%v -> %v\n%s -> %s\ngot  %v\nwant %v", beforeRow, afterRow, c.OldOrganization, c.Organization, got, want)
			}
			fired += len(got)
		}
	})
	if fired == 0 {
		t.Error("nothing fired: the generators miss each other")
	}
	t.Logf("%d of %d fired", fired, total)
}

// holds evaluates one query on one object through the engine.
func holds(t *rapid.T, schema *Schema, n map[string]any, row cols) bool {
	s := NewSet()
	relation := relationOf(schema)
	s.SetSchema(*schema, relation)
	if err := s.Put(Definition{ID: 1, Organization: "A", ObjectType: "lead", Query: asJSON(pinned(n))}); err != nil {
		t.Fatal(err)
	}
	f, _, err := s.Match(nil, &change.Change{
		Object: &change.Object{Type: "lead"}, Relation: relation, After: rowOf(relation, row), ID: "1", Organization: "A",
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(f) == 1
}

func negated(n map[string]any) map[string]any {
	m := map[string]any{}
	maps.Copy(m, n)
	negate, _ := n["negate"].(bool)
	m["negate"] = !negate
	return m
}

func TestNegationAndDeMorgan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		schema := genSchema(t)
		_, row := genObject(t, &schema, "1")
		n := genNode(t, &schema, 2, true)
		plain := holds(t, &schema, n, row)
		if holds(t, &schema, negated(n), row) == plain {
			t.Fatalf("not(q) = q for %s", asJSON(n))
		}
		twice := map[string]any{"type": "and", "negate": true, "queries": []any{negated(n)}}
		if holds(t, &schema, twice, row) != plain {
			t.Fatalf("not(not(q)) != q for %s", asJSON(n))
		}

		kids, opposite := []any{}, []any{}
		for range rapid.IntRange(1, 4).Draw(t, "kids") {
			kid := genNode(t, &schema, 1, false)
			kids, opposite = append(kids, kid), append(opposite, negated(kid))
		}
		left := map[string]any{"type": "and", "negate": true, "queries": kids}
		right := map[string]any{"type": "or", "queries": opposite}
		if holds(t, &schema, left, row) != holds(t, &schema, right, row) {
			t.Fatalf("De Morgan does not hold for %s", asJSON(left))
		}
	})
}

// junk is nearly a query.
func junk(t *rapid.T, depth int) any {
	switch rapid.IntRange(0, 8).Draw(t, "junk") {
	case 0:
		return pick(t, []any{nil, true, 12, "x", "lead", "2026-01-01", json.Number("1e400")})
	case 1, 2:
		if depth == 0 {
			return []any{}
		}
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			list = append(list, junk(t, depth-1))
		}
		return list
	}
	o := map[string]any{}
	if depth == 0 {
		return o
	}
	o["type"] = pick(t, []any{"and", "or", "object_type", "field_condition", "has_related", "match_all", "id", "text", "saved_search",
		"term", "reference", "exists", "boolean", "number_range", "moment_range", "current_user", "regular_field", "custom_field",
		"fixed_local_date", "now", "offset", "nothing", 1})
	for range rapid.IntRange(0, 5).Draw(t, "members") {
		key := pick(t, []string{"queries", "object_type", "field", "condition", "value", "values", "object_ids", "mode", "gte", "lt", "before",
			"on_or_after", "which", "negate", "field_name", "custom_field_id", "related_query", "this_object_type", "related_object_type", "a/b"})
		o[key] = junk(t, depth-1)
	}
	return o
}

func TestEvaluationIsTotal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		schema := genSchema(t)
		relation := relationOf(&schema)
		s := NewSet()
		s.SetSchema(schema, relation)
		for i := range 3 {
			n := genNode(t, &schema, 2, true)
			if rapid.Bool().Draw(t, "spoiled") {
				n["queries"] = []any{junk(t, 3)}
				n["type"] = pick(t, []string{"and", "or", "has_related"})
			}
			_ = s.Put(Definition{ID: int64(i), Organization: "A", ObjectType: "lead", Query: asJSON(pinned(n))})
		}
		if s.Len()+len(s.Broken()) != 3 {
			t.Fatal("a trigger got lost")
		}
		row := func(label string) change.Row {
			cells := make([]change.Cell, len(relation.Columns))
			for i := range cells {
				cells[i].Kind = pick(t, []byte{change.Null, change.Unchanged, change.Text, change.Text, change.Text})
				if cells[i].Kind == change.Text {
					cells[i].Data = rapid.OneOf(
						rapid.SliceOfN(rapid.Byte(), 0, 20),
						rapid.Map(rapid.StringMatching(`[\{\}\[\]",:\\a-c0-9e\.NUL \-]{0,20}`), func(s string) []byte { return []byte(s) }),
						rapid.Map(rapid.StringMatching(`\{"cf_[xy]": ?[\{\}\[\]",:\\a-c0-9e\. \-]{0,12}\}?`), func(s string) []byte { return []byte(s) }),
					).Draw(t, label)
				}
			}
			raw := change.MakeRow(cells)
			if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
				raw = raw[:rapid.IntRange(0, len(raw)).Draw(t, "at")]
			}
			return raw
		}
		c := &change.Change{Object: &change.Object{Type: "lead"}, Relation: relation, ID: "1", Organization: "A", OldOrganization: "A"}
		c.After = row("after")
		if rapid.Bool().Draw(t, "update") {
			c.Before = row("before")
		}
		if _, n, _ := s.Match(nil, c); n.Poisoned > 0 {
			t.Fatalf("poisoned: %v", s.TakePoisoned())
		}
	})
}
