package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

func TestRegister(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	h := HandlerFunc(func(context.Context, *Action) (Result, error) { return Result{}, nil })
	for _, bad := range []string{"", "Send", "9x", "a-b", "a b", "_x", "é", strings.Repeat("a", 64), "x\n"} {
		if err := r.Register(bad, h); err == nil || !strings.Contains(err.Error(), "use lower-case letters, digits and underscores") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := r.Register("own", nil); err == nil || !strings.Contains(err.Error(), "the handler is nil") {
		t.Error(err)
	}
	if err := r.Register("own_2", h, WithParams([]string{"a"}, "b")); err != nil {
		t.Error(err)
	}
	if err := r.Register("own_2", h); err == nil || !strings.Contains(err.Error(), `"own_2" is already registered: choose another name`) {
		t.Error(err)
	}
	if _, ok := r.Handler("own_2"); !ok {
		t.Error("not found")
	}
	if _, ok := r.Handler("other"); ok {
		t.Error("found")
	}
	if err := r.Register("free", h); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"free", "own_2"}, r.Types()); d != "" {
		t.Error(d)
	}
	if err := r.Validate("free", json.RawMessage(`{"anything":1}`)); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_ = r.Register(fmt.Sprintf("t%d", i), h)
			_ = r.Types()
			_ = r.Validate("own_2", json.RawMessage(`{"a":"{{ lead.x }}"}`))
		})
	}
	wg.Wait()
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	r, err := Defaults(Config{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"branch", "chat", "email", "enter_stage", "exit", "in_app", "insert_row", "log", "move", "notify", "push", "sms", "update_row", "wait", "wait_for_reply", "wait_until", "webhook"}
	if d := cmp.Diff(want, r.Types()); d != "" {
		t.Error(d)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	r, err := Defaults(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ actionType, params, want string }{
		{"log", `{"message":"hi {{ lead.name }}"}`, ""},
		{"log", `{"message":"hi","on_error":"skip","max_attempts":100}`, ""},
		{"log", `{"message":"hi","on_error":{"stage":"Lost"}}`, ""},
		{"log", `{"message":"hi","on_error":{"stage":12}}`, ""},
		{"log", `{"message":"hi","on_error":null,"max_attempts":null}`, ""},
		{"exit", ``, ""},
		{"exit", `null`, ""},
		{"move", `{"stage":7,"pipeline":"Sales","restart":true}`, ""},
		{"enter_stage", `{"stage":"A","pipeline":"B","lead":"{{ object.lead_id }}"}`, ""},
		{"update_row", `{"set":{"status":"won","score":"{{ lead.score | plus: 1 }}","n":1,"x":null,"tags":["a"]}}`, ""},
		{"insert_row", `{"table":"notes","values":{"text":"x"}}`, ""},

		{"emial", `{}`, `action type "emial" is unknown; did you mean "email"? (known: `},
		{"teleport", `{}`, `action type "teleport" is unknown (known: `},
		{"log", `{}`, `action type "log": parameter "message" is missing`},
		{"log", `{"message":null}`, `parameter "message" is missing`},
		{"log", `{"message":{"a":1}}`, `message: use a string`},
		{"log", `{"messages":"x"}`, `action type "log": unknown parameter "messages"; did you mean "message"? (known: max_attempts, message, on_error)`},
		{"log", `[]`, `params: use a JSON object`},
		{"log", `{`, `params: not valid JSON`},
		{"log", `{} {}`, `params: not valid JSON: something follows the value`},
		{"log", `{"message":"{{ lead.name"}`, `template in parameter "message": syntax error: "{{ lead.name" has no end`},
		{"log", `{"message":"{% if x %}"}`, `template in parameter "message": line 1: unterminated "if" block`},
		{"log", `{"message":"hi","on_error":"retry"}`, `on_error: "retry" is not known: use "stop", "skip" or {"stage": "name or id"}`},
		{"log", `{"message":"hi","on_error":{"stage":""}}`, `on_error: use "stop"`},
		{"log", `{"message":"hi","on_error":{"stage":"a","x":1}}`, `on_error: use "stop"`},
		{"log", `{"message":"hi","on_error":7}`, `on_error: use "stop"`},
		{"log", `{"message":"hi","max_attempts":0}`, `max_attempts: use a whole number from 1 to 100`},
		{"log", `{"message":"hi","max_attempts":101}`, `max_attempts: use a whole number from 1 to 100`},
		{"log", `{"message":"hi","max_attempts":1.5}`, `max_attempts: use a whole number from 1 to 100`},
		{"log", `{"message":"hi","max_attempts":"3"}`, `max_attempts: use a whole number from 1 to 100`},
		{"move", `{}`, `parameter "stage" is missing`},
		{"move", `{"stage":["a"]}`, `stage: use a name or an id`},
		{"move", `{"stage":1.5}`, `stage: use a name or an id`},
		{"move", `{"stage":"  "}`, `stage: use a name or an id`},
		{"move", `{"stage":"a","restart":"yes"}`, `restart: use true or false`},
		{"enter_stage", `{"stage":"a"}`, `parameter "pipeline" is missing`},
		{"exit", `{"reason":{}}`, `reason: use a string`},
		{"update_row", `{"set":{}}`, `set: use an object of column names and values`},
		{"update_row", `{"set":"x"}`, `set: use an object of column names and values`},
		{"update_row", `{"set":{"{{ x }}":1}}`, `set: "{{ x }}" is not a column name: templates can only stand in values`},
		{"update_row", `{"object":1.5,"set":{"a":1},"where":"x"}`, `unknown parameter "where"`},
		{"update_row", `{"set":{"a":["{{ x | nope }}"]}}`, `template in parameter "set.a[0]": unknown filter "nope"`},
		{"insert_row", `{"table":" ","values":{"a":1}}`, `table: name a watched table or its object type`},
		{"insert_row", `{"table":"t"}`, `parameter "values" is missing`},
	} {
		err := r.Validate(tc.actionType, json.RawMessage(tc.params))
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s %s: %v", tc.actionType, tc.params, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s %s: got %v, want %q", tc.actionType, tc.params, err, tc.want)
		case err != nil && strings.Contains(err.Error(), "\n"):
			t.Errorf("more than one line: %v", err)
		}
	}
}

