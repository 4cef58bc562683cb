package trigger

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A query as SQL: for a preview, a backfill, a branch, a goal. It means of a row in
// the table exactly what evaluation (eval.go) means of the row in the stream; the
// tests compare the two. Beyond that it knows what only makes sense when asked at
// one moment, see sql_check.go.
//
// Three rules keep it so:
//
//   - NULL counts as false. And and or keep that by themselves; a negation is
//     written IS NOT TRUE, so that no NULL passes it.
//   - No row's value can make it fail. Where a cast depends on what is in a JSON
//     value, CASE asks for its type first; what Postgres reads more strictly or
//     loosely than parseMoment goes through a function that never fails.
//   - Values are arguments, never text of the statement.
//
// It needs a database in UTF-8. The text forms of some types (intervals, ranges)
// depend on settings of the session: run SQLSettings in the same transaction.

// SQLSettings makes values print as they do in the stream, for this transaction.
const SQLSettings = `SELECT set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
       set_config('timezone', 'UTC', true), set_config('extra_float_digits', '3', true), set_config('bytea_output', 'hex', true)`

// SQLTable is where an object type's rows are.
type SQLTable struct {
	Name string // schema.table, as SQL needs it
	// TypeOf gives a column's type: that of pg_type.oid, with domains resolved.
	TypeOf func(column string) uint32
}

// SQLTables gives the table of a watched object type.
type SQLTables func(objectType string) SQLTable

// SQLOptions are what a query is run with.
type SQLOptions struct {
	Location *time.Location // the organization's time zone; nil is UTC
	// Now is what `now` means; zero is this machine's clock. Give the database's.
	Now time.Time
	// Organization, if not "", restricts the objects to this organization's.
	Organization string
	Alias        string // of the table in FROM; default t
	FirstArg     int    // the number of the first argument; default 1
}

// SQL is a condition. As in every WHERE, NULL is false.
type SQL struct {
	Where string
	Args  []any // string, []string, int, int64 or []int64
}

const (
	sqlTrue  = "TRUE"
	sqlFalse = "FALSE"
)

// CompileSQL writes a query as a condition on the rows of its type's table, FROM
// table AS alias. What is wrong with the query is said as by CheckRuntime.
func CompileSQL(query []byte, objectType string, schemas Schemas, tables SQLTables, o SQLOptions) (SQL, error) {
	root, objectType, err := parseRuntime(query, objectType, schemas, o.Location)
	if err != nil {
		return SQL{}, err
	}
	c := sqlCompiler{schemas: schemas, tables: tables, loc: o.Location, now: o.Now}
	if c.loc == nil {
		c.loc = time.UTC
	}
	if c.now.IsZero() {
		c.now = time.Now()
	}
	if o.Alias == "" {
		o.Alias = "t"
	}
	scope := c.scope(objectType, o.Alias)
	parts := []string{c.node(root, scope)}
	if o.Organization != "" {
		parts = append(parts, c.owned(scope, o.Organization))
	}
	return c.number(join(parts, true), max(o.FirstArg, 1)), nil
}

type sqlCompiler struct {
	schemas Schemas
	tables  SQLTables
	loc     *time.Location
	now     time.Time
	args    []any
	skip    int // arguments that stand before these
	related int // tables named
}

// scope is a table in FROM.
type scope struct {
	schema *Schema
	table  SQLTable
	alias  string
}

func (c *sqlCompiler) scope(objectType, alias string) *scope {
	return &scope{schema: c.schemas(objectType), table: c.tables(objectType), alias: alias}
}

func (s *scope) column(name string) string { return s.alias + "." + sqlIdent(name) }

func sqlIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// arg marks the place of an argument. Arguments are numbered in the end: a part that
// is decided beforehand is left out with its own, and Postgres wants all it is given used.
func (c *sqlCompiler) arg(v any) string {
	c.args = append(c.args, v)
	return "\x00" + strconv.Itoa(c.skip+len(c.args)-1) + "\x00"
}

