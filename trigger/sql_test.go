package trigger

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// A query as SQL against evaluation: random tables, rows and queries. The rows
// reach evaluation as the stream would send them.

var ctx = context.Background() // rapid's T has none

// failer is testing.T or rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// sqlBench has two sessions: one prints rows as the stream does, the other one
// asks, with settings that would print them differently.
type sqlBench struct {
	stream *pgconn.PgConn
	conn   *pgx.Conn
	icu    bool
}

func newSQLBench(t *testing.T) *sqlBench {
	t.Helper()
	db := dbtest.New(t)
	cfg, err := pgconn.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(cfg.RuntimeParams, map[string]string{
		"datestyle": "ISO", "intervalstyle": "postgres", "timezone": "UTC", "extra_float_digits": "3", "bytea_output": "hex",
	})
	b := &sqlBench{}
	if b.stream, err = pgconn.ConnectConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if b.conn, err = pgx.Connect(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.stream.Close(t.Context()); _ = b.conn.Close(t.Context()) })
	b.exec(t, `SET datestyle = 'German'; SET intervalstyle = 'sql_standard'; SET timezone = 'Asia/Tokyo'; SET extra_float_digits = -5; SET bytea_output = 'escape'`)
	b.exec(t, `CREATE TYPE mood AS ENUM ('a', 'A', 'CEO', 'b c'); CREATE TYPE pair AS (x text, y int);
		CREATE DOMAIN positive AS numeric CHECK (value IS NULL OR value <> 12345); CREATE DOMAIN word AS text; CREATE DOMAIN words AS text[]`)
	_, err = b.conn.Exec(t.Context(), `CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)`)
	b.icu = err == nil
	return b
}

func (b *sqlBench) exec(t failer, sql string, args ...any) {
	t.Helper()
	if _, err := b.conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s %v: %v", sql, args, err)
	}
}

// rows gives a query's rows in the text form of the stream.
func (b *sqlBench) rows(t failer, sql string) []change.Row {
	t.Helper()
	r := b.stream.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatalf("%s: %v", sql, r.Err)
	}
	var all []change.Row
	for _, row := range r.Rows {
		cells := make([]change.Cell, len(row))
		for i, v := range row {
			cells[i] = change.Cell{Kind: change.Null}
			if v != nil {
				cells[i] = change.Cell{Kind: change.Text, Data: v}
			}
		}
		all = append(all, change.MakeRow(cells))
	}
	return all
}

// describe reads a table's columns as package catalog does.
func (b *sqlBench) describe(t failer, table string) ([]Field, map[string]uint32) {
	t.Helper()
	rows, err := b.conn.Query(ctx, `WITH RECURSIVE base AS (
			SELECT attname::text AS name, attnum, atttypid AS oid FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
			UNION ALL SELECT name, attnum, typbasetype FROM base JOIN pg_type ON pg_type.oid = base.oid WHERE typtype = 'd')
		SELECT name, base.oid FROM base JOIN pg_type ON pg_type.oid = base.oid WHERE typtype <> 'd' ORDER BY attnum`, table)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var fields []Field
	oids := map[string]uint32{}
	var name string
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&name, &oid}, func() error {
		kind, array := KindOf(oid)
		fields = append(fields, Field{name, kind, array})
		oids[name] = oid
		return nil
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return fields, oids
}

// matching gives the ids of the rows that a query matches, by SQL.
func (b *sqlBench) matching(t failer, query, objectType string, schemas Schemas, tables SQLTables, o SQLOptions) []string {
	t.Helper()
	s, err := CompileSQL([]byte(query), objectType, schemas, tables, o)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	var ids []string
	err = pgx.BeginFunc(ctx, b.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, SQLSettings); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT t.id::text FROM "+tables(objectType).Name+" t WHERE "+s.Where, s.Args...)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatalf("%v\nquery %s\nWHERE %s\nargs  %q", err, query, s.Where, s.Args)
	}
	slices.Sort(ids)
	return ids
}

