package catalog

// Single rows of users' tables, for templates and for the actions that change
// them. Values travel as JSON, so that Postgres alone decides how a value
// becomes a column's type; ids as text, cast to the column's type so that its
// index serves.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// Querier is a pool or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// byID is the condition that names one row by parameter n.
func (t *Type) byID(alias string, n int) string {
	return fmt.Sprintf("%s.%s = ($%d::text)::%s", alias, ident(t.ID), n, t.Column(t.ID).TypeName)
}

// ownedBy is the condition that a row belongs to the organization of parameter n; ""
// where the table doesn't say whose its rows are.
func (t *Type) ownedBy(alias string, n int) string {
	col := t.Column(t.Organization)
	if t.Organization == "" || col == nil {
		return ""
	}
	return fmt.Sprintf(" AND %s = $%d::text", trigger.SQLText(alias+"."+ident(t.Organization), col.BaseOID), n)
}

// Row reads one object as JSON, by its type's name. A type that is not watched
// has only its id. jobs.ErrNotVisible when the organization has no such row (yet).
func (c *Catalog) Row(ctx context.Context, q Querier, organization, objectType, id string) (map[string]any, error) {
	t := c.Type(objectType)
	if t == nil {
		return map[string]any{"id": id}, nil
	}
	if t.Column(t.ID) == nil {
		return nil, jobs.Permanentf("table %s has no column %s any more: watch it again", t.Quoted, t.ID)
	}
	var raw []byte
	sql, args := "SELECT to_jsonb(t) FROM "+t.Quoted+" t WHERE "+t.byID("t", 1), []any{id}
	if owned := t.ownedBy("t", 2); owned != "" {
		sql, args = sql+owned, append(args, organization)
	}
	err := q.QueryRow(ctx, sql, args...).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%s %s in table %s: %w", objectType, id, t.Quoted, jobs.ErrNotVisible)
	}
	if err != nil {
		return nil, rowError(fmt.Sprintf("%s %s", objectType, id), err)
	}
	return decode(raw)
}

// Documents reads objects of one type as JSON, by their ids; those that are not
// there (any more) are left out.
func (c *Catalog) Documents(ctx context.Context, q Querier, objectType string, ids []string) (map[string]json.RawMessage, error) {
	found := make(map[string]json.RawMessage, len(ids))
	t := c.Type(objectType)
	if t == nil || t.Column(t.ID) == nil {
		return found, nil
	}
	rows, err := q.Query(ctx, fmt.Sprintf("SELECT t.%[1]s::text, to_jsonb(t) FROM %[2]s t WHERE t.%[1]s = ANY (($1::text[])::%[3]s[])", ident(t.ID), t.Quoted, t.Column(t.ID).TypeName), ids)
	if err != nil {
		return nil, rowError(objectType, err)
	}
	var id string
	var document json.RawMessage
	_, err = pgx.ForEachRow(rows, []any{&id, &document}, func() error {
		found[id] = slices.Clone(document)
		return nil
	})
	if err != nil {
		return nil, rowError(objectType, err)
	}
	return found, nil
}

// StreamSettings make a transaction print values as the replication stream does.
const StreamSettings = `SET LOCAL client_encoding = 'UTF8'; SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres';
	SET LOCAL timezone = 'UTC'; SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'`

// Image reads an object's row as the replication stream would send it, with its
// organization; nil when there is none.
func (c *Catalog) Image(ctx context.Context, pool *pgxpool.Pool, objectType, id string) (rel *change.Relation, row change.Row, organization string, err error) {
	t := c.Type(objectType)
	if t == nil || t.Column(t.ID) == nil {
		return nil, nil, "", NotWatched(objectType)
	}
	rel = t.Layout()
	columns := make([]string, len(rel.Columns))
	for i, col := range rel.Columns {
		columns[i] = "t." + ident(col.Name)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, StreamSettings); err != nil {
			return err
		}
		sql := "SELECT " + strings.Join(columns, ", ") + " FROM " + t.Quoted + " t WHERE " + t.byID("t", 1)
		// As text: a value's own output, which is not always what a cast to text gives.
		result := tx.Conn().PgConn().ExecParams(ctx, sql, [][]byte{[]byte(id)}, nil, nil, []int16{pgx.TextFormatCode}).Read()
		if result.Err != nil {
			return rowError(objectType+" "+id, result.Err)
		}
		if len(result.Rows) == 0 {
			return nil
		}
		cells := make([]change.Cell, len(columns))
		for i, v := range result.Rows[0] {
			cells[i] = change.Cell{Kind: change.Null}
			if v != nil {
				cells[i] = change.Cell{Kind: change.Text, Data: v}
			}
		}
		row, organization = change.MakeRow(cells), change.DefaultOrganization
		if t.Organization != "" {
			organization = string(cells[rel.Index(t.Organization)].Data)
		}
		return nil
	})
	return rel, row, organization, err
}

func decode(raw []byte) (map[string]any, error) {
	var row map[string]any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&row); err != nil {
		return nil, fmt.Errorf("a row as JSON: %w", err)
	}
	return row, nil
}

