package firing

// The rows of a change as JSON documents, for the audit and for templates: as
// Postgres's own to_jsonb would print them.

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/trigger"
)

// documents prints rows. It belongs to one goroutine.
type documents struct {
	types  types
	arrays *pgtype.Map

	cells   [2][]change.Cell // to be used again
	columns map[*change.Relation][]column
	learnt  uint64 // when columns were made

	room room
}

// types resolves domains.
type types interface {
	BaseType(oid uint32) uint32
	TypesLearnt() uint64
}

// column is how a column is printed.
type column struct {
	key   []byte // its name as JSON, and the colon
	kind  trigger.Kind
	array bool
}

func newDocuments(t types) documents {
	return documents{types: t, arrays: pgtype.NewMap(), columns: map[*change.Relation][]column{}}
}

// document gives a row as a JSON object; nil for a row that doesn't exist.
func (d *documents) document(rel *change.Relation, row change.Row) ([]byte, error) {
	cells, err := d.decode(0, row)
	if err != nil {
		return nil, err
	}
	return d.print(nil, d.newColumns(rel), row, cells), nil
}

// decode gives a row's cells until it is called with the same place, 0 or 1, again.
func (d *documents) decode(place int, row change.Row) (cells []change.Cell, err error) {
	if row == nil {
		return nil, nil
	}
	d.cells[place], err = row.Decode(d.cells[place])
	return d.cells[place], err
}

// print gives a row, whose columns and cells are given, as a JSON object; nil for a row that doesn't exist. It is in r, if that isn't nil.
func (d *documents) print(r *room, columns []column, row change.Row, cells []change.Cell) []byte {
	if row == nil {
		return nil
	}
	out := r.take(len(row) + 32*len(cells))
	out = append(out, '{')
	for i, c := range cells {
		if i >= len(columns) || c.Kind == change.Unchanged {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		col := &columns[i]
		out = append(out, col.key...)
		switch {
		case c.Kind == change.Null:
			out = append(out, "null"...)
		case col.array:
			out = d.appendArray(out, col.kind, c.Data)
		default:
			out = appendValue(out, col.kind, c.Data)
		}
	}
	return r.keep(append(out, '}'))
}

// mostLayouts bounds what is kept of relations: the stream brings a new one with each change of a table.
const mostLayouts = 1000

// columnsOf gives those of a relation of the stream; nil has none.
func (d *documents) columnsOf(rel *change.Relation) []column {
	if now := d.types.TypesLearnt(); now != d.learnt || len(d.columns) > mostLayouts {
		clear(d.columns)
		d.learnt = now
	}
	columns, known := d.columns[rel]
	if !known {
		columns = d.newColumns(rel)
		d.columns[rel] = columns
	}
	return columns
}

func (d *documents) newColumns(rel *change.Relation) []column {
	if rel == nil {
		return nil
	}
	columns := make([]column, len(rel.Columns))
	for i, col := range rel.Columns {
		c := &columns[i]
		c.key = append(appendString(nil, col.Name), ':')
		c.kind, c.array = trigger.KindOf(d.types.BaseType(col.TypeOID))
	}
	return columns
}

// room is where documents are printed that are written and forgotten soon: memory that is used again, not left to be
// collected with all that lives. A nil room gives new memory.
type room struct {
	blocks [][]byte
	at     int
}

const (
	roomBlock = 256 << 10
	roomMost  = flushBytes / roomBlock // blocks; documents beyond are in memory of their own
)

// take gives an empty slice with room for n bytes. It is appended to, and given to keep before the next one is taken.
func (r *room) take(n int) []byte {
	if r == nil || n > roomBlock/8 {
		return make([]byte, 0, n)
	}
	for ; r.at < roomMost; r.at++ {
		if r.at == len(r.blocks) {
			r.blocks = append(r.blocks, make([]byte, 0, roomBlock))
		}
		if b := r.blocks[r.at]; cap(b)-len(b) >= n {
			return b[len(b):]
		}
	}
	return make([]byte, 0, n)
}

// keep gives what was taken and appended to, as it is until the room is cleared.
func (r *room) keep(taken []byte) []byte {
	n := len(taken)
	if r != nil && r.at < len(r.blocks) && n > 0 {
		if b := r.blocks[r.at]; cap(b) > len(b) && &taken[0] == &b[len(b):cap(b)][0] {
			r.blocks[r.at] = b[:len(b)+n]
		}
	}
	return taken[:n:n]
}

func (r *room) clear() {
	for i := range r.blocks {
		r.blocks[i] = r.blocks[i][:0]
	}
	r.at = 0
}

func appendValue(out []byte, kind trigger.Kind, text []byte) []byte {
	switch kind {
	case trigger.KindBool:
		if len(text) > 0 && text[0] == 't' {
			return append(out, "true"...)
		}
		return append(out, "false"...)
	case trigger.KindNumber:
		if isNumber(text) {
			return append(out, text...)
		}
	case trigger.KindJSON:
		if json.Valid(text) {
			return append(out, text...)
		}
	case trigger.KindTimestamp, trigger.KindTimestampTZ:
		// "2026-01-02 03:04:05+00" -> "2026-01-02T03:04:05+00:00"
		if len(text) > 10 && text[10] == ' ' {
			iso := append([]byte{}, text...)
			iso[10] = 'T'
			if n := len(iso); n > 3 && (iso[n-3] == '+' || iso[n-3] == '-') {
				iso = append(iso, ":00"...)
			}
			return appendString(out, iso)
		}
	}
	return appendString(out, text)
}

// appendArray leaves arrays of more than one dimension in Postgres's own form.
func (d *documents) appendArray(out []byte, kind trigger.Kind, text []byte) []byte {
	var elements []*string
	if bytes.HasPrefix(text, []byte("{{")) || bytes.HasPrefix(text, []byte("[")) ||
		d.arrays.Scan(pgtype.TextArrayOID, pgtype.TextFormatCode, text, &elements) != nil {
		return appendString(out, text)
	}
	out = append(out, '[')
	for i, e := range elements {
		if i > 0 {
			out = append(out, ',')
		}
		if e == nil {
			out = append(out, "null"...)
		} else {
			out = appendValue(out, kind, []byte(*e))
		}
	}
	return append(out, ']')
}

// isNumber says whether Postgres's text is a JSON number too: not NaN, not Infinity.
func isNumber(text []byte) bool {
	if len(text) == 0 {
		return false
	}
	c := text[len(text)-1]
	return c >= '0' && c <= '9'
}

func appendString[T []byte | string](out []byte, text T) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x80 || c == '"' || c == '\\' {
			s, _ := json.Marshal(string(text)) //nolint:errchkjson // a string
			return append(out, s...)
		}
	}
	out = append(out, '"')
	out = append(out, text...)
	return append(out, '"')
}

