package jobs

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// lookout is an Awaiting that says how new what it looks after is.
type lookout bool

func (l lookout) Await(context.Context, *Action, json.RawMessage, time.Time) (string, bool, error) {
	return "5", bool(l), nil
}

// turns is a Queries whose answers come one after the other, the last one for ever.
type turns struct{ answers []int }

func (q *turns) First(context.Context, *Action, []json.RawMessage) (int, error) {
	a := q.answers[0]
	if len(q.answers) > 1 {
		q.answers = q.answers[1:]
	}
	return a, nil
}

// TestWaitUntilTurns goes through the orders in which a match, the time and the
// looking may come.
func TestWaitUntilTurns(t *testing.T) {
	t.Parallel()
	const due = "2028-03-13T10:00:00Z" // the time is up an hour later
	state := func(more string) string {
		return `{"until":"2028-03-13T11:00:00Z","since":"2028-03-13T10:00:00Z","awaited":"5"` + more + `}`
	}
	for _, tc := range []struct {
		name, parked, now, performAt string
		met                          []int
		fresh                        bool
		want                         string // outcome, or how it is parked
	}{
		{"met already", "", due, due, []int{0}, false, "matched"},
		{"not yet, others wait for it", "", due, due, []int{-1}, false, "11:00:00"},
		{"not yet, the first to wait", "", due, due, []int{-1}, true, "10:00:02 confirm"},
		{"met while its trigger was made", "", due, due, []int{-1, 0}, true, "matched"},
		{"confirmed", state(`,"confirm":true`), "2028-03-13T10:00:02Z", "2028-03-13T10:00:02Z", []int{-1}, false, "11:00:00"},
		{"met unseen", state(`,"confirm":true`), "2028-03-13T10:00:02Z", "2028-03-13T10:00:02Z", []int{0}, false, "matched"},
		{"woken, met still", state(`,"woken":"2028-03-13T10:30:00Z"`), "2028-03-13T10:30:01Z", "2028-03-13T10:30:00Z", []int{0}, false, "matched"},
		{"woken, met no more", state(`,"woken":"2028-03-13T10:30:00Z"`), "2028-03-13T10:30:01Z", "2028-03-13T10:30:00Z", []int{-1}, false, "matched"},
		{"woken by what was before", state(`,"woken":"2028-03-13T09:59:59Z"`), "2028-03-13T10:30:01Z", "2028-03-13T10:30:00Z", []int{-1}, false, "11:00:00"},
		{"time is up", state(""), "2028-03-13T11:00:00Z", "2028-03-13T11:00:00Z", []int{-1}, false, "timeout"},
		{"time is up, and met", state(""), "2028-03-13T11:00:00Z", "2028-03-13T11:00:00Z", []int{0}, false, "matched superseded"},
		{"an instant early", state(""), "2028-03-13T10:59:59.9Z", "2028-03-13T11:00:00Z", []int{-1}, false, "11:00:00"},
		{"an app ended it early", state(""), "2028-03-13T10:30:00Z", "2028-03-13T10:30:00Z", []int{-1}, false, "timeout"},
		{"started late", "", "2028-03-13T12:00:00Z", due, []int{-1}, false, "timeout"},
	} {
		store := &calls{}
		a := &Action{
			ID: 9, LeadStageID: 1, Type: "wait_until",
			Params: json.RawMessage(`{"query":{"type":"match_all","note":"{{ nothing"},"timeout":"{{ 1 }} hour","on_match":{"stage":"won"},"on_timeout":"exit"}`),
			Now:    instant(t, tc.now), PerformAt: instant(t, tc.performAt), Resumed: tc.parked != "", Parked: json.RawMessage(tc.parked),
		}
		got, err := handlerFor(t, Config{Store: store, Queries: &turns{tc.met}, Awaiting: lookout(tc.fresh)}, "wait_until").Run(t.Context(), a)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		out := got.Output.(UntilOutput)
		is := out.Outcome
		if is == "" {
			is = got.Until.UTC().Format(time.TimeOnly)
		}
		if out.Confirm {
			is += " confirm"
		}
		if out.Superseded != nil {
			is += " superseded"
		}
		if is != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, is, tc.want)
		}
		if got.Effect != nil {
			_ = got.Effect(t.Context(), nil)
		}
		if done, want := strings.Join(store.got, ";"), map[string]string{"matched": `move 9 "" "won"`, "timeout": `exit 9 ""`}[out.Outcome]; done != want {
			t.Errorf("%s leads to %q, want %q", tc.name, done, want)
		}
	}
}
