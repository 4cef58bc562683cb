package trigger

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// The codes of a Problem.
const (
	CodeTextMode       = "unsupported_in_trigger.text_mode"
	CodeRelativeMoment = "unsupported_in_trigger.relative_moment"
	CodeCurrentUser    = "unsupported_in_trigger.current_user"
	CodeComputedField  = "unsupported_in_trigger.computed_field"
	CodeSavedSearch    = "unsupported_in_trigger.saved_search"
	CodeBareText       = "unsupported_in_trigger.bare_text"
	CodeHasRelated     = "unsupported_in_trigger.has_related"

	CodeInvalidJSON      = "invalid_json"
	CodeUnknownNode      = "unknown_node"
	CodeUnknownCondition = "unknown_condition"
	CodeMissingMember    = "missing_member"
	CodeUnknownMember    = "unknown_member"
	CodeTypeMismatch     = "type_mismatch"
	CodeTooDeep          = "too_deep"
	CodeTooLarge         = "too_large"

	CodeUnknownField        = "unknown_field"
	CodeWrongObjectType     = "wrong_object_type"
	CodeUnknownObjectType   = "unknown_object_type"
	CodeObjectTypeMissing   = "object_type_missing"
	CodeObjectTypeRepeated  = "object_type_repeated"
	CodeObjectTypeMisplaced = "object_type_misplaced"
	CodeRelationUnknown     = "relation_unknown"
	CodeRelationAmbiguous   = "relation_ambiguous"
)

// Problem is one thing that is wrong with a query.
type Problem struct {
	// Pointer is the RFC 6901 JSON pointer of the value that is wrong.
	Pointer string `json:"pointer"`
	// Code is one of the Code constants.
	Code string `json:"code"`
	// Message is one line of English that says what to do.
	Message string `json:"message"`
	// Nearest is a value that may be put at Pointer instead; nil where there is
	// none that means nearly the same.
	Nearest json.RawMessage `json:"nearest,omitempty"`

	at int // offset in the query, for the order
}

// ValidationError says everything that is wrong with a query, in the order of
// its text. It is returned by Parse, Check and Set.Put.
type ValidationError struct {
	Problems []Problem `json:"problems"`
}

// Error gives the problems one after another on one line.
func (e *ValidationError) Error() string {
	var b strings.Builder
	for i := range e.Problems {
		p := &e.Problems[i]
		if i > 0 {
			b.WriteString("; ")
		}
		if p.Pointer != "" {
			b.WriteString(p.Pointer)
			b.WriteString(": ")
		}
		b.WriteString(p.Message)
		b.WriteString(" (")
		b.WriteString(p.Code)
		b.WriteString(")")
	}
	return b.String()
}

// newValidationError returns an error without a type when there is no problem,
// so that the result can be compared with nil.
func newValidationError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return a.at - b.at })
	return &ValidationError{Problems: problems}
}

// step is one reference token of a JSON pointer: a member's name, or else an index.
type step struct {
	key string
	idx int
}

// path is the pointer of the value being looked at.
type path []step

func (p *path) key(k string) { *p = append(*p, step{key: k}) }
func (p *path) idx(i int)    { *p = append(*p, step{idx: i}) }
func (p *path) pop()         { *p = (*p)[:len(*p)-1] }

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func (p path) String() string {
	var b strings.Builder
	for _, s := range p {
		b.WriteByte('/')
		if s.key != "" {
			_, _ = pointerEscaper.WriteString(&b, s.key)
		} else {
			b.WriteString(strconv.Itoa(s.idx))
		}
	}
	return b.String()
}

// closest finds the candidate that was most probably meant by name, or "".
func closest(name string, candidates func(yield func(string) bool)) string {
	best, bestDistance := "", max(2, len(name)/3)+1
	lower := strings.ToLower(name)
	for c := range candidates {
		if d := distance(lower, strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is Levenshtein's, over bytes, for names of at most 64 bytes.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 1 << 10
	}
	var row [65]int
	for j := range len(b) + 1 {
		row[j] = j //nolint:gosec // at most 64
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
