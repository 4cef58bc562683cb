package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

const stages = `[{"name":"new","actions":[{"action_type":"log","params":{"message":"1"}},{"action_type":"log","params":{"message":"2"}}]},{"name":"old"}]`

func TestPipelines(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","goal":`+query+`,"stages":`+stages+`}`)
	made.want("lead", "data", "object_type")
	made.want("after_exit", "data", "reenrolment")
	made.want("and", "data", "goal", "type")
	made.want("2", "data", "stages", 0, "actions", 1, "params", "message")
	if made.len("data", "stages", 1, "actions") != 0 {
		t.Errorf("%s", made.raw)
	}
	path := "/v1/pipelines/" + made.id()
	newID, oldID := made.get("data", "stages", 0, "id"), made.get("data", "stages", 1, "id")
	s.call(200, "GET", "/v1/pipelines?name=p", s.a, "").want(newID, "data", 0, "stages", 0, "id")

	// PUT: the same name keeps its id, an id renames, what is not there is new.
	put := s.call(200, "PUT", path, s.a, fmt.Sprintf(
		`{"name":"p2","reenrolment":"30 days","stages":[{"name":"fresh"},{"id":%q,"name":"new"},{"name":"x","id":%q,"actions":[{"action_type":"email"}]}]}`, oldID, newID))
	put.want(2.0, "data", "version")
	put.want(nil, "data", "goal")
	put.want("30 days", "data", "reenrolment")
	put.want("fresh", "data", "stages", 0, "name")
	put.want(oldID, "data", "stages", 1, "id")
	put.want("new", "data", "stages", 1, "name")
	put.want(newID, "data", "stages", 2, "id")
	put.want("email", "data", "stages", 2, "actions", 0, "action_type")

	patch := s.call(200, "PATCH", path, s.a, `{"status":"paused","goal":`+query+`}`)
	patch.want("paused", "data", "status")
	patch.want("p2", "data", "name")
	patch.want(2.0, "data", "version")
	patch.want("and", "data", "goal", "type")
	if patch.len("data", "stages") != 3 {
		t.Errorf("PATCH without stages changed them: %s", patch.raw)
	}
	patch = s.call(200, "PATCH", path, s.a, `{"goal":null,"stages":[{"name":"new"}]}`)
	patch.want(3.0, "data", "version")
	patch.want(nil, "data", "goal")
	patch.want(oldID, "data", "stages", 0, "id")

	s.call(204, "DELETE", path, s.a, "")
	s.call(404, "GET", path, s.a, "")
	s.call(404, "DELETE", path, s.a, "")
}

func TestPipelinesRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	body := func(stages, more string) string { return `{"name":"p","stages":` + stages + more + `}` }
	for name, c := range map[string]struct{ body, pointer, code string }{
		"params":       {body(`[{"name":"a","actions":[{"action_type":"log","params":{"message":"x"}},{"action_type":"log"}]}]`, ""), "/stages/0/actions/1/params", "invalid_params"},
		"type":         {body(`[{"name":"a"},{"name":"b","actions":[{"action_type":"lag"}]}]`, ""), "/stages/1/actions/0/action_type", "unknown_action_type"},
		"attempts":     {body(`[{"name":"a","actions":[{"action_type":"email","params":{"max_attempts":1000}}]}]`, ""), "/stages/0/actions/0/params", "invalid_params"},
		"twice":        {body(`[{"name":"a"},{"name":"a"}]`, ""), "/stages/1/name", "repeated"},
		"no stages":    {`{"name":"p"}`, "/stages", "missing_member"},
		"null stages":  {body(`null`, ""), "/stages", "invalid"},
		"no name":      {body(`[{"actions":[]}]`, ""), "/stages/0/name", "missing_member"},
		"unknown":      {body(`[{"name":"a","actions":[{"action_type":"email","wait":1}]}]`, ""), "/stages/0/actions/0/wait", "unknown_member"},
		"id":           {body(`[{"name":"a","id":"1"}]`, ""), "/stages/0/id", "invalid"},
		"policy":       {body(`[]`, `,"reenrolment":"sometimes"`), "/reenrolment", "invalid"},
		"policy below": {body(`[]`, `,"reenrolment":"-1 day"`), "/reenrolment", "invalid"},
		"goal watched": {body(`[]`, `,"object_type":"deal","goal":`+query), "/goal", "not_watched"},
		"status":       {body(`[]`, `,"status":"off"`), "/status", "invalid"},
	} {
		if a := s.call(422, "POST", "/v1/pipelines", s.a, c.body); a.get("errors", c.pointer, "code") != c.code {
			t.Errorf("%s: wanted %s at %s: %s", name, c.code, c.pointer, a.raw)
		}
	}
	a := s.call(422, "POST", "/v1/pipelines", s.a, body(`[]`, `,"goal":`+badQuery))
	if !strings.Contains(a.raw, `"/goal/queries/1`) {
		t.Errorf("the goal's pointer: %s", a.raw)
	}
	if s.text(`SELECT count(*)::text FROM pgautomate.pipelines`) != "0" {
		t.Error("something was stored")
	}

	made := s.call(201, "POST", "/v1/pipelines", s.a, body(stages, ""))
	s.call(409, "POST", "/v1/pipelines", s.a, body(`[]`, ""))
	s.call(201, "POST", "/v1/pipelines", s.b, body(`[]`, ""))
	path := "/v1/pipelines/" + made.id()
	s.call(422, "PUT", path, s.a, body(`[]`, `,"object_type":"deal"`)).wantError("/object_type", "invalid")
	s.call(422, "PUT", path, s.a, body(`[{"name":"a","id":"999999"}]`, "")).wantError("/stages/0/id", "unknown_stage")
	same := fmt.Sprint(made.get("data", "stages", 0, "id"))
	s.call(422, "PUT", path, s.a, body(`[{"name":"a","id":"`+same+`"},{"name":"b","id":"`+same+`"}]`, "")).wantError("/stages/1/id", "repeated")

	// A stage that leads are in stays, and so does its pipeline.
	s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["1","2"]}`)
	in := s.call(409, "PUT", path, s.a, body(`[{"name":"old"}]`, ""))
	if !strings.Contains(fmt.Sprint(in.get("message")), `"new" (2)`) {
		t.Errorf("%s", in.raw)
	}
	s.call(409, "PATCH", path, s.a, `{"stages":[]}`)
	s.call(409, "DELETE", path, s.a, "")
	s.call(200, "GET", path, s.a, "").want(1.0, "data", "version")
	s.exec(`SELECT pgautomate.close_lead_stages(array_agg(id), 'exited', 'exit', 'stage_left') FROM pgautomate.lead_stages`)
	s.call(200, "PUT", path, s.a, body(`[{"name":"old"}]`, ""))
	s.call(204, "DELETE", path, s.a, "")
}

func TestLeads(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := "/v1/pipelines/" + s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":`+stages+`}`).id()
	in := s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["1","2","3"]}`)
	in.want(3.0, "data", "entered")
	if in.len("data", "skipped") != 0 {
		t.Errorf("%s", in.raw)
	}
	again := s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["2","4","4"],"stage":"new"}`)
	again.want(1.0, "data", "entered")
	again.want("2", "data", "skipped", 0, "lead_id")
	again.want("already_enrolled", "data", "skipped", 0, "reason")
	again.want("4", "data", "skipped", 1, "lead_id")
	// Into another stage is a move; one without actions is done on entry, and entered all the same.
	s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["1"],"stage":"old"}`).want(1.0, "data", "entered")
	s.call(200, "POST", path+"/leads?organization_id=a", s.op, `{"lead_ids":["9"]}`).want(1.0, "data", "entered")
	s.call(200, "POST", path+"/leads", s.op, `{"lead_ids":["10"]}`).want(1.0, "data", "entered")

	s.call(422, "POST", path+"/leads", s.a, `{"lead_ids":["1"],"stage":"none"}`).wantError("/stage", "unknown_stage")
	s.call(422, "POST", path+"/leads", s.a, `{"lead_ids":[]}`).wantError("/lead_ids", "invalid")
	s.call(422, "POST", path+"/leads", s.a, `{"lead_ids":["1",""]}`).wantError("/lead_ids/1", "invalid")
	s.call(422, "POST", path+"/leads", s.a, `{"lead_ids":[1]}`).wantError("/lead_ids/0", "invalid")
	s.call(404, "POST", "/v1/pipelines/999999/leads", s.a, `{"lead_ids":["1"]}`)
	empty := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"empty","stages":[]}`).id()
	s.call(409, "POST", "/v1/pipelines/"+empty+"/leads", s.a, `{"lead_ids":["1"]}`)

	line := s.call(200, "GET", "/v1/leads/1/timeline", s.a, "")
	var kinds []string
	for i := range line.len("data") {
		kinds = append(kinds, fmt.Sprint(line.get("data", i, "kind"), " ", line.get("data", i, "stage"), " ", line.get("data", i, "status"), " ", line.get("data", i, "reason")))
	}
	got := strings.Join(kinds, "; ")
	if !strings.HasPrefix(got, "stage new exited moved_by_app; ") || !strings.Contains(got, "stage old completed") ||
		strings.Count(got, "action new canceled stage_left") != 2 {
		t.Errorf("timeline: %s", got)
	}
	// Waiting actions come last, without a time.
	line = s.call(200, "GET", "/v1/leads/2/timeline", s.a, "")
	last := line.len("data") - 1
	line.want("action", "data", last, "kind")
	line.want(nil, "data", last, "at")
	line.want(2.0, "data", last, "sequence_number")
}

