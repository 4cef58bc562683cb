package catalog

// Watching a table: checks first, so that nothing is half done and no app's
// statement ever fails because its table is watched; then one transaction.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/trigger"
)

// WatchOptions say how a table's rows are objects. Empty fields take defaults.
type WatchOptions struct {
	Table        string // name, or schema.name
	As           string // object type; default the table's name
	ID           string // default the primary key's only column
	Organization string // "" : every row belongs to "default"
	Custom       string // default a jsonb column named custom, if there is one

	// ReplyWhen, if any, is a query: a row that comes to meet it is a reply of the
	// lead that the column Lead names, for wait_for_reply. Contact and Channel name
	// the columns of the contact that it is from and of its channel; they may be "".
	ReplyWhen              json.RawMessage
	Lead, Contact, Channel string
}

var typeName = regexp.MustCompile(`^[a-z][a-z0-9_.]{0,62}$`)

// EnsurePublication makes the publication with the table of trigger definitions
// when it isn't there. It must be there before the slot.
func EnsurePublication(ctx context.Context, tx pgx.Tx) ([]string, error) {
	there, err := dbq.New(tx).PublicationExists(ctx, Publication)
	if err != nil {
		return nil, fmt.Errorf("publication: %w", err)
	}
	if there {
		return nil, nil
	}
	generated, err := dbq.New(tx).PublicationGenerated(ctx, Publication)
	if err != nil {
		return nil, fmt.Errorf("publication: %w", err)
	}
	options := "publish_via_partition_root = true"
	if generated.Known {
		options += ", " + publishGenerated
	}
	return []string{"CREATE PUBLICATION " + Publication + " FOR TABLE pgautomate.triggers WITH (" + options + ")"}, nil
}

// publishGenerated is what lets a watched table have stored generated columns. Postgres 18 refuses updates and deletes of a
// published table whose replica identity holds generated columns that are not published, and FULL holds all columns. It
// publishes no virtual ones. Older versions never publish generated columns and refuse nothing.
const (
	publishGenerated   = "publish_generated_columns = stored"
	alterPublishStored = "ALTER PUBLICATION " + Publication + " SET (" + publishGenerated + ")"
)

// Watch registers a table and returns the statements that it ran outside the
// schema pgautomate; with dryRun it only returns them. Errors are one line that
// says what to do; nothing is changed then.
func Watch(ctx context.Context, pool *pgxpool.Pool, o WatchOptions, dryRun bool) (*Type, []string, error) {
	var t *Type
	var statements []string
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		var err error
		if t, err = plan(ctx, q, o); err != nil {
			return err
		}
		before := t.ownIdentity
		o.ReplyWhen = pinned(o.ReplyWhen, t.Type)
		if statements, err = EnsurePublication(ctx, tx); err != nil {
			return err
		}
		if len(statements) == 0 { // a publication of an older server or version
			generated, err := q.PublicationGenerated(ctx, Publication)
			if err != nil {
				return fmt.Errorf("publication: %w", err)
			}
			if generated.Known && !generated.Published {
				statements = append(statements, alterPublishStored)
			}
		}
		statements = append(statements, t.alterIdentity()...)
		published, err := q.PublishedTables(ctx, Publication)
		if err != nil {
			return fmt.Errorf("publication: %w", err)
		}
		if !slices.Contains(published, t.Quoted) {
			statements = append(statements, "ALTER PUBLICATION "+Publication+" ADD TABLE "+t.Quoted)
		}
		if dryRun {
			return nil
		}
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'"); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return explain(s, err)
			}
		}
		err = q.PutObjectType(ctx, dbq.PutObjectTypeParams{
			Name: t.Type, TableName: t.Quoted, IDColumn: t.ID,
			OrganizationColumn: orNil(t.Organization), CustomColumn: orNil(t.Custom), IdentityBefore: string(before),
			ReplyWhen: o.ReplyWhen, ReplyLead: o.Lead, ReplyContact: o.Contact, ReplyChannel: o.Channel,
		})
		if err != nil {
			var pg *pgconn.PgError
			if errors.As(err, &pg) && pg.Code == "23505" {
				return fmt.Errorf("table %s is watched under another name already: run `pgautomate unwatch %s` first", t.Quoted, t.Quoted)
			}
			return fmt.Errorf("object type %s: %w", t.Type, err)
		}
		return relate(ctx, q)
	})
	if err != nil {
		return nil, nil, err
	}
	return t, statements, nil
}