func (c *sqlCompiler) number(where string, first int) SQL {
	var b strings.Builder
	var s SQL
	places := map[string]string{}
	for i, part := range strings.Split(where, "\x00") {
		if i%2 == 0 {
			b.WriteString(part)
			continue
		}
		place, known := places[part]
		if !known {
			n, _ := strconv.Atoi(part)
			place = "$" + strconv.Itoa(first+len(s.Args))
			places[part] = place
			s.Args = append(s.Args, c.args[n])
		}
		b.WriteString(place)
	}
	s.Where = b.String()
	return s
}

// join joins by and, or else by or.
func join(parts []string, and bool) string {
	neutral, decisive, op := sqlTrue, sqlFalse, " AND "
	if !and {
		neutral, decisive, op = sqlFalse, sqlTrue, " OR "
	}
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == neutral })
	switch {
	case slices.Contains(parts, decisive):
		return decisive
	case len(parts) == 0:
		return neutral
	case len(parts) == 1:
		return parts[0]
	}
	return "(" + strings.Join(parts, op) + ")"
}

func sqlNot(e string) string {
	switch e {
	case sqlTrue:
		return sqlFalse
	case sqlFalse:
		return sqlTrue
	}
	return "((" + e + ") IS NOT TRUE)"
}

// paren keeps what holds an AND together.
func paren(e string) string {
	if e == sqlTrue || e == sqlFalse {
		return e
	}
	return "(" + e + ")"
}

func (c *sqlCompiler) node(n *node, s *scope) string {
	e := paren(c.plain(n, s))
	if n.negate {
		return sqlNot(e)
	}
	return e
}

// plain writes a node without its negation.
func (c *sqlCompiler) plain(n *node, s *scope) string {
	switch n.typ {
	case nodeAnd, nodeOr:
		if len(n.queries) == 0 {
			return sqlTrue // no restriction, for or as for and
		}
		parts := make([]string, len(n.queries))
		for i, q := range n.queries {
			parts[i] = c.node(q, s)
		}
		return join(parts, n.typ == nodeAnd)
	case nodeObjectType, nodeMatchAll:
		return sqlTrue
	case nodeID:
		f := s.schema.field(s.schema.ID)
		if f == nil {
			f = &Field{Name: s.schema.ID, Kind: KindText}
		}
		return c.column(s, f, &condition{typ: condTerm, values: []literal{n.id}})
	case nodeField:
		f := s.schema.find(&n.field)
		if n.field.typ == fieldCustom {
			return c.custom(s, f, n.field.name, &n.cond)
		}
		return c.column(s, f, &n.cond)
	case nodeText:
		var parts []string
		for i := range s.schema.Fields {
			if f := &s.schema.Fields[i]; f.Kind == KindText || f.Kind == KindPadded {
				parts = append(parts, paren(c.column(s, f, &n.cond)))
			}
		}
		return join(parts, false)
	case nodeHasRelated:
		return c.hasRelated(n, s)
	}
	panic(fmt.Sprintf("trigger: node %d was let through", n.typ)) // parseRuntime lets none through
}

// hasRelated counts no further than it must.
func (c *sqlCompiler) hasRelated(n *node, s *scope) string {
	find := compiler{schemas: c.schemas, schema: s.schema, objectType: s.schema.ObjectType}
	other := c.schemas(n.related.other)
	relation, _ := find.relation(n, other)
	least, most := n.related.bounds()
	if least == 0 && most == unbounded {
		return sqlTrue
	}

	c.related++
	r := c.scope(n.related.other, fmt.Sprintf("pg_r%d", c.related))
	parts := []string{r.column(relation.RelatedColumn) + " = " + s.column(relation.Column)}
	if s.schema.Organization != "" && r.schema.Organization != "" {
		// A related row of another organization is nobody's business here.
		parts = append(parts, bytewise(r.text(r.schema.Organization))+" = "+s.text(s.schema.Organization))
	}
	from := " FROM " + r.table.Name + " AS " + r.alias + " WHERE " + join(append(parts, c.node(n.related.query, r)), true)
	switch {
	case least == 1 && most == unbounded:
		return "EXISTS (SELECT" + from + ")"
	case least == 0 && most == 0:
		return "NOT EXISTS (SELECT" + from + ")"
	case most == unbounded:
		return fmt.Sprintf("(SELECT count(*) FROM (SELECT%s LIMIT %d) pg_n) >= %d", from, least, least)
	}
	return fmt.Sprintf("(SELECT count(*) FROM (SELECT%s LIMIT %d) pg_n) BETWEEN %d AND %d", from, most+1, least, most)
}

