// Package leadimport reads leads from a CSV file into a watched table and puts them
// into a stage of a pipeline. A chunk of rows, their entries into the stage, what
// was rejected, and how far the file is done are one transaction; that is why an
// import can go on after it was killed at any line, and no row is imported twice.
package leadimport

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/dbq"
)

// chunkRows is how many rows are a transaction.
const chunkRows = 1000

// Columns of a file of rejects that stand before those of the file itself. In a
// file to be imported they say nothing, so that mended rejects can be imported as
// they are.
const (
	lineColumn  = "_line"
	errorColumn = "_error"
)

// Options say what is to be imported.
type Options struct {
	File         string
	Table        string // a watched table, or its object type
	Stage        int64  // 0: none
	Organization string // of all rows; "": a column of the file says it
	Delimiter    rune   // 0: comma
	Suppress     bool   // the rows fire no triggers
	Again        bool   // also if the very same was imported before

	// Progress, if not nil, is called after each chunk.
	Progress func(Progress)
}

// Progress is how far an import is, or at its end what came of it.
type Progress struct {
	ID             int64
	Bytes, Size    int64 // of the file
	Imported       int64
	Rejected       int64
	Entered        int64            // into the stage
	Refused        map[string]int64 // by the stage: reason -> leads
	RejectsFile    string           // "" when nothing was rejected
	ContinuedAfter int64            // bytes that an earlier run had done
}

// ErrBusy is given when somebody else imports the same file at this moment.
var ErrBusy = errors.New("the same file is being imported by another process at this moment: wait for it, or stop it and run this again")

type importer struct {
	Options

	pool    *pgxpool.Pool
	typ     *catalog.Type
	columns []*catalog.Column // nil: says nothing
	header  []string
	insert  string
	state   dbq.PgautomateImport
}

// Run imports a file, or goes on with it where an earlier run was interrupted. An
// error leaves what is done as it is.
func Run(ctx context.Context, pool *pgxpool.Pool, o Options) (*Progress, error) {
	if o.Delimiter == 0 {
		o.Delimiter = ','
	}
	im := &importer{Options: o, pool: pool}
	file, err := os.Open(o.File)
	if err != nil {
		return nil, fmt.Errorf("open the file: %w", err)
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", o.File, err)
	}
	if err := im.prepare(ctx, file); err != nil {
		return nil, err
	}
	if err := im.begin(ctx, size, sum.Sum(nil)); err != nil {
		return nil, err
	}
	after := im.state.Position
	if err := im.rows(ctx, file); err != nil {
		return nil, err
	}
	p := im.progress()
	p.ContinuedAfter = after
	if p.RejectsFile, err = im.rejects(ctx); err != nil {
		return nil, err
	}
	if err := dbq.New(pool).EndImport(ctx, im.state.ID); err != nil {
		return nil, fmt.Errorf("end the import: %w", err)
	}
	return p, nil
}

// prepare finds the table and the stage, and maps the file's columns.
func (im *importer) prepare(ctx context.Context, file *os.File) error {
	cat := catalog.New(im.pool)
	if err := cat.Reload(ctx); err != nil {
		return err
	}
	im.typ = cat.Type(im.Table)
	if im.typ == nil {
		found, err := dbq.New(im.pool).FindTable(ctx, im.Table)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("table %s: %w", im.Table, err)
		}
		types, err := cat.Types(ctx)
		if err != nil {
			return err
		}
		for _, name := range types {
			if t := cat.Type(name); t.Quoted == found.Quoted {
				im.typ = t
			}
		}
	}
	if im.typ == nil {
		return fmt.Errorf("%s is not a watched table: run `pgautomate watch %s --as lead --organization COLUMN` first", im.Table, im.Table)
	}
	if err := im.checkStage(ctx); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", im.File, err)
	}
	header, err := im.reader(file).Read()
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is empty: its first line must name the columns", im.File)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", im.File, err)
	}
	return im.mapColumns(header)
}

func (im *importer) checkStage(ctx context.Context) error {
	if im.Stage == 0 {
		return nil
	}
	s, err := dbq.New(im.pool).StageOf(ctx, im.Stage)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("there is no stage %d: take an id from pgautomate.pipeline_stages", im.Stage)
	case err != nil:
		return fmt.Errorf("stage %d: %w", im.Stage, err)
	case s.ObjectType != im.typ.Type:
		return fmt.Errorf("stage %d is of pipeline %q, which is for %s, but %s holds objects of type %s", im.Stage, s.Pipeline, s.ObjectType, im.typ.Quoted, im.typ.Type)
	case im.Organization != "" && im.Organization != s.OrganizationID:
		return fmt.Errorf("stage %d belongs to organization %q, not to %q", im.Stage, s.OrganizationID, im.Organization)
	}
	return nil
}