// plan checks the options against the table.
func plan(ctx context.Context, q *dbq.Queries, o WatchOptions) (*Type, error) {
	t, err := describe(ctx, q, o.Table)
	if errors.Is(err, errNoTable) {
		return nil, fmt.Errorf("there is no table %s: name it as schema.table, and check the database in DATABASE_URL", o.Table)
	}
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code == "42602" || pg.Code == "22023" || pg.Code == "0A000" || pg.Code == "42601") {
			return nil, fmt.Errorf("%q is not a table's name: name it as schema.table", o.Table)
		}
		return nil, err
	}
	table, err := q.FindTable(ctx, o.Table)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", o.Table, err)
	}
	switch {
	case table.Kind != "r" && table.Kind != "p":
		return nil, fmt.Errorf("%s is not a table: views, foreign tables and the like have no changes of their own; watch the tables behind it", t.Quoted)
	case table.Persistence != "p":
		return nil, fmt.Errorf("%s is unlogged or temporary: its changes are in no log; ALTER TABLE %s SET LOGGED first", t.Quoted, t.Quoted)
	case t.Schema == "pgautomate":
		return nil, fmt.Errorf("%s is the engine's own table and can't be watched", t.Quoted)
	}
	if col := t.virtual(); col != "" {
		return nil, fmt.Errorf("%s has the virtual generated column %s: Postgres would refuse all updates and deletes of the table once it is watched; drop the column and add it as STORED first", t.Quoted, col)
	}
	t.Type = o.As
	if t.Type == "" {
		t.Type = strings.ToLower(t.Table)
	}
	if !typeName.MatchString(t.Type) {
		return nil, fmt.Errorf("%q can't be an object type's name: use lower-case letters, digits, _ and . (--as NAME)", t.Type)
	}
	if err := chooseID(ctx, q, t, o.ID, table.Oid); err != nil {
		return nil, err
	}
	if o.Organization != "" {
		if t.Column(o.Organization) == nil {
			return nil, noColumn(t, o.Organization, "--organization")
		}
		t.Organization = o.Organization
	}
	if o.Custom != "" {
		col := t.Column(o.Custom)
		if col == nil {
			return nil, noColumn(t, o.Custom, "--custom")
		}
		if col.TypeName != "jsonb" {
			return nil, fmt.Errorf("column %s of %s is %s: custom fields are held by a jsonb column", o.Custom, t.Quoted, col.TypeName)
		}
		t.Custom = o.Custom
	} else if col := t.Column("custom"); col != nil && col.TypeName == "jsonb" {
		t.Custom = "custom"
	}
	return t, checkReply(t, o)
}

// pinned gives a query that names its object type, as queries must: here it is
// said already.
func pinned(query json.RawMessage, objectType string) json.RawMessage {
	if q, err := trigger.Parse(query); len(query) == 0 || err != nil || q.ObjectType() != "" {
		return query
	}
	return json.RawMessage(`{"type":"and","queries":[{"type":"object_type","object_type":` + quoteJSON(objectType) + `},` + string(query) + `]}`)
}

// checkReply checks what makes rows replies.
func checkReply(t *Type, o WatchOptions) error {
	if len(o.ReplyWhen) == 0 {
		for flag, column := range map[string]string{"--lead": o.Lead, "--contact": o.Contact, "--channel": o.Channel} {
			if column != "" {
				return fmt.Errorf("%s %s says whose a reply is: say with --reply-when QUERY which rows are replies", flag, column)
			}
		}
		return nil
	}
	if o.Lead == "" {
		return errors.New("--reply-when needs --lead COLUMN: the column that names the lead whose reply a row is")
	}
	for _, c := range [...]struct{ flag, column string }{{"--lead", o.Lead}, {"--contact", o.Contact}, {"--channel", o.Channel}} {
		if col := t.Column(c.column); c.column != "" && (col == nil || col.Hidden) {
			return noColumn(t, c.column, c.flag)
		}
	}
	// It is asked of the row alone: other tables are not at hand when a reply comes by.
	alone := t.schema()
	alone.Relations = nil
	err := trigger.Check(pinned(o.ReplyWhen, t.Type), t.Type, func(name string) *trigger.Schema {
		if name == t.Type {
			return alone
		}
		return nil
	}, time.UTC)
	if err != nil {
		return fmt.Errorf("--reply-when can't be asked of a row of %s: %w", t.Quoted, err)
	}
	return nil
}

