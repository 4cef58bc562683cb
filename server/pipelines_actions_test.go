package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/server"
)

// ownActions is a site whose action types are the engine's own.
func ownActions(t *testing.T) *site {
	t.Helper()
	registry, err := jobs.Defaults(jobs.Config{})
	ok(t, err)
	return newSite(t, func(c *server.Config) { c.Actions = registry })
}

// TestActionsRefused: what an action's parameters say of stages, queries and times
// is checked when its pipeline is saved, and the error points at it.
func TestActionsRefused(t *testing.T) {
	t.Parallel()
	s := ownActions(t)
	body := func(kind, params string) string {
		return `{"name":"p","stages":[{"name":"a"},{"name":"b","actions":[{"action_type":"` + kind + `","params":` + params + `}]}]}`
	}
	arm := func(query, then string) string { return `{"arms":[{"query":` + query + `,"then":` + then + `}]}` }
	words := strings.ReplaceAll(`{"type":"and","queries":[{"type":"object_type","object_type":"lead"},{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"status"},"condition":{"type":"text","mode":"full_words","value":"x"}}]}`, "\n", "")
	for name, c := range map[string]struct{ kind, params, pointer, code string }{
		"window":        {"wait", `{"for":"1 day","window":{"weekdays":["funday"]}}`, "", "invalid_params"},
		"zone":          {"wait", `{"for":"1 day","window":{"time_zone":"Mars/Olympus"}}`, "", "invalid_params"},
		"closed":        {"wait", `{"for":"1 day","window":{"hours":["09:00","09:00"]}}`, "", "invalid_params"},
		"no arms":       {"branch", `{"arms":[]}`, "", "invalid_params"},
		"arm":           {"branch", `{"arms":[{"when":{},"then":"next"}]}`, "", "invalid_params"},
		"then":          {"branch", arm(words, `"jump"`), "", "invalid_params"},
		"unknown stage": {"branch", arm(words, `{"stage":"c"}`), "/arms/0/then/stage", "unknown_stage"},
		"own stage":     {"branch", arm(words, `{"stage":"b"}`), "/arms/0/then/stage", "same_stage"},
		"query":         {"branch", arm(strings.ReplaceAll(words, `"field_name":"status"`, `"field_name":"nope"`), `"next"`), "/arms/0/query/queries/1/field", "unknown_field"},
		"else":          {"branch", strings.TrimSuffix(arm(words, `"next"`), "}") + `,"else":{"stage":"c"}}`, "/else/stage", "unknown_stage"},
		"until":         {"wait_until", `{"timeout":"1 day","query":` + strings.ReplaceAll(words, `"field_name":"status"`, `"field_name":"nope"`) + `}`, "/query/queries/1/field", "unknown_field"},
		"until stage":   {"wait_until", `{"timeout":"1 day","query":` + words + `,"on_match":{"stage":"c"}}`, "/on_match/stage", "unknown_stage"},
		"reply stage":   {"wait_for_reply", `{"timeout":"1 day","on_timeout":{"stage":"c"}}`, "/on_timeout/stage", "unknown_stage"},
		"reply":         {"wait_for_reply", `{"timeout":"1 moon"}`, "", "invalid_params"},
		"move":          {"move", `{"stage":"c"}`, "/stage", "unknown_stage"},
		"P15":           {"move", `{"stage":"b"}`, "/stage", "same_stage"},
		"on_error":      {"log", `{"message":"x","on_error":{"stage":"c"}}`, "/on_error/stage", "unknown_stage"},
	} {
		a := s.call(422, "POST", "/v1/pipelines", s.a, body(c.kind, c.params))
		if got := a.get("errors", "/stages/1/actions/0/params"+c.pointer, "code"); got != c.code {
			t.Errorf("%s: wanted %s at %s: %s", name, c.code, c.pointer, a.raw)
		}
	}
	// Not watched: the query can't be asked of anything.
	s.call(422, "POST", "/v1/pipelines", s.a, `{"name":"q","object_type":"deal","stages":[{"name":"b","actions":[{"action_type":"branch","params":`+arm(`{"type":"match_all"}`, `"next"`)+`}]}]}`).
		wantError("/stages/0/actions/0/params/arms/0/query", "not_watched")
	// A trigger's own action stands in no stage.
	trig, err := json.Marshal(map[string]any{"name": "t", "object_type": "lead", "query": json.RawMessage(query), "action_type": "branch", "action_params": json.RawMessage(arm(words, `"next"`))})
	ok(t, err)
	s.call(422, "POST", "/v1/triggers", s.a, string(trig)).wantError("/action_type", "needs_pipeline")

	for i, c := range []struct{ kind, params string }{
		{"branch", arm(words, `"exit"`)},
		{"branch", arm(words, `{"stage":"a"}`)},
		{"branch", arm(words, `{"stage":"b","restart":true}`)},
		{"branch", arm(words, `{"stage":"{{ lead.status }}"}`)},
		{"move", `{"stage":"b","restart":true}`},
		{"move", `{"stage":"anything","pipeline":"other"}`},
		{"log", `{"message":"x","on_error":{"stage":"a"}}`},
		{"wait", `{"for":"1 day","window":{"weekdays":["mon"],"hours":["09:00","17:00"],"time_zone":"Europe/Berlin","holidays":["2028-03-13"]}}`},
	} {
		s.call(201, "POST", "/v1/pipelines", s.a, strings.Replace(body(c.kind, c.params), `"name":"p"`, `"name":"ok`+string(rune('a'+i))+`"`, 1))
	}
}

