package trigger

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pgautomate/pgautomate/internal/jsonscan"
)

// The reader of queries builds a tree that keeps offsets, the order of members and
// numbers as they were written, and refuses what is not JSON. What Postgres printed
// is read by package jsonscan.

// jval is a JSON value of a query. kind is the first byte of its text ('0' for
// every number).
type jval struct {
	kind    byte
	at, end int
	str     string // of a string, decoded
	members []jmember
}

// jmember is a member of an object, or an element of an array, which has no key.
type jmember struct {
	key string
	val jval
}

func (v *jval) get(key string) *jval {
	for i := range v.members {
		if v.members[i].key == key {
			return &v.members[i].val
		}
	}
	return nil
}

// maxNesting bounds the recursion. A query of MaxDepth nodes needs fewer than
// three levels for each, and a moment a few more.
const maxNesting = 64

type jsonError struct {
	at      int
	msg     string
	tooDeep bool
}

// jsonParser can be used again for the next query; what it gave for the one
// before is overwritten then.
type jsonParser struct {
	s     string
	at    int
	depth int
	stack []jmember // of the objects and arrays that are being read
	slab  []jmember // of those that are
}

func (p *jsonParser) fail(format string, args ...any) {
	panic(jsonError{at: p.at, msg: fmt.Sprintf(format, args...)})
}

// parseJSON reads exactly one value.
func parseJSON(s string) (jval, *jsonError) {
	return new(jsonParser).parse(s)
}

func (p *jsonParser) parse(s string) (v jval, err *jsonError) {
	p.s, p.at, p.depth = s, 0, 0
	p.stack, p.slab = p.stack[:0], p.slab[:0]
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(jsonError)
			if !ok {
				panic(r)
			}
			err = &e
		}
	}()
	p.space()
	v = p.value()
	p.space()
	if p.at < len(s) {
		p.fail("unexpected %q after the query", s[p.at])
	}
	return v, nil
}

func (p *jsonParser) space() {
	for p.at < len(p.s) {
		switch p.s[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *jsonParser) peek() byte {
	if p.at >= len(p.s) {
		p.ended()
	}
	return p.s[p.at]
}

//go:noinline
func (p *jsonParser) ended() { p.fail("unexpected end of the query") }

func (p *jsonParser) expect(c byte) {
	if got := p.peek(); got != c {
		p.fail("expected %q, found %q", c, got)
	}
	p.at++
}

func (p *jsonParser) word(w string) {
	if !strings.HasPrefix(p.s[p.at:], w) {
		p.fail("expected a value, found %q", p.s[p.at])
	}
	p.at += len(w)
}

func (p *jsonParser) value() (v jval) {
	v.at = p.at
	c := p.peek()
	v.kind = c
	switch c {
	case '{':
		p.enter()
		v.members = p.object()
		p.depth--
	case '[':
		p.enter()
		v.members = p.array()
		p.depth--
	case '"':
		v.str = p.string()
	case 't':
		p.word("true")
	case 'f':
		p.word("false")
	case 'n':
		p.word("null")
	default:
		v.kind = '0'
		p.number()
	}
	v.end = p.at
	return v
}

func (p *jsonParser) enter() {
	p.at++
	if p.depth++; p.depth > maxNesting {
		panic(jsonError{at: p.at - 1, tooDeep: true, msg: "nested too deeply"})
	}
}

func (p *jsonParser) object() []jmember {
	p.space()
	if p.peek() == '}' {
		p.at++
		return nil
	}
	start := len(p.stack)
	for {
		p.space()
		at := p.at
		if p.peek() != '"' {
			p.fail("expected a member's name, found %q", p.s[p.at])
		}
		m := jmember{key: p.string()}
		for i := range p.stack[start:] {
			if p.stack[start+i].key == m.key {
				p.at = at
				p.fail("the member %q is there twice", m.key)
			}
		}
		p.space()
		p.expect(':')
		p.space()
		m.val = p.value()
		p.stack = append(p.stack, m)
		p.space()
		if p.peek() == '}' {
			p.at++
			return p.keep(start)
		}
		p.expect(',')
	}
}

func (p *jsonParser) array() []jmember {
	p.space()
	if p.peek() == ']' {
		p.at++
		return nil
	}
	start := len(p.stack)
	for {
		p.space()
		p.stack = append(p.stack, jmember{val: p.value()})
		p.space()
		if p.peek() == ']' {
			p.at++
			return p.keep(start)
		}
		p.expect(',')
	}
}

// keep moves what is on the stack from start on to where it stays.
func (p *jsonParser) keep(start int) []jmember {
	at := len(p.slab)
	p.slab = append(p.slab, p.stack[start:]...)
	p.stack = p.stack[:start]
	return p.slab[at:len(p.slab):len(p.slab)]
}

// plainASCII are the bytes that stand for themselves in a string.
var plainASCII = func() (plain [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

func (p *jsonParser) string() string {
	p.at++
	start := p.at
	plain := true
	for p.at < len(p.s) && plainASCII[p.s[p.at]] {
		p.at++
	}
	for {
		switch c := p.peek(); {
		case c == '"':
			raw := p.s[start:p.at]
			p.at++
			if plain {
				return raw
			}
			return string(jsonscan.Unquote(nil, raw))
		case c == '\\':
			plain = false
			p.at++
			switch p.peek() {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				p.at++
			case 'u':
				p.at++
				for range 4 {
					if !jsonscan.IsHex(p.peek()) {
						p.fail("expected four hexadecimal digits after \\u")
					}
					p.at++
				}
			default:
				p.fail("unknown escape \\%c in a string", p.s[p.at])
			}
		case c < 0x20:
			p.fail("a control character must be escaped in a string")
		case c < utf8.RuneSelf:
			p.at++
		default:
			r, size := utf8.DecodeRuneInString(p.s[p.at:])
			if r == utf8.RuneError && size == 1 {
				p.fail("a string holds bytes that are not UTF-8")
			}
			p.at += size
		}
	}
}

func (p *jsonParser) digits() {
	if c := p.peek(); c < '0' || c > '9' {
		p.fail("expected a digit, found %q", c)
	}
	for p.at < len(p.s) && p.s[p.at] >= '0' && p.s[p.at] <= '9' {
		p.at++
	}
}

func (p *jsonParser) number() {
	if p.peek() == '-' {
		p.at++
	} else if c := p.peek(); c < '0' || c > '9' {
		p.fail("expected a value, found %q", c)
	}
	if p.peek() == '0' {
		p.at++
	} else {
		p.digits()
	}
	if p.at < len(p.s) && p.s[p.at] == '.' {
		p.at++
		p.digits()
	}
	if p.at < len(p.s) && p.s[p.at]|0x20 == 'e' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		p.digits()
	}
}
