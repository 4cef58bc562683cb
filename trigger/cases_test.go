package trigger

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// The acceptance cases (T…) that need no database: those of evaluation. Each
// step is one commit; fires says whether the trigger fires for it.

type commit struct {
	before, after cols
	fires         bool
}

var (
	statusC = fc("status_id", term("C"))
	qs      = q("lead", statusC)
)

func status(s string) cols { return cols{"id": "1", "status_id": s} }

func TestCases(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("lorem ipsum ", 9000)
	tests := []struct {
		name  string
		query string
		steps []commit
	}{
		{"T01", qs, []commit{{status("Q"), status("C"), true}}},
		{"T02", qs, []commit{{status("Q"), status("L"), false}}},
		{"T03", qs, []commit{{cols{"status_id": "C", "source": "a"}, cols{"status_id": "C", "source": "b"}, false}}},
		{"T04", qs, []commit{{status("C"), status("X"), false}}},
		{"T05 delete", qs, []commit{{status("C"), nil, false}}},
		{"T06 insert", qs, []commit{{nil, status("C"), true}}},
		{"T07", qs, []commit{{nil, status("Q"), false}, {status("Q"), status("C"), true}}},
		{"T08", qs, []commit{{status("C"), status("L"), false}, {status("L"), status("C"), true}}},
		{"T13", qs, []commit{{status("C"), status("C"), false}}},

		{"T16", q("lead", fc("source", term("web", "ads"))), []commit{
			{cols{"source": "web"}, cols{"source": "ads"}, false}, {cols{}, cols{"source": "ads"}, true},
		}},
		{"T17", q("lead", not(fc("owner_id", exists))), []commit{{cols{"owner_id": "u1"}, cols{}, true}}},
		{"T18", q("lead", not(statusC)), []commit{{status("C"), status("L"), true}, {status("L"), status("Q"), false}}},
		{"T20", q("lead", not(fc("owner_id", `{"type":"reference","reference_type":"user","object_ids":["u1"]}`))), []commit{
			{nil, cols{}, true}, {cols{"owner_id": "u1"}, cols{"owner_id": "u2"}, true}, {cols{}, cols{"owner_id": "u2"}, false},
		}},
		{"T21", q("lead", or(statusC, fc("source", term("ads")))), []commit{
			{cols{"status_id": "C", "source": "web"}, cols{"status_id": "L", "source": "ads"}, false},
		}},
		{"T22", q("lead", not(or(statusC, fc("source", term("ads"))))), []commit{
			{cols{"status_id": "L", "source": "ads"}, cols{"status_id": "L", "source": "web"}, true},
			{cols{"status_id": "C", "source": "ads"}, cols{"status_id": "L", "source": "ads"}, false},
		}},
		{"T23", q("lead", not(and(not(statusC)))), []commit{{status("Q"), status("C"), true}, {status("C"), status("Q"), false}}},
		{"T25", q("lead", fc("title", exact("CEO"))), []commit{
			{cols{"title": "cto"}, cols{"title": "Ceo"}, true}, {cols{"title": "Ceo"}, cols{"title": "ceo"}, false},
		}},
		{"T27", q("lead", fc("title", exact("CEO"))), []commit{{nil, cols{"title": " CEO"}, false}}},
		{"lower case beyond ASCII", q("lead", fc("title", exact("ÉCOLE İ"))), []commit{
			{nil, cols{"title": "école " + strings.ToLower("İ")}, true}, {nil, cols{"title": "École İ"}, true}, {nil, cols{"title": "ecole i"}, false},
		}},
		{"the empty string is a value", q("lead", fc("title", exists), fc("title", term("")), fc("title", exact(""))), []commit{
			{cols{}, cols{"title": ""}, true}, {cols{"title": ""}, cols{}, false},
		}},
		{"membership is case-sensitive", q("lead", statusC), []commit{{nil, status("c"), false}}},

		{"T31", q("lead", fc("value", `{"type":"number_range","gte":1000}`)), []commit{
			{cols{"value": "999.99"}, cols{"value": "1000"}, true}, {cols{"value": "1000"}, cols{"value": "1000.00"}, false},
		}},
		{"T32", q("lead", fc("value", `{"type":"number_range","gt":1000}`)), []commit{
			{cols{}, cols{"value": "1000"}, false}, {cols{"value": "1000"}, cols{"value": "1000.01"}, true},
			{cols{"value": "1000.01"}, cols{}, false}, {cols{}, cols{"value": "1000.01"}, true},
		}},
		{"T34 gte", q("lead", fc("value", `{"type":"number_range","gte":0}`)), []commit{
			{nil, cols{"value": "NaN"}, false}, {nil, cols{"value": "Infinity"}, true}, {nil, cols{"value": "-Infinity"}, false},
		}},
		{"T34 lt", q("lead", fc("value", `{"type":"number_range","lt":5}`)), []commit{
			{nil, cols{"value": "NaN"}, false}, {nil, cols{"value": "Infinity"}, false}, {nil, cols{"value": "-Infinity"}, true},
		}},
		{"bigint beyond 2^53", q("lead", fc("big", `{"type":"number_range","gt":9007199254740992,"lte":9007199254740993}`)), []commit{
			{cols{"big": "9007199254740992"}, cols{"big": "9007199254740993"}, true},
			{cols{"big": "9007199254740993"}, cols{"big": "9007199254740994"}, false},
		}},
		{"both bounds of a side: the stricter", q("lead", fc("value", `{"type":"number_range","gte":5,"gt":5,"lte":7,"lt":6.5}`)), []commit{
			{nil, cols{"value": "5"}, false}, {nil, cols{"value": "5.0001"}, true}, {nil, cols{"value": "6.5"}, false}, {nil, cols{"value": "6.49"}, true},
		}},
		{"term on a number is canonical", q("lead", fc("value", `{"type":"term","values":[1,"2.50"]}`)), []commit{
			{nil, cols{"value": "1.00"}, true}, {cols{"value": "1.00"}, cols{"value": "2.5"}, false}, {nil, cols{"value": "2"}, false},
		}},
		{"T35", q("lead", fc("close_date", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-01-01","which":"start"},"before":{"type":"fixed_local_date","value":"2026-12-31","which":"end"}}`)), []commit{
			{cols{}, cols{"close_date": "2026-12-31"}, true}, {cols{"close_date": "2026-12-31"}, cols{"close_date": "2027-01-01"}, false},
			{nil, cols{"close_date": "2025-12-31"}, false}, {nil, cols{"close_date": "2026-01-01"}, true}, {nil, cols{"close_date": "0044-03-15 BC"}, false},
		}},
		{"date infinity", q("lead", fc("close_date", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-01-01","which":"start"}}`)), []commit{
			{nil, cols{"close_date": "infinity"}, true}, {nil, cols{"close_date": "-infinity"}, false},
		}},
		{"an instant on every column of time", q("lead", or(
			fc("created_at", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01T12:00:00+02:00"}}`),
			fc("seen_at", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01T12:00:00+02:00"}}`),
			fc("close_date", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01T12:00:00+02:00"}}`),
		)), []commit{
			{nil, cols{"created_at": "2026-01-01 09:59:59.999999+00"}, true}, {nil, cols{"created_at": "2026-01-01 10:00:00+00"}, false},
			{nil, cols{"created_at": "2026-01-01 15:29:59+05:30"}, true}, {nil, cols{"created_at": "-infinity"}, true},
			{nil, cols{"seen_at": "2026-01-01 09:59:59"}, true}, {nil, cols{"seen_at": "2026-01-01 10:00:00"}, false},
			{nil, cols{"close_date": "2026-01-01"}, true}, {nil, cols{"close_date": "2026-01-02"}, false},
		}},
		{"T37 true", q("lead", fc("is_vip", `{"type":"boolean","value":true}`)), []commit{{cols{}, cols{"is_vip": "t"}, true}, {cols{"is_vip": "t"}, cols{"is_vip": "f"}, false}}},
		{"T37 false", q("lead", fc("is_vip", `{"type":"boolean","value":false}`)), []commit{{cols{}, cols{"is_vip": "f"}, true}}},
		{"term on a boolean", q("lead", fc("is_vip", `{"type":"term","values":[false,"TRUE"]}`)), []commit{{cols{}, cols{"is_vip": "f"}, true}, {cols{"is_vip": "f"}, cols{"is_vip": "t"}, false}}},
		{"T38", q("lead", fc("tags", term("vip"))), []commit{{cols{"tags": "{a}"}, cols{"tags": "{a,vip}"}, true}, {cols{"tags": "{vip}"}, cols{"tags": "{vip,b}"}, false}}},
		{"T38 negated", q("lead", not(fc("tags", term("vip")))), []commit{{cols{"tags": "{vip}"}, cols{"tags": "{}"}, true}}},
		{"arrays that hold nothing", q("lead", fc("tags", exists)), []commit{
			{nil, cols{"tags": "{}"}, false}, {nil, cols{"tags": "{NULL}"}, false}, {nil, cols{"tags": `{"NULL"}`}, true}, {nil, cols{"tags": `{""}`}, true},
		}},
		{"number array", q("lead", fc("scores", `{"type":"number_range","gte":10}`)), []commit{
			{cols{"scores": "{1,NULL}"}, cols{"scores": "[0:1]={1,10.0}"}, true}, {nil, cols{"scores": "{{1,2},{3,11}}"}, true},
		}},
		{"uuid in any case", q("lead", fc("ref", term("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"))), []commit{
			{nil, cols{"ref": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, true},
		}},
		{"character(n)", q("lead", fc("code", term("x")), fc("code", exact("X  "))), []commit{{nil, cols{"code": "x     "}, true}}},
		{"T39", q("lead", fc("cf_x", term("gold"))), []commit{
			{cols{"custom": `{"cf_x": "silver"}`}, cols{"custom": `{"cf_x": "gold"}`}, true},
			{cols{"custom": `{"cf_x": "gold", "cf_y": 1}`}, cols{"custom": `{"cf_x": "gold", "cf_y": 2}`}, false},
			{cols{}, cols{"custom": `{"a": {"cf_x": "gold"}, "b": ["cf_x", "gold"]}`}, false},
			{cols{}, cols{"custom": `{"cf_x": ["silver", "go\u006cd"]}`}, true},
			{cols{}, cols{"custom": `"gold"`}, false}, {cols{}, cols{"custom": `[]`}, false},
		}},
		{"custom exists", q("lead", fc("cf_x", exists)), []commit{
			{nil, cols{"custom": `{"cf_x": null}`}, false}, {nil, cols{"custom": `{"cf_x": []}`}, false}, {nil, cols{"custom": `{"cf_x": [null]}`}, false},
			{nil, cols{"custom": `{"cf_x": ""}`}, true}, {nil, cols{"custom": `{"cf_x": false}`}, true}, {nil, cols{"custom": `{"cf_x": {}}`}, true},
			{nil, cols{"custom": `{}`}, false}, {nil, cols{}, false},
		}},
		{"custom number", q("lead", fc("cf_x", `{"type":"number_range","gte":9007199254740993}`)), []commit{
			{nil, cols{"custom": `{"cf_x": 9007199254740992}`}, false}, {nil, cols{"custom": `{"cf_x": 9007199254740993}`}, true}, {nil, cols{"custom": `{"cf_x": [1, 9007199254740993.0]}`}, true},
		}},
		{"custom moment", q("lead", fc("cf_x", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01","which":"end"}}`)), []commit{
			{nil, cols{"custom": `{"cf_x": "2026-01-01"}`}, true}, {nil, cols{"custom": `{"cf_x": "2026-01-02"}`}, false},
			{nil, cols{"custom": `{"cf_x": "2026-01-01T23:59:59Z"}`}, true}, {nil, cols{"custom": `{"cf_x": "2026-01-02T00:00:00"}`}, false},
			{nil, cols{"custom": `{"cf_x": "soon"}`}, false}, {nil, cols{"custom": `{"cf_x": 20260101}`}, false},
		}},
		{"custom term by what is in the JSON", q("lead", fc("cf_x", `{"type":"term","values":[12,"true"]}`)), []commit{
			{nil, cols{"custom": `{"cf_x": 12.0}`}, true}, {nil, cols{"custom": `{"cf_x": "12"}`}, true}, {nil, cols{"custom": `{"cf_x": "12.0"}`}, false},
			{nil, cols{"custom": `{"cf_x": true}`}, true}, {nil, cols{"custom": `{"cf_x": "true"}`}, true}, {nil, cols{"custom": `{"cf_x": false}`}, false},
		}},
		{"T59 long text left alone", q("lead", statusC, fc("description", exact(strings.ToUpper(long)))), []commit{
			{cols{"status_id": "Q", "description": long}, cols{"status_id": "C", "description": long}, true},
		}},
		{"match_all fires on creation only", q("lead", matchAll), []commit{{nil, status("Q"), true}, {status("Q"), status("C"), false}}},
		{"empty groups restrict nothing", q("lead", and(), or(), not(and(not(or()))), statusC), []commit{{nil, status("C"), true}, {nil, status("Q"), false}}},
		{"an empty list is met by nothing", q("lead", not(fc("source", `{"type":"term","values":[]}`)), statusC), []commit{{nil, status("C"), true}}},
		{"id", q("lead", `{"type":"id","value":"1"}`, statusC), []commit{{status("Q"), status("C"), true}}},
		{"another id", q("lead", `{"type":"id","value":2}`, statusC), []commit{{status("Q"), status("C"), false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newLeadSet(t, tt.query)
			for i, step := range tt.steps {
				firings, n := match(t, s, leadChange(step.before, step.after))
				if got := len(firings) == 1; got != step.fires || len(firings) > 1 {
					t.Errorf("commit %d %v -> %v: fires %v, want %v", i+1, step.before, step.after, firings, step.fires)
				}
				if n.Indeterminate+n.Poisoned != 0 {
					t.Errorf("commit %d: %+v", i+1, n)
				}
			}
		})
	}
}

func TestT11CreatedAndT76Version(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs)
	if f, _ := match(t, s, leadChange(nil, status("C"))); len(f) != 1 || f[0] != (Firing{1, 1, "A", true, nil}) {
		t.Errorf("insert: %+v", f)
	}
	if err := s.Put(Definition{ID: 1, Version: 2, Organization: "A", Query: json.RawMessage(q("lead", fc("status_id", term("C", "L"))))}); err != nil {
		t.Fatal(err)
	}
	if s.Len() != 1 {
		t.Errorf("%d triggers after an edit", s.Len())
	}
	if f, _ := match(t, s, leadChange(status("Q"), status("L"))); len(f) != 1 || f[0] != (Firing{1, 2, "A", false, nil}) {
		t.Errorf("edited: %+v", f)
	}
	if f, _ := match(t, s, leadChange(status("L"), status("C"))); len(f) != 0 {
		t.Errorf("already matched: %+v", f)
	}
	s.Remove(1)
	if f, _ := match(t, s, leadChange(status("Q"), status("L"))); len(f) != 0 || s.Len() != 0 {
		t.Errorf("removed: %+v", f)
	}
}

func TestT40TypeMismatch(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, q("lead", fc("cf_x", `{"type":"number_range","gte":1}`)))
	for custom, want := range map[string]uint64{
		`{"cf_x": "12"}`: 1, `{"cf_x": 12}`: 0, `{"cf_x": null}`: 0, `{}`: 0, `{"cf_x": {"a": 1}}`: 1, `{"cf_x": ["12", 0]}`: 1, `{"cf_x": ["12", 5]}`: 0,
	} {
		f, n := match(t, s, leadChange(nil, cols{"custom": custom}))
		if n.TypeMismatch != want || (len(f) == 1) != (custom == `{"cf_x": 12}` || custom == `{"cf_x": ["12", 5]}`) {
			t.Errorf("%s: %v %+v", custom, f, n)
		}
	}
}

func TestT62BeforeUnknown(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs)
	c := leadChange(nil, status("C"))
	c.BeforeUnknown = true
	if f, n := match(t, s, c); len(f) != 0 || n.BeforeUnknown != 1 {
		t.Errorf("%v %+v", f, n)
	}
}

func TestT63T64OrganizationChange(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"C", "Q"} {
		s := newLeadSet(t, qs)
		if err := s.Put(Definition{ID: 2, Version: 7, Organization: "B", ObjectType: "lead", Query: json.RawMessage(qs)}); err != nil {
			t.Fatal(err)
		}
		c := leadChange(status(before), status("C"))
		c.Organization = "B"
		if f, _ := match(t, s, c); len(f) != 1 || f[0] != (Firing{2, 7, "B", true, nil}) {
			t.Errorf("from %s: %v", before, f)
		}
	}
}

func TestT66KeyChange(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs, q("lead", `{"type":"id","value":2}`), q("lead", not(`{"type":"id","value":1}`)))
	c := leadChange(status("C"), cols{"id": "2", "status_id": "C"})
	c.ID, c.OldID = "2", "1"
	if f, _ := match(t, s, c); len(f) != 2 || f[0].TriggerID != 2 || f[1].TriggerID != 3 {
		t.Errorf("1 -> 2: %v", f)
	}
	c = leadChange(status("Q"), cols{"id": "4", "status_id": "C"})
	c.ID, c.OldID = "4", "3"
	if f, _ := match(t, s, c); len(f) != 1 || f[0].TriggerID != 1 {
		t.Errorf("3 -> 4: %v", f)
	}
}

func TestT79SchemaChanges(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs, q("lead", fc("source", term("web"))), q("lead", fc("value", `{"type":"number_range","gte":1}`)))
	change1 := leadChange(nil, cols{"status_id": "C", "source": "web", "value": "2"})
	if f, _ := match(t, s, change1); len(f) != 3 {
		t.Fatalf("at first: %v", f)
	}

	altered := leadSchema
	altered.Fields = nil
	for _, f := range leadSchema.Fields {
		switch f.Name {
		case "status_id": // dropped
			continue
		case "value": // retyped
			f.Kind = KindText
		}
		altered.Fields = append(altered.Fields, f)
	}
	relation := relationOf(&altered)
	broken := s.SetSchema(altered, relation)
	if len(broken) != 2 || broken[0].TriggerID != 1 || broken[1].TriggerID != 3 || s.Len() != 1 {
		t.Fatalf("broken: %+v", broken)
	}
	if p := problemsOf(t, broken[0].Err); p[0].Code != CodeUnknownField || p[0].Pointer != "/queries/1/queries/0/field" {
		t.Errorf("dropped: %+v", p)
	}
	if p := problemsOf(t, broken[1].Err); p[0].Code != CodeTypeMismatch {
		t.Errorf("retyped: %+v", p)
	}
	c := &change.Change{Object: leadObject, Relation: relation, After: rowOf(relation, cols{"source": "web"}), ID: "1", Organization: "A"}
	if f, _ := match(t, s, c); len(f) != 1 || f[0].TriggerID != 2 {
		t.Errorf("other triggers must go on: %v", f)
	}

	if broken := s.SetSchema(leadSchema, leadRelation); len(broken) != 0 {
		t.Errorf("back again: %+v", broken)
	}
	if r := s.TakeRecovered(); len(r) != 2 || len(s.Broken()) != 0 {
		t.Errorf("recovered: %+v", r)
	}
	if f, _ := match(t, s, change1); len(f) != 3 {
		t.Errorf("after recovery: %v", f)
	}

	if broken := s.DropSchema("lead"); len(broken) != 3 || s.Len() != 0 {
		t.Errorf("unwatched: %+v", broken)
	}
	if f, _ := match(t, s, change1); len(f) != 0 {
		t.Errorf("unwatched: %v", f)
	}
	if s.SetSchema(leadSchema, nil); s.Len() != 3 {
		t.Errorf("watched again: %+v", s.Broken())
	}
}

func TestAlteredInsideTheCommit(t *testing.T) {
	t.Parallel()
	old := leadSchema
	old.Fields = leadSchema.Fields[:4] // without is_vip
	oldRelation := relationOf(&old)
	s := newLeadSet(t, q("lead", fc("is_vip", `{"type":"boolean","value":true}`)), qs)
	c := leadChange(cols{}, cols{"status_id": "C", "is_vip": "t"})
	c.BeforeRelation, c.Before = oldRelation, rowOf(oldRelation, cols{"status_id": "C"})
	if f, _ := match(t, s, c); len(f) != 1 || f[0].TriggerID != 1 {
		t.Errorf("%v", f)
	}
}

func TestUnchangedIsUnknown(t *testing.T) {
	t.Parallel()
	described := fc("description", exact("x"))
	s := newLeadSet(t,
		q("lead", statusC, described),                                  // hangs on it
		q("lead", or(statusC, described)),                              // decided without it
		q("lead", statusC, not(described), fc("source", term("none"))), // decided without it
		q("lead", described),                                           // its field did not change
		q("lead", statusC, not(fc("cf_x", exists))),
	)
	f, n := match(t, s, leadChange(cols{"status_id": "Q", "description": "y"}, cols{"status_id": "C", "description": unchangedCell, "custom": unchangedCell}))
	if len(f) != 1 || f[0].TriggerID != 2 || n.Indeterminate != 2 {
		t.Errorf("%v %+v", f, n)
	}
	// Unknown before: only a certain "did not match" lets it fire.
	f, n = match(t, s, leadChange(cols{"status_id": "C", "description": unchangedCell}, cols{"status_id": "C", "description": "x"}))
	if len(f) != 0 || n.Indeterminate != 2 {
		t.Errorf("%v %+v", f, n)
	}
}

func TestLocalDate(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	s := NewSet()
	s.SetSchema(leadSchema, leadRelation)
	query := q("lead", fc("created_at", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-03-29","which":"start"},"before":{"type":"fixed_local_date","value":"2026-03-29","which":"end"}}`))
	if err := s.Put(Definition{ID: 1, Organization: "A", Query: json.RawMessage(query), Location: berlin}); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{ // a day of 23 hours
		"2026-03-28 22:59:59.999999+00": false, "2026-03-28 23:00:00+00": true,
		"2026-03-29 21:59:59.999999+00": true, "2026-03-29 22:00:00+00": false, "2026-03-29 23:59:59+02": true,
	} {
		if f, _ := match(t, s, leadChange(nil, cols{"created_at": at})); (len(f) == 1) != want {
			t.Errorf("%s: %v, want %v", at, f, want)
		}
	}
}

func TestPoison(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs, qs, qs, qs)
	g := s.groups[0]
	g.triggers[1].code = "\x04\x02\x63\x00" + g.triggers[1].code // a slot that does not exist
	g.triggers[3].code = "\x04\x02\x63\x00" + g.triggers[3].code
	f, n := match(t, s, leadChange(status("Q"), status("C")))
	if len(f) != 2 || n.Poisoned != 2 || s.Len() != 2 {
		t.Fatalf("%v %+v", f, n)
	}
	p := s.TakePoisoned()
	if len(p) != 2 || p[0].Err == nil || len(s.TakePoisoned()) != 0 || len(s.Broken()) != 2 {
		t.Errorf("%+v", p)
	}
	if f, n := match(t, s, leadChange(status("Q"), status("C"))); len(f) != 2 || n.Poisoned != 0 {
		t.Errorf("second change: %v %+v", f, n)
	}
	if err := s.Put(Definition{ID: 2, Organization: "A", Query: json.RawMessage(qs)}); err != nil || s.Len() != 3 {
		t.Errorf("put again: %v, %d", err, s.Len())
	}
}

func TestMalformedRow(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs)
	for _, row := range []change.Row{{}, {0, 1}, {0, 1, 'n'}, {0, 1, 't', 0, 0, 0, 9}, {0, 1, 'x'}} {
		c := leadChange(nil, status("C"))
		c.After = row
		if f, _, err := s.Match(nil, c); err == nil || len(f) != 0 {
			t.Errorf("%v: %v %v", row, f, err)
		}
	}
}

func TestOtherTypesAndNobody(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs)
	c := leadChange(nil, status("C"))
	c.Organization = ""
	if f, _ := match(t, s, c); len(f) != 0 {
		t.Errorf("no organization: %v", f)
	}
	c = leadChange(nil, status("C"))
	c.Object = &change.Object{Type: "contact"}
	if f, _ := match(t, s, c); len(f) != 0 {
		t.Errorf("another type: %v", f)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	s := newLeadSet(t, qs,
		q("lead", fc("value", `{"type":"number_range","gte":10}`), fc("tags", term("a b")), fc("title", exact("CEO"))),
		q("lead", fc("cf_x", term("gold")), fc("close_date", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01","which":"end"}}`)),
	)
	c := leadChange(
		cols{"status_id": "Q", "value": "1", "tags": `{"a b"}`, "title": "x", "custom": `{"cf_x": "gol\u0064"}`, "close_date": "2027-01-01"},
		cols{"status_id": "C", "value": "12.5", "tags": `{"a b",c}`, "title": "ceo", "custom": `{"cf_x": "gold"}`, "close_date": "2025-01-01"},
	)
	dst := make([]Firing, 0, 8)
	if n := testing.AllocsPerRun(100, func() {
		f, _, err := s.Match(dst, c)
		if err != nil || len(f) != 3 {
			t.Fatal(f, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A panic while a value is read is the value's fault: it matches nothing, and
// the triggers that ask for it stay.
func TestPanicInAValue(t *testing.T) {
	t.Parallel()
	s := newLeadSet(t, qs, q("lead", fc("source", term("web"))), q("lead", not(statusC)))
	lead := s.types["lead"]
	lead.fields[lead.fieldID[fieldSpec{specColumn, "status_id"}]].col = 99
	f, n := match(t, s, leadChange(nil, cols{"status_id": "C", "source": "web"}))
	if len(f) != 2 || f[0].TriggerID != 2 || f[1].TriggerID != 3 || n.Poisoned != 0 || n.TypeMismatch != 2 || n.Candidates != 3 || s.Len() != 3 {
		t.Errorf("%v %+v", f, n)
	}
	if f, n := match(t, s, leadChange(status("Q"), status("C"))); len(f) != 0 || n.Poisoned != 0 || s.Len() != 3 {
		t.Errorf("%v %+v", f, n)
	}
	// Any other panic is an error, and nobody's fault.
	lead.fields = nil
	c := leadChange(status("Q"), status("C"))
	c.OldID = "2"
	if f, _, err := s.Match(nil, c); err == nil || len(f) != 0 || s.Len() != 3 {
		t.Errorf("%v %v", f, err)
	}
}

// More fields than the mask has bits.
func TestManyFields(t *testing.T) {
	t.Parallel()
	const n = 200
	var queries []string
	for i := range n {
		queries = append(queries, q("lead", fc("cf_"+strconv.Itoa(i), term("gold"))))
	}
	s := newLeadSet(t, queries...)
	for i := range n {
		f, _ := match(t, s, leadChange(cols{"custom": `{"cf_7": "gold"}`}, cols{"custom": `{"cf_7": "gold", "cf_` + strconv.Itoa(i) + `": "gold"}`}))
		if len(f) != 1 && i != 7 || len(f) == 1 && f[0].TriggerID != int64(i+1) {
			t.Errorf("cf_%d: %v", i, f)
		}
		s.Remove(int64(i + 1))
		if i == 6 || i == 7 {
			continue
		}
		if f, _ := match(t, s, leadChange(cols{}, cols{"custom": `{"cf_` + strconv.Itoa(i) + `": "gold"}`})); len(f) != 0 {
			t.Errorf("cf_%d removed: %v", i, f)
		}
	}
	if s.Len() != 0 || s.types["lead"].groups.n != 0 {
		t.Errorf("%d triggers, %d groups left", s.Len(), s.types["lead"].groups.n)
	}
}
