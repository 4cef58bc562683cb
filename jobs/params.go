package jobs

// Reading single parameters, with errors that name them.

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// textParam is a parameter as text: a string, number or bool; absent and null are "".
func textParam(p map[string]any, name string) (string, error) {
	switch v := p[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number, bool:
		return fmt.Sprint(v), nil
	default:
		return "", fmt.Errorf("%s: use a string", name)
	}
}

// textParams reads several, in the order of their names.
func textParams(p map[string]any, names ...string) (map[string]string, error) {
	out := make(map[string]string, len(names))
	for _, name := range names {
		s, err := textParam(p, name)
		if err != nil {
			return nil, err
		}
		out[name] = s
	}
	return out, nil
}

func validateText(params json.RawMessage, names ...string) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	_, err = textParams(p, names...)
	return err
}

// headerValue refuses what would end a header line and begin another.
func headerValue(name, s string) error {
	if strings.ContainsAny(s, "\r\n\x00") {
		return fmt.Errorf("%s: line breaks are not allowed here (use the filter strip_newlines)", name)
	}
	return nil
}

// constant says whether a parameter is known at save: no template stands in it.
func constant(s string) bool { return s != "" && !isTemplate(s) }

var errNotObject = errors.New("use an object of column names and values")

func objectParam(p map[string]any, name string) (map[string]any, error) {
	m, ok := p[name].(map[string]any)
	if !ok || len(m) == 0 {
		return nil, fmt.Errorf("%s: %w", name, errNotObject)
	}
	for column := range m {
		if column == "" || isTemplate(column) || strings.ContainsRune(column, 0) {
			return nil, fmt.Errorf("%s: %q is not a column name: templates can only stand in values", name, excerpt(column))
		}
	}
	return m, nil
}