// TestGoals: a goal's trigger is shown as its pipeline's, and who meets the goal
// already is not let in.
func TestGoals(t *testing.T) {
	t.Parallel()
	s := newWatchedSite(t)
	s.exec(`INSERT INTO lead (id, organization_id, status) VALUES (1, 'a', 'won'), (2, 'a', 'new'), (3, 'b', 'won')`)
	made := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","goal":`+on(leadField("status", `{"type":"term","values":["won"]}`))+`,"stages":`+stages+`}`)
	in := s.call(200, "POST", "/v1/pipelines/"+made.id()+"/leads", s.a, `{"lead_ids":["1","2","3","4"]}`)
	in.want(3.0, "data", "entered")
	in.want("1", "data", "skipped", 0, "lead_id")
	in.want("goal_already_met", "data", "skipped", 0, "reason")
	// An id that is none of the table's is nobody who meets it.
	s.call(200, "POST", "/v1/pipelines/"+made.id()+"/leads", s.a, `{"lead_ids":["1","abc"]}`).want(1.0, "data", "entered")
	if got := s.text(`SELECT count(*)::text FROM pgautomate.lead_stage_actions WHERE lead_id = '1'`); got != "0" {
		t.Errorf("%s actions for a lead that was not let in", got)
	}

	trig := s.call(200, "GET", "/v1/triggers", s.a, "")
	trig.want(made.id(), "data", 0, "pipeline_id")
	path := "/v1/triggers/" + trig.get("data", 0, "id").(string)
	for _, a := range []*answer{s.call(409, "PATCH", path, s.a, `{"status":"paused"}`), s.call(409, "DELETE", path, s.a, "")} {
		if !strings.Contains(a.raw, "change the pipeline's goal instead") {
			t.Errorf("%s", a.raw)
		}
	}
	s.call(404, "DELETE", path, s.b, "")
	s.call(204, "DELETE", "/v1/triggers/"+s.call(201, "POST", "/v1/triggers", s.a, `{"name":"t","object_type":"lead","query":`+query+`,"action_type":"log","action_params":{"message":"x"}}`).id(), s.a, "")
}

func TestApply(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := "/v1/pipelines/" + s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":`+stages+`}`).id()
	s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["1","2"]}`)
	same := s.call(200, "POST", path+"/apply", s.a, "")
	same.want(2.0, "data", "kept")
	s.call(200, "PATCH", path, s.a, `{"stages":[{"name":"new","actions":[{"action_type":"log","params":{"message":"1"}},{"action_type":"log","params":{"message":"3"}}]},{"name":"old"}]}`)
	done := s.call(200, "POST", path+"/apply", s.a, `{"per_minute":60}`)
	done.want(2.0, "data", "applied")
	done.want(0.0, "data", "kept")
	done.want(0.0, "data", "moved_on")
	if got := s.text(`SELECT string_agg(params ->> 'message', ' ' ORDER BY id) FROM pgautomate.lead_stage_actions WHERE lead_id = '1' AND status = 'pending'`); got != "1 3" {
		t.Errorf("the lead's actions are %s", got)
	}
	s.call(404, "POST", path+"/apply", s.b, "")
	s.call(422, "POST", path+"/apply", s.a, `{"per_minute":-1}`).wantError("/per_minute", "invalid")
}

func TestDryRunRoute(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *server.Config) {
		c.DryRun = func(_ context.Context, _, stage int64, lead string) (*jobs.DryRun, error) {
			if lead == "nobody" {
				return nil, nil
			}
			return &jobs.DryRun{LeadID: lead, Actions: []jobs.DryRunAction{{ActionType: "log", SequenceNumber: int(stage)}}, Status: "completed"}, nil
		}
	})
	made := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":`+stages+`}`)
	path := "/v1/pipelines/" + made.id() + "/dry-run"
	s.call(200, "POST", path, s.a, `{"lead_id":"7"}`).want("log", "data", "actions", 0, "action_type")
	old := s.call(200, "POST", path, s.a, `{"lead_id":"7","stage":"old"}`)
	if got, want := fmt.Sprint(old.get("data", "actions", 0, "sequence_number")), fmt.Sprint(made.get("data", "stages", 1, "id")); got != want {
		t.Errorf("the stage is %s, want %s", got, want)
	}
	s.call(404, "POST", path, s.a, `{"lead_id":"nobody"}`)
	s.call(404, "POST", path, s.b, `{"lead_id":"7"}`)
	s.call(422, "POST", path, s.a, `{"lead_id":"7","stage":"none"}`).wantError("/stage", "unknown_stage")
	s.call(422, "POST", path, s.a, `{}`)
	bare := newSite(t)
	bare.call(501, "POST", "/v1/pipelines/"+bare.call(201, "POST", "/v1/pipelines", bare.a, `{"name":"p","stages":[{"name":"s"}]}`).id()+"/dry-run", bare.a, `{"lead_id":"7"}`)
}
