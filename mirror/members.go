package mirror

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// This file reduces an object of custom fields to the members that somebody
// asks for, in one walk over Postgres's text that decodes nothing: the values
// are copied as they are. Postgres gives valid JSON only; what is torn or is no
// object reduces to nothing, but not every fault is noticed.

// members are the wanted ones.
type members struct {
	names   []string
	keys    [][]byte // each as `"name":`
	lengths uint64   // bit n: there is a name of n bytes (63: or more)
	index   map[string]int
	found   []span
}

// span is where a value is; the zero span is none, as no value starts at 0.
type span struct{ start, end int }

func newMembers(names []string) members {
	m := members{names: slices.Compact(slices.Sorted(slices.Values(names))), index: map[string]int{}}
	for i, name := range m.names {
		var key bytes.Buffer
		e := json.NewEncoder(&key)
		e.SetEscapeHTML(false)
		_ = e.Encode(name) // strings can be encoded
		m.keys = append(m.keys, append(bytes.TrimSpace(key.Bytes()), ':'))
		m.lengths |= lengthBit(len(name))
		m.index[name] = i
	}
	m.found = make([]span, len(m.names))
	return m
}

func lengthBit(n int) uint64 { return 1 << min(n, 63) }

// reduce appends the object of the wanted members to dst, in the order of their
// names so that equal ones have equal text. It is not ok when there are none.
func (m *members) reduce(dst, object []byte) (reduced []byte, ok bool) {
	if !m.find(object) {
		return dst, false
	}
	start := len(dst)
	for i, s := range m.found {
		if s.end == 0 {
			continue
		}
		if len(dst) == start {
			dst = append(dst, '{')
		} else {
			dst = append(dst, ',')
		}
		dst = append(dst, m.keys[i]...)
		dst = append(dst, object[s.start:s.end]...)
	}
	if len(dst) == start {
		return dst, false
	}
	return append(dst, '}'), true
}

// find notes where the wanted members' values are. json, unlike jsonb, may hold
// a key twice: the last counts.
func (m *members) find(b []byte) bool {
	clear(m.found)
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return space(b, i+1) == len(b)
	}
	for {
		start := space(b, i)
		end := quoted(b, start)
		if end < 0 {
			return false
		}
		i = space(b, end)
		if i >= len(b) || b[i] != ':' {
			return false
		}
		at := space(b, i+1)
		if i = value(b, at); i < 0 {
			return false
		}
		if wanted := m.wanted(b[start+1 : end-1]); wanted >= 0 {
			m.found[wanted] = span{at, i}
		}
		i = space(b, i)
		if i >= len(b) {
			return false
		}
		switch b[i] {
		case ',':
			i++
		case '}':
			return space(b, i+1) == len(b)
		default:
			return false
		}
	}
}

// wanted gives the number of a key, -1 if nobody asks for it.
func (m *members) wanted(key []byte) int {
	if bytes.IndexByte(key, '\\') >= 0 {
		key = unescape(key)
	}
	if m.lengths&lengthBit(len(key)) == 0 {
		return -1
	}
	if i, ok := m.index[string(key)]; ok {
		return i
	}
	return -1
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// quoted gives the end of the string that starts at i, or -1.
func quoted(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}

// value gives the end of the value that starts at i, or -1.
func value(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return quoted(b, i)
	case '{', '[':
		return nested(b, i)
	}
	start := i
	for i < len(b) && isWord(b[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// isWord says whether a byte can be in a number, true, false or null.
func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E'
}

// nested gives the end of the object or array that starts at i, or -1.
func nested(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = quoted(b, i); i < 0 {
				return -1
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return -1
}

// unescape gives what a key with escapes means.
func unescape(key []byte) []byte {
	out := make([]byte, 0, len(key))
	for i := 0; i < len(key); i++ {
		if key[i] != '\\' || i+1 == len(key) {
			out = append(out, key[i])
			continue
		}
		i++
		switch c := key[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex(key, i+1)
			if !ok {
				out = append(out, c)
				continue
			}
			i += 4
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), false
				if i+2 < len(key) && key[i+1] == '\\' && key[i+2] == 'u' {
					low, ok = hex(key, i+3)
				}
				if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
	}
	return out
}

func hex(b []byte, i int) (r rune, ok bool) {
	if i+4 > len(b) {
		return 0, false
	}
	for _, c := range b[i : i+4] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r |= rune(c|0x20-'a') + 10
		default:
			return 0, false
		}
	}
	return r, true
}