func TestManyLeads(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := "/v1/pipelines/" + s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":`+stages+`}`).id()
	var up, down []string
	for i := range 2000 {
		up = append(up, fmt.Sprintf(`"%d"`, i))
		down = append(down, fmt.Sprintf(`"%d"`, 1999-i))
	}
	// Two at once, in opposite orders: neither fails, each lead enters once.
	var wg sync.WaitGroup
	answers := make([]*answer, 2)
	for i, list := range [][]string{up, down} {
		r := s.request("POST", path+"/leads", s.a, `{"lead_ids":[`+strings.Join(list, ",")+`]}`)
		wg.Go(func() { answers[i] = s.do(r) })
	}
	wg.Wait()
	entered := 0.0
	for _, a := range answers {
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.raw)
		}
		n, _ := a.get("data", "entered").(float64)
		entered += n
	}
	if entered != 2000 || s.text(`SELECT count(*)::text FROM pgautomate.lead_stages WHERE status = 'active'`) != "2000" {
		t.Errorf("%v entered", entered)
	}
	// More than the megabyte that other routes take.
	long := strings.Repeat("x", 900)
	var many []string
	for i := range 1500 {
		many = append(many, fmt.Sprintf(`"%s%d"`, long, i))
	}
	s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":[`+strings.Join(many, ",")+`]}`).want(1500.0, "data", "entered")
}

