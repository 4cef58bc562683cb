package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/internal/dbtest"
	"github.com/pgautomate/pgautomate/jobs"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

func exec(t *testing.T, d *dbtest.DB, sql string) {
	t.Helper()
	if _, err := d.Pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func list(t *testing.T, d *dbtest.DB, sql string) []string {
	t.Helper()
	rows, err := d.Pool.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return all
}

const (
	identities = `SELECT concat_ws(' ', relname, relreplident) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1`
	published  = `SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = 'pgautomate' ORDER BY 1`
	relations  = `SELECT concat_ws(' ', this_object_type, this_column, related_object_type, related_column) FROM pgautomate.object_relations ORDER BY 1`
	objects    = `SELECT concat_ws(' ', name, table_name, id_column, coalesce(organization_column, '-'), coalesce(custom_column, '-')) FROM pgautomate.object_types ORDER BY 1`
)

func want(t *testing.T, d *dbtest.DB, sql string, rows ...string) {
	t.Helper()
	if got := list(t, d, sql); !slices.Equal(got, rows) {
		t.Errorf("%s\ngives %q, want %q", sql, got, rows)
	}
}

func TestWatchAndUnwatch(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	exec(t, d, `CREATE TABLE lead (id bigint PRIMARY KEY, org text, custom jsonb, fields jsonb)`)
	exec(t, d, `CREATE TABLE "Contact" (id uuid PRIMARY KEY, code text UNIQUE NOT NULL, lead_id bigint REFERENCES lead, boss uuid REFERENCES "Contact", other bigint REFERENCES lead)`)
	exec(t, d, `CREATE TABLE plain (id int PRIMARY KEY)`)
	exec(t, d, `ALTER TABLE plain REPLICA IDENTITY NOTHING`)
	exec(t, d, `CREATE TABLE already (id int PRIMARY KEY)`)
	exec(t, d, `ALTER TABLE already REPLICA IDENTITY FULL`)

	// A dry run says what it would do and does nothing.
	_, statements, err := Watch(ctx, d.Pool, WatchOptions{Table: "lead", Organization: "org"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(statements) > 0 { // on Postgres 18 it has an option more
		statements[0] = strings.Replace(statements[0], ", publish_generated_columns = stored", "", 1)
	}
	if !slices.Equal(statements, []string{
		"CREATE PUBLICATION pgautomate FOR TABLE pgautomate.triggers WITH (publish_via_partition_root = true)",
		"ALTER TABLE public.lead REPLICA IDENTITY FULL",
		"ALTER PUBLICATION pgautomate ADD TABLE public.lead",
	}) {
		t.Errorf("the dry run says %q", statements)
	}
	want(t, d, objects)
	want(t, d, published)
	want(t, d, identities, "Contact d", "already f", "lead d", "plain n")

	for _, o := range []WatchOptions{
		{Table: "lead", Organization: "org"},
		{Table: `public."Contact"`, As: "person", ID: "code"},
		{Table: "plain"},
		{Table: "already"},
	} {
		if _, _, err := Watch(ctx, d.Pool, o, false); err != nil {
			t.Fatal(err)
		}
	}
	want(t, d, objects, "already public.already id - -", "lead public.lead id org custom", `person public."Contact" code - -`, "plain public.plain id - -")
	want(t, d, published, "pgautomate.triggers", "public.Contact", "public.already", "public.lead", "public.plain")
	want(t, d, identities, "Contact f", "already f", "lead f", "plain f")
	want(t, d, relations, "lead id person lead_id", "lead id person other", "person boss person id", "person id person boss", "person lead_id lead id", "person other lead id")

	// Again: other columns, nothing else to do.
	_, statements, err = Watch(ctx, d.Pool, WatchOptions{Table: "lead", Custom: "fields"}, false)
	if err != nil || len(statements) != 0 {
		t.Errorf("watching again runs %q, %v", statements, err)
	}
	want(t, d, objects, "already public.already id - -", "lead public.lead id - fields", `person public."Contact" code - -`, "plain public.plain id - -")
	// A key of two columns, one of which says whose the row is, is a relation too; one of
	// two others is not.
	exec(t, d, `CREATE TABLE account (org text, id int, code text, PRIMARY KEY (id), UNIQUE (org, id), UNIQUE (id, code))`)
	exec(t, d, `CREATE TABLE invoice (org text, id int PRIMARY KEY, account int, code text, FOREIGN KEY (org, account) REFERENCES account (org, id), FOREIGN KEY (account, code) REFERENCES account (id, code))`)
	for _, table := range []string{"account", "invoice"} {
		if _, _, err := Watch(ctx, d.Pool, WatchOptions{Table: table, Organization: "org"}, false); err != nil {
			t.Fatal(err)
		}
	}
	want(t, d, relations, "account id invoice account", "invoice account account id", "lead id person lead_id", "lead id person other", "person boss person id",
		"person id person boss", "person lead_id lead id", "person other lead id")
	for _, table := range []string{"account", "invoice"} {
		if _, err := Unwatch(ctx, d.Pool, table, false); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, d, `DROP TABLE invoice, account`)

	if _, _, err := Watch(ctx, d.Pool, WatchOptions{Table: "lead", As: "deal"}, false); err == nil || !strings.Contains(err.Error(), "pgautomate unwatch public.lead") {
		t.Errorf("a second name: %v", err)
	}

	// Unwatch gives back what was before the first watch; a dry run does nothing.
	statements, err = Unwatch(ctx, d.Pool, "lead", true)
	if err != nil || !slices.Equal(statements, []string{"ALTER PUBLICATION pgautomate DROP TABLE public.lead", "ALTER TABLE public.lead REPLICA IDENTITY DEFAULT"}) {
		t.Errorf("the dry run says %q, %v", statements, err)
	}
	want(t, d, published, "pgautomate.triggers", "public.Contact", "public.already", "public.lead", "public.plain")
	for _, name := range []string{"public.lead", "person", "plain", "already"} {
		if _, err := Unwatch(ctx, d.Pool, name, false); err != nil {
			t.Error(err)
		}
	}
	want(t, d, objects)
	want(t, d, relations)
	want(t, d, published, "pgautomate.triggers")
	want(t, d, identities, "Contact d", "already f", "lead d", "plain n")
	if _, err := Unwatch(ctx, d.Pool, "lead", false); err == nil || !strings.Contains(err.Error(), "not watched") {
		t.Errorf("unwatching what isn't watched: %v", err)
	}

	// A table that was dropped can still be forgotten.
	if _, _, err := Watch(ctx, d.Pool, WatchOptions{Table: "plain"}, false); err != nil {
		t.Fatal(err)
	}
	exec(t, d, `DROP TABLE plain`)
	if err := New(d.Pool).Reload(ctx); err != nil {
		t.Errorf("a dropped table: %v", err)
	}
	if _, err := Unwatch(ctx, d.Pool, "plain", false); err != nil {
		t.Error(err)
	}
	want(t, d, objects)
}

// TestWatchRefuses: each with one line that says what to do, and nothing changed.
func TestWatchRefuses(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	exec(t, d, `CREATE TABLE good (id int PRIMARY KEY, n int, j json, code text);
		CREATE TABLE keyless (a int, b int UNIQUE);
		CREATE TABLE composite (a int, b int, c int, PRIMARY KEY (a, b));
		CREATE UNIQUE INDEX ON good (code) WHERE n > 0;
		CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
		CREATE VIEW seen AS SELECT 1 AS id;
		CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id;
		CREATE SEQUENCE counter`)
	for _, c := range []struct {
		o     WatchOptions
		wants string
	}{
		{WatchOptions{Table: "nothing"}, "there is no table nothing"},
		{WatchOptions{Table: "nowhere.lead"}, "there is no table nowhere.lead"},
		{WatchOptions{Table: `a"b`}, "name it as schema.table"},
		{WatchOptions{Table: ""}, "table"},
		{WatchOptions{Table: "keyless"}, "has no primary key"},
		{WatchOptions{Table: "keyless", ID: "a"}, "is not unique"},
		{WatchOptions{Table: "composite"}, "has 2 columns (a, b)"},
		{WatchOptions{Table: "composite", ID: "c"}, "is not unique"},
		{WatchOptions{Table: "good", ID: "n"}, "is not unique"},
		{WatchOptions{Table: "good", ID: "code"}, "is not unique"}, // a partial index
		{WatchOptions{Table: "good", ID: "none"}, "has no column none (--id): it has id, n, j, code"},
		{WatchOptions{Table: "good", Organization: "none"}, "has no column none (--organization)"},
		{WatchOptions{Table: "good", Custom: "none"}, "has no column none (--custom)"},
		{WatchOptions{Table: "good", Custom: "j"}, "jsonb"},
		{WatchOptions{Table: "good", As: "Good Lead"}, "object type's name"},
		{WatchOptions{Table: "seen"}, "is not a table"},
		{WatchOptions{Table: "kept"}, "is not a table"},
		{WatchOptions{Table: "counter"}, "is not a table"},
		{WatchOptions{Table: "unlogged"}, "SET LOGGED"},
		{WatchOptions{Table: "pgautomate.triggers"}, "the engine's own table"},
	} {
		_, _, err := Watch(t.Context(), d.Pool, c.o, false)
		if err == nil || !strings.Contains(err.Error(), c.wants) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v; want %q in it, in one line", c.o, err, c.wants)
		}
	}
	want(t, d, objects)
	want(t, d, `SELECT pubname::text FROM pg_publication`)
	if _, _, err := Watch(t.Context(), d.Pool, WatchOptions{Table: "keyless", ID: "b"}, false); err != nil {
		t.Errorf("a unique column as id: %v", err)
	}
}

// TestRows: rows of users' tables, read and written for actions.
func TestRows(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	exec(t, d, `CREATE TABLE lead (id bigint PRIMARY KEY, name text, n numeric, tags text[], at timestamptz, custom jsonb);
		CREATE TABLE contact (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, lead_id bigint REFERENCES lead, title text);
		INSERT INTO lead VALUES (1, 'Ann', 12345678901234567890.5, '{a,b}'), (2, 'Bob', NULL, NULL);
		INSERT INTO contact (id, lead_id) VALUES (101, 1), (102, 1), (103, 2)`)
	for _, table := range []string{"lead", "contact"} {
		if _, _, err := Watch(ctx, d.Pool, WatchOptions{Table: table}, false); err != nil {
			t.Fatal(err)
		}
	}
	c := New(d.Pool)
	if err := c.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	row, err := c.Row(ctx, d.Pool, "default", "lead", "1")
	if err != nil || row["name"] != "Ann" || row["n"].(interface{ String() string }).String() != "12345678901234567890.5" {
		t.Errorf("the row is %v, %v", row, err)
	}
	if _, err := c.Row(ctx, d.Pool, "default", "lead", "9"); !errors.Is(err, jobs.ErrNotVisible) {
		t.Errorf("a row that isn't there: %v", err)
	}
	if _, err := c.Row(ctx, d.Pool, "default", "lead", "not a number"); !isPermanent(err) {
		t.Errorf("an id that can't be one: %v", err)
	}
	if row, err := c.Row(ctx, d.Pool, "default", "unknown", "x"); err != nil || row["id"] != "x" {
		t.Errorf("a type that isn't watched: %v, %v", row, err)
	}
	tx, err := d.Pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	a := &jobs.Action{ObjectType: "lead", LeadID: "1"}
	for _, u := range []struct {
		object string
		set    map[string]any
		rows   int64
		wants  string // of the error
	}{
		{"", map[string]any{"name": "Cy", "tags": []any{"x"}, "n": nil}, 1, ""},
		{"contact", map[string]any{"title": "boss"}, 2, ""},
		{"", map[string]any{"nothing": 1}, 0, `has no column "nothing"`},
		{"", nil, 0, "no column is named"},
		{"deal", map[string]any{"a": 1}, 0, `"deal" is not related to "lead": it is related to contact`},
	} {
		n, err := c.UpdateRow(ctx, tx, a, u.object, u.set)
		if n != u.rows || (err == nil) != (u.wants == "") || err != nil && (!strings.Contains(err.Error(), u.wants) || !isPermanent(err)) {
			t.Errorf("%s %v: %d rows, %v; want %d, %q", u.object, u.set, n, err, u.rows, u.wants)
		}
	}
	if _, err := c.UpdateRow(ctx, tx, &jobs.Action{ObjectType: "lead", LeadID: "77"}, "", map[string]any{"name": "x"}); !errors.Is(err, jobs.ErrNotVisible) {
		t.Errorf("an update of a row that isn't there: %v", err)
	}
	if err := c.InsertRow(ctx, tx, a, "contact", map[string]any{"lead_id": "1", "title": "new"}); err != nil {
		t.Error(err)
	}
	if err := c.InsertRow(ctx, tx, a, "deal", map[string]any{"x": 1}); !isPermanent(err) || !strings.Contains(err.Error(), "pgautomate watch deal") {
		t.Errorf("a table that isn't watched: %v", err)
	}
	var got string
	if err := tx.QueryRow(ctx, `SELECT concat_ws(' ', name, tags, n) || (SELECT string_agg(concat_ws(' ', '', lead_id, title), ',' ORDER BY id) FROM contact) FROM lead WHERE id = 1`).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if got != "Cy {x} 1 new, 1 boss, 1 boss, 2" {
		t.Errorf("the rows are %q", got)
	}
	if _, err := c.UpdateRow(ctx, tx, a, "", map[string]any{"n": "many"}); !isPermanent(err) {
		t.Errorf("a value that can't be one: %v", err)
	}
}

func isPermanent(err error) bool {
	var p *jobs.PermanentError
	return errors.As(err, &p)
}

// TestDoctor: a healthy database has nothing to mend but what the server lacks;
// what was broken by hand is found, with its fix.
func TestDoctor(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	exec(t, d, `CREATE TABLE lead (id bigint PRIMARY KEY, org text); CREATE TABLE gone (id bigint PRIMARY KEY); CREATE TABLE unseen (id bigint PRIMARY KEY)`)
	for _, o := range []WatchOptions{{Table: "lead", Organization: "org"}, {Table: "gone"}, {Table: "unseen"}} {
		if _, _, err := Watch(ctx, d.Pool, o, false); err != nil {
			t.Fatal(err)
		}
	}
	of := func(subject string) []string {
		problems, err := Doctor(ctx, d.Pool)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, p := range problems {
			if p.Fix == "" || p.Problem == "" {
				t.Errorf("%+v says too little", p)
			}
			if strings.Contains(p.Subject, subject) {
				found = append(found, p.Problem+": "+p.Fix)
			}
		}
		return found
	}
	if got := of("object type"); len(got) != 0 {
		t.Errorf("on a healthy database: %q", got)
	}
	exec(t, d, `ALTER TABLE lead REPLICA IDENTITY DEFAULT; ALTER TABLE lead RENAME org TO organization; DROP TABLE gone; ALTER PUBLICATION pgautomate DROP TABLE unseen`)
	if got := strings.Join(of("object type lead"), "; "); !strings.Contains(got, "ALTER TABLE public.lead REPLICA IDENTITY FULL") || !strings.Contains(got, "no column org any more") {
		t.Errorf("lead: %q", got)
	}
	if got := strings.Join(of("object type gone"), "; "); !strings.Contains(got, "pgautomate unwatch gone") {
		t.Errorf("gone: %q", got)
	}
	if got := strings.Join(of("object type unseen"), "; "); !strings.Contains(got, "ADD TABLE public.unseen") {
		t.Errorf("unseen: %q", got)
	}
}