func (im *importer) reader(from io.Reader) *csv.Reader {
	r := csv.NewReader(bufio.NewReaderSize(from, 1<<20))
	r.Comma = im.Delimiter
	r.FieldsPerRecord = -1
	return r
}

func (im *importer) mapColumns(header []string) error {
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // some programs begin a file with it
	im.header = header
	var names, sources []string
	seen := map[string]bool{}
	for i, name := range header {
		name = strings.TrimSpace(name)
		header[i] = name
		if name == lineColumn || name == errorColumn {
			im.columns = append(im.columns, nil)
			continue
		}
		c := im.typ.Column(name)
		if c == nil {
			var known []string
			for _, k := range im.typ.Columns {
				known = append(known, k.Name)
			}
			return fmt.Errorf("%s has no column %q (line 1 of %s); it has %s", im.typ.Quoted, name, im.File, strings.Join(known, ", "))
		}
		if seen[name] {
			return fmt.Errorf("line 1 of %s names column %q twice", im.File, name)
		}
		seen[name] = true
		im.columns = append(im.columns, c)
		names = append(names, pgx.Identifier{name}.Sanitize())
		sources = append(sources, fmt.Sprintf("u.c%d::%s", i+1, c.TypeName))
	}
	organization := im.typ.Organization
	switch {
	case im.Organization != "" && organization == "":
		return fmt.Errorf("%s has no column that says the organization, so leave --organization out", im.typ.Quoted)
	case im.Organization != "" && seen[organization]:
		return fmt.Errorf("the file has the column %q itself, so leave --organization out", organization)
	case im.Organization != "":
		names = append(names, pgx.Identifier{organization}.Sanitize())
		sources = append(sources, "$1::text::"+im.typ.Column(organization).TypeName)
	case organization != "" && !seen[organization]:
		return fmt.Errorf("the file has no column %q, which says whose the leads are: give --organization ORG", organization)
	}
	if len(names) == 0 {
		return fmt.Errorf("line 1 of %s names no column of %s", im.File, im.typ.Quoted)
	}
	var lists, aliases []string
	for i := range header {
		lists = append(lists, "$"+strconv.Itoa(i+3)+"::text[]")
		aliases = append(aliases, "c"+strconv.Itoa(i+1))
	}
	whose := "'" + change.DefaultOrganization + "'"
	if organization != "" {
		whose = pgx.Identifier{organization}.Sanitize() + "::text"
	}
	im.insert = fmt.Sprintf(`WITH added AS (INSERT INTO %s (%s) SELECT %s FROM unnest(%s) AS u(%s) WHERE $1::text IS NOT NULL RETURNING %s::text AS id, %s AS organization),
		entered AS (INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
			SELECT organization, id, $2::bigint FROM added WHERE $2::bigint > 0 RETURNING reason)
		SELECT coalesce(reason, ''), count(*) FROM entered GROUP BY 1`,
		im.typ.Quoted, strings.Join(names, ", "), strings.Join(sources, ", "), strings.Join(lists, ", "), strings.Join(aliases, ", "),
		pgx.Identifier{im.typ.ID}.Sanitize(), whose)
	return nil
}

func (im *importer) begin(ctx context.Context, size int64, sum []byte) error {
	q := dbq.New(im.pool)
	var stage *int64
	var organization *string
	if im.Stage != 0 {
		stage = &im.Stage
	}
	if im.Organization != "" {
		organization = &im.Organization
	}
	if !im.Again {
		done, err := q.FinishedImport(ctx, dbq.FinishedImportParams{FileSha256: sum, TableName: im.typ.Quoted, PipelineStageID: stage, OrganizationID: organization})
		if err == nil {
			return fmt.Errorf("this file was imported on %s already (%d rows): add --again to import it once more", done.UpdatedAt.Format("2006-01-02 15:04"), done.Imported)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("earlier imports: %w", err)
		}
	}
	var err error
	im.state, err = q.BeginImport(ctx, dbq.BeginImportParams{
		FileName: im.File, FileBytes: size, FileSha256: sum, TableName: im.typ.Quoted, PipelineStageID: stage, OrganizationID: organization,
	})
	if err != nil {
		return fmt.Errorf("begin the import: %w", err)
	}
	return nil
}

