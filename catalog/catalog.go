// Package catalog knows which tables are watched, as which object types, and
// what Postgres's catalog says of them: columns, keys, replica identity,
// relations. It registers tables (Watch), answers for the feed which relation
// is which object type, and reads and writes single rows for actions.
//
// Statements on users' tables are the only SQL of the project that is put
// together in Go; their identifiers are quoted by pgx.
package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/trigger"
)

// Publication is the one publication of the engine.
const Publication = "pgautomate"

// Definitions is the object that stands for the engine's own table of triggers,
// which travels through the feed so that its changes have a place among the data's.
var Definitions = &change.Object{
	Type: "pgautomate.triggers", Schema: "pgautomate", Table: "triggers", ID: "id", Organization: "organization_id",
}

// SlotName is the default name of a database's slot: names are the server's,
// so the database is part of it.
func SlotName(database string) string {
	var b strings.Builder
	b.WriteString("pgautomate_")
	for _, r := range strings.ToLower(database) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			b.WriteRune(r)
		} else {
			b.WriteByte('_')
		}
	}
	name := b.String()
	if len(name) > 63 {
		name = name[:63]
	}
	return name
}

// Type is one watched table.
type Type struct {
	change.Object

	Quoted    string // schema.table, as SQL needs it
	Columns   []Column
	Identity  byte // of a partitioned table: FULL only when each of its partitions has it
	Relations []trigger.Relation

	// Partitioned says that the rows are in partitions. Each has an identity of
	// its own; the stream tells only the table's.
	Partitioned bool

	// Reply says which of its rows are replies; nil: none.
	Reply *Reply

	ownIdentity byte
	partitions  []partition
	keyColumns  int // of the primary key; of a partitioned table
}

// Reply says which rows of a table are replies, and whose they are.
type Reply struct {
	When json.RawMessage // a query that a row comes to meet
	// The columns that name the lead, the contact and the channel; the latter two
	// may be "".
	Lead, Contact, Channel string
	// What Lead and Contact name: where their foreign keys lead, else lead and contact.
	LeadType, ContactType string
}

type partition struct {
	schema, name, quoted string
	identity             byte
}

// Column is a column as the catalog has it.
type Column struct {
	Name, TypeName   string
	TypeOID, BaseOID uint32
	NotNull          bool
	Virtual          bool // generated and nowhere stored
	Hidden           bool // generated and not in the stream, so that no trigger can see it
}

