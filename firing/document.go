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
	types  interface{ BaseType(oid uint32) uint32 } // resolves domains
	arrays *pgtype.Map
}

// document gives a row as a JSON object; nil for a row that doesn't exist.
func (d *documents) document(rel *change.Relation, row change.Row) ([]byte, error) {
	if row == nil {
		return nil, nil
	}
	cells, err := row.Decode(make([]change.Cell, 0, len(rel.Columns)))
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(row)+32*len(cells))
	out = append(out, '{')
	for i, c := range cells {
		if i >= len(rel.Columns) || c.Kind == change.Unchanged {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = appendString(out, rel.Columns[i].Name)
		out = append(out, ':')
		if c.Kind == change.Null {
			out = append(out, "null"...)
			continue
		}
		kind, array := trigger.KindOf(d.types.BaseType(rel.Columns[i].TypeOID))
		if array {
			out = d.appendArray(out, kind, c.Data)
		} else {
			out = appendValue(out, kind, c.Data)
		}
	}
	return append(out, '}'), nil
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
func changedFields(ch *change.Change) ([]string, error) {
	if ch.Before == nil || ch.After == nil {
		return []string{}, nil
	}
	before, err := ch.Before.Decode(nil)
	if err != nil {
		return nil, err
	}
	after, err := ch.After.Decode(nil)
	if err != nil {
		return nil, err
	}
	changed := []string{}
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
	return changed, nil
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