// row is a row of the file.
type row struct {
	line   int64
	fields []string
	bad    error // it can't be read
}

// rows imports what is not done yet.
func (im *importer) rows(ctx context.Context, file *os.File) error {
	if _, err := file.Seek(im.state.Position, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", im.File, err)
	}
	r := im.reader(file)
	from, line := im.state.Position, im.state.Line-1
	if from == 0 {
		if _, err := r.Read(); err != nil {
			return fmt.Errorf("%s: %w", im.File, err)
		}
		line = 0
	}
	im.report()
	for end := false; !end; {
		var chunk []row
		for len(chunk) < chunkRows && !end {
			fields, err := r.Read()
			var bad *csv.ParseError
			switch {
			case errors.Is(err, io.EOF):
				end = true
			case errors.As(err, &bad):
				chunk = append(chunk, row{line + int64(bad.StartLine), fields, bad.Err})
			case err != nil:
				return fmt.Errorf("read %s: %w", im.File, err)
			default:
				at, _ := r.FieldPos(0)
				next := row{line: line + int64(at), fields: fields}
				if len(fields) != len(im.header) {
					next.bad = fmt.Errorf("the row has %d values, line 1 names %d columns", len(fields), len(im.header))
				}
				chunk = append(chunk, next)
			}
		}
		if len(chunk) == 0 {
			break
		}
		before := im.state
		err := db.Again(ctx, func() error {
			im.state = before
			return im.chunk(ctx, chunk, from+r.InputOffset())
		})
		if err != nil {
			return err
		}
		im.report()
	}
	return nil
}

func (im *importer) progress() *Progress {
	p := &Progress{
		ID: im.state.ID, Bytes: im.state.Position, Size: im.state.FileBytes, Imported: im.state.Imported, Rejected: im.state.Rejected,
		Entered: im.state.Entered, Refused: map[string]int64{},
	}
	_ = json.Unmarshal(im.state.Refused, &p.Refused) // our own
	return p
}

func (im *importer) report() {
	if im.Progress != nil {
		im.Progress(*im.progress())
	}
}

// outcome is what came of a chunk.
type outcome struct {
	imported, entered int64
	refused           map[string]int64
	rejected          []row
}

// chunk imports rows, and notes that the file is done up to a position.
func (im *importer) chunk(ctx context.Context, rows []row, position int64) error {
	return pgx.BeginFunc(ctx, im.pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		now, err := q.LockImport(ctx, im.state.ID)
		if err != nil {
			return fmt.Errorf("import %d: %w", im.state.ID, err)
		}
		if now.Position != im.state.Position || now.Status != "running" {
			return ErrBusy
		}
		if _, err := tx.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE"); err != nil {
			return fmt.Errorf("import %d: %w", im.state.ID, err)
		}
		if im.Suppress {
			if _, err := tx.Exec(ctx, "SELECT pgautomate.suppress()"); err != nil {
				return fmt.Errorf("suppress: %w", err)
			}
		}
		out := outcome{refused: map[string]int64{}}
		_ = json.Unmarshal(now.Refused, &out.refused) // our own
		good := make([]row, 0, len(rows))
		for _, r := range rows {
			if r.bad != nil {
				out.rejected = append(out.rejected, r)
			} else {
				good = append(good, r)
			}
		}
		if err := im.put(ctx, tx, good, &out); err != nil {
			return err
		}
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"pgautomate", "import_rejects"}, []string{"import_id", "line", "row", "error"},
			pgx.CopyFromSlice(len(out.rejected), func(i int) ([]any, error) {
				r := &out.rejected[i]
				return []any{im.state.ID, r.line, clean(r.fields), r.bad.Error()}, nil
			}))
		if err != nil {
			return fmt.Errorf("note the rejected rows: %w", err)
		}
		refused, err := json.Marshal(out.refused)
		if err != nil {
			return fmt.Errorf("import %d: %w", im.state.ID, err)
		}
		im.state, err = q.AdvanceImport(ctx, dbq.AdvanceImportParams{
			ID: im.state.ID, Position: position, Line: rows[len(rows)-1].line + 1 + newlines(rows[len(rows)-1].fields),
			Imported: out.imported, Rejected: int64(len(out.rejected)), Entered: out.entered, Refused: refused,
		})
		if err != nil {
			return fmt.Errorf("import %d: %w", im.state.ID, err)
		}
		return nil
	})
}

