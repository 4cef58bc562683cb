// Package trigger is the query language of the triggers: it parses a query,
// says what is wrong with it, compiles it for the table it watches, and decides
// for every change of a commit which triggers fire.
//
// There is one rule: a trigger fires if and only if the object did not match
// before the commit and matches after it. An object that did not exist before
// (or belonged to another organization) did not match; one that is gone does
// not match; one whose row before the commit is not known fires nothing.
//
// # The way of a query
//
//	JSON ── parse.go ──> tree ── compile.go ──> normal form ── program.go ──> bytes
//
// A compiled trigger is one short byte string without pointers: a negation
// normal form over field slots with its literals inline, followed by the query
// in a compact form from which it is compiled again when the table is altered.
// Numbers are kept in an encoding whose byte order is the number's order, so
// that a comparison is a comparison of bytes and exact at any precision. A
// million triggers must fit in a few hundred megabytes and must not cost the
// garbage collector a walk over millions of pointers; this is why there is no
// tree at run time.
//
// # What a condition means
//
//   - NULL, a missing custom field, JSON null, an empty array and an array of
//     nothing but NULLs are all "no value": every condition on them is false and
//     its negation true. SQL's NULL logic does not apply. The empty string is a value.
//   - An array matches if any of its elements does.
//   - Text (exact_value) is compared in simple lower case on both sides and is
//     not trimmed. Membership (term, reference) is exact on the text form;
//     numbers, booleans, dates and UUIDs are compared as what they are, so that 1000
//     is 1000.00.
//   - A number is an exact decimal. NaN lies in no range; Infinity is the largest.
//   - fixed_local_date is a day in the organization's time zone. Columns of type
//     date are compared as days. Columns of type timestamp (without time zone) are
//     taken to hold UTC, which is what most frameworks write into them; a JSON
//     date-time without an offset likewise.
//   - An empty group (and or without queries) restricts nothing, like match_all:
//     user interfaces export such groups for "no filter yet".
//   - A value that is not known (a cell that the stream left out) makes the
//     condition unknown, three-valued (Kleene) from there up. An unknown verdict
//     never fires; it is counted as indeterminate.
package trigger

import (
	"encoding/json"
	"time"
)

// Kind says how a column's text form is understood.
type Kind uint8

// The kinds of column.
const (
	KindText        Kind = iota // text, varchar, enums, and whatever is not known
	KindBool                    // boolean
	KindNumber                  // integers, numeric, real, double precision, oid
	KindDate                    // date
	KindTimestamp               // timestamp without time zone: holds UTC
	KindTimestampTZ             // timestamp with time zone
	KindJSON                    // json, jsonb: understood by what is in it
	KindOther                   // compared as text, no ranges: uuid, inet, interval, …
	KindPadded                  // character(n): text, compared without its trailing blanks
)

var kindNames = [...]string{"text", "boolean", "number", "date", "timestamp", "timestamp with time zone", "JSON", "other", "text"}

// String gives the word used in messages.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Field is one column of an object type's table.
type Field struct {
	Name  string
	Kind  Kind
	Array bool
}

// Schema is an object type as the compiler sees it: the columns of its table.
type Schema struct {
	ObjectType string
	Fields     []Field
	Custom     string // name of the jsonb column with custom fields, which is also among Fields; or ""
	ID         string // name of the column that identifies the object
	// Organization is the column that says whose the object is; "" when all
	// objects of the type belong to the organization "default".
	Organization string
	Relations    []Relation
}

// Relation is a way from the objects of a type to those of another (or the
// same) one: they are related when Column here and RelatedColumn there hold the
// same value. A foreign key gives one each way.
type Relation struct {
	Column, RelatedType, RelatedColumn string
}

// Schemas gives the schema of an object type, nil for one that is not watched.
type Schemas func(objectType string) *Schema

func (s *Schema) field(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// Definition is one version of a trigger.
type Definition struct {
	ID           int64
	Version      int32
	Organization string
	Name         string
	ObjectType   string // "" takes the type that the query names
	Query        json.RawMessage
	BeforeQuery  json.RawMessage // what the object must have met before; nil or null: nothing
	ExtraFilter  json.RawMessage // what must have happened to it, see Filter; nil or null: that it began to match
	Location     *time.Location  // the organization's time zone; nil is UTC
}

// Limits of a query. What exceeds them is refused with too_deep or too_large.
const (
	MaxDepth = 12      // nodes inside nodes
	MaxNodes = 200     // nodes in one query
	MaxList  = 1000    // values in one list
	MaxBytes = 1 << 20 // bytes of JSON

	MaxRelated = 3 // has_related inside has_related
)

// KindOf maps Postgres's built-in types (pg_type.oid). A type that is not
// built in gives KindText: enums print as text, and the caller resolves domains
// to their base type before it asks.
func KindOf(typeOID uint32) (k Kind, array bool) {
	switch typeOID {
	case 16:
		return KindBool, false
	case 1000:
		return KindBool, true
	case 20, 21, 23, 26, 700, 701, 1700:
		return KindNumber, false
	case 1016, 1005, 1007, 1028, 1021, 1022, 1231:
		return KindNumber, true
	case 1082:
		return KindDate, false
	case 1182:
		return KindDate, true
	case 1114:
		return KindTimestamp, false
	case 1115:
		return KindTimestamp, true
	case 1184:
		return KindTimestampTZ, false
	case 1185:
		return KindTimestampTZ, true
	case 114, 3802:
		return KindJSON, false
	case 199, 3807:
		return KindJSON, true
	case 1042:
		return KindPadded, false
	case 1014:
		return KindPadded, true
	case 1002, 1003, 1009, 1015: // "char", name, text, varchar
		return KindText, true
	case 17, 142, 600, 601, 602, 603, 604, 628, 718, // bytea, xml, geometry
		650, 774, 790, 829, 869, // cidr, macaddr8, money, macaddr, inet
		1083, 1186, 1266, 1560, 1562, 2950, // time, interval, timetz, bit, varbit, uuid
		3614, 3615, 3904, 3906, 3908, 3910, 3912, 3926, // tsvector, tsquery, ranges
		1020: // box[]: its elements are separated by semicolons; nobody triggers on it
		return KindOther, false
	case 1001, 143, 651, 775, 791, 1040, 1041, 1183, 1187, 1270, 1561, 1563, 2951:
		return KindOther, true
	}
	return KindText, false
}

// Check parses and compiles a query as Set.Put would and keeps nothing. The
// error is nil or a *ValidationError that holds every problem of the query. A
// type without a schema is not watched; a nil loc is UTC.
func Check(query []byte, objectType string, schemas Schemas, loc *time.Location) error {
	root, problems := parse(query)
	if objectType == "" {
		objectType = (&Query{root: root}).ObjectType()
	}
	c := compiler{schemas: schemas, objectType: objectType, loc: loc, problems: problems}
	if objectType != "" {
		c.schema = schemas(objectType)
	}
	c.compile(root)
	return newValidationError(c.problems)
}