func TestActions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := "/v1/pipelines/" + s.call(201, "POST", "/v1/pipelines", s.a,
		`{"name":"p","stages":[{"name":"new","actions":[{"action_type":"email","params":{"n":1}},{"action_type":"email","params":{"n":2}},{"action_type":"email","params":{"n":3}}]},{"name":"other","actions":[{"action_type":"email"}]}]}`).id()
	action := func(lead string, n int) string {
		return s.text(`SELECT a.id::text FROM pgautomate.lead_stage_actions a WHERE a.lead_id = $1 AND a.sequence_number = $2 ORDER BY a.id LIMIT 1`, lead, n)
	}
	state := func(lead string) string {
		return s.text(`SELECT string_agg(status || CASE WHEN perform_at IS NULL THEN '' ELSE '@' END, ' ' ORDER BY sequence_number)
			FROM pgautomate.lead_stage_actions WHERE lead_id = $1 AND lead_stage_id = (SELECT min(id) FROM pgautomate.lead_stages WHERE lead_id = $1)`, lead)
	}
	stage := func(lead string) string {
		return s.text(`SELECT status FROM pgautomate.lead_stages WHERE lead_id = $1 ORDER BY id LIMIT 1`, lead)
	}
	// As the engine does when an action has used up its attempts.
	fail := func(lead string, n int) {
		s.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'failed', error = 'no', attempt = 10, started_at = now(), finished_at = now() WHERE id = $1::text::bigint`, action(lead, n))
		s.exec(`SELECT pgautomate.close_lead_stages(array_agg(id), 'failed', 'failed', 'stage_left') FROM pgautomate.lead_stages WHERE lead_id = $1`, lead)
	}
	enter := func(lead, stage string) {
		s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["`+lead+`"],"stage":"`+stage+`"}`).want(1.0, "data", "entered")
	}
	expect := func(lead, actions, ofStage string) {
		t.Helper()
		if got := state(lead); got != actions {
			t.Errorf("lead %s: actions are %q, wanted %q", lead, got, actions)
		}
		if got := stage(lead); got != ofStage {
			t.Errorf("lead %s: its stage is %s, wanted %s", lead, got, ofStage)
		}
	}

	// Cancel: the next one's turn comes.
	enter("1", "new")
	expect("1", "pending@ pending pending", "active")
	canceled := s.call(200, "POST", "/v1/actions/"+action("1", 1)+"/cancel", s.a, "")
	canceled.want("canceled", "data", "status")
	canceled.want("canceled_by_app", "data", "reason")
	expect("1", "canceled@ pending@ pending", "active")
	s.call(409, "POST", "/v1/actions/"+action("1", 1)+"/cancel", s.a, "")
	s.call(409, "POST", "/v1/actions/"+action("1", 2)+"/retry", s.a, "")

	// Retry in an active stage: one at a time, so it waits for the one that is due.
	s.call(200, "POST", "/v1/actions/"+action("1", 1)+"/retry", s.a, "").want(nil, "data", "perform_at")
	expect("1", "pending pending@ pending", "active")
	s.call(200, "POST", "/v1/actions/"+action("1", 2)+"/cancel", s.a, "")
	expect("1", "pending@ canceled@ pending", "active")

	// Retry of what failed the stage: the stage is open again, and so is what came after.
	enter("2", "new")
	s.call(200, "POST", "/v1/actions/"+action("2", 2)+"/cancel", s.a, "")
	fail("2", 1)
	expect("2", "failed@ canceled canceled", "failed")
	s.call(409, "POST", "/v1/actions/"+action("2", 3)+"/retry", s.a, "")
	retried := s.call(200, "POST", "/v1/actions/"+action("2", 1)+"/retry", s.a, "")
	retried.want("pending", "data", "status")
	retried.want(nil, "data", "error")
	retried.want(0.0, "data", "attempt")
	if retried.get("data", "perform_at") == nil {
		t.Errorf("it is not due: %s", retried.raw)
	}
	expect("2", "pending@ canceled pending", "active") // what a person canceled stays so

	// Only the action that failed the stage opens it again.
	enter("6", "new")
	s.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'failed', finished_at = now() WHERE id = $1::text::bigint`, action("6", 1)) // on_error: skip
	fail("6", 2)
	s.call(409, "POST", "/v1/actions/"+action("6", 1)+"/retry", s.a, "")
	s.call(200, "POST", "/v1/actions/"+action("6", 2)+"/retry", s.a, "")
	expect("6", "failed@ pending@ pending", "active")

	// Not while the lead is in another stage of the pipeline, nor once it has moved on.
	enter("3", "new")
	fail("3", 1)
	enter("3", "other")
	s.call(409, "POST", "/v1/actions/"+action("3", 1)+"/retry", s.a, "")
	expect("3", "failed@ canceled canceled", "failed")
	enter("4", "new")
	enter("4", "other")
	s.call(409, "POST", "/v1/actions/"+action("4", 1)+"/retry", s.a, "")
	expect("4", "canceled@ canceled canceled", "exited")

	// A trigger's own action has no stage to mind; being due, it wakes its organization's lane.
	id := s.text(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, status, finished_at, error)
		VALUES ('a', '5', 'email', 'failed', now(), 'no') RETURNING id::text`)
	s.exec(`DELETE FROM pgautomate.due_signals`)
	s.call(200, "POST", "/v1/actions/"+id+"/retry", s.a, "").want(nil, "data", "lead_stage_id")
	if s.text(`SELECT count(*)::text FROM pgautomate.due_signals WHERE organization_id = 'a'`) == "0" {
		t.Error("nobody was told that it is due")
	}
	s.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'running' WHERE id = $1::text::bigint`, id)
	if a := s.call(409, "POST", "/v1/actions/"+id+"/cancel", s.a, ""); !strings.Contains(a.raw, "running") {
		t.Errorf("%s", a.raw)
	}
	s.call(200, "GET", "/v1/actions/"+id, s.a, "").want("running", "data", "status")
	// Another time: of what waits for its time.
	enter("7", "new")
	s.call(200, "PATCH", "/v1/actions/"+action("7", 1), s.a, `{"perform_at":"2030-01-02T03:04:05+01:00"}`).want("2030-01-02T02:04:05Z", "data", "perform_at")
	if a := s.call(409, "PATCH", "/v1/actions/"+action("7", 2), s.a, `{"perform_at":"2030-01-02T03:04:05Z"}`); !strings.Contains(a.raw, "not the action's turn yet") {
		t.Errorf("%s", a.raw)
	}
	if a := s.call(409, "PATCH", "/v1/actions/"+id, s.a, `{"perform_at":"2030-01-02T03:04:05Z"}`); !strings.Contains(a.raw, "the action is running") {
		t.Errorf("%s", a.raw)
	}
	s.call(404, "PATCH", "/v1/actions/"+action("7", 1), s.b, `{"perform_at":"2030-01-02T03:04:05Z"}`)
	s.call(422, "PATCH", "/v1/actions/"+action("7", 1), s.a, `{"perform_at":"soon"}`)
	for _, path := range []string{"/v1/actions/999999/cancel", "/v1/actions/999999/retry", "/v1/actions/x/retry"} {
		s.call(404, "POST", path, s.a, "")
	}
	s.call(422, "GET", "/v1/actions?status=lost", s.a, "")
}

// Entries and retries of one lead at the same moment: never two active stages,
// never a 500.
func TestRetryRaces(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := "/v1/pipelines/" + s.call(201, "POST", "/v1/pipelines", s.a,
		`{"name":"p","stages":[{"name":"new","actions":[{"action_type":"email"}]},{"name":"other","actions":[{"action_type":"email"}]}]}`).id()
	for i := range 20 {
		lead := strconv.Itoa(i)
		s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["`+lead+`"]}`)
		s.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'failed', finished_at = now() WHERE lead_id = $1`, lead)
		s.exec(`SELECT pgautomate.close_lead_stages(array_agg(id), 'failed', 'failed', 'stage_left') FROM pgautomate.lead_stages WHERE lead_id = $1`, lead)
		id := s.text(`SELECT id::text FROM pgautomate.lead_stage_actions WHERE lead_id = $1`, lead)
		requests := []func() *answer{
			func() *answer { return s.do(s.request("POST", "/v1/actions/"+id+"/retry", s.a, "")) },
			func() *answer {
				return s.do(s.request("POST", path+"/leads", s.a, `{"lead_ids":["`+lead+`"],"stage":"other"}`))
			},
		}
		var wg sync.WaitGroup
		for _, do := range requests {
			wg.Go(func() {
				if a := do(); a.status != 200 && a.status != 409 {
					t.Errorf("%d %s", a.status, a.raw)
				}
			})
		}
		wg.Wait()
		if n := s.text(`SELECT count(*)::text FROM pgautomate.lead_stages WHERE lead_id = $1 AND status = 'active'`, lead); n != "1" {
			t.Errorf("lead %s has %s active stages", lead, n)
		}
	}
}

// An app that keeps its transaction open holds up what concerns the stage its
// lead entered, for a bounded time, and nothing else.
func TestOpenTransaction(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":`+stages+`}`)
	path := "/v1/pipelines/" + made.id()
	tx, err := s.pool.Begin(t.Context())
	ok(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', '1', min(id) FROM pgautomate.pipeline_stages`)
	ok(t, err)
	began := time.Now()
	s.call(200, "PATCH", path, s.a, `{"status":"paused"}`)
	s.call(200, "PUT", path, s.a, `{"name":"p","stages":`+stages+`}`)
	s.call(200, "PATCH", path, s.a, `{"stages":[{"name":"new"},{"name":"more"}]}`)
	s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["2"]}`)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("what has nothing to do with the open transaction waited %s", took)
	}
	var wg sync.WaitGroup
	for _, r := range []*http.Request{
		s.request("PATCH", path, s.a, `{"stages":[]}`), s.request("POST", path+"/leads", s.a, `{"lead_ids":["1"]}`),
	} {
		wg.Go(func() {
			if a := s.do(r); a.status != 409 {
				t.Errorf("%s %s: %d %s", r.Method, r.URL.Path, a.status, a.raw)
			}
		})
	}
	wg.Wait()
	ok(t, tx.Commit(t.Context()))
	s.call(409, "PATCH", path, s.a, `{"stages":[]}`) // now the lead is in it
}

// TestLeadsInCircles: an app's statement that takes the same leads in another order
// is not the request's problem.
func TestLeadsInCircles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":`+stages+`}`)
	stage, err := strconv.ParseInt(fmt.Sprint(made.get("data", "stages", 0, "id")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	_ = dbtest.Deadlock(t, s.pool, "a", stage, "2", "1", func() error {
		got := s.call(200, "POST", "/v1/pipelines/"+made.id()+"/leads", s.a, `{"lead_ids":["2","1","3"]}`)
		got.want(1.0, "data", "entered")
		got.want("already_enrolled", "data", "skipped", 1, "reason")
		return nil
	})
	if got := s.text(`SELECT string_agg(lead_id, ' ' ORDER BY lead_id) FROM pgautomate.lead_stages WHERE status = 'active'`); got != "1 2 3" {
		t.Errorf("the leads %s are in, want 1 2 3", got)
	}
}
