package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/internal/dbtest"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/server"
	"github.com/pgautomate/pgautomate/trigger"
)

var (
	_ server.Objects     = (*catalog.Catalog)(nil)
	_ server.ActionTypes = (*jobs.Registry)(nil)
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// watched stands for the catalog: lead is as it should be, note lacks its identity.
type watched struct{}

func (watched) Schemas(context.Context) (trigger.Schemas, error) {
	return func(objectType string) *trigger.Schema {
		if objectType != "lead" && objectType != "note" {
			return nil
		}
		return &trigger.Schema{ObjectType: objectType, ID: "id", Fields: []trigger.Field{
			{Name: "id", Kind: trigger.KindNumber}, {Name: "status", Kind: trigger.KindText}, {Name: "score", Kind: trigger.KindNumber},
		}}
	}, nil
}

func (watched) Identity(_ context.Context, objectType string) (bool, string, error) {
	return objectType == "lead", "ALTER TABLE public.notes REPLICA IDENTITY FULL", nil
}

func (watched) Types(context.Context) ([]string, error) { return []string{"note", "lead"}, nil }

type types struct{}

func (types) Types() []string { return []string{"log", "email"} }

func (types) Validate(actionType string, params json.RawMessage) error {
	var p map[string]any
	if err := json.Unmarshal(params, &p); err != nil {
		return err
	}
	if actionType == "panic" || p["message"] == "panic" {
		panic("a bug")
	}
	if actionType == "log" && p["message"] == nil {
		return errors.New("log needs message: give it a text")
	}
	return nil
}

func (types) References(string, json.RawMessage) ([]jobs.StageRef, []jobs.QueryRef) { return nil, nil }

type health struct {
	mu    sync.Mutex
	ready error
}

func (h *health) Ready(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

func (h *health) Feed() server.FeedState {
	return server.FeedState{State: "streaming", LagBytes: 2048, LagSeconds: 0.25, Changes: 1234567}
}

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = err
}

type site struct {
	t      *testing.T
	pool   *pgxpool.Pool
	http   *httptest.Server
	server *server.Server
	health *health
	log    *safeBuffer
	a, b   string // keys of organizations a and b
	op     string // an operator's
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newSite(t *testing.T, change ...func(*server.Config)) *site {
	t.Helper()
	s := &site{t: t, pool: dbtest.New(t).Pool, health: &health{}, log: &safeBuffer{}}
	logger := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	client, err := river.NewClient(riverpgxv5.New(s.pool), &river.Config{Schema: "pgautomate", Logger: slog.New(slog.DiscardHandler)})
	ok(t, err)
	registry := prometheus.NewRegistry()
	firings := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgautomate_trigger_firings_total", Help: "Firings."}, []string{"object_type"})
	registry.MustRegister(firings)
	firings.WithLabelValues("lead").Add(42)
	cfg := server.Config{
		Pool: s.pool, River: client, Objects: watched{}, Actions: types{}, Health: s.health, Registry: registry, Logger: logger, Version: "1.2.3",
		Mailbox: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the mailbox") }),
	}
	for _, c := range change {
		c(&cfg)
	}
	s.server, err = server.New(cfg)
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ok(t, s.server.Start(ctx))
	s.http = httptest.NewServer(s.server)
	t.Cleanup(s.http.Close)
	for key, org := range map[*string]string{&s.a: "a", &s.b: "b", &s.op: ""} {
		var of *string
		if org != "" {
			of = &org
		}
		*key, _, err = server.CreateKey(ctx, s.pool, of, "test")
		ok(t, err)
	}
	return s
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer is a response with its JSON body.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	raw    string
	body   any
}

func (s *site) do(r *http.Request) *answer {
	s.t.Helper()
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	ok(s.t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	ok(s.t, err)
	a := &answer{t: s.t, status: res.StatusCode, header: res.Header, raw: string(raw)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		ok(s.t, json.Unmarshal(raw, &a.body))
	}
	return a
}

func (s *site) request(method, path, key, body string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.http.URL+path, strings.NewReader(body))
	ok(s.t, err)
	if key != "" {
		r.Header.Set("Authorization", "ApiKey "+key)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// call makes a request and insists on its status.
func (s *site) call(status int, method, path, key, body string) *answer {
	s.t.Helper()
	a := s.do(s.request(method, path, key, body))
	if a.status != status {
		s.t.Fatalf("%s %s: %d, wanted %d: %s", method, path, a.status, status, a.raw)
	}
	if status >= 400 && a.body != nil {
		a.superset(path)
	}
	return a
}

// superset checks the members that every error has.
func (a *answer) superset(path string) {
	a.t.Helper()
	path, _, _ = strings.Cut(path, "?")
	if got := a.get("statusCode"); got != float64(a.status) {
		a.t.Errorf("statusCode is %v in %s", got, a.raw)
	}
	if a.get("path") != path || a.get("message") == "" || a.get("error") != http.StatusText(a.status) {
		a.t.Errorf("path, message or error is wrong in %s", a.raw)
	}
	if _, err := time.Parse(time.RFC3339, fmt.Sprint(a.get("timestamp"))); err != nil {
		a.t.Errorf("timestamp: %v", err)
	}
	if strings.Contains(fmt.Sprint(a.get("message")), "\n") {
		a.t.Errorf("message has more than one line: %s", a.raw)
	}
	switch _, list := a.get("errors").([]any); a.status {
	case http.StatusBadRequest:
		if !list || a.get("type") == nil {
			a.t.Errorf("a 400 needs type and a list of errors: %s", a.raw)
		}
	case http.StatusUnprocessableEntity:
		if _, object := a.get("errors").(map[string]any); !object {
			a.t.Errorf("a 422 needs an object of errors: %s", a.raw)
		}
	}
	if ct := a.header.Get("Content-Type"); ct != "application/json" {
		a.t.Errorf("an error came as %s", ct)
	}
}

// get walks the body: member names and, for lists, indexes.
func (a *answer) get(path ...any) any {
	a.t.Helper()
	v := a.body
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				a.t.Fatalf("no element %d in %s", p, a.raw)
			}
			v = l[p]
		}
	}
	return v
}

func (a *answer) id() string {
	a.t.Helper()
	id, isString := a.get("data", "id").(string)
	if !isString {
		a.t.Fatalf("no id, or it is not a string: %s", a.raw)
	}
	return id
}

func (a *answer) want(value any, path ...any) {
	a.t.Helper()
	if got := a.get(path...); got != value {
		a.t.Errorf("%v is %v (%T), wanted %v in %s", path, got, got, value, a.raw)
	}
}

// wantError wants a 422 with that pointer and code, and gives the message.
func (a *answer) wantError(pointer, code string) string {
	a.t.Helper()
	a.want(code, "errors", pointer, "code")
	if a.get("errors", pointer) == nil {
		return ""
	}
	return fmt.Sprint(a.get("errors", pointer, "messages", 0))
}

func (a *answer) len(path ...any) int {
	a.t.Helper()
	l, isList := a.get(path...).([]any)
	if !isList {
		a.t.Fatalf("%v is no list in %s", path, a.raw)
	}
	return len(l)
}

func (s *site) exec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.pool.Exec(context.Background(), sql, args...)
	ok(s.t, err)
}