// columnType is a type of column with texts that it takes.
type columnType struct {
	decl string
	pool []string
}

var (
	sqlTexts = []string{
		"", "a", "A", "b c", "É", "é", "e\u0301", `x"y\z`, "NULL", "{,}", "CEO", "Ceo", "ceo", " CEO", "12", "12.0", "true", "STRASSE", "Straße\n", "ẞ", "\u212aelvin", "kelvin",
		"İ", "i", "ı", "ſ", "s", "ΣΑΣ", "σας", "Ǆ", "ǅ", "ǆ", "Ⅷ", "ⅷ", "Å", "Å", "jane@acme.com", "a  b", "2026-03-29", "2026-03-29T12:00:00Z", "infinity", "𐐀", "𐐨", "'", "%_", "１２",
	}
	sqlWholes  = []string{"0", "1", "-1", "-3", "1000", "32767", "-32768", "12"}
	sqlNumbers = []string{
		"0", "1", "1.0", "-1.5", "-1.50", "999.99", "1000", "9007199254740993", "0.001", "1e20", "-3", "NaN", "Infinity", "-Infinity", "0.1", "0.30000000000000004", "12", "2.5",
	}
	sqlDays   = []string{"2025-12-31", "2026-01-01", "2026-03-29", "2026-03-30", "0044-03-15 BC", "infinity", "-infinity", "10000-01-01", "5874897-12-31", "4713-01-01 BC"}
	sqlStamps = []string{
		"2025-12-31 23:00:00", "2025-12-31 22:59:59.999999", "2026-03-29 22:00:00", "2026-03-28 23:00:00", "1999-06-01 00:00:00.5", "infinity", "-infinity",
		"294276-12-31 23:59:59.999999", "4713-01-01 00:00:00 BC",
	}
	sqlUUIDs = []string{"6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-000000000000"}
	sqlJSONs = []string{
		"null", "true", "false", "0", "1", "1.0", "12", "-1.5", "1e2", `""`, `"a"`, `"A"`, `"É"`, `"12"`, `"true"`, `"CEO"`, `"b c"`, `"x\"y\\z"`, `"2026-03-29"`, `"2026-03-29T12:00:00Z"`,
		`"2026-03-29 22:00:00.0000019+02:00"`, `"2026-02-30"`, `"2026-03-29 24:00:00"`, `"2026-03-29 24:00:01"`, `"infinity"`, `"-infinity"`, `"999999-01-01T00:00:00Z"`,
		`"0044-03-15 BC"`, `"2026-03-29T12:00"`, `"2026-03-29T12:00:60+0530"`, `"294246-11-30T23:00:00-99:59"`, `"\u00c9\ud83d\ude00"`, `{}`, `{"a": 1}`, `[]`, `[null]`, `[1, "a", null]`, `["CEO", ["a"]]`, `[[]]`, `[{"a": 1}, true]`,
	}
	sqlBroken = []string{`"\u0000"`, `{"cf_x": "\u0000"}`, `"\ud83d"`} // json takes them, jsonb doesn't
)

// sqlPools are what one check draws its values from, of rows and of queries: few, so
// that they meet.
type sqlPools struct{ texts, wholes, numbers, days, stamps, jsons []string }

func drawPools(t *rapid.T) sqlPools {
	few := func(pool []string) (some []string) {
		for range 6 {
			some = append(some, pick(t, pool))
		}
		return some
	}
	return sqlPools{few(sqlTexts), few(sqlWholes), few(sqlNumbers), few(sqlDays), few(sqlStamps), few(sqlJSONs)}
}