func TestOnErrorAndMaxAttempts(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	for params, want := range map[string]OnError{
		``: {Policy: OnErrorStop}, `{}`: {Policy: OnErrorStop}, `{"on_error":"stop"}`: {Policy: OnErrorStop}, `{"on_error":"skip"}`: {Policy: OnErrorSkip},
		`{"on_error":{"stage":"Lost"}}`: {OnErrorStage, "Lost"}, `{"on_error":{"stage":12}}`: {OnErrorStage, "12"},
	} {
		if got, err := r.OnError(json.RawMessage(params)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", params, got, err)
		}
	}
	if n, err := MaxAttemptsOf(json.RawMessage(`{}`), 5); n != 5 || err != nil {
		t.Error(n, err)
	}
	if n, err := MaxAttemptsOf(json.RawMessage(`{"max_attempts":3}`), 5); n != 3 || err != nil {
		t.Error(n, err)
	}
}

func TestLogAction(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	h := handlerFor(t, Config{Logger: slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))}, "log")
	got, err := h.Run(t.Context(), &Action{ID: 5, Params: json.RawMessage(`{"message":"score {{ lead.score }}"}`), Vars: leadVars()})
	if err != nil || got.Output != (LogOutput{"score 42"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if s := buf.String(); !strings.Contains(s, "level=DEBUG") || !strings.Contains(s, `msg="score 42" action_id=5`) {
		t.Error(s)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int]time.Duration{
		-1: 2 * time.Second, 0: 2 * time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 9: 512 * time.Second,
		10: 10 * time.Minute, 11: 10 * time.Minute, 1 << 40: 10 * time.Minute,
	} {
		if got := BackoffAt(attempt, 0.5); got != want {
			t.Errorf("attempt %d: %s, want %s", attempt, got, want)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		attempt := rapid.IntRange(1, 100).Draw(rt, "attempt")
		middle := BackoffAt(attempt, 0.5)
		for _, got := range []time.Duration{Backoff(attempt), BackoffAt(attempt, rapid.Float64Range(0, 0.999999).Draw(rt, "jitter"))} {
			if got < middle*9/10 || got > middle*11/10 {
				rt.Fatalf("attempt %d: %s, around %s", attempt, got, middle)
			}
		}
		if BackoffAt(attempt+1, 0.5) < middle {
			rt.Fatal("it shrinks")
		}
	})
}

func TestClassify(t *testing.T) {
	t.Parallel()
	base := errors.New("x")
	for _, tc := range []struct {
		err   error
		class ErrorClass
		after time.Duration
	}{
		{nil, ClassNone, 0},
		{base, ClassTransient, 0},
		{Permanent(base), ClassPermanent, 0},
		{fmt.Errorf("more: %w", Permanentf("x %w", ErrNotVisible)), ClassPermanent, 0},
		{fmt.Errorf("more: %w", RetryAfter(time.Minute, base)), ClassRetryAfter, time.Minute},
		{RetryAfter(-time.Minute, base), ClassRetryAfter, 0},
		{fmt.Errorf("lead 7: %w", ErrNotVisible), ClassNotVisible, 0},
		{context.DeadlineExceeded, ClassTransient, 0},
		{fmt.Errorf("more: %w", context.Canceled), ClassStopped, 0},
	} {
		if class, after := Classify(tc.err); class != tc.class || after != tc.after {
			t.Errorf("%v: %v, %s", tc.err, class, after)
		}
	}
}

// calls is a Store that writes down what it is asked: the database side is the
// engine's own and tested there.
type calls struct{ got []string }

func (c *calls) add(format string, args ...any) error {
	c.got = append(c.got, fmt.Sprintf(format, args...))
	return nil
}

func (c *calls) MoveLead(_ context.Context, _ pgx.Tx, a *Action, pipeline, stage string, restart bool) error {
	if restart {
		stage += " again"
	}
	return c.add("move %d %q %q", a.ID, pipeline, stage)
}

func (c *calls) EndRun(_ context.Context, _ pgx.Tx, a *Action, status, reason string) error {
	return c.add("end %d %s %s", a.ID, status, reason)
}

func (c *calls) ExitLead(_ context.Context, _ pgx.Tx, a *Action, reason string) error {
	return c.add("exit %d %q", a.ID, reason)
}

func (c *calls) EnterStage(_ context.Context, _ pgx.Tx, a *Action, pipeline, stage, lead string) error {
	return c.add("enter %d %q %q %q", a.ID, pipeline, stage, lead)
}

func (c *calls) UpdateRow(_ context.Context, _ pgx.Tx, a *Action, object string, set map[string]any) (int64, error) {
	if object == "ghost" {
		return 0, ErrNotVisible
	}
	return 1, c.add("update %d %q %#v", a.ID, object, set)
}

func (c *calls) InsertRow(_ context.Context, _ pgx.Tx, a *Action, table string, values map[string]any) error {
	return c.add("insert %d %q %#v", a.ID, table, values)
}

func TestEffects(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		actionType, params, want string
		changesRows              bool
	}{
		{"move", `{"stage":"Won {{ lead.score }}"}`, `move 9 "" "Won 42"`, false},
		{"move", `{"stage":12,"pipeline":"Sales","restart":true}`, `move 9 "Sales" "12 again"`, false},
		{"exit", `{"reason":"bought for {{ lead.amount }}"}`, `exit 9 "bought for 12.50"`, false},
		{"exit", ``, `exit 9 ""`, false},
		{"enter_stage", `{"pipeline":"P","stage":"S"}`, `enter 9 "P" "S" "7"`, false},
		{"enter_stage", `{"pipeline":"P","stage":"S","lead":"{{ lead.score }}"}`, `enter 9 "P" "S" "42"`, false},
		{"update_row", `{"set":{"score":"{{ lead.score | plus: 1 }}"}}`, `update 9 "" map[string]interface {}{"score":"43"}`, true},
		{"update_row", `{"object":"account","set":{"ok":"{{ lead.ok }}"}}`, `update 9 "account" map[string]interface {}{"ok":true}`, true},
		{"update_row", `{"set":{"x":"{{ lead.none }}"}}`, `update 9 "" map[string]interface {}{"x":interface {}(nil)}`, true},
		{"insert_row", `{"table":"notes","values":{"text":"{{ lead.name }}"}}`, `insert 9 "notes" map[string]interface {}{"text":"Ada <b>"}`, true},
	} {
		store := &calls{}
		a := &Action{ID: 9, LeadID: "7", LeadStageID: 1, Type: tc.actionType, Params: json.RawMessage(tc.params), Vars: leadVars()}
		got, err := handlerFor(t, Config{Store: store}, tc.actionType).Run(t.Context(), a)
		if err != nil {
			t.Errorf("%s %s: %v", tc.actionType, tc.params, err)
			continue
		}
		if len(store.got) != 0 {
			t.Errorf("%s: done before the effect", tc.actionType)
		}
		if err := got.Effect(t.Context(), nil); err != nil || got.ChangesRows != tc.changesRows {
			t.Errorf("%s: %v, ChangesRows %v", tc.actionType, err, got.ChangesRows)
		}
		if d := cmp.Diff([]string{tc.want}, store.got); d != "" {
			t.Errorf("%s %s: %s", tc.actionType, tc.params, d)
		}
		if _, err := json.Marshal(got.Output); err != nil {
			t.Error(err)
		}
	}
}