// owned writes whether the objects are of an organization.
func (c *sqlCompiler) owned(s *scope, organization string) string {
	name := s.schema.Organization
	if name == "" {
		return map[bool]string{true: sqlTrue, false: sqlFalse}[organization == defaultOrganization]
	}
	x, oid := s.column(name), s.table.TypeOf(name)
	switch oid {
	case oidInt2, oidInt4, oidInt8: // by the column's own type, for its index
		if n, err := strconv.ParseInt(organization, 10, 64); err == nil && strconv.FormatInt(n, 10) == organization {
			return paren(x + " = " + c.arg(n) + "::int8")
		}
		return sqlFalse
	case oidUUID:
		if isUUID(organization) && organization == strings.ToLower(organization) {
			return paren(x + " = " + c.arg(organization) + "::text::uuid")
		}
		return sqlFalse
	}
	if strings.ContainsRune(organization, 0) {
		return sqlFalse
	}
	return paren(c.equals(s.text(name), c.arg(organization)+"::text"))
}

// defaultOrganization owns the rows of tables without an organization column.
const defaultOrganization = "default"

// text writes a column as the stream sends it.
func (s *scope) text(name string) string { return SQLText(s.column(name), s.table.TypeOf(name)) }

// SQLText writes an expression of a type as the text that the stream sends.
func SQLText(x string, typeOID uint32) string {
	switch typeOID {
	case oidText:
		return x
	case oidBpchar: // ::text would drop trailing blanks
		return "concat(" + x + ")"
	}
	return x + "::text"
}

// Types of which SQL must know more than their kind.
const (
	oidJSON      = 114
	oidInt8      = 20
	oidInt2      = 21
	oidInt4      = 23
	oidText      = 25
	oidOID       = 26
	oidBpchar    = 1042
	oidVarchar   = 1043
	oidNumeric   = 1700
	oidUUID      = 2950
	oidJSONArray = 199
)

// elements are the types of arrays' elements, as far as it matters.
var elements = map[uint32]uint32{
	oidJSONArray: oidJSON, 1016: oidInt8, 1005: oidInt2, 1007: oidInt4, 1009: oidText, 1028: oidOID, 1014: oidBpchar, 1015: oidVarchar,
	1231: oidNumeric, 2951: oidUUID,
}

// column writes a condition on a column.
func (c *sqlCompiler) column(s *scope, f *Field, cond *condition) string {
	x, oid := s.column(f.Name), s.table.TypeOf(f.Name)
	if !f.Array {
		return c.value(x, oid, f.Kind, cond)
	}
	e := c.value("pg_e.v", elements[oid], f.Kind, cond)
	if e == sqlTrue || e == sqlFalse {
		return e
	}
	each := "EXISTS (SELECT FROM unnest(" + x + ") AS pg_e(v) WHERE " + e + ")"
	if texts := c.termTexts(f.Kind, cond); texts != nil && oid == 1009 {
		return x + " && " + c.arg(texts) + "::text[] AND " + each // for an index; under some collations it holds for more
	}
	return each
}

// termTexts gives the values of a condition that is membership of texts.
func (c *sqlCompiler) termTexts(kind Kind, cond *condition) []string {
	if kind != KindText || cond.typ != condTerm && cond.typ != condReference {
		return nil
	}
	return texts(kind, cond.values)
}