func columnTypes(icu bool, p *sqlPools) []columnType {
	types := []columnType{
		{"text", p.texts},
		{"text", p.texts},
		{"varchar(40)", p.texts},
		{"char(8)", []string{"", "a", "A", "a ", "CEO", "Ceo", "É", "b c", "12"}},
		{"name", []string{"a", "A", "CEO", "É"}},
		{`"char"`, []string{"a", "A", ""}},
		{"word", p.texts},
		{"mood", []string{"a", "A", "CEO", "b c"}},
		{"mood[]", []string{"{a,A}", "{}"}}, // not known to be an array: text
		{"pair", []string{"(,)", "(a,1)", `("b c",)`}},
		{"boolean", []string{"t", "f"}},
		{"int2", p.wholes},
		{"int4", append([]string{"2147483647", "-2147483648"}, p.wholes...)},
		{"int8", append([]string{"9223372036854775807", "-9223372036854775808", "9007199254740993"}, p.wholes...)},
		{"oid", []string{"0", "1", "12", "4294967295"}},
		{"numeric", append([]string{"1e131071", "-1e131071", "1e-16383", "-1e-16383"}, p.numbers...)},
		{"numeric(8,2)", []string{"0", "1", "-1.5", "999.99", "1000", "NaN"}},
		{"positive", p.numbers},
		{"float4", append([]string{"1e-45", "3.4e38"}, p.numbers...)},
		{"float8", append([]string{"5e-324", "1.7976931348623157e308"}, p.numbers...)},
		{"date", p.days},
		{"timestamp", p.stamps},
		{"timestamptz", []string{
			"2025-12-31 23:00:00+00", "2025-12-31 22:59:59.999999+00", "2026-03-29 00:00:00+02", "2026-03-28 23:00:00-03", "1999-06-01 00:00:00.5+05:30", "infinity", "-infinity",
			"294276-12-31 23:59:59.999999+00", "4713-01-01 00:00:00+00 BC",
		}},
		{"uuid", sqlUUIDs},
		{"inet", []string{"10.0.0.1", "10.0.0.0/8"}},
		{"interval", []string{"1 day 02:00:00", "1 mon"}},
		{"tstzrange", []string{"[2026-01-01 00:00:00+00,)"}},
		{"bytea", []string{`\x4142`, `\xff00`}},
		{"jsonb", p.jsons},
		{"json", append(slices.Clone(p.jsons), sqlBroken...)},
	}
	if icu {
		types = append(types, columnType{"text COLLATE loose", p.texts}, columnType{"text COLLATE loose", p.texts})
	}
	return types
}

// arrayable says whether arrays of a type are arrays for triggers, too.
func arrayable(decl string) bool {
	switch decl {
	case "mood", "mood[]", "pair", "word", "positive":
		return false
	}
	return !strings.Contains(decl, "COLLATE")
}

