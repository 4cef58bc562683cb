package acceptance

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/trigger"
)

// TestRefusedQueries shows T28 to T30: what can't be decided from changes is
// refused when it is saved, in the same words by plain SQL and by trigger.Check.
func TestRefusedQueries(t *testing.T) {
	t.Parallel()
	const at = "/queries/1"
	text := func(mode string) string { return `{"type":"text","mode":"` + mode + `","value":"CEO"}` }
	created := func(bound, moment string) string {
		return field("lead", "created_at", `{"type":"moment_range","`+bound+`":`+moment+`}`)
	}
	onField := func(f string) string {
		return `{"type":"field_condition","field":` + f + `,"condition":{"type":"exists"}}`
	}
	tests := []struct{ name, objectType, query, pointer, code, nearest string }{
		{"T28 full_words", "contact", field("contact", "title", text("full_words")), at + "/condition", trigger.CodeTextMode, text("exact_value")},
		{"T28 phrase", "contact", field("contact", "title", text("phrase")), at + "/condition", trigger.CodeTextMode, text("exact_value")},
		{"T28 beginning_of_words", "contact", field("contact", "title", text("beginning_of_words")), at + "/condition", trigger.CodeTextMode, text("exact_value")},
		{"T29 before now", "lead", created("before", `{"type":"now"}`), at + "/condition/before", trigger.CodeRelativeMoment, ""},
		{"T29 after now", "lead", created("on_or_after", `{"type":"now"}`), at + "/condition/on_or_after", trigger.CodeRelativeMoment, ""},
		{"T30 current_user", "lead", field("lead", "owner_id", `{"type":"current_user"}`), at + "/condition", trigger.CodeCurrentUser, ""},
		{"T30 bare text", "lead", text("full_words"), at, trigger.CodeBareText, ""},
		{"T30 derived field", "lead", onField(`{"type":"computed_field","object_type":"lead","field_name":"num_contacts"}`), at + "/field", trigger.CodeComputedField, ""},
		{"T30 unknown field", "lead", field("lead", "statusid", exists), at + "/field", trigger.CodeUnknownField, `{"type":"regular_field","object_type":"lead","field_name":"status_id"}`},
		{"T30 field of contact", "lead", field("contact", "title", exists), at + "/field", trigger.CodeWrongObjectType, ""},
	}
	w := newWorld(t)
	w.crm()
	w.run()
	ids := make([]int64, len(tests))
	for i, tt := range tests {
		ids[i] = one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type) VALUES ('a', $1, $2, $3, 'log') RETURNING id`,
			tt.name, tt.objectType, and(tt.objectType, tt.query))
	}
	w.settle()
	cat := catalog.New(w.db.Pool)
	codes := map[string]bool{}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			schemas, err := cat.Schemas(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = trigger.Check([]byte(and(tt.objectType, tt.query)), tt.objectType, schemas, nil)
			var invalid *trigger.ValidationError
			if !errors.As(err, &invalid) || len(invalid.Problems) != 1 {
				t.Fatalf("want one problem, got %v", err)
			}
			p := invalid.Problems[0]
			if p.Pointer != tt.pointer || p.Code != tt.code {
				t.Errorf("got %s at %s, want %s at %s", p.Code, p.Pointer, tt.code, tt.pointer)
			}
			if tt.nearest != "" && string(p.Nearest) != tt.nearest {
				t.Errorf("nearest is %s, want %s", p.Nearest, tt.nearest)
			}
			w.until("the trigger is invalid", func() bool {
				return one[string](w, `SELECT status FROM pgautomate.triggers WHERE id = $1`, ids[i]) == "invalid"
			})
			said := one[string](w, `SELECT error FROM pgautomate.triggers WHERE id = $1`, ids[i])
			for _, part := range []string{tt.pointer, tt.code, p.Message} {
				if !strings.Contains(said, part) {
					t.Errorf("triggers.error is %q, without %q", said, part)
				}
			}
			if strings.HasPrefix(tt.name, "T30") {
				if codes[tt.code] {
					t.Errorf("%s means two things", tt.code)
				}
				codes[tt.code] = true
			}
		})
	}
	// The view for DBAs says the same.
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.problems WHERE severity = 'error' AND subject LIKE 'trigger %'`); n != int64(len(tests)) {
		t.Errorf("the view problems knows %d invalid triggers, want %d", n, len(tests))
	}
}

// TestInvalidTriggerIsMended shows that an invalid trigger is kept, fires
// nothing, and fires from the commit on that mends it.
func TestInvalidTriggerIsMended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "typo", "lead", and("lead", field("lead", "status", term("C"))))
	none := w.trigger("a", "no such type", "deal", qs("C"))
	nonsense := w.trigger("a", "nonsense", "lead", `[1, "two"]`)
	for _, id := range []int64{id, none, nonsense} {
		w.hasStatus(id, "invalid")
	}
	if e := w.errorOf(none); !strings.Contains(e, "pgautomate watch") {
		t.Errorf("the error of an unwatched type is %q", e)
	}
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'C')`)
	w.exec(`UPDATE pgautomate.triggers SET query = $1 WHERE id = $2`, qs("C"), id)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (2, 'a', 'C')`)
	w.settle()
	w.hasStatus(id, "active")
	if a, b := w.firings(id, "1"), w.firings(id, "2"); a != 0 || b != 1 {
		t.Errorf("%d and %d firings, want 0 and 1", a, b)
	}
}

// hasStatus waits until a trigger has a status.
func (w *world) hasStatus(id int64, status string) {
	w.t.Helper()
	w.until("trigger "+one[string](w, `SELECT name FROM pgautomate.triggers WHERE id = $1`, id)+" is "+status, func() bool {
		return one[string](w, `SELECT status FROM pgautomate.triggers WHERE id = $1`, id) == status
	})
}

func (w *world) errorOf(id int64) string {
	w.t.Helper()
	return one[string](w, `SELECT coalesce(error, '') FROM pgautomate.triggers WHERE id = $1`, id)
}