// value writes a condition on an expression of a type.
func (c *sqlCompiler) value(x string, oid uint32, kind Kind, cond *condition) string {
	if kind == KindJSON {
		if oid == oidJSON {
			x = "pgautomate.json_value(" + x + ")"
		}
		return c.jsonValue(x, cond)
	}
	switch cond.typ {
	case condExists:
		if kind == KindText && oid != oidText && oid != oidVarchar {
			return x + "::text IS NOT NULL" // a composite of NULLs would be NULL
		}
		return x + " IS NOT NULL"
	case condText:
		return c.text(x+"::text", kind, cond)
	case condTerm, condReference:
		return c.term(x, oid, kind, cond.values)
	case condBoolean:
		if cond.truth {
			return x
		}
		return "NOT " + x
	case condNumberRange:
		return c.numberRange(x, oid, cond)
	case condMomentRange:
		return c.momentRange(x, kind, cond)
	}
	panic(fmt.Sprintf("trigger: condition %d was let through", cond.typ))
}

// texts gives the values as texts are compared, without those that no text is equal to.
func texts(kind Kind, values []literal) []string {
	list := make([]string, 0, len(values))
	for _, v := range values {
		text := v.text
		switch {
		case strings.ContainsRune(text, 0):
			continue
		case kind == KindPadded:
			text = strings.TrimRight(text, " ")
		case kind == KindOther && isUUID(text):
			text = strings.ToLower(text)
		}
		list = append(list, text)
	}
	return list
}

// term writes membership.
func (c *sqlCompiler) term(x string, oid uint32, kind Kind, values []literal) string {
	var list []string
	var integers []int64
	typ := ""
	switch kind {
	case KindBool:
		yes, no := false, false
		for _, v := range values {
			if b := strings.ToLower(v.text); b == "true" || b == "t" {
				yes = true
			} else {
				no = true
			}
		}
		switch {
		case yes && no:
			return x + " IS NOT NULL"
		case yes:
			return x
		case no:
			return "NOT " + x
		}
		return sqlFalse
	case KindNumber:
		integer, isInteger := integerOf(x, oid)
		for _, v := range values {
			d, ok := parseDecimal(v.text)
			if n, whole := d.whole(); ok && isInteger && whole {
				integers = append(integers, n)
			} else if ok && !isInteger && d.isNumeric() {
				list = append(list, d.String())
			}
		}
		if isInteger {
			if len(integers) == 0 {
				return sqlFalse
			}
			return integer + " = ANY (" + c.arg(integers) + "::int8[])"
		}
		x, typ = numericOf(x, oid), "numeric"
	case KindDate, KindTimestamp, KindTimestampTZ:
		for _, v := range values {
			m, _ := parseMoment(v.text)
			var text string
			var ok bool
			switch kind {
			case KindDate:
				text, ok = dayText(m.days())
				typ = "date"
			case KindTimestamp:
				text, ok = instantText(m.instant(), "")
				typ = "timestamp"
			default:
				text, ok = instantText(m.instant(), "+00")
				typ = "timestamptz"
			}
			if ok {
				list = append(list, text)
			}
		}
	default:
		list = texts(kind, values)
		if oid == oidUUID { // as what it is, for its index; a text that is none is never equal
			list = slices.DeleteFunc(list, func(s string) bool { return !isUUID(s) })
			typ = "uuid"
			break
		}
		if len(list) == 0 {
			return sqlFalse
		}
		in := " = ANY (" + c.arg(list) + "::text[])"
		return x + "::text" + in + " AND " + bytewise(x+"::text") + in // see equals
	}
	if len(list) == 0 {
		return sqlFalse
	}
	return x + " = ANY (" + c.arg(list) + "::text[]::" + typ + "[])"
}

// integerOf says whether a number's type is an integer, and writes it as one.
func integerOf(x string, oid uint32) (string, bool) {
	switch oid {
	case oidInt2, oidInt4, oidInt8:
		return x, true
	case oidOID:
		return x + "::int8", true
	}
	return x, false
}

