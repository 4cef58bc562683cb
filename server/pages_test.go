package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/server"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.call(200, "GET", "/healthz", "", "")
	s.call(200, "GET", "/readyz", "", "")
	s.health.set(errors.New("the feed waits for its slot"))
	if a := s.call(503, "GET", "/readyz", "", ""); !strings.Contains(a.raw, "the feed waits for its slot") {
		t.Errorf("%s", a.raw)
	}
	s.call(200, "GET", "/healthz", "", "")
}

func TestOverview(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type) VALUES ('a', '<script>alert(1)</script>', 'lead', '{}', 'log')`)
	s.exec(`UPDATE pgautomate.triggers SET status = 'invalid', error = 'the query is <b>empty</b>'`)
	s.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at) VALUES ('acme', '1', 'log', now()), ('acme', '2', 'wait', now() + interval '3 hours')`)
	s.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, status, perform_at, started_at, finished_at)
		VALUES ('acme', '3', 'email', 'completed', now() - interval '3 seconds', now(), now())`)
	s.exec(`INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts) VALUES ('acme', 'log', 0)`)
	s.exec(`INSERT INTO pgautomate.feed_checkpoints (slot_name, system_identifier, timeline, position) VALUES ('gone', '1', 1, '0/10')`)
	s.exec(`SELECT pgautomate.ensure_firing_partition(current_date)`)
	s.exec(`INSERT INTO pgautomate.trigger_firings (trigger_id, trigger_version, organization_id, object_type, object_id, action, data, commit_lsn, committed_at)
		SELECT min(id), 1, 'acme', 'lead', 'lead-77', 'created', '{}', '0/AB', current_date FROM pgautomate.triggers`)

	a := s.call(200, "GET", "/", "", "")
	for _, want := range []string{
		"streaming", "1,234,567 changes", "2.0 KiB", "250 ms", "42 on lead", "lead-77", "0/AB", "paused by throttle", "acme", "email",
		"the query is &lt;b&gt;empty", "&lt;script&gt;alert", "slot gone", "pgautomate slot recreate", `href="/river/"`, `href="/docs"`, `href="/mailbox"`, `href="/metrics"`, "1.2.3",
	} {
		if !strings.Contains(a.raw, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(a.raw, "could not be read") {
		t.Errorf("a part could not be read: %s", s.log.String())
	}
	selfContained(t, a)
	selfContained(t, s.call(200, "GET", "/docs", "", ""))
}

var (
	inline = regexp.MustCompile(`(?s)<(style|script)>(.*?)</(?:style|script)>`)
	loads  = regexp.MustCompile(`(?i)(src|href|url\()\s*=?\s*["']?(https?:)?//`)
)

// selfContained wants nothing from elsewhere, and a policy that lets exactly the
// page's own style and script run.
func selfContained(t *testing.T, a *answer) {
	t.Helper()
	if found := loads.FindString(a.raw); found != "" {
		t.Errorf("the page loads from elsewhere: %s", found)
	}
	policy := a.header.Get("Content-Security-Policy")
	if strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy: %s", policy)
	}
	blocks := inline.FindAllStringSubmatch(a.raw, -1)
	if len(blocks) != 2 {
		t.Errorf("%d inline blocks", len(blocks))
	}
	for _, b := range blocks {
		sum := sha256.Sum256([]byte(b[2]))
		if !strings.Contains(policy, b[1]+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
			t.Errorf("the policy does not let the %s run", b[1])
		}
	}
	if regexp.MustCompile(`(?i) (style|on[a-z]+)="`).MatchString(a.raw) {
		t.Error("an inline attribute that the policy forbids")
	}
}