// Column gives the named column, or nil.
func (t *Type) Column(name string) *Column {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// virtual is the first column that is generated and nowhere stored, or "".
func (t *Type) virtual() string {
	for i := range t.Columns {
		if t.Columns[i].Virtual {
			return t.Columns[i].Name
		}
	}
	return ""
}

// Catalog answers from memory, and reads the database anew on Reload. It is
// safe for concurrent use.
type Catalog struct {
	pool *pgxpool.Pool

	mu    sync.RWMutex
	types map[string]*Type // by name
	base  map[uint32]uint32

	learnt atomic.Uint64 // how often base may have grown
}

// New makes a catalog; it is empty until Reload.
func New(pool *pgxpool.Pool) *Catalog {
	return &Catalog{pool: pool, types: map[string]*Type{}, base: map[uint32]uint32{}}
}

// Reload reads the object types anew.
func (c *Catalog) Reload(ctx context.Context) error {
	types, err := load(ctx, dbq.New(c.pool))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.types = types
	for _, t := range types {
		for _, col := range t.Columns {
			c.base[col.TypeOID] = col.BaseOID
		}
	}
	c.learnt.Add(1)
	return nil
}

func load(ctx context.Context, q *dbq.Queries) (map[string]*Type, error) {
	rows, err := q.ListObjectTypes(ctx)
	if err != nil {
		return nil, fmt.Errorf("object types: %w", err)
	}
	types := make(map[string]*Type, len(rows))
	for _, row := range rows {
		t, err := describe(ctx, q, row.TableName)
		if err != nil {
			if errors.Is(err, errNoTable) {
				continue // dropped while watched: `doctor` and the view problems speak of it
			}
			return nil, err
		}
		t.Type, t.ID = row.Name, row.IDColumn
		if row.OrganizationColumn != nil {
			t.Organization = *row.OrganizationColumn
		}
		if row.CustomColumn != nil {
			t.Custom = *row.CustomColumn
		}
		if row.ReplyLead != "" {
			t.Reply = &Reply{
				When: row.ReplyWhen, Lead: row.ReplyLead, Contact: row.ReplyContact, Channel: row.ReplyChannel, LeadType: "lead", ContactType: "contact",
			}
		}
		types[row.Name] = t
	}
	relations, err := q.ListRelations(ctx)
	if err != nil {
		return nil, fmt.Errorf("relations: %w", err)
	}
	for _, r := range relations {
		if t := types[r.ThisObjectType]; t != nil {
			t.Relations = append(t.Relations, trigger.Relation{Column: r.ThisColumn, RelatedType: r.RelatedObjectType, RelatedColumn: r.RelatedColumn})
			if other := types[r.RelatedObjectType]; t.Reply != nil && other != nil && r.RelatedColumn == other.ID {
				switch r.ThisColumn {
				case t.Reply.Lead:
					t.Reply.LeadType = other.Type
				case t.Reply.Contact:
					t.Reply.ContactType = other.Type
				}
			}
		}
	}
	return types, nil
}

var errNoTable = errors.New("no such table")

// describe reads a table's columns and identity.
func describe(ctx context.Context, q *dbq.Queries, name string) (*Type, error) {
	table, err := q.FindTable(ctx, name)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoTable
	}
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", name, err)
	}
	t := &Type{Quoted: table.Quoted, Identity: table.Identity[0], Partitioned: table.Kind == "p", ownIdentity: table.Identity[0]}
	t.Schema, t.Table = table.SchemaName, table.TableName
	if t.Partitioned {
		parts, err := q.PartitionIdentities(ctx, table.Oid)
		if err != nil {
			return nil, fmt.Errorf("partitions of %s: %w", name, err)
		}
		for _, p := range parts {
			t.partitions = append(t.partitions, partition{p.SchemaName, p.TableName, p.Quoted, p.Identity[0]})
			if p.Identity[0] != change.IdentityFull {
				t.Identity = p.Identity[0]
			}
		}
		key, err := q.PrimaryKey(ctx, table.Oid)
		if err != nil {
			return nil, fmt.Errorf("primary key of %s: %w", name, err)
		}
		t.keyColumns = len(key)
	}
	columns, err := q.TableColumns(ctx, dbq.TableColumnsParams{Publication: Publication, Oid: table.Oid})
	if err != nil {
		return nil, fmt.Errorf("columns of %s: %w", name, err)
	}
	oids := make([]int64, len(columns))
	for i, col := range columns {
		oids[i] = col.TypeOid
	}
	bases, err := baseTypes(ctx, q, oids)
	if err != nil {
		return nil, err
	}
	for _, col := range columns {
		oid := uint32(col.TypeOid)
		t.Columns = append(t.Columns, Column{col.Name, col.TypeName, oid, bases[oid], col.NotNull, col.IsVirtual, col.IsHidden})
	}
	return t, nil
}

func baseTypes(ctx context.Context, q *dbq.Queries, oids []int64) (map[uint32]uint32, error) {
	rows, err := q.BaseTypes(ctx, oids)
	if err != nil {
		return nil, fmt.Errorf("types: %w", err)
	}
	bases := make(map[uint32]uint32, len(rows))
	for _, r := range rows {
		bases[uint32(r.Asked)] = uint32(r.Oid)
	}
	return bases, nil
}

// Type gives a watched type, or nil.
func (c *Catalog) Type(name string) *Type {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.types[name]
}

// Types lists the names of all watched types.
func (c *Catalog) Types(context.Context) ([]string, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	names := make([]string, 0, len(c.types))
	for name := range c.types {
		names = append(names, name)
	}
	return names, nil
}

// Object says which object type a relation of the stream is, nil for none. It is
// asked once for each layout.
func (c *Catalog) Object(_ context.Context, rel *change.Relation) (*change.Object, error) {
	if rel.Schema == Definitions.Schema && rel.Name == Definitions.Table {
		return Definitions, nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, t := range c.types {
		if t.Schema == rel.Schema && t.Table == rel.Name {
			return &t.Object, nil
		}
	}
	return nil, nil //nolint:nilnil // nil says: not watched
}

// Stale says of a relation of the stream that is no object type whether the
// catalog may be older than it: only watched tables are published, so it is a
// table that was renamed, or a partition. Those come and go, and each has a
// replica identity of its own.
func (c *Catalog) Stale(rel *change.Relation) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, t := range c.types {
		for _, p := range t.partitions {
			if p.schema == rel.Schema && p.name == rel.Name {
				return p.identity != rel.Identity
			}
		}
	}
	return true
}

// KeyOnly says whether an old row is but its key. Partitions without the identity
// FULL send their rows so, in the name of a table that has it, and with NULL for
// all else.
func (t *Type) KeyOnly(old change.Row) bool {
	if !t.Partitioned || t.Identity == change.IdentityFull || old == nil {
		return false
	}
	cells, err := old.Decode(nil)
	if err != nil {
		return true
	}
	values := 0
	for _, c := range cells {
		if c.Kind != change.Null {
			values++
		}
	}
	return values <= t.keyColumns
}