// numericOf writes a number as a numeric: of floating point numbers what they print as,
// since a cast would round them to 15 digits.
func numericOf(x string, oid uint32) string {
	if oid == oidNumeric {
		return x
	}
	return x + "::text::numeric"
}

func (c *sqlCompiler) numberRange(x string, oid uint32, cond *condition) string {
	integer, isInteger := integerOf(x, oid)
	var parts []string
	upper := false
	for i, l := range cond.bounds {
		if l.kind == litNone {
			continue
		}
		d, _ := parseDecimal(l.text)
		if isInteger {
			parts = append(parts, c.compareInteger(integer, i, d))
			continue
		}
		parts = append(parts, c.compareNumeric(numericOf(x, oid), i, d))
		upper = upper || i == boundLTE || i == boundLT
	}
	if !isInteger && !upper {
		parts = append(parts, numericOf(x, oid)+" < 'NaN'::numeric") // the largest number, for Postgres
	}
	if slices.Contains(parts, sqlFalse) {
		return sqlFalse
	}
	return strings.Join(parts, " AND ")
}

// custom writes a condition on a custom field.
func (c *sqlCompiler) custom(s *scope, f *Field, key string, cond *condition) string {
	if strings.ContainsRune(key, 0) {
		return sqlFalse
	}
	x := s.column(f.Name)
	if s.table.TypeOf(f.Name) == oidJSON {
		x = "pgautomate.json_value(" + x + ")"
	}
	return c.jsonValue("("+x+" -> "+c.arg(key)+"::text)", cond)
}

// jsonValue writes a condition on jsonb: on its elements when it is an array.
func (c *sqlCompiler) jsonValue(x string, cond *condition) string {
	again := sqlCompiler{loc: c.loc, now: c.now, skip: c.skip + len(c.args)} // for the same arguments
	element := c.jsonScalar("pg_j.v", cond)
	if element == sqlFalse {
		return sqlFalse
	}
	return "CASE jsonb_typeof(" + x + ") WHEN 'array' THEN EXISTS (SELECT FROM jsonb_array_elements(" + x + ") AS pg_j(v) WHERE " + element +
		") ELSE " + again.jsonScalar(x, cond) + " END"
}

// jsonScalar writes a condition on one element, which may be anything.
func (c *sqlCompiler) jsonScalar(x string, cond *condition) string {
	is := func(typ string) string { return "jsonb_typeof(" + x + ") = '" + typ + "'" }
	text := "(" + x + " #>> '{}')"
	switch cond.typ {
	case condExists:
		return "jsonb_typeof(" + x + ") <> 'null'"
	case condText:
		e := c.text(text, KindJSON, cond)
		if e == sqlFalse {
			return sqlFalse
		}
		return is("string") + " AND " + e
	case condTerm, condReference:
		list := jsonScalars(cond.values)
		if len(list) == 0 {
			return sqlFalse
		}
		return x + " = ANY (" + c.arg(list) + "::text[]::jsonb[])"
	case condBoolean:
		return x + " = '" + strconv.FormatBool(cond.truth) + "'::jsonb"
	case condNumberRange:
		return "CASE WHEN " + is("number") + " THEN " + c.numberRange(x+"::numeric", oidNumeric, cond) + " END"
	case condMomentRange:
		return is("string") + " AND " + c.jsonMoments(text, cond)
	}
	panic(fmt.Sprintf("trigger: condition %d was let through", cond.typ))
}

// jsonScalars gives the JSON values that are members of a list, whose values say
// what they mean by their text.
func jsonScalars(values []literal) []string {
	var list []string
	for _, v := range values {
		if strings.ContainsRune(v.text, 0) {
			continue
		}
		raw, _ := json.Marshal(v.text)
		list = append(list, string(raw))
		if d, ok := parseDecimal(v.text); ok && d.isNumeric() && !d.infinite {
			list = append(list, d.String())
		}
		if v.text == "true" || v.text == "false" {
			list = append(list, v.text)
		}
	}
	return list
}