func (s *site) text(sql string, args ...any) string {
	s.t.Helper()
	var v string
	ok(s.t, s.pool.QueryRow(context.Background(), sql, args...).Scan(&v))
	return v
}

const (
	query = `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},` +
		`{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"status"},"condition":{"type":"term","values":["won"]}}]}`
	badQuery = `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},` +
		`{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"status"},"condition":{"type":"nonsense"}}]}`
)

func triggerBody(more string) string {
	return `{"name":"won","object_type":"lead","query":` + query + `,"action_type":"log","action_params":{"message":"hi"}` + more + `}`
}

func TestKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	none := s.call(401, "GET", "/v1/triggers", "", "")
	if !strings.Contains(fmt.Sprint(none.get("message")), "pgautomate keys create --organization ORG") {
		t.Errorf("the 401 does not say how to get a key: %s", none.raw)
	}
	s.call(401, "GET", "/v1/triggers", "pga_wrong", "")
	r := s.request("GET", "/v1/triggers", "", "")
	r.SetBasicAuth("", s.a)
	if a := s.do(r); a.status != 401 {
		t.Errorf("HTTP Basic was taken under /v1: %d", a.status)
	}
	r = s.request("GET", "/v1/triggers", "", "")
	r.Header.Set("Authorization", "bearer "+s.a)
	if a := s.do(r); a.status != 200 {
		t.Errorf("Bearer was not taken: %d", a.status)
	}

	made := s.call(201, "POST", "/v1/keys", s.a, `{"name":"second"}`)
	key := fmt.Sprint(made.get("data", "key"))
	if len(key) != 36 || !strings.HasPrefix(key, "pga_") {
		t.Errorf("key %q", key)
	}
	made.want("a", "data", "organization_id")
	if n := s.text(`SELECT count(*)::text FROM pgautomate.api_keys k WHERE k::text LIKE '%' || $1 || '%'`, key); n != "0" {
		t.Error("the key itself is in the table")
	}
	s.call(200, "GET", "/v1/triggers", key, "")
	if s.text(`SELECT (last_used_at IS NOT NULL)::text FROM pgautomate.api_keys WHERE id = $1::text::bigint`, made.id()) != "true" {
		t.Error("last_used_at was not written")
	}
	s.call(404, "DELETE", "/v1/keys/"+made.id(), s.b, "")
	s.call(204, "DELETE", "/v1/keys/"+made.id(), s.a, "")
	s.call(404, "DELETE", "/v1/keys/"+made.id(), s.a, "")
	s.call(404, "DELETE", "/v1/keys/x", s.a, "")
	s.call(401, "GET", "/v1/triggers", key, "") // at once

	s.call(403, "POST", "/v1/keys", s.a, `{"organization_id":"b"}`)
	s.call(403, "POST", "/v1/keys", s.a, `{"operator":true}`)
	s.call(422, "POST", "/v1/keys", s.op, `{"name":"whose?"}`).wantError("/organization_id", "missing_member")
	s.call(422, "POST", "/v1/keys", s.op, `{"operator":true,"organization_id":"a"}`).wantError("/organization_id", "invalid")
	s.call(201, "POST", "/v1/keys", s.op, `{"organization_id":"c"}`).want("c", "data", "organization_id")
	s.call(201, "POST", "/v1/keys", s.op, `{"operator":true}`).want(nil, "data", "organization_id")
	mine := s.call(200, "GET", "/v1/keys", s.a, "")
	if mine.len("data") != 2 || strings.Contains(mine.raw, `"b"`) {
		t.Errorf("a's keys: %s", mine.raw)
	}
	all, err := server.ListKeys(t.Context(), s.pool, nil)
	ok(t, err)
	if len(all) != 6 {
		t.Errorf("%d keys in all", len(all))
	}
	if err := server.RevokeKey(t.Context(), s.pool, nil, 1<<40); !errors.Is(err, server.ErrNoKey) {
		t.Errorf("revoking nothing: %v", err)
	}
}