func chooseID(ctx context.Context, q *dbq.Queries, t *Type, id string, oid int64) error {
	key, err := q.PrimaryKey(ctx, oid)
	if err != nil {
		return fmt.Errorf("primary key of %s: %w", t.Quoted, err)
	}
	if id == "" {
		switch len(key) {
		case 1:
			t.ID = key[0]
			return nil
		case 0:
			return fmt.Errorf("table %s has no primary key: give it one (ALTER TABLE %s ADD PRIMARY KEY …), or name a unique column with --id COLUMN", t.Quoted, t.Quoted)
		default:
			return fmt.Errorf("the primary key of %s has %d columns (%s): name one column that is unique alone with --id COLUMN", t.Quoted, len(key), strings.Join(key, ", "))
		}
	}
	col := t.Column(id)
	if col == nil {
		return noColumn(t, id, "--id")
	}
	unique, err := q.UniqueColumns(ctx, oid)
	if err != nil {
		return fmt.Errorf("unique columns of %s: %w", t.Quoted, err)
	}
	// A partitioned table can't have a unique index without its partition key:
	// there a column of the primary key is taken at the user's word.
	if !slices.Contains(unique, id) && !slices.Contains(key, id) {
		return fmt.Errorf("column %s of %s is not unique: objects need an id; add a unique index, or name another column with --id", id, t.Quoted)
	}
	t.ID = id
	return nil
}

func noColumn(t *Type, name, flag string) error {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return fmt.Errorf("table %s has no column %s (%s): it has %s", t.Quoted, name, flag, strings.Join(names, ", "))
}

// Unwatch takes a table out of the publication, gives its replica identity back
// and forgets its object type. name is the table's or the type's.
func Unwatch(ctx context.Context, pool *pgxpool.Pool, name string, dryRun bool) ([]string, error) {
	var statements []string
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		rows, err := q.ListObjectTypes(ctx)
		if err != nil {
			return fmt.Errorf("object types: %w", err)
		}
		quoted := name
		found, err := q.FindTable(ctx, name)
		there := err == nil
		if there {
			quoted = found.Quoted
		}
		at := slices.IndexFunc(rows, func(r dbq.ListObjectTypesRow) bool { return r.TableName == quoted || r.Name == name })
		if at < 0 {
			return fmt.Errorf("%s is not watched: `pgautomate doctor` lists what is", name)
		}
		row := rows[at]
		if !there {
			_, err = q.FindTable(ctx, row.TableName)
			there = err == nil
		}
		if there {
			published, err := q.PublishedTables(ctx, Publication)
			if err != nil {
				return fmt.Errorf("publication: %w", err)
			}
			if slices.Contains(published, row.TableName) {
				statements = append(statements, "ALTER PUBLICATION "+Publication+" DROP TABLE "+row.TableName)
			}
			identity := map[string]string{string(change.IdentityDefault): "DEFAULT", string(change.IdentityNothing): "NOTHING"}[row.IdentityBefore]
			if identity != "" {
				t, err := describe(ctx, q, row.TableName)
				if err != nil {
					return err
				}
				statements = append(statements, alterTo(row.TableName, identity))
				for _, p := range t.partitions {
					if p.identity == change.IdentityFull {
						statements = append(statements, alterTo(p.quoted, identity))
					}
				}
			}
		}
		if dryRun {
			return nil
		}
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'"); err != nil {
			return fmt.Errorf("unwatch: %w", err)
		}
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return explain(s, err)
			}
		}
		if err := q.DeleteObjectType(ctx, row.Name); err != nil {
			return fmt.Errorf("object type %s: %w", row.Name, err)
		}
		return relate(ctx, q)
	})
	return statements, err
}

func relate(ctx context.Context, q *dbq.Queries) error {
	if err := q.DeleteRelations(ctx); err != nil {
		return fmt.Errorf("relations: %w", err)
	}
	if err := q.FillRelations(ctx); err != nil {
		return fmt.Errorf("relations: %w", err)
	}
	return nil
}

// explain turns a failed statement into a line that says what to do.
func explain(statement string, err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "42501":
			return fmt.Errorf("%s: %s; run it as the table's owner, then watch again", statement, pg.Message)
		case "55P03":
			return fmt.Errorf("%s: somebody holds a lock on the table for longer than 10 s; try again when it is free", statement)
		}
		return fmt.Errorf("%s: %s", statement, pg.Message)
	}
	return fmt.Errorf("%s: %w", statement, err)
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