// Who may see what shows all organizations.
func TestOperatorsDoor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	local := s.http.Listener.Addr().String()
	_, port, err := net.SplitHostPort(local)
	ok(t, err)
	for _, path := range []string{"/", "/metrics", "/river/", "/river/api/queues", "/mailbox", "/mailbox/1"} {
		for name, c := range map[string]struct {
			change func(*http.Request)
			status int
		}{
			"loopback":       {func(*http.Request) {}, 200},
			"localhost":      {func(r *http.Request) { r.Host = "localhost:" + port }, 200},
			"ipv6":           {func(r *http.Request) { r.Host = "[::1]:" + port }, 200},
			"rebound":        {func(r *http.Request) { r.Host = "evil.example:" + port }, 401},
			"rebound prefix": {func(r *http.Request) { r.Host = "127.0.0.1.evil.example" }, 401},
			"no host":        {func(r *http.Request) { r.Host = "" }, 401},
			"far":            {func(r *http.Request) { r.RemoteAddr = "192.0.2.7:1234" }, 401},
			"proxied":        {func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.7") }, 401},
			"old proxy":      {func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 1, 0 }, 401},
			"far, operator": {func(r *http.Request) {
				r.RemoteAddr = "192.0.2.7:1234"
				r.Header.Set("Authorization", "Bearer "+s.op)
			}, 200},
			"far, browser": {func(r *http.Request) {
				r.RemoteAddr = "192.0.2.7:1234"
				r.SetBasicAuth("me", s.op)
			}, 200},
			"far, organization": {func(r *http.Request) {
				r.RemoteAddr = "192.0.2.7:1234"
				r.SetBasicAuth("me", s.a)
			}, 401},
			"far, wrong": {func(r *http.Request) {
				r.RemoteAddr = "192.0.2.7:1234"
				r.SetBasicAuth("me", "pga_wrong")
			}, 401},
		} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.RemoteAddr, r.Host = "127.0.0.1:4321", local
			c.change(r)
			w := httptest.NewRecorder()
			s.server.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("%s, %s: %d, wanted %d", path, name, w.Code, c.status)
			}
			if w.Code == 401 && (w.Header().Get("WWW-Authenticate") == "" || !strings.Contains(w.Body.String(), "--operator")) {
				t.Errorf("%s, %s: the 401 does not say what to do", path, name)
			}
			if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Content-Security-Policy") == "" {
				t.Errorf("%s, %s: security headers are missing", path, name)
			}
		}
	}
	strict := newSite(t, func(c *server.Config) { c.RequireKey = true })
	strict.call(401, "GET", "/", "", "")
	strict.call(200, "GET", "/", strict.op, "")
	strict.call(200, "GET", "/healthz", "", "")
}