// A key revoked by another process stops working within five seconds here.
func TestKeyRevokedElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.call(200, "GET", "/v1/triggers", s.a, "")
	s.exec(`UPDATE pgautomate.api_keys SET revoked_at = now() WHERE organization_id = 'a'`)
	revoked := time.Now()
	for {
		if s.do(s.request("GET", "/v1/triggers", s.a, "")).status == 401 {
			return
		}
		if time.Since(revoked) > 5*time.Second {
			t.Fatal("still valid after five seconds")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestTriggers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.call(201, "POST", "/v1/triggers", s.a, triggerBody(""))
	made.want("active", "data", "status")
	made.want("a", "data", "organization_id")
	made.want(1.0, "data", "version")
	path := "/v1/triggers/" + made.id()
	s.call(200, "GET", path, s.a, "").want("won", "data", "name")
	s.call(200, "GET", path, s.op, "").want("won", "data", "name")

	s.call(200, "PATCH", path, s.a, `{"status":"paused"}`).want("paused", "data", "status")
	changed := s.call(200, "PATCH", path, s.a, `{"name":"lost","action_params":{"message":"x"}}`)
	changed.want("lost", "data", "name")
	changed.want("paused", "data", "status")
	changed.want("x", "data", "action_params", "message")
	changed.want(2.0, "data", "version")
	s.call(422, "PATCH", path, s.a, `{"status":"invalid"}`)
	s.call(422, "PATCH", path, s.a, `{"query":`+badQuery+`}`)
	s.call(422, "PATCH", path, s.a, `{"query":null}`)
	s.call(200, "GET", path, s.a, "").want(2.0, "data", "version")

	s.call(200, "POST", "/v1/triggers/validate", s.a, `{"object_type":"lead","query":`+query+`}`).want(true, "data", "valid")
	s.call(204, "DELETE", path, s.a, "")
	s.call(404, "DELETE", path, s.a, "")
	s.call(404, "GET", path, s.a, "")
}

func TestTriggersRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	put := func(old, with string) string {
		body := strings.Replace(triggerBody(""), old, with, 1)
		if body == triggerBody("") {
			t.Fatalf("%s is not in the body", old)
		}
		return body
	}
	for name, c := range map[string]struct{ body, pointer, code, says string }{
		"query":       {put(query, badQuery), "/queries/1/condition/type", "", ""},
		"not watched": {put(`"object_type":"lead"`, `"object_type":"deal"`), "/object_type", "not_watched", "pgautomate watch"},
		"identity":    {put(`"object_type":"lead"`, `"object_type":"note"`), "/object_type", "replica_identity", "ALTER TABLE public.notes REPLICA IDENTITY FULL"},
		"action type": {put(`"log"`, `"lag"`), "/action_type", "unknown_action_type", "email, log"},
		"params":      {put(`{"message":"hi"}`, `{}`), "/action_params", "invalid_params", "log needs message"},
		"params list": {put(`{"message":"hi"}`, `[1]`), "/action_params", "invalid", "object"},
		"no name":     {put(`"name":"won",`, ``), "/name", "missing_member", "required"},
		"no query":    {put(`"query":`+query+`,`, ``), "/query", "missing_member", "required"},
		"unknown":     {triggerBody(`,"colour":"red"`), "/colour", "unknown_member", "leave it out"},
		"status":      {triggerBody(`,"status":"degraded"`), "/status", "invalid", ""},
		"type":        {put(`"won"`, `7`), "/name", "invalid", "string"},
		"null byte":   {put(`"name":"won"`, `"name":"w\u0000n"`), "", "invalid", "U+0000"},
	} {
		a := s.call(422, "POST", "/v1/triggers", s.a, c.body)
		if c.code == "" {
			errs, _ := a.get("errors").(map[string]any)
			found := slices.ContainsFunc(slices.Collect(mapKeys(errs)), func(p string) bool { return strings.HasPrefix(p, "/queries/1") })
			if !found {
				t.Errorf("%s: %s", name, a.raw)
			}
			continue
		}
		if message := a.wantError(c.pointer, c.code); !strings.Contains(message, c.says) {
			t.Errorf("%s: %q does not say %q", name, message, c.says)
		}
	}
	s.call(422, "POST", "/v1/triggers/validate", s.a, `{"object_type":"lead","query":`+badQuery+`}`)
	s.call(422, "POST", "/v1/triggers/validate", s.a, `{"object_type":"deal","query":`+query+`}`).wantError("/object_type", "not_watched")

	a := s.call(400, "POST", "/v1/triggers", s.a, `{"name":`)
	if !strings.Contains(fmt.Sprint(a.get("message")), "not JSON") {
		t.Errorf("%s", a.raw)
	}
	s.call(400, "POST", "/v1/triggers", s.a, "")
	s.call(413, "POST", "/v1/triggers", s.a, `{"name":"`+strings.Repeat("x", 1<<20)+`"}`)
	r := s.request("POST", "/v1/triggers", s.a, "a=b")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if a := s.do(r); a.status != 415 || !strings.Contains(a.raw, "application/json") {
		t.Errorf("a form: %d %s", a.status, a.raw)
	}
	s.call(422, "GET", "/v1/triggers?colour=red", s.a, "").wantError("?colour", "unknown_parameter")
	s.call(422, "GET", "/v1/triggers?limit=0", s.a, "")
	s.call(422, "GET", "/v1/triggers?limit=x", s.a, "")
	s.call(422, "GET", "/v1/triggers?cursor=%21", s.a, "").wantError("?cursor", "invalid")
	s.call(404, "GET", "/v1/triggers/x", s.a, "")
	s.call(404, "GET", "/v1/nothing", s.a, "")
	if a := s.call(405, "PUT", "/v1/triggers", s.a, "{}"); a.header.Get("Allow") == "" {
		t.Error("a 405 without Allow")
	}
	if s.text(`SELECT count(*)::text FROM pgautomate.triggers`) != "0" {
		t.Error("something was stored")
	}
}