// LayoutSchema gives the fields of an object type by a layout of the stream,
// which may be older or newer than the table is now.
func (c *Catalog) LayoutSchema(ctx context.Context, o *change.Object, rel *change.Relation) (trigger.Schema, error) {
	s := trigger.Schema{ObjectType: o.Type, Custom: o.Custom, ID: o.ID, Organization: o.Organization}
	unknown := []int64{}
	c.mu.RLock()
	for _, col := range rel.Columns {
		if _, ok := c.base[col.TypeOID]; !ok {
			unknown = append(unknown, int64(col.TypeOID))
		}
	}
	c.mu.RUnlock()
	if len(unknown) > 0 {
		bases, err := baseTypes(ctx, dbq.New(c.pool), unknown)
		if err != nil {
			return s, err
		}
		c.mu.Lock()
		maps.Copy(c.base, bases)
		c.learnt.Add(1)
		c.mu.Unlock()
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.types[o.Type]; t != nil {
		s.Relations = t.Relations
	}
	for _, col := range rel.Columns {
		oid, ok := c.base[col.TypeOID]
		if !ok {
			oid = col.TypeOID
		}
		kind, array := trigger.KindOf(oid)
		s.Fields = append(s.Fields, trigger.Field{Name: col.Name, Kind: kind, Array: array})
	}
	return s, nil
}

// Schemas gives the fields and relations of the watched object types as their
// tables are now. It reads the database, so that a table watched or altered a
// moment ago is seen.
func (c *Catalog) Schemas(ctx context.Context) (trigger.Schemas, error) {
	if err := c.Reload(ctx); err != nil {
		return nil, err
	}
	c.mu.RLock()
	types := c.types
	c.mu.RUnlock()
	return func(objectType string) *trigger.Schema {
		if t := types[objectType]; t != nil {
			return t.schema()
		}
		return nil
	}, nil
}

func (t *Type) schema() *trigger.Schema {
	s := &trigger.Schema{ObjectType: t.Type, Custom: t.Custom, ID: t.ID, Organization: t.Organization, Relations: t.Relations}
	for _, col := range t.Columns {
		if col.Hidden {
			continue
		}
		kind, array := trigger.KindOf(col.BaseOID)
		s.Fields = append(s.Fields, trigger.Field{Name: col.Name, Kind: kind, Array: array})
	}
	return s
}

// Layout gives the type's table as a relation of the stream would look now, for
// use before the stream has said anything.
func (t *Type) Layout() *change.Relation {
	rel := &change.Relation{Schema: t.Schema, Name: t.Table, Identity: t.Identity}
	for _, col := range t.Columns {
		if !col.Hidden {
			rel.Columns = append(rel.Columns, change.Column{Name: col.Name, TypeOID: col.TypeOID})
		}
	}
	return rel
}

// Identity says whether updates and deletes of the type's table carry the old
// row, and the statement that makes it so.
func (c *Catalog) Identity(ctx context.Context, objectType string) (full bool, alter string, err error) {
	t, err := c.fresh(ctx, objectType)
	if err != nil {
		return false, "", err
	}
	if t == nil {
		return false, "", NotWatched(objectType)
	}
	return t.Identity == change.IdentityFull, t.AlterIdentity(), nil
}

// AlterIdentity is what makes the table's updates carry the old row: a
// statement, or for a partitioned table one for each partition that lacks it.
func (t *Type) AlterIdentity() string {
	list := t.alterIdentity()
	if len(list) == 0 {
		return alterTo(t.Quoted, "FULL")
	}
	return strings.Join(list, "; ")
}

func (t *Type) alterIdentity() []string {
	var list []string
	if t.ownIdentity != change.IdentityFull {
		list = append(list, alterTo(t.Quoted, "FULL"))
	}
	for _, p := range t.partitions {
		if p.identity != change.IdentityFull {
			list = append(list, alterTo(p.quoted, "FULL"))
		}
	}
	return list
}

func alterTo(table, identity string) string {
	return "ALTER TABLE " + table + " REPLICA IDENTITY " + identity
}

// NotWatched is the error for an object type that nobody registered.
func NotWatched(objectType string) error {
	return fmt.Errorf("object type %q is not watched: run `pgautomate watch TABLE --as %s`", objectType, objectType)
}

func (c *Catalog) fresh(ctx context.Context, objectType string) (*Type, error) {
	if err := c.Reload(ctx); err != nil {
		return nil, err
	}
	return c.Type(objectType), nil
}

// TypesLearnt changes whenever more may be known of types than before.
func (c *Catalog) TypesLearnt() uint64 { return c.learnt.Load() }

// BaseType resolves a domain to what it is made of; other types are themselves.
func (c *Catalog) BaseType(oid uint32) uint32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if base, ok := c.base[oid]; ok && base != 0 {
		return base
	}
	return oid
}