// A page of another site must not act through a browser that may come in here.
func TestCrossSite(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`INSERT INTO pgautomate.river_queue (name, created_at, updated_at) VALUES ('email', now(), now())`)
	for name, c := range map[string]struct {
		header [2]string
		status int
	}{
		"same origin":  {[2]string{"Sec-Fetch-Site", "same-origin"}, 200},
		"cross site":   {[2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"same site":    {[2]string{"Sec-Fetch-Site", "same-site"}, 403},
		"other origin": {[2]string{"Origin", "http://evil.example"}, 403},
		"own origin":   {[2]string{"Origin", s.http.URL}, 200},
		"no browser":   {[2]string{"Accept", "*/*"}, 200},
	} {
		r := s.request("PUT", "/river/api/queues/email/pause", "", "")
		r.Header.Set(c.header[0], c.header[1])
		if a := s.do(r); a.status != c.status {
			t.Errorf("%s: %d, wanted %d: %s", name, a.status, c.status, a.raw)
		}
	}
}

func TestRiver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if a := s.do(s.request("GET", "/river", "", "")); a.status != 301 || a.header.Get("Location") != "/river/" {
		t.Errorf("/river: %d %s", a.status, a.header.Get("Location"))
	}
	page := s.call(200, "GET", "/river/", "", "")
	for _, asset := range regexp.MustCompile(`(?:src|href)="(/river/[^"]+)"`).FindAllStringSubmatch(page.raw, -1) {
		s.call(200, "GET", asset[1], "", "")
	}
	if !strings.Contains(page.header.Get("Content-Security-Policy"), "script-src 'self';") {
		t.Errorf("policy: %s", page.header.Get("Content-Security-Policy"))
	}
	s.call(200, "GET", "/river/api/states", "", "")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if a := s.call(200, "GET", "/metrics", "", ""); !strings.Contains(a.raw, `pgautomate_trigger_firings_total{object_type="lead"} 42`) {
		t.Errorf("%s", a.raw)
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.call(200, "GET", "/openapi.json", "", "")
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	ok(t, json.Unmarshal([]byte(a.raw), &doc))
	var got []string
	novu := regexp.MustCompile(`^/v[12]/(events|subscribers|topics|workflows|workflow-overrides|notification-templates|notification-groups|notifications|messages|integrations|environments|environment-variables|tenants|layouts)(/|$)`)
	all := map[string]bool{}
	for path, item := range doc.Paths {
		for method := range item {
			all[strings.ToUpper(method)+" "+path] = true
			if !novu.MatchString(path) {
				got = append(got, strings.ToUpper(method)+" "+path)
			}
		}
	}
	for _, promised := range []string{
		"POST /v1/events/trigger", "POST /v1/events/trigger/bulk", "POST /v1/events/trigger/broadcast", "DELETE /v1/events/trigger/{transactionId}", "GET /v1/events/trigger/{transactionId}",
		"POST /v1/subscribers", "POST /v2/subscribers", "POST /v2/topics", "POST /v1/topics", "POST /v2/workflows", "POST /v1/notification-templates",
		"GET /v1/notifications", "GET /v1/messages", "GET /v1/integrations", "GET /v1/environments", "POST /v1/tenants", "POST /v1/workflow-overrides",
		"POST /v1/notification-groups", "GET /v1/notification-groups", "PATCH /v1/notification-groups/{id}", "POST /v1/environments", "GET /v2/environments/{environmentId}/tags",
		"POST /v1/environment-variables", "POST /v1/integrations/{integrationId}/auto-configure", "POST /v1/layouts", "POST /v2/layouts",
	} {
		if !all[promised] {
			t.Errorf("%s is not described", promised)
		}
	}
	slices.Sort(got)
	want := []string{
		"DELETE /v1/keys/{id}", "DELETE /v1/pipelines/{id}", "DELETE /v1/suppressions/{id}", "DELETE /v1/throttles", "DELETE /v1/triggers/{id}",
		"DELETE /v1/triggers/{id}/backfills/{backfill_id}",
		"GET /v1/actions", "GET /v1/actions/{id}", "GET /v1/feed", "GET /v1/keys", "GET /v1/leads/{lead_id}/timeline",
		"GET /v1/pipelines", "GET /v1/pipelines/{id}", "GET /v1/problems", "GET /v1/suppressions", "GET /v1/suppressions/{id}", "GET /v1/throttles",
		"GET /v1/triggers", "GET /v1/triggers/{id}",
		"GET /v1/triggers/{id}/backfills", "GET /v1/triggers/{id}/backfills/{backfill_id}", "GET /v1/triggers/{id}/firings",
		"PATCH /v1/actions/{id}", "PATCH /v1/pipelines/{id}", "PATCH /v1/suppressions/{id}", "PATCH /v1/triggers/{id}",
		"POST /v1/actions/{id}/cancel", "POST /v1/actions/{id}/retry", "POST /v1/keys", "POST /v1/pipelines",
		"POST /v1/pipelines/{id}/apply", "POST /v1/pipelines/{id}/dry-run", "POST /v1/pipelines/{id}/leads", "POST /v1/suppressions", "POST /v1/triggers", "POST /v1/triggers/preview", "POST /v1/triggers/validate",
		"POST /v1/triggers/{id}/backfill", "POST /v1/triggers/{id}/explain",
		"PUT /v1/pipelines/{id}", "PUT /v1/throttles",
	}
	if !slices.Equal(got, want) {
		t.Errorf("routes:\n%s", strings.Join(got, "\n"))
	}
	for _, ref := range regexp.MustCompile(`"\$ref":"#/components/schemas/([^"]+)"`).FindAllStringSubmatch(a.raw, -1) {
		if doc.Components.Schemas[ref[1]] == nil {
			t.Errorf("schema %s is not there", ref[1])
		}
	}
	if strings.Contains(a.raw, "ErrorModel") {
		t.Error("the description shows another error body than there is")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if _, err := server.New(server.Config{}); err == nil {
		t.Error("an empty Config was taken")
	}
	s := newSite(t, func(c *server.Config) { c.River, c.Registry, c.Mailbox, c.Health = nil, nil, nil, nil })
	s.call(404, "GET", "/river/", "", "")
	s.call(404, "GET", "/metrics", "", "")
	s.call(404, "GET", "/mailbox", "", "")
	s.call(200, "GET", "/readyz", "", "")
	s.call(200, "GET", "/", "", "")
}