func mapKeys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Another organization's things do not exist, by whatever route.
func TestOrganizations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	trig := s.call(201, "POST", "/v1/triggers", s.a, triggerBody("")).id()
	pipe := s.call(201, "POST", "/v1/pipelines", s.a, `{"name":"p","stages":[{"name":"one","actions":[{"action_type":"log","params":{"message":"x"}}]}]}`).id()
	s.call(200, "POST", "/v1/pipelines/"+pipe+"/leads", s.a, `{"lead_ids":["1"]}`)
	action := fmt.Sprint(s.call(200, "GET", "/v1/actions", s.a, "").get("data", 0, "id"))
	s.call(200, "PUT", "/v1/throttles", s.a, `{"max_starts":5}`)
	for _, c := range [][3]string{
		{"GET", "/v1/triggers/" + trig, ""},
		{"PATCH", "/v1/triggers/" + trig, `{"status":"paused"}`},
		{"DELETE", "/v1/triggers/" + trig, ""},
		{"GET", "/v1/triggers/" + trig + "/firings", ""},
		{"GET", "/v1/pipelines/" + pipe, ""},
		{"PUT", "/v1/pipelines/" + pipe, `{"name":"q","stages":[]}`},
		{"PATCH", "/v1/pipelines/" + pipe, `{"name":"q"}`},
		{"DELETE", "/v1/pipelines/" + pipe, ""},
		{"POST", "/v1/pipelines/" + pipe + "/leads", `{"lead_ids":["1"]}`},
		{"GET", "/v1/actions/" + action, ""},
		{"POST", "/v1/actions/" + action + "/cancel", ""},
		{"POST", "/v1/actions/" + action + "/retry", ""},
		{"DELETE", "/v1/throttles?action_type=*", ""},
	} {
		s.call(404, c[0], c[1], s.b, c[2])
		join := "?"
		if strings.Contains(c[1], "?") {
			join = "&"
		}
		s.call(403, c[0], c[1]+join+"organization_id=a", s.b, c[2])
	}
	for _, path := range []string{"/v1/triggers", "/v1/pipelines", "/v1/actions", "/v1/actions?lead_id=1", "/v1/throttles", "/v1/leads/1/timeline"} {
		if n := s.call(200, "GET", path, s.b, "").len("data"); n != 0 {
			t.Errorf("b sees %d things of a at %s", n, path)
		}
		if n := s.call(200, "GET", path, s.a, "").len("data"); n == 0 {
			t.Errorf("a sees nothing at %s", path)
		}
		join := "?"
		if strings.Contains(path, "?") {
			join = "&"
		}
		if n := s.call(200, "GET", path+join+"organization_id=b", s.op, "").len("data"); n != 0 {
			t.Errorf("an operator sees %d things of b at %s", n, path)
		}
		if n := s.call(200, "GET", path+join+"organization_id=a", s.op, "").len("data"); n == 0 {
			t.Errorf("an operator sees nothing of a at %s", path)
		}
	}
	s.call(422, "GET", "/v1/leads/1/timeline", s.op, "").wantError("/organization_id", "missing_member")

	// An operator says for whom it writes: in the body, a header or a parameter.
	s.call(422, "POST", "/v1/triggers", s.op, triggerBody("")).wantError("/organization_id", "missing_member")
	s.call(201, "POST", "/v1/triggers", s.op, triggerBody(`,"organization_id":"b"`)).want("b", "data", "organization_id")
	s.call(201, "POST", "/v1/triggers?organization_id=b", s.op, triggerBody("")).want("b", "data", "organization_id")
	r := s.request("POST", "/v1/triggers", s.op, triggerBody(""))
	r.Header.Set("X-Organization-Id", "b")
	if a := s.do(r); a.status != 201 || a.get("data", "organization_id") != "b" {
		t.Errorf("by header: %s", a.raw)
	}
	s.call(403, "POST", "/v1/triggers", s.a, triggerBody(`,"organization_id":"b"`))
	if n := s.call(200, "GET", "/v1/triggers", s.op, "").len("data"); n != 4 {
		t.Errorf("an operator sees %d triggers", n)
	}
	for _, path := range []string{"/v1/problems", "/v1/feed"} {
		s.call(403, "GET", path, s.a, "")
		s.call(200, "GET", path, s.op, "")
	}
}