// changedFields names the columns whose values differ, by name, so that a table
// altered inside the commit is no trouble.
func changedFields(ch *change.Change, before, after []change.Cell) []string {
	changed := []string{}
	if ch.Before == nil || ch.After == nil {
		return changed
	}
	for i, col := range ch.Relation.Columns {
		if i >= len(after) || after[i].Kind == change.Unchanged {
			continue
		}
		at := i
		if ch.BeforeRelation != ch.Relation && ch.BeforeRelation != nil {
			at = ch.BeforeRelation.Index(col.Name)
		}
		if at < 0 || at >= len(before) || before[at].Kind != after[i].Kind || !bytes.Equal(before[at].Data, after[i].Data) {
			changed = append(changed, col.Name)
		}
	}
	return changed
}

// eventOf gives a change as the document that filters are asked of.
func eventOf(r *row, created bool, organization string) (any, error) {
	event := map[string]any{"action": "updated", "object_type": r.objectType, "object_id": r.objectID, "organization_id": organization}
	data, err := numbered(r.data)
	if err != nil {
		return nil, err
	}
	event["data"] = data
	changed, previous := []any{}, map[string]any{}
	if created {
		event["action"] = "created"
	} else {
		all, err := numbered(r.previous)
		if err != nil {
			return nil, err
		}
		for _, name := range r.changed {
			changed = append(changed, name)
			previous[name] = all[name]
		}
	}
	event["changed_fields"], event["previous_data"] = changed, previous
	return event, nil
}

func numbered(document []byte) (map[string]any, error) {
	if document == nil {
		return nil, nil
	}
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("row as JSON: %w", err)
	}
	return v, nil
}