func newlines(fields []string) (n int64) {
	for _, f := range fields {
		n += int64(strings.Count(f, "\n"))
	}
	return n
}

// clean makes a rejected row fit for a text column.
func clean(fields []string) []string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = strings.ToValidUTF8(strings.ReplaceAll(f, "\x00", "\ufffd"), "\ufffd")
	}
	return list
}

// put inserts rows; if some can't be, it halves them until it knows which.
func (im *importer) put(ctx context.Context, tx pgx.Tx, rows []row, out *outcome) error {
	if len(rows) == 0 {
		return nil
	}
	var entered, all int64
	refused := map[string]int64{}
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		var reason string
		var n int64
		answer, err := tx.Query(ctx, im.insert, im.arguments(rows)...)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(answer, []any{&reason, &n}, func() error {
			if all += n; reason == "" {
				entered = n
			} else {
				refused[reason] = n
			}
			return nil
		})
		return err
	})
	var refusal *pgconn.PgError
	switch {
	case err == nil:
		out.imported += int64(len(rows))
		out.entered += entered
		for reason, n := range refused {
			out.refused[reason] += n
		}
		return nil
	case !errors.As(err, &refusal) || !ofRow(refusal.Code):
		return fmt.Errorf("import into %s, lines %d to %d: %w", im.typ.Quoted, rows[0].line, rows[len(rows)-1].line, err)
	case len(rows) == 1:
		bad := rows[0]
		bad.bad = errors.New(describe(refusal))
		out.rejected = append(out.rejected, bad)
		return nil
	}
	half := len(rows) / 2
	if err := im.put(ctx, tx, rows[:half], out); err != nil {
		return err
	}
	return im.put(ctx, tx, rows[half:], out)
}

// ofRow says whether an error is of a row's making.
func ofRow(code string) bool {
	return pgerrcode.IsDataException(code) || pgerrcode.IsIntegrityConstraintViolation(code) || pgerrcode.IsPLpgSQLError(code) ||
		code == pgerrcode.WithCheckOptionViolation || code == pgerrcode.GeneratedAlways
}

func describe(e *pgconn.PgError) string {
	text := e.Message
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// arguments are the organization, the stage, and the rows by column. What is empty
// is NULL.
func (im *importer) arguments(rows []row) []any {
	args := []any{im.Organization, im.Stage}
	for i := range im.header {
		values := make([]*string, len(rows))
		for n := range rows {
			if v := &rows[n].fields[i]; *v != "" {
				values[n] = v
			}
		}
		args = append(args, values)
	}
	return args
}

// rejects writes what was rejected to a file beside the one that was imported.
func (im *importer) rejects(ctx context.Context) (name string, err error) {
	if im.state.Rejected == 0 {
		return "", nil
	}
	name = strings.TrimSuffix(im.File, ".csv") + ".rejects.csv"
	file, err := os.Create(name)
	if err != nil {
		return "", fmt.Errorf("write what was rejected: %w; it stands in pgautomate.import_rejects, too, and running this again writes it", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := csv.NewWriter(file)
	w.Comma = im.Delimiter
	mine := func(name string) bool { return name == lineColumn || name == errorColumn }
	keep := func(fields []string) (list []string) {
		for i, f := range fields {
			if i >= len(im.header) || !mine(im.header[i]) {
				list = append(list, f)
			}
		}
		return list
	}
	if err := w.Write(slices.Concat([]string{lineColumn, errorColumn}, keep(im.header))); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	q := dbq.New(im.pool)
	for after := int64(0); ; {
		list, err := q.ImportRejects(ctx, dbq.ImportRejectsParams{ImportID: im.state.ID, After: after})
		if err != nil {
			return "", fmt.Errorf("what was rejected: %w", err)
		}
		for _, r := range list {
			if err := w.Write(slices.Concat([]string{strconv.FormatInt(r.Line, 10), r.Error}, keep(r.Row))); err != nil {
				return "", fmt.Errorf("write %s: %w", name, err)
			}
			after = r.Line
		}
		if len(list) == 0 {
			break
		}
	}
	w.Flush()
	return name, w.Error()
}