// all follows next_cursor and gives a member of every element.
func (s *site) all(path, key, member string) []string {
	s.t.Helper()
	var list []string
	for cursor, pages := "", 0; ; pages++ {
		at := path
		if cursor != "" {
			at += "&cursor=" + cursor
		}
		a := s.call(200, "GET", at, key, "")
		for i := range a.len("data") {
			list = append(list, fmt.Sprint(a.get("data", i, member)))
		}
		next, more := a.get("next_cursor").(string)
		if !more {
			return list
		}
		if a.len("data") == 0 || pages > 100 {
			s.t.Fatalf("paging %s does not end", path)
		}
		cursor = next
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type)
		SELECT CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, 't' || i, 'lead', '{}', 'log' FROM generate_series(1, 50) i`)
	s.exec(`INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts)
		SELECT org, 't' || i, 1 FROM generate_series(1, 5) i, unnest(ARRAY['a', 'b']) org`)
	s.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
		SELECT 'a', (i % 3)::text, 'log', CASE WHEN i % 5 > 0 THEN now() + (i % 7) * interval '1 hour' END FROM generate_series(1, 60) i`)
	s.exec(`SELECT pgautomate.ensure_firing_partition(current_date), pgautomate.ensure_firing_partition(current_date - 1)`)
	s.exec(`INSERT INTO pgautomate.trigger_firings (trigger_id, trigger_version, organization_id, object_type, object_id, action, data, commit_lsn, committed_at)
		SELECT 2, 1, 'a', 'lead', (i % 4)::text, 'updated', '{"n":1}', '0/1'::pg_lsn + i, current_date::timestamptz + (i / 3) * interval '1 second' - interval '5 seconds'
		  FROM generate_series(1, 40) i`)
	for _, c := range []struct {
		path, key, member string
		want              int
	}{
		{"/v1/triggers?limit=7", s.a, "id", 25},
		{"/v1/triggers?limit=25", s.a, "id", 25},
		{"/v1/triggers?limit=7", s.op, "id", 50},
		{"/v1/throttles?limit=2", s.a, "action_type", 5},
		{"/v1/actions?limit=7", s.a, "id", 60},
		{"/v1/actions?limit=7&lead_id=1", s.a, "id", 20},
		{"/v1/actions?limit=7&status=pending&action_type=log", s.a, "id", 60},
		{"/v1/actions?limit=7&status=failed", s.a, "id", 0},
		{"/v1/leads/1/timeline?limit=3", s.a, "id", 20},
		{"/v1/triggers/2/firings?limit=7", s.a, "id", 40},
		{"/v1/triggers/2/firings?limit=3&object_id=1", s.a, "id", 10},
		{"/v1/keys?limit=1", s.op, "id", 3},
	} {
		list := s.all(c.path, c.key, c.member)
		sorted := slices.Clone(list)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != c.want || len(list) != c.want {
			t.Errorf("%s: %d elements, %d distinct, wanted %d", c.path, len(list), len(slices.Compact(sorted)), c.want)
		}
	}
	if n := s.call(200, "GET", "/v1/throttles?limit=500", s.op, "").len("data"); n != 10 {
		t.Errorf("an operator sees %d throttles", n)
	}
	first := s.call(200, "GET", "/v1/triggers/2/firings?limit=1", s.a, "")
	first.want("0/29", "data", 0, "commit_lsn") // the newest
	first.want(1.0, "data", 0, "data", "n")
	first.want(nil, "data", 0, "previous_data")
	for _, path := range []string{"/v1/triggers/2/firings", "/v1/leads/1/timeline", "/v1/actions", "/v1/triggers"} {
		for _, cursor := range []string{"%21", "bm9uc2Vuc2U", "YXx8eA", "fHw"} {
			s.call(422, "GET", path+"?cursor="+cursor, s.a, "").wantError("?cursor", "invalid")
		}
	}
}

