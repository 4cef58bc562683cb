package trigger

import (
	"encoding/json"
	"strconv"
	"strings"
)

// relatedExpr is has_related as evaluation wants it: at least so many objects
// that are related this way match.
type relatedExpr struct {
	relation Relation
	atLeast  uint32
	query    expr // asked of each related object
}

// relatedNode compiles has_related. "From a to b" becomes "at least a, and not at
// least b + 1", so that each part can only become true by what adds a match, or,
// negated, by what takes one away.
func (c *compiler) relatedNode(n *node, negate bool) expr {
	r := &n.related
	if c.schemas == nil {
		c.report(n.at, CodeHasRelated, nil, "has_related can't be used here; put the conditions on %q itself", r.other)
		return constant(!negate)
	}
	if c.depth == MaxRelated {
		c.report(n.at, CodeTooDeep, nil, "has_related is nested more than %d deep; put a trigger on a type that is nearer to the innermost one", MaxRelated)
		return constant(!negate)
	}
	if c.objectType != "" && r.this != c.objectType {
		right := *n
		right.related.this = c.objectType
		c.in("this_object_type", func() {
			c.report(n.at, CodeWrongObjectType, json.RawMessage(quoted(c.objectType)), "the query here is on %q, so its related objects can't be those of %q", c.objectType, r.this)
		})
		return constant(!negate)
	}
	other := c.schemas(r.other)
	if other == nil {
		c.in("related_object_type", func() {
			c.report(n.at, CodeUnknownObjectType, nil, "there is no object type %q; watch its table first", r.other)
		})
	}
	relation, found := c.relation(n, other)

	outer := *c
	c.schema, c.objectType, c.depth = other, r.other, c.depth+1
	c.pinned, c.unsure = 0, false
	c.path.key("related_query")
	query := c.node(r.query, false, true)
	c.path.pop()
	c.schema, c.objectType, c.depth, c.pinned, c.unsure = outer.schema, outer.objectType, outer.depth, outer.pinned, outer.unsure
	if !found {
		return constant(!negate)
	}

	least, most := r.bounds()
	if least > most {
		c.in("at_most", func() {
			c.report(n.at, CodeTypeMismatch, nil, "no number is at least %d and at most %d; exchange them", least, most)
		})
	}
	atLeast := func(n uint64, negate bool) expr {
		switch {
		case n == 0:
			return constant(!negate)
		case query.op == opFalse:
			return constant(negate)
		}
		return expr{op: opRelated, negate: negate, related: &relatedExpr{relation: relation, atLeast: uint32(n), query: query}}
	}
	if most == unbounded {
		return atLeast(least, negate)
	}
	return both(atLeast(least, negate), atLeast(most+1, !negate), negate)
}

const unbounded = 1 << 32

// bounds gives how many related objects must match. Without bounds it is one or more.
func (r *related) bounds() (least, most uint64) {
	least, most = 1, unbounded
	if r.most.kind != litNone {
		least = 0
		most, _ = strconv.ParseUint(r.most.text, 10, 31)
	}
	if r.least.kind != litNone {
		least, _ = strconv.ParseUint(r.least.text, 10, 31)
	}
	return least, most
}

// both joins two parts of a node by and, or, where the node is negated, by or.
func both(a, b expr, negate bool) expr {
	op, neutral := byte(opAnd), byte(opTrue)
	if negate {
		op, neutral = opOr, opFalse
	}
	switch {
	case a.op == neutral:
		return b
	case b.op == neutral:
		return a
	case a.op == opTrue || a.op == opFalse:
		return a
	case b.op == opTrue || b.op == opFalse:
		return b
	}
	return expr{op: op, kids: []expr{a, b}}
}

// relation finds the relation that a has_related means.
func (c *compiler) relation(n *node, other *Schema) (Relation, bool) {
	r := &n.related
	if c.schema == nil || other == nil {
		return Relation{}, false
	}
	var fits []Relation
	for _, rel := range c.schema.Relations {
		if rel.RelatedType == r.other && (r.field == "" || r.field == rel.Column) && (r.otherField == "" || r.otherField == rel.RelatedColumn) {
			fits = append(fits, rel)
		}
	}
	if len(fits) == 1 {
		if c.schema.field(fits[0].Column) != nil && other.field(fits[0].RelatedColumn) != nil {
			return fits[0], true
		}
		fits = nil
	}
	if len(fits) == 0 {
		var known []string
		for _, rel := range c.schema.Relations {
			known = append(known, strconv.Quote(rel.RelatedType)+" by "+rel.Column+" = "+rel.RelatedColumn)
		}
		has := "it has no relations"
		if len(known) > 0 {
			has = "it is related to " + strings.Join(known, ", ")
		}
		c.report(n.at, CodeRelationUnknown, nil, "%q is not related to %q in this way: %s. Relations are the foreign keys between watched tables; after adding one run watch again", r.this, r.other, has)
		return Relation{}, false
	}
	var ways []string
	for _, rel := range fits {
		ways = append(ways, rel.Column+" = "+rel.RelatedColumn)
	}
	right := *n
	right.related.field, right.related.otherField = fits[0].Column, fits[0].RelatedColumn
	c.report(n.at, CodeRelationAmbiguous, appendNode(nil, &right), "%q is related to %q in several ways (%s); say which by this_field_name and related_field_name", r.this, r.other, strings.Join(ways, ", "))
	return Relation{}, false
}
