package trigger

import (
	"fmt"
	"strings"
	"sync"
	"unicode"
)

// Text in SQL, the same under every collation.
//
// Lower case: Postgres's lower() depends on the collation, its provider and its
// version. But the text that is looked for is known, so it is enough to lower the
// letters that occur in it: translate() maps exactly those characters that Go's
// unicode.ToLower maps to them, one by one, and leaves the others, which then are
// different anyway.
//
// Words (full_words, phrase, beginning_of_words) are the longest runs of letters,
// digits and the marks that go with them; everything else separates. Not
// to_tsvector: its parser keeps e-mail addresses, paths and numbers whole, so that
// nobody finds "acme" in "jane@acme.com", and it fails on long texts.

// bytewise is text that is compared byte by byte, whatever the collation.
func bytewise(x string) string { return "(" + x + ` COLLATE "C")` }

// folded writes x with those characters lowered that lower's letters come from.
func (c *sqlCompiler) folded(x, lower string) string {
	from, to := uppers(lower)
	if from == "" {
		return bytewise(x)
	}
	return "translate(" + bytewise(x) + ", " + c.arg(from) + "::text, " + c.arg(to) + "::text)"
}

// equalFold writes whether x in lower case is lower, which is in lower case.
func (c *sqlCompiler) equalFold(x, lower string) string {
	if strings.ContainsRune(lower, 0) {
		return sqlFalse // no text in Postgres holds it
	}
	value := c.arg(lower) + "::text"
	if from, _ := uppers(lower); from == "" {
		return c.equals(x, value)
	}
	// Lowering maps rune to rune, so that a text with more bytes than this has more
	// runes. It spares long texts: they are not even fetched for their length.
	return "octet_length(" + x + ") <= " + c.arg(4*len(lower)) + "::int4 AND " + c.folded(x, lower) + " = " + value
}

// equals writes byte for byte equality with a value. The first comparison is there
// for an index; under a collation that is not deterministic it holds for more.
func (c *sqlCompiler) equals(x, value string) string {
	return x + " = " + value + " AND " + bytewise(x) + " = " + value
}

// words writes whether the words of value are in x. Without words it is false.
func (c *sqlCompiler) words(x, mode, value string) string {
	lower := strings.ToLower(value)
	list := strings.FieldsFunc(lower, isSeparator)
	if len(list) == 0 {
		return sqlFalse
	}
	var sought []string
	switch mode {
	case "phrase":
		sought = []string{" " + strings.Join(list, " ") + " "}
	case "beginning_of_words":
		for _, w := range list {
			sought = append(sought, " "+w)
		}
	default: // full_words
		for _, w := range list {
			sought = append(sought, " "+w+" ")
		}
	}
	// OFFSET 0 so that the text is taken apart once, not for each word.
	return "(SELECT bool_and(strpos(pg_s.v, " + bytewise("pg_w.v") + ") > 0) FROM (SELECT ' ' || regexp_replace(" +
		c.folded(x, strings.Join(list, "")) + ", " + c.arg(separators().pattern) + "::text, ' ', 'g') || ' ' AS v OFFSET 0) pg_s, unnest(" +
		c.arg(sought) + "::text[]) pg_w(v))"
}

// text writes a text condition on x, which is text.
func (c *sqlCompiler) text(x string, kind Kind, cond *condition) string {
	value := cond.values[0].text
	if cond.mode != exactValue {
		return c.words(x, cond.mode, value)
	}
	value = strings.ToLower(value)
	if kind == KindPadded {
		value = strings.TrimRight(value, " ")
	}
	return c.equalFold(x, value)
}

// lowered maps what unicode.ToLower gives to the other runes that it gives it for.
var lowered = sync.OnceValue(func() map[rune][]rune {
	m := map[rune][]rune{}
	for _, cr := range unicode.CaseRanges {
		for r := rune(cr.Lo); r <= rune(cr.Hi); r++ {
			if l := unicode.ToLower(r); l != r {
				m[l] = append(m[l], r)
			}
		}
	}
	return m
})

// uppers gives the characters that are lowered to one in text, and those they are lowered to.
func uppers(text string) (from, to string) {
	var f, t strings.Builder
	seen := map[rune]bool{}
	for _, r := range text {
		if seen[r] {
			continue
		}
		seen[r] = true
		for _, u := range lowered()[r] {
			f.WriteRune(u)
			t.WriteRune(r)
		}
	}
	return f.String(), t.String()
}

type separatorTable struct {
	ranges  [][2]rune
	pattern string // one or more of them, as Postgres's regular expression
}

func isSeparator(r rune) bool {
	for _, s := range separators().ranges { // ordered
		if r <= s[1] {
			return r >= s[0]
		}
	}
	return false
}

// separators are all characters that are neither letters nor marks nor numbers.
// Code points that mean nothing yet go with their neighbours, for a shorter table.
var separators = sync.OnceValue(func() (t separatorTable) {
	start, open := rune(0), false
	last := rune(0) // of the separators seen since
	end := func() {
		if open {
			t.ranges = append(t.ranges, [2]rune{start, last})
		}
		open = false
	}
	for r := rune(1); r <= unicode.MaxRune; r++ {
		switch {
		case unicode.In(r, unicode.L, unicode.M, unicode.N):
			end()
		case unicode.In(r, unicode.P, unicode.S, unicode.Z, unicode.Cc, unicode.Cf, unicode.Co):
			if !open {
				start, open = r, true
			}
			last = r
		}
	}
	end()
	var b strings.Builder
	b.WriteString("[")
	for _, s := range t.ranges {
		b.WriteString(escaped(s[0]))
		if s[0] != s[1] {
			b.WriteString("-" + escaped(s[1]))
		}
	}
	b.WriteString("]+")
	t.pattern = b.String()
	return t
})

func escaped(r rune) string {
	if r <= 0xFFFF {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