// rowError sorts the database's refusals: bad values are permanent, the rest
// may go away.
func rowError(what string, err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code[:2] {
		case "22", "23", "42":
			return jobs.Permanentf("%s: %s", what, pg.Message)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// UpdateRow sets columns of an action's object, or of the objects of another
// type that are related to it, and returns how many rows that were.
func (c *Catalog) UpdateRow(ctx context.Context, tx pgx.Tx, a *jobs.Action, object string, set map[string]any) (int64, error) {
	own := c.Type(a.ObjectType)
	if own == nil {
		return 0, jobs.Permanent(NotWatched(a.ObjectType))
	}
	t, where := own, own.byID("t", 2)+own.ownedBy("t", 3)
	if !c.own(object, a.ObjectType) {
		at := slices.IndexFunc(own.Relations, func(r trigger.Relation) bool { return r.RelatedType == object })
		if t = c.Type(object); t == nil || at < 0 {
			return 0, jobs.Permanentf("update_row: %q is not related to %q: it is %s", object, a.ObjectType, related(own))
		}
		r := own.Relations[at]
		where = fmt.Sprintf("t.%s = (SELECT o.%s FROM %s o WHERE %s%s)%s", ident(r.RelatedColumn), ident(r.Column), own.Quoted,
			own.byID("o", 2), own.ownedBy("o", 3), t.ownedBy("t", 3))
	}
	if _, err := t.owned("update_row", a.OrganizationID, set); err != nil {
		return 0, err
	}
	columns, values, err := t.columns("update_row", set)
	if err != nil {
		return 0, err
	}
	assign := make([]string, len(columns))
	for i, col := range columns {
		assign[i] = col + " = r." + col
	}
	args := []any{values, a.LeadID}
	if strings.Contains(where, "$3") {
		args = append(args, a.OrganizationID)
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s t SET %s FROM jsonb_populate_record(NULL::%s, $1::jsonb) r WHERE %s",
		t.Quoted, strings.Join(assign, ", "), t.Quoted, where), args...)
	if err != nil {
		return 0, rowError("update_row on "+t.Quoted, err)
	}
	if tag.RowsAffected() == 0 && t == own {
		return 0, fmt.Errorf("%s %s in table %s: %w", a.ObjectType, a.LeadID, t.Quoted, jobs.ErrNotVisible)
	}
	return tag.RowsAffected(), nil
}

// own says whether a name means an action's own object: "lead" does, unless the
// object is of another type and "lead" is one too.
func (c *Catalog) own(object, objectType string) bool {
	switch object {
	case "", "object", objectType:
		return true
	case "lead":
		return c.Type("lead") == nil
	default:
		return false
	}
}

// InsertRow adds a row to a watched table, named by its table or its type.
func (c *Catalog) InsertRow(ctx context.Context, tx pgx.Tx, a *jobs.Action, table string, values map[string]any) error {
	t := c.Type(table)
	if t == nil {
		c.mu.RLock()
		for _, w := range c.types {
			if w.Quoted == table || w.String() == table || w.Table == table {
				t = w
			}
		}
		c.mu.RUnlock()
	}
	if t == nil {
		return jobs.Permanentf("insert_row: table %q is not watched: run `pgautomate watch %s` first", table, table)
	}
	said, err := t.owned("insert_row", a.OrganizationID, values)
	if err != nil {
		return err
	}
	if t.Organization != "" && !said {
		values = maps.Clone(values)
		values[t.Organization] = a.OrganizationID
	}
	columns, raw, err := t.columns("insert_row", values)
	if err != nil {
		return err
	}
	list := strings.Join(columns, ", ")
	_, err = tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) SELECT r.%s FROM jsonb_populate_record(NULL::%s, $1::jsonb) r",
		t.Quoted, list, strings.Join(columns, ", r."), t.Quoted), raw)
	if err != nil {
		return rowError("insert_row into "+t.Quoted, err)
	}
	return nil
}

// owned refuses to give a row to another organization; said is whether the values
// name one.
func (t *Type) owned(what, organization string, values map[string]any) (said bool, err error) {
	v, said := values[t.Organization]
	if t.Organization == "" || !said {
		return false, nil
	}
	if v == nil || fmt.Sprint(v) != organization {
		return true, jobs.Permanentf("%s: column %s of %s says whose the row is: it can only be %q here, or be left out", what, t.Organization, t.Quoted, organization)
	}
	return true, nil
}

func (t *Type) columns(what string, set map[string]any) (quoted []string, values []byte, err error) {
	if len(set) == 0 {
		return nil, nil, jobs.Permanentf("%s: no column is named", what)
	}
	for name := range set {
		if t.Column(name) == nil {
			return nil, nil, jobs.Permanentf("%s: table %s has no column %q", what, t.Quoted, name)
		}
		quoted = append(quoted, ident(name))
	}
	slices.Sort(quoted)
	values, err = json.Marshal(set)
	if err != nil {
		return nil, nil, jobs.Permanentf("%s: %w", what, err)
	}
	return quoted, values, nil
}

func related(t *Type) string {
	if len(t.Relations) == 0 {
		return "related to nothing that is watched"
	}
	names := make([]string, len(t.Relations))
	for i, r := range t.Relations {
		names[i] = r.RelatedType
	}
	return "related to " + strings.Join(names, ", ")
}
