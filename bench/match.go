package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/trigger"
)

// The world of the figures: a table of 32 columns (id, organization, 15 texts, 8
// numbers, 3 booleans, 2 dates, a moment, custom fields), triggers of one to four
// conditions, changes of one to three columns.
const (
	texts   = 15
	numbers = 8
	words   = 50 // values that triggers wait for, in each column
)

func word(rnd *rand.Rand) string { return fmt.Sprintf("value-%d", rnd.IntN(words)) }

func organization(i int) string { return fmt.Sprintf("org_%d", i) }

func regular(field, condition string) string {
	return `{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"` + field + `"},"condition":` + condition + `}`
}

func isOneOf(values ...string) string {
	raw, _ := json.Marshal(values)
	return `{"type":"term","values":` + string(raw) + `}`
}

func query(objectType string, conditions ...string) string {
	nodes := append([]string{`{"type":"object_type","object_type":"` + objectType + `"}`}, conditions...)
	return `{"type":"and","queries":[` + strings.Join(nodes, ",") + "]}"
}

// anyQuery is a trigger of one to four conditions. guarded ones also ask for a number
// that no row of the tables has, so that they are considered and don't fire.
func anyQuery(rnd *rand.Rand, guarded bool) string {
	var conditions []string
	atLeast := func() string {
		guarded = false
		return regular(fmt.Sprintf("number%d", rnd.IntN(numbers)), fmt.Sprintf(`{"type":"number_range","gte":%d}`, rnd.IntN(1000)))
	}
	for range 1 + rnd.IntN(4) {
		switch rnd.IntN(8) {
		case 0, 1, 2:
			conditions = append(conditions, regular(fmt.Sprintf("text%d", 1+rnd.IntN(texts-1)), isOneOf(word(rnd), word(rnd))))
		case 3:
			conditions = append(conditions, regular(fmt.Sprintf("text%d", 1+rnd.IntN(texts-1)), fmt.Sprintf(`{"type":"text","mode":"exact_value","value":%q}`, word(rnd))))
		case 4, 5:
			conditions = append(conditions, atLeast())
		case 6:
			conditions = append(conditions, regular(fmt.Sprintf("flag%d", rnd.IntN(3)), `{"type":"boolean","value":true}`))
		case 7:
			conditions = append(conditions, fmt.Sprintf(`{"type":"field_condition","field":{"type":"custom_field","custom_field_id":"cf_%d"},"condition":%s}`,
				rnd.IntN(8), isOneOf(word(rnd))))
		}
	}
	if guarded {
		conditions = append(conditions, atLeast())
	}
	return query("lead", conditions...)
}

func worldSchema() (trigger.Schema, *change.Relation) {
	s := trigger.Schema{ObjectType: "lead", ID: "id", Organization: "organization_id", Custom: "custom"}
	add := func(name string, kind trigger.Kind) {
		s.Fields = append(s.Fields, trigger.Field{Name: name, Kind: kind})
	}
	add("id", trigger.KindNumber)
	add("organization_id", trigger.KindText)
	for i := range texts {
		add(fmt.Sprintf("text%d", i), trigger.KindText)
	}
	for i := range numbers {
		add(fmt.Sprintf("number%d", i), trigger.KindNumber)
	}
	for i := range 3 {
		add(fmt.Sprintf("flag%d", i), trigger.KindBool)
	}
	for i := range 2 {
		add(fmt.Sprintf("day%d", i), trigger.KindDate)
	}
	add("at0", trigger.KindTimestampTZ)
	add("custom", trigger.KindJSON)
	rel := &change.Relation{OID: 1, Schema: "public", Name: "lead", Identity: change.IdentityFull}
	for _, f := range s.Fields {
		rel.Columns = append(rel.Columns, change.Column{Name: f.Name})
	}
	return s, rel
}

func cell(rnd *rand.Rand, f trigger.Field) change.Cell {
	var v string
	switch f.Kind { //nolint:exhaustive // the world has no others
	case trigger.KindNumber:
		v = fmt.Sprintf("%d.%02d", rnd.IntN(1000), rnd.IntN(100))
	case trigger.KindBool:
		v = []string{"t", "f"}[rnd.IntN(2)]
	case trigger.KindDate:
		v = fmt.Sprintf("2026-%02d-01", 1+rnd.IntN(12))
	case trigger.KindTimestampTZ:
		v = fmt.Sprintf("2026-%02d-01 10:00:00.123+00", 1+rnd.IntN(12))
	case trigger.KindJSON:
		fields := map[string]string{}
		for i := range 8 {
			fields[fmt.Sprintf("cf_%d", i)] = word(rnd)
		}
		raw, _ := json.Marshal(fields)
		v = string(raw)
	default:
		v = word(rnd)
	}
	return change.Cell{Kind: change.Text, Data: []byte(v)}
}

