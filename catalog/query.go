package catalog

// Queries that run as SQL on users' tables: what they match, now.

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgautomate/pgautomate/trigger"
)

// Snapshot is the watched tables as they were at one moment.
type Snapshot struct{ types map[string]*Type }

// Snapshot reads the watched tables anew.
func (c *Catalog) Snapshot(ctx context.Context) (*Snapshot, error) {
	if err := c.Reload(ctx); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return &Snapshot{c.types}, nil
}

// Schema gives the fields and relations of an object type; nil when it is not watched.
func (s *Snapshot) Schema(objectType string) *trigger.Schema {
	if t := s.types[objectType]; t != nil {
		return t.schema()
	}
	return nil
}

// Table gives the table of a watched object type.
func (s *Snapshot) Table(objectType string) trigger.SQLTable {
	t := s.types[objectType]
	return trigger.SQLTable{Name: t.Quoted, TypeOf: func(column string) uint32 {
		if c := t.Column(column); c != nil {
			return c.BaseOID
		}
		return 0
	}}
}

// Matching is the parts of a statement that finds what a query matches:
// SELECT ID, Row FROM From WHERE Where. Run trigger.SQLSettings before it in the same
// transaction.
type Matching struct {
	From  string
	Where string
	Args  []any
	Key   string // the column that names an object
	Type  string // its type, as SQL needs it
	ID    string // the object's id, as text
	Row   string // its row as jsonb, as the stream shows it
}

// Matching compiles a query. An error of the query is a *trigger.ValidationError; the
// type must be watched.
func (s *Snapshot) Matching(query []byte, objectType string, o trigger.SQLOptions) (*Matching, error) {
	t := s.types[objectType]
	if t == nil {
		return nil, NotWatched(objectType)
	}
	id := t.Column(t.ID)
	if id == nil {
		return nil, fmt.Errorf("table %s has no column %s any more: watch it again", t.Quoted, t.ID)
	}
	o.Alias = "t"
	compiled, err := trigger.CompileSQL(query, objectType, s.Schema, s.Table, o)
	if err != nil {
		return nil, err
	}
	m := &Matching{
		From: t.Quoted + " AS t", Where: compiled.Where, Args: compiled.Args,
		Key: "t." + ident(t.ID), Type: id.TypeName, Row: "to_jsonb(t)",
	}
	m.ID = trigger.SQLText(m.Key, id.BaseOID)
	var hidden []string
	for _, c := range t.Columns {
		if c.Hidden {
			hidden = append(hidden, "'"+strings.ReplaceAll(c.Name, "'", "''")+"'")
		}
	}
	if len(hidden) > 0 {
		m.Row = "(to_jsonb(t) - ARRAY[" + strings.Join(hidden, ", ") + "]::text[])"
	}
	return m, nil
}