func TestThrottles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	set := s.call(200, "PUT", "/v1/throttles", s.a, `{"action_type":"log","max_starts":10,"per":"2 minutes","max_running":null}`)
	set.want("a", "data", "organization_id")
	set.want(10.0, "data", "max_starts")
	set.want("00:02:00", "data", "per")
	set.want(nil, "data", "max_running")
	s.call(200, "PUT", "/v1/throttles", s.a, `{"action_type":"log","max_starts":0}`).want("00:01:00", "data", "per")
	s.call(200, "PUT", "/v1/throttles", s.op, `{"organization_id":"*","max_running":3}`).want("*", "data", "action_type")
	s.call(422, "PUT", "/v1/throttles", s.a, `{"action_type":"lag","max_starts":1}`).wantError("/action_type", "unknown_action_type")
	s.call(422, "PUT", "/v1/throttles", s.a, `{"per":"soon"}`).wantError("/per", "invalid")
	s.call(422, "PUT", "/v1/throttles", s.a, `{"per":"0"}`).wantError("/per", "invalid")
	s.call(422, "PUT", "/v1/throttles", s.a, `{"max_starts":-1}`).wantError("/max_starts", "invalid")
	s.call(422, "PUT", "/v1/throttles", s.a, `{"max_starts":3000000000}`)
	s.call(422, "PUT", "/v1/throttles", s.a, `{"max_starts":1.5}`)
	s.call(422, "PUT", "/v1/throttles", s.op, `{"max_starts":1}`).wantError("/organization_id", "missing_member")
	s.call(403, "PUT", "/v1/throttles", s.a, `{"organization_id":"*","max_starts":1}`)
	if n := s.call(200, "GET", "/v1/throttles", s.a, "").len("data"); n != 1 {
		t.Errorf("%d throttles", n)
	}
	s.call(422, "DELETE", "/v1/throttles", s.a, "").wantError("?action_type", "invalid")
	s.call(204, "DELETE", "/v1/throttles?action_type=log", s.a, "")
	s.call(404, "DELETE", "/v1/throttles?action_type=log", s.a, "")
}

func TestPanic(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.call(500, "POST", "/v1/triggers", s.a, strings.Replace(triggerBody(""), `"hi"`, `"panic"`, 1))
	id := a.header.Get("X-Request-ID")
	a.want(id, "errorId")
	if strings.Contains(a.raw, "a bug") || strings.Contains(a.raw, "goroutine") {
		t.Errorf("the body tells of the inside: %s", a.raw)
	}
	if log := s.log.String(); !strings.Contains(log, id) || !strings.Contains(log, "a bug") {
		t.Error("the log lacks the panic or its request id")
	}
	s.call(200, "GET", "/v1/triggers", s.a, "")
}