// differentRows is how many of them matching goes through: so few that they stay in the processor's caches, as those do
// in a feed that it has just received. Their organizations are any.
const differentRows = 400

// worldChanges are updates of one to three columns, one in five an insert.
func worldChanges(rnd *rand.Rand, s trigger.Schema, rel *change.Relation, organizations, n int) []change.Change {
	object := &change.Object{Type: "lead"}
	all := make([]change.Change, n)
	for i := range all {
		if i >= differentRows {
			all[i] = all[i%differentRows]
			all[i].Organization = organization(rnd.IntN(organizations))
			if all[i].Before != nil {
				all[i].OldOrganization = all[i].Organization
			}
			continue
		}
		cells := make([]change.Cell, len(s.Fields))
		for j, f := range s.Fields {
			cells[j] = cell(rnd, f)
		}
		org := organization(rnd.IntN(organizations))
		c := change.Change{Object: object, Relation: rel, BeforeRelation: rel, ID: "1", Organization: org}
		if rnd.IntN(5) > 0 {
			c.Before, c.OldOrganization = change.MakeRow(cells), org
			for range 1 + rnd.IntN(3) {
				j := 2 + rnd.IntN(len(cells)-2)
				cells[j] = cell(rnd, s.Fields[j])
			}
		}
		c.After = change.MakeRow(cells)
		all[i] = c
	}
	return all
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// matching measures the trigger package alone, on one core.
func matching(ctx context.Context, r *run) error {
	if r.wanted("match_only") || r.wanted("trigger_bytes") {
		if err := r.matchWorld(ctx, "match_only", r.organizations, r.triggers, 400_000); err != nil {
			return err
		}
	}
	if r.wanted("match_one_org") {
		return r.matchWorld(ctx, "match_one_org", 1, r.whale, 20_000)
	}
	return nil
}

func (r *run) matchWorld(ctx context.Context, name string, organizations, triggers int, reach float64) error {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same world each time
	schema, rel := worldSchema()
	before := heap()
	set := trigger.NewSet()
	set.SetSchema(schema, rel)
	text := 0
	for id := range triggers {
		q := anyQuery(rnd, false)
		text += len(q)
		err := set.Put(trigger.Definition{
			ID: int64(id), Version: 1, Organization: organization(id % organizations), ObjectType: "lead", Query: json.RawMessage(q),
		})
		if err != nil {
			return fmt.Errorf("trigger %s: %w", q, err)
		}
	}
	each := float64(heap()-before) / float64(triggers)
	changes := worldChanges(rnd, schema, rel, organizations, 20_000)
	var t turns
	var fired []trigger.Firing
	fires, matched := 0, 0
	var next [trigger.Window]*change.Change
	for range r.reps {
		value, err := r.timed(ctx, len(changes), func(i int) error {
			if i%trigger.Window == 0 {
				for k := range next {
					next[k] = &changes[(i+k)%len(changes)]
				}
				set.Expect(next[:])
			}
			var err error
			fired, _, err = set.Match(fired[:0], &changes[i])
			fires, matched = fires+len(fired), matched+1
			return err
		})
		if err != nil {
			return err
		}
		var cells []change.Cell
		reference, err := r.timed(ctx, len(changes), func(i int) error {
			var err error
			if changes[i].Before != nil {
				cells, err = changes[i].Before.Decode(cells[:0])
			}
			if err == nil {
				cells, err = changes[i].After.Decode(cells[:0])
			}
			return err
		})
		if err != nil {
			return err
		}
		t.add(value, reference)
	}
	err := r.add(t.into(Figure{
		Name: name, Unit: "changes/s/core", ReferenceName: "only taking both rows of each change apart", Reach: reach, of: ofValue,
		Conditions: fmt.Sprintf("%d triggers over %d organizations, 1 to 4 conditions each; 32 columns, updates of 1 to 3 of them, a fifth inserts, "+
			"%d different ones, each for any of the organizations; %.2f firings a change; in memory, one core", triggers, organizations, differentRows, float64(fires)/float64(matched)),
	}))
	if err != nil || name != "match_only" {
		return err
	}
	runtime.KeepAlive(set)
	return r.add(Figure{
		Name: "trigger_bytes", Unit: "B/trigger", Value: each, ReferenceName: "its query as text", Reference: float64(text) / float64(triggers),
		Reach: 400, of: ofValue, most: true,
		Conditions: fmt.Sprintf("%d triggers over %d organizations; live heap after GC", triggers, organizations),
	})
}

// timed calls f for a while, with 0 to n-1 over and over, and gives calls a second.
func (r *run) timed(ctx context.Context, n int, f func(i int) error) (float64, error) {
	runtime.GC()
	began, calls := time.Now(), 0
	for time.Since(began) < r.matching {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		for range 1000 {
			if err := f(calls % n); err != nil {
				return 0, err
			}
			calls++
		}
	}
	return float64(calls) / time.Since(began).Seconds(), nil
}
