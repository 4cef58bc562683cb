// Package jsonscan reads the JSON that Postgres printed without building or
// allocating anything: where a value ends, what an object's members are, what a
// string means. It trusts Postgres that the text is JSON, and only says no where
// it can't go on.
package jsonscan

import (
	"unicode/utf16"
	"unicode/utf8"
)

// Member is one member of an object. Key is the inside of its string, escapes and
// all.
type Member struct {
	Key, Value []byte
}

// Members appends the members of an object. It is false for text that is none.
func Members(dst []Member, b []byte) ([]Member, bool) {
	i := Space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return dst, false
	}
	i = Space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return dst, Space(b, i+1) == len(b)
	}
	for {
		i = Space(b, i)
		if i >= len(b) || b[i] != '"' {
			return dst, false
		}
		keyEnd := quoted(b, i)
		if keyEnd < 0 {
			return dst, false
		}
		key := b[i+1 : keyEnd-1]
		i = Space(b, keyEnd)
		if i >= len(b) || b[i] != ':' {
			return dst, false
		}
		i = Space(b, i+1)
		end := Value(b, i)
		if end < 0 {
			return dst, false
		}
		dst = append(dst, Member{Key: key, Value: b[i:end]})
		i = Space(b, end)
		if i >= len(b) {
			return dst, false
		}
		switch b[i] {
		case ',':
			i++
		case '}':
			return dst, Space(b, i+1) == len(b)
		default:
			return dst, false
		}
	}
}

// Space gives the first place from i on that is not white space.
func Space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// Value gives the end of the value that starts at i, or -1.
func Value(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return quoted(b, i)
	case '{', '[':
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

// quoted gives the end of the string that starts at i, or -1.
func quoted(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// Unquote appends the meaning of a JSON string's inside. Broken escapes become U+FFFD.
func Unquote[S []byte | string](dst []byte, s S) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		if i+1 >= len(s) {
			return utf8.AppendRune(dst, utf8.RuneError)
		}
		i += 2
		switch s[i-1] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case '"', '\\', '/':
			dst = append(dst, s[i-1])
		case 'u':
			r, ok := unicodeEscape(s, i)
			if !ok {
				dst = utf8.AppendRune(dst, utf8.RuneError)
				continue
			}
			i += 4
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), false
				if i+1 < len(s) && s[i] == '\\' && s[i+1] == 'u' {
					low, ok = unicodeEscape(s, i+2)
				}
				if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
					r = pair
					i += 6
				} else {
					r = utf8.RuneError
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		}
	}
	return dst
}

func unicodeEscape[S []byte | string](s S, i int) (rune, bool) {
	if i+4 > len(s) {
		return 0, false
	}
	for j := range 4 {
		if !IsHex(s[i+j]) {
			return 0, false
		}
	}
	return Hex(s[i:]), true
}

// IsHex says whether a byte is a hexadecimal digit.
func IsHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// Hex reads the first four bytes, which are hexadecimal digits.
func Hex[S []byte | string](s S) rune {
	var r rune
	for i := range 4 {
		c := s[i]
		switch {
		case c <= '9':
			c -= '0'
		default:
			c = c | 0x20 - 'a' + 10
		}
		r = r<<4 | rune(c)
	}
	return r
}