// genTable makes a table and fills it.
func (b *sqlBench) genTable(t *rapid.T, p *sqlPools, name string, n int, more ...string) {
	decls := []string{
		"id " + pick(t, []string{"int4", "int8", "text", "numeric"}) + " PRIMARY KEY",
		"organization_id " + pick(t, []string{"text", "text", "varchar(20)"}),
		"custom " + pick(t, []string{"jsonb", "jsonb", "jsonb", "json"}),
	}
	names := []string{"id", "organization_id", "custom"}
	var pools []columnType
	types := columnTypes(b.icu, p)
	for i := range rapid.IntRange(1, 6).Draw(t, "columns") {
		c := pick(t, types)
		column := fmt.Sprintf("c%d", i)
		if i == 0 {
			column = `odd "name"`
		}
		if arrayable(c.decl) && rapid.IntRange(0, 2).Draw(t, "array") == 0 {
			c.decl = strings.Replace(c.decl, " COLLATE", "[] COLLATE", 1)
			if !strings.Contains(c.decl, "[]") {
				c.decl += "[]"
			}
			if strings.HasPrefix(c.decl, "json") {
				// Evaluation reads the strings of such elements into the buffer that the
				// next element is still being written to.
				c.pool = slices.DeleteFunc(slices.Clone(c.pool), func(s string) bool { return strings.Contains(s, `\`) })
				c.pool = append(c.pool, "[]")
			}
		}
		decls = append(decls, sqlIdent(column)+" "+c.decl)
		names = append(names, sqlIdent(column))
		pools = append(pools, c)
	}
	decls = append(decls, more...)
	b.exec(t, "CREATE TABLE "+name+" ("+strings.Join(decls, ", ")+")")
	for i := range n {
		values := []any{fmt.Sprint(i + 1), pick(t, []any{"A", "A", "A", "B", nil}), nil}
		if rapid.IntRange(0, 9).Draw(t, "custom") > 0 {
			values[2] = genCustom(t, p, strings.HasSuffix(decls[2], "json"))
		}
		for _, c := range pools {
			values = append(values, genText(t, c))
		}
		casts := make([]string, len(values))
		for j := range values {
			casts[j] = fmt.Sprintf("$%d::text::%s", j+1, typeOnly(decls[j]))
		}
		b.exec(t, "INSERT INTO "+name+" ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(casts, ", ")+")", values...)
	}
}

// typeOnly takes the type out of a column's declaration.
func typeOnly(decl string) string {
	_, typ, _ := strings.Cut(strings.TrimPrefix(decl, `"odd ""name"""`), " ")
	typ, _, _ = strings.Cut(typ, " COLLATE")
	return strings.TrimSuffix(typ, " PRIMARY KEY")
}

func genText(t *rapid.T, c columnType) any {
	if rapid.IntRange(0, 5).Draw(t, "null") == 0 {
		return nil
	}
	if !strings.HasSuffix(c.decl, "[]") || c.decl == "mood[]" {
		return pick(t, c.pool)
	}
	var list []string
	rows := rapid.IntRange(0, 8).Draw(t, "two dimensions") == 0
	for range rapid.IntRange(0, 3).Draw(t, "n") {
		e := "NULL"
		if rapid.IntRange(0, 3).Draw(t, "null element") > 0 {
			e = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(pick(t, c.pool)) + `"`
		}
		if rows {
			e = "{" + e + "}"
		}
		list = append(list, e)
	}
	return "{" + strings.Join(list, ",") + "}"
}

func genCustom(t *rapid.T, p *sqlPools, plain bool) string {
	if rapid.IntRange(0, 12).Draw(t, "odd") == 0 {
		return pick(t, []string{"null", `"cf_x"`, `["cf_x"]`, `[{"cf_x": "a"}]`, "12", "{}"})
	}
	var b strings.Builder
	b.WriteString("{")
	for _, key := range poolKeys {
		if rapid.IntRange(0, 3).Draw(t, "missing") == 0 {
			continue
		}
		if b.Len() > 1 {
			b.WriteString(", ")
		}
		k, _ := json.Marshal(key)
		fmt.Fprintf(&b, "%s: %s", k, pick(t, p.jsons))
		if plain && rapid.IntRange(0, 9).Draw(t, "twice") == 0 {
			fmt.Fprintf(&b, ", %s: %s", k, pick(t, p.jsons))
		}
	}
	return b.String() + "}"
}

// genSQLNode is genNode for these tables.
func genSQLNode(t *rapid.T, p *sqlPools, s *Schema, depth int) map[string]any {
	n := map[string]any{}
	switch k := rapid.IntRange(0, 11).Draw(t, "node"); {
	case k < 4 && depth > 0:
		n["type"] = pick(t, []string{"and", "or"})
		queries := []any{}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			queries = append(queries, genSQLNode(t, p, s, depth-1))
		}
		n["queries"] = queries
	case k == 4:
		n["type"] = "match_all"
	case k == 5:
		n["type"], n["value"] = "id", pick(t, []any{"1", "2", 3, "4"})
	default:
		f := pick(t, s.Fields)
		n["type"] = "field_condition"
		n["field"] = map[string]any{"type": "regular_field", "object_type": s.ObjectType, "field_name": f.Name}
		if f.Name == s.Custom && rapid.IntRange(0, 9).Draw(t, "whole") > 0 {
			n["field"] = map[string]any{"type": "custom_field", "custom_field_id": pick(t, append([]string{"cf_\x00"}, poolKeys...))}
		}
		n["condition"] = genSQLCondition(t, p, f.Kind)
	}
	if rapid.IntRange(0, 2).Draw(t, "negate") == 0 {
		n["negate"] = true
	}
	return n
}

func genSQLCondition(t *rapid.T, p *sqlPools, kind Kind) map[string]any {
	types := []string{"exists", "term"}
	switch kind {
	case KindText, KindPadded, KindOther:
		types = append(types, "text", "text", "reference")
	case KindBool:
		types = append(types, "boolean", "boolean")
	case KindNumber:
		types = append(types, "number_range", "number_range", "reference")
	case KindDate, KindTimestamp, KindTimestampTZ:
		types = append(types, "moment_range", "moment_range")
	case KindJSON:
		types = append(types, "text", "text", "boolean", "number_range", "number_range", "reference", "moment_range", "moment_range")
	}
	numbers := []string{
		"0", "1", "1.0", "-1.5", "999.99", "999.995", "1000", "9007199254740992", "9007199254740993", "0.001", "1e20", "-3", "0.1", "0.3", "0.30000000000000004", "12", "2.4", "-2.6",
		"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9223372036854775807.5", "1e131071", "1e131072", "-1e131072", "1e4000000", "1e-16383", "1e-16384", "-1e-16384", "-15e-16384",
		"1e-4000000", "99999999999999999999",
	}
	some := append(slices.Clone(p.wholes), p.numbers...)
	some = slices.DeleteFunc(some, func(s string) bool { return s == "NaN" || strings.HasSuffix(s, "Infinity") })
	anyNumber := func() string {
		if rapid.Bool().Draw(t, "of a row") {
			return pick(t, some)
		}
		return pick(t, numbers)
	}
	number := func() any {
		s := anyNumber()
		if rapid.Bool().Draw(t, "as text") {
			return s
		}
		return json.Number(s)
	}
	c := map[string]any{"type": pick(t, types)}
	switch c["type"] {
	case "text":
		c["mode"], c["value"] = "exact_value", pick(t, append([]string{"a\x00", "CEO   ", sqlUUIDs[0], strings.ToUpper(sqlUUIDs[0]), "(,)", "{a,A}"}, p.texts...))
	case "boolean":
		c["value"] = rapid.Bool().Draw(t, "value")
	case "term", "reference":
		values := []any{}
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			switch kind {
			case KindNumber:
				values = append(values, pick(t, []any{number(), number(), "Infinity", "-Infinity", "+1"}))
			case KindBool:
				values = append(values, pick(t, []any{true, false, "true", "F", "t"}))
			case KindDate:
				values = append(values, pick(t, append([]string{"9999999-01-01", "9999-01-01 BC"}, p.days...)))
			case KindTimestamp, KindTimestampTZ:
				values = append(values, pick(t, []string{
					"2025-12-31T23:00:00Z", "2025-12-31 22:59:59.999999+00", "2026-03-29T22:00:00Z", "2026-03-28 23:00:00-03", "1999-06-01T00:00:00.5+05:30", "infinity", "-infinity",
					"999999-01-01T00:00:00Z", "294276-12-31T23:59:59.999999Z", "294277-01-01T00:00:00Z", "4713-01-01 00:00:00+00 BC", "9999-01-01 00:00:00+00 BC",
				}))
			case KindJSON:
				values = append(values, pick(t, []any{number(), number(), pick(t, p.texts), pick(t, p.texts), true, false, "Infinity", "05", "+1", "a\x00"}))
			default:
				values = append(values, pick(t, append([]string{"a\x00", "CEO  ", strings.ToUpper(sqlUUIDs[0]), "(,)", "{a,A}", "10.0.0.1/8", "1 day 02:00:00", `\x4142`}, append(sqlUUIDs, p.texts...)...)))
			}
		}
		c[map[any]string{"term": "values", "reference": "object_ids"}[c["type"]]] = values
	case "number_range":
		for _, b := range boundNames {
			if rapid.IntRange(0, 2).Draw(t, b) == 0 {
				c[b] = json.Number(anyNumber())
			}
		}
		if len(c) == 1 {
			c[pick(t, boundNames[:])] = json.Number(anyNumber())
		}
	case "moment_range":
		for i, b := range momentNames {
			if rapid.Bool().Draw(t, b) || i == 1 && len(c) == 1 {
				m := map[string]any{"type": "fixed_local_date", "value": pick(t, []string{"2025-12-31", "2026-01-01", "2026-03-29", "2026-03-30", "9999-12-31", "0001-01-01"}), "which": pick(t, []string{"start", "end"})}
				if rapid.IntRange(0, 2).Draw(t, "instant") == 0 {
					m = map[string]any{"type": "fixed_local_date", "value": pick(t, []string{
						"2025-12-31T23:00:00Z", "2026-03-29T22:00:00.0000005Z", "2026-03-29T12:00:00Z", "2026-03-29 00:00:00+02", "1999-06-01T00:00:00.500000Z",
					})}
				}
				c[b] = m
			}
		}
	}
	return c
}

func TestSQLAgreesWithEvaluation(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	matched, total, negative := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		defer b.exec(t, "DROP TABLE IF EXISTS lead")
		p := drawPools(t)
		b.genTable(t, &p, "lead", 8)
		fields, oids := b.describe(t, "lead")
		schema := Schema{ObjectType: "lead", ID: "id", Custom: "custom", Organization: "organization_id", Fields: fields}
		schemas := only(&schema)
		tables := func(string) SQLTable {
			return SQLTable{Name: "public.lead", TypeOf: func(column string) uint32 { return oids[column] }}
		}
		relation := relationOf(&schema)
		set := NewSet()
		set.SetSchema(schema, relation)
		defs := map[int64]Definition{}
		for id := range int64(12) {
			d := Definition{ID: id, Organization: pick(t, []string{"A", "A", "B"}), ObjectType: "lead", Query: asJSON(pinned(genSQLNode(t, &p, &schema, 3))), Location: refLocations[rapid.IntRange(0, len(refLocations)-1).Draw(t, "zone")]}
			if err := set.Put(d); err != nil {
				t.Fatalf("%s: %v", d.Query, err)
			}
			defs[id] = d
		}
		want := map[int64][]string{}
		for _, row := range b.rows(t, "TABLE lead ORDER BY id") {
			cells, err := row.Decode(nil)
			if err != nil {
				t.Fatalf("%v", err)
			}
			c := &change.Change{Object: &change.Object{Type: "lead"}, Relation: relation, BeforeRelation: relation, After: row, ID: string(cells[0].Data), Organization: string(cells[1].Data)}
			fired, n, err := set.Match(nil, c)
			if err != nil || n.Indeterminate+n.Poisoned > 0 {
				t.Fatalf("%v %+v", err, n)
			}
			for _, f := range fired {
				want[f.TriggerID] = append(want[f.TriggerID], c.ID)
			}
		}
		for id, d := range defs {
			o := SQLOptions{Organization: d.Organization, Location: d.Location}
			got := b.matching(t, string(d.Query), "lead", schemas, tables, o)
			slices.Sort(want[id])
			if !slices.Equal(got, want[id]) {
				s, _ := CompileSQL(d.Query, "lead", schemas, tables, o)
				for i, row := range b.rows(t, "TABLE lead ORDER BY id") {
					cells, _ := row.Decode(nil)
					t.Logf("row %d", i+1)
					for j, c := range cells {
						t.Logf("    %s (%d): %c %q", fields[j].Name, oids[fields[j].Name], c.Kind, c.Data)
					}
				}
				t.Fatalf("organization %s, %s: SQL finds %v, evaluation %v\n%s\nWHERE %s\nargs %q", d.Organization, d.Location, got, want[id], d.Query, s.Where, s.Args)
			}
			total += 8
			matched += len(got)
			if len(got) == 0 {
				negative++
			}
		}
	})
	if matched == 0 || negative == 0 {
		t.Errorf("%d of %d rows matched: the generators miss each other", matched, total)
	}
	t.Logf("%d of %d rows matched", matched, total)
}
