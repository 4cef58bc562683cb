package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/server"
)

func (watched) Snapshot(context.Context) (*catalog.Snapshot, error) {
	panic("server_test: take newWatchedSite for what asks tables")
}

// newWatchedSite is a site whose table lead is really there.
func newWatchedSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t, func(c *server.Config) { c.Objects = catalog.New(c.Pool) })
	s.exec(`CREATE TABLE lead (id bigint PRIMARY KEY, organization_id text, status text, title text, at timestamptz, custom jsonb)`)
	s.exec(`CREATE TABLE contact (id bigint PRIMARY KEY, organization_id text, lead_id bigint REFERENCES lead, title text)`)
	for _, table := range []string{"lead", "contact"} {
		_, _, err := catalog.Watch(t.Context(), s.pool, catalog.WatchOptions{Table: "public." + table, As: table, Organization: "organization_id"}, false)
		ok(t, err)
	}
	return s
}

func on(node string) string {
	return `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},` + node + `]}`
}

func leadField(name, condition string) string {
	return `{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"` + name + `"},"condition":` + condition + `}`
}

func TestPreview(t *testing.T) {
	t.Parallel()
	s := newWatchedSite(t)
	s.exec(`INSERT INTO lead SELECT n, CASE WHEN n % 10 = 0 THEN 'b' ELSE 'a' END, CASE WHEN n <= 100 THEN 'won' ELSE 'new' END, 'The CEO ' || n,
		now() - n * interval '1 day', '{"cf_x": "y"}' FROM generate_series(1, 200) n`)
	s.exec(`INSERT INTO contact VALUES (1, 'a', 1, 'CEO'), (2, 'b', 2, 'CEO')`)
	preview := func(status int, key, objectType, query string) *answer {
		t.Helper()
		return s.call(status, http.MethodPost, "/v1/triggers/preview", key, fmt.Sprintf(`{"object_type":%q,"query":%s}`, objectType, query))
	}
	for _, tt := range []struct {
		query  string
		count  float64
		sample int
	}{
		{query, 90, 10},
		{on(`{"type":"id","value":7}`), 1, 1},
		{on(`{"type":"id","value":10}`), 0, 0}, // another organization's
		{on(leadField("title", `{"type":"text","mode":"full_words","value":"ceo 12"}`)), 1, 1},
		{on(leadField("at", `{"type":"moment_range","on_or_after":{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":3,"hours":12}}}`)), 3, 3},
		{on(`{"type":"text","mode":"beginning_of_words","value":"ce"}`), 180, 10},
		{on(`{"type":"has_related","this_object_type":"lead","related_object_type":"contact","related_query":{"type":"match_all"}}`), 1, 1},
	} {
		a := preview(200, s.a, "lead", tt.query)
		a.want(tt.count, "data", "count")
		a.want(false, "data", "more")
		if n := a.len("data", "sample"); n != tt.sample {
			t.Errorf("%s: a sample of %d, want %d", tt.query, n, tt.sample)
		}
	}
	a := preview(200, s.b, "lead", on(`{"type":"id","value":10}`))
	a.want("10", "data", "sample", 0, "id")
	a.want("The CEO 10", "data", "sample", 0, "data", "title")
	a.want("y", "data", "sample", 0, "data", "custom", "cf_x")

	preview(422, s.a, "lead", badQuery).wantError("/queries/1/condition", "unknown_condition")
	preview(422, s.a, "lead", on(leadField("at", `{"type":"moment_range","before":{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":-3}}}`))).
		wantError("/queries/1/condition/before/offset/days", "type_mismatch")
	preview(422, s.a, "task", query).wantError("/object_type", "not_watched")
	preview(422, s.a, "lead", `7`).wantError("", "type_mismatch")
	s.call(422, http.MethodPost, "/v1/triggers/preview", s.a, `{"object_type":"lead"}`).wantError("/query", "missing_member")
	preview(422, s.op, "lead", query).wantError("/organization_id", "missing_member")
	s.call(200, http.MethodPost, "/v1/triggers/preview?organization_id=b", s.op, fmt.Sprintf(`{"object_type":"lead","query":%s}`, query)).want(10.0, "data", "count")
	s.call(403, http.MethodPost, "/v1/triggers/preview", s.a, fmt.Sprintf(`{"object_type":"lead","organization_id":"b","query":%s}`, query))
}