func TestEffectsRefuse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		actionType, params, want string
		stage                    int64
		class                    ErrorClass
	}{
		{"move", `{"stage":"A"}`, "move: this action stands in no pipeline, so there is no stage to leave: use enter_stage", 0, ClassPermanent},
		{"exit", `{}`, "this action stands in no pipeline", 0, ClassPermanent},
		{"move", `{"stage":"{{ lead.none }}"}`, "stage: name a stage, by name or id", 1, ClassPermanent},
		{"enter_stage", `{"pipeline":"P","stage":"S","lead":"{{ lead.none }}"}`, "lead: the template gives no id", 0, ClassPermanent},
	} {
		a := &Action{ID: 9, LeadID: "7", LeadStageID: tc.stage, Type: tc.actionType, Params: json.RawMessage(tc.params), Vars: leadVars()}
		_, err := handlerFor(t, Config{Store: &calls{}}, tc.actionType).Run(t.Context(), a)
		if err == nil || !strings.Contains(err.Error(), tc.want) || class(err) != tc.class {
			t.Errorf("%s %s: %v (%v)", tc.actionType, tc.params, err, class(err))
		}
	}
	a := &Action{ID: 9, Type: "update_row", Params: json.RawMessage(`{"object":"ghost","set":{"a":1}}`)}
	got, err := handlerFor(t, Config{Store: &calls{}}, "update_row").Run(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Effect(t.Context(), nil); class(err) != ClassNotVisible {
		t.Error(err)
	}
	if _, err := handlerFor(t, Config{}, "exit").Run(t.Context(), &Action{Type: "exit", LeadStageID: 1}); class(err) != ClassPermanent {
		t.Error(err)
	}
}
