package mirror

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/pgautomate/pgautomate/internal/jsonscan"
)

// This file reduces an object of custom fields to the members that somebody
// asks for; the values are copied as they are. What is torn or is no object
// reduces to nothing, but not every fault is noticed.

// members are the wanted ones.
type members struct {
	names   []string
	keys    [][]byte // each as `"name":`
	lengths uint64   // bit n: there is a name of n bytes (63: or more)
	index   map[string]int
	found   [][]byte // their values, nil for none

	all   []jsonscan.Member // of the object at hand
	plain []byte
}

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
	m.found = make([][]byte, len(m.names))
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
	for i, value := range m.found {
		if value == nil {
			continue
		}
		if len(dst) == start {
			dst = append(dst, '{')
		} else {
			dst = append(dst, ',')
		}
		dst = append(dst, m.keys[i]...)
		dst = append(dst, value...)
	}
	if len(dst) == start {
		return dst, false
	}
	return append(dst, '}'), true
}

// find notes the wanted members' values. json, unlike jsonb, may hold a key twice:
// the last counts.
func (m *members) find(object []byte) (ok bool) {
	clear(m.found)
	if m.all, ok = jsonscan.Members(m.all[:0], object); !ok {
		return false
	}
	for _, member := range m.all {
		if i := m.wanted(member.Key); i >= 0 {
			m.found[i] = member.Value
		}
	}
	return true
}

// wanted gives the number of a key, -1 if nobody asks for it.
func (m *members) wanted(key []byte) int {
	if bytes.IndexByte(key, '\\') >= 0 {
		m.plain = jsonscan.Unquote(m.plain[:0], key)
		key = m.plain
	}
	if m.lengths&lengthBit(len(key)) == 0 {
		return -1
	}
	if i, ok := m.index[string(key)]; ok {
		return i
	}
	return -1
}
