package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/catalog"
)

// newWorkers is a world whose engine has no feed: what pipelines need.
func newWorkers(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.config.Parts = []pgautomate.Part{pgautomate.SchedulerPart, pgautomate.WorkersPart}
	return w
}

// act is a stage's action.
type act struct{ kind, params string }

func logs(messages ...string) []act {
	acts := make([]act, len(messages))
	for i, m := range messages {
		acts[i] = act{"log", fmt.Sprintf(`{"message": %q}`, m)}
	}
	return acts
}

// stage adds a stage to the organization's pipeline of that name, which it makes
// if need be, and returns the stage's id.
func (w *world) stage(organization, pipeline, name string, acts ...act) int64 {
	w.t.Helper()
	w.exec(`INSERT INTO pgautomate.pipelines (organization_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING`, organization, pipeline)
	id := one[int64](w, `INSERT INTO pgautomate.pipeline_stages (pipeline_id, name, position)
		SELECT p.id, $3, 1 + (SELECT count(*) FROM pgautomate.pipeline_stages s WHERE s.pipeline_id = p.id)
		  FROM pgautomate.pipelines p WHERE p.organization_id = $1 AND p.name = $2 RETURNING id`, organization, pipeline, name)
	for i, a := range acts {
		params := a.params
		if params == "" {
			params = "{}"
		}
		w.exec(`INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params) VALUES ($1, $2, $3, $4)`,
			id, i+1, a.kind, params)
	}
	return id
}

// enter is what an app does; it returns the lead stage's id.
func (w *world) enter(organization, lead string, stage int64) int64 {
	w.t.Helper()
	return one[int64](w, `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ($1, $2, $3) RETURNING id`,
		organization, lead, stage)
}

// enterMany lets leads 1 to n enter by one statement.
func (w *world) enterMany(organization string, stage int64, n int) {
	w.t.Helper()
	w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
		SELECT $1, g::text, $2 FROM generate_series(1, $3::integer) g`, organization, stage, n)
}

// run is a lead stage's state: "status/reason".
func (w *world) runState(leadStage int64) string {
	w.t.Helper()
	return one[string](w, `SELECT concat_ws('/', status, reason) FROM pgautomate.lead_stages WHERE id = $1`, leadStage)
}

// actions are the states of a lead stage's actions, in order: "status" or "status/reason".
func (w *world) actions(leadStage int64) string {
	w.t.Helper()
	return one[string](w, `SELECT coalesce(string_agg(concat_ws('/', status, reason), ' ' ORDER BY sequence_number, id), '')
		FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1`, leadStage)
}

// untilActions waits for a lead stage's actions to be in these states.
func (w *world) untilActions(leadStage int64, want string) {
	w.t.Helper()
	got := ""
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if got = w.actions(leadStage); got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("the actions of lead stage %d are %q, want %q\n%s", leadStage, got, want, w.dump(leadStage))
}

// untilRun waits for the lead stage's end.
func (w *world) untilRun(leadStage int64, want string) {
	w.t.Helper()
	got := ""
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if got = w.runState(leadStage); got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("lead stage %d is %q, want %q\n%s", leadStage, got, want, w.dump(leadStage))
}

func (w *world) dump(leadStage int64) string {
	w.t.Helper()
	return strings.Join(list[string](w, `SELECT to_jsonb(a)::text FROM pgautomate.lead_stage_actions a WHERE lead_stage_id = $1 ORDER BY sequence_number`, leadStage), "\n")
}

// action is the id of a lead stage's nth action.
func (w *world) action(leadStage int64, sequence int) int64 {
	w.t.Helper()
	return one[int64](w, `SELECT id FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1 AND sequence_number = $2`, leadStage, sequence)
}

// actionIs reads one column of an action as text.
func (w *world) actionIs(id int64, column string) string {
	w.t.Helper()
	return one[string](w, fmt.Sprintf(`SELECT coalesce((%s)::text, '') FROM pgautomate.lead_stage_actions WHERE id = $1`, column), id)
}

// handle registers a handler.
func handle(kind string, f pgautomate.HandlerFunc) func(*pgautomate.Engine) {
	return func(e *pgautomate.Engine) {
		if err := e.Register(kind, f); err != nil {
			panic(err)
		}
	}
}

// another starts one more engine on the same database, ended with the test or by
// the function that it returns.
func (w *world) another(setup ...func(*pgautomate.Engine)) (stop func()) {
	w.t.Helper()
	two := &world{t: w.t, db: w.db, log: w.log, config: w.config}
	two.run(setup...)
	w.t.Cleanup(two.halt)
	return two.halt
}

// fails runs a statement that must be refused and returns the error.
func (w *world) fails(sql string, args ...any) string {
	w.t.Helper()
	_, err := w.db.Pool.Exec(context.Background(), sql, args...)
	if err == nil {
		w.t.Fatalf("%s: not refused", sql)
	}
	return err.Error()
}

// watchLead watches a table public.lead that has no organizations.
func (w *world) watchLead() {
	w.t.Helper()
	w.watch(catalog.WatchOptions{Table: "public.lead"})
}