func TestPreviewIsBounded(t *testing.T) {
	t.Parallel()
	s := newWatchedSite(t)
	body := fmt.Sprintf(`{"object_type":"lead","query":%s}`, on(`{"type":"match_all"}`))
	s.exec(`INSERT INTO lead (id, organization_id) SELECT n, 'a' FROM generate_series(1, 100000) n`)
	a := s.call(200, http.MethodPost, "/v1/triggers/preview", s.a, body)
	a.want(100000.0, "data", "count")
	a.want(false, "data", "more")
	s.exec(`INSERT INTO lead (id, organization_id) VALUES (0, 'a')`)
	a = s.call(200, http.MethodPost, "/v1/triggers/preview", s.a, body)
	a.want(100000.0, "data", "count")
	a.want(true, "data", "more")

	// A table that can't be read in time.
	s.exec(`ALTER TABLE lead RENAME TO real_lead`)
	s.exec(`DELETE FROM pgautomate.object_types`)
	s.exec(`CREATE VIEW slow AS SELECT id, organization_id FROM real_lead WHERE pg_sleep(1) IS NOT NULL`)
	s.exec(`INSERT INTO pgautomate.object_types VALUES ('lead', 'public.slow', 'id', 'organization_id')`)
	a = s.call(200, http.MethodPost, "/v1/triggers/preview", s.a, body)
	a.want(0.0, "data", "count")
	a.want(true, "data", "more")
	if a.len("data", "sample") != 0 {
		t.Error(a.raw)
	}
}

func TestBackfillRoutes(t *testing.T) {
	t.Parallel()
	s := newWatchedSite(t)
	trigger := s.call(201, http.MethodPost, "/v1/triggers", s.a, triggerBody("")).id()
	path := "/v1/triggers/" + trigger + "/backfill"
	a := s.call(202, http.MethodPost, path, s.a, `{"limit":5,"per_minute":60}`)
	first := a.id()
	a.want("pending", "data", "status")
	a.want(trigger, "data", "trigger_id")
	a.want(5.0, "data", "limit")
	a.want(60.0, "data", "per_minute")
	a.want(nil, "data", "found")
	if n := s.text(`SELECT count(*)::text FROM pgautomate.river_job WHERE kind = 'backfill' AND args ->> 'id' = $1`, first); n != "1" {
		t.Errorf("%s jobs", n)
	}
	again := fmt.Sprint(s.call(409, http.MethodPost, path, s.a, "{}").get("message"))
	if !strings.Contains(again, "backfill "+first) {
		t.Error(again)
	}
	s.call(200, http.MethodGet, path+"s/"+first, s.a, "").want(first, "data", "id")
	s.call(404, http.MethodGet, path+"s/"+first, s.b, "")
	s.call(404, http.MethodDelete, path+"s/"+first, s.b, "")
	s.call(404, http.MethodGet, path+"s/999", s.a, "")
	s.call(404, http.MethodPost, path, s.b, "{}")
	s.call(404, http.MethodGet, path+"s", s.b, "")
	s.call(200, http.MethodDelete, path+"s/"+first, s.a, "").want("canceled", "data", "status")
	s.call(409, http.MethodDelete, path+"s/"+first, s.a, "")

	second := s.call(202, http.MethodPost, path, s.op, "").id() // no body: no limits
	list := s.call(200, http.MethodGet, path+"s?limit=1", s.a, "")
	list.want(second, "data", 0, "id")
	list = s.call(200, http.MethodGet, path+"s?limit=1&cursor="+fmt.Sprint(list.get("next_cursor")), s.a, "")
	list.want(first, "data", 0, "id")
	list.want(nil, "next_cursor")

	for _, body := range []string{`{"limit":0}`, `{"limit":-1}`, `{"limit":1.5}`, `{"limit":"5"}`} {
		s.call(422, http.MethodPost, path, s.a, body).wantError("/limit", "invalid")
	}
	s.call(422, http.MethodPost, path, s.a, `{"per_minute":0}`).wantError("/per_minute", "invalid")
	s.call(422, http.MethodPost, path, s.a, `{"perminute":5}`).wantError("/perminute", "unknown_member")

	s.call(200, http.MethodDelete, path+"s/"+second, s.a, "")
	s.call(200, http.MethodPatch, "/v1/triggers/"+trigger, s.a, `{"status":"paused"}`)
	if m := fmt.Sprint(s.call(409, http.MethodPost, path, s.a, "{}").get("message")); !strings.Contains(m, "paused") || !strings.Contains(m, "active") {
		t.Error(m)
	}
	s.exec(`UPDATE pgautomate.triggers SET status = 'invalid', error = 'no such column'`)
	if m := fmt.Sprint(s.call(409, http.MethodPost, path, s.a, "{}").get("message")); !strings.Contains(m, "no such column") {
		t.Error(m)
	}
}
