package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// answers is a Queries that answers with one number.
type answers struct {
	first int
	err   error
}

func (q answers) First(context.Context, *Action, []json.RawMessage) (int, error) {
	return q.first, q.err
}

func TestBranch(t *testing.T) {
	t.Parallel()
	const arms = `{"arms":[{"query":{"type":"match_all"},"then":"next"},{"query":{"type":"match_all"},"then":{"stage":"Won {{ lead.score }}"}},
		{"query":{"type":"match_all"},"then":"exit"},{"query":{"type":"match_all"},"then":{"stage":7,"restart":true}}]`
	for _, tc := range []struct {
		first              int
		params, want, then string
	}{
		{0, arms + `}`, ``, `{"arm":0,"then":"next"}`},
		{1, arms + `}`, `move 9 "" "Won 42"`, `{"arm":1,"then":{"stage":"Won {{ lead.score }}"}}`},
		{2, arms + `}`, `exit 9 ""`, `{"arm":2,"then":"exit"}`},
		{3, arms + `}`, `move 9 "" "7 again"`, `{"arm":3,"then":{"stage":"7"}}`},
		{-1, arms + `}`, `end 9 exited no_branch`, `{"arm":null,"then":"no_branch"}`},
		{-1, arms + `,"else":null}`, `end 9 exited no_branch`, `{"arm":null,"then":"no_branch"}`},
		{-1, arms + `,"else":"next"}`, ``, `{"arm":null,"then":"next"}`},
		{-1, arms + `,"else":{"stage":"Lost"}}`, `move 9 "" "Lost"`, `{"arm":null,"then":{"stage":"Lost"}}`},
	} {
		store := &calls{}
		a := &Action{ID: 9, LeadID: "7", LeadStageID: 1, Type: "branch", Params: json.RawMessage(tc.params), Vars: leadVars()}
		got, err := handlerFor(t, Config{Store: store, Queries: answers{first: tc.first}}, "branch").Run(t.Context(), a)
		if err != nil {
			t.Errorf("%d %s: %v", tc.first, tc.params, err)
			continue
		}
		if got.Effect != nil {
			if err := got.Effect(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		if done := strings.Join(store.got, ";"); done != tc.want {
			t.Errorf("arm %d leads to %q, want %q", tc.first, done, tc.want)
		}
		if out := string(toJSON(got.Output)); out != tc.then {
			t.Errorf("arm %d: the result is %s, want %s", tc.first, out, tc.then)
		}
	}
	a := &Action{ID: 9, Type: "branch", Params: json.RawMessage(arms + `}`)}
	if _, err := handlerFor(t, Config{Store: &calls{}, Queries: answers{}}, "branch").Run(t.Context(), a); class(err) != ClassPermanent {
		t.Errorf("outside of a pipeline: %v", err)
	}
	a.LeadStageID = 1
	if _, err := handlerFor(t, Config{Store: &calls{}, Queries: answers{err: fmt.Errorf("row: %w", ErrNotVisible)}}, "branch").Run(t.Context(), a); class(err) != ClassNotVisible {
		t.Errorf("without a row: %v", err)
	}
}
