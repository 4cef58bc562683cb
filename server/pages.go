package server

// The pages: one overview, made on the server, and one that shows openapi.json.
// Nothing is loaded from elsewhere: style and script are in the page, and its
// policy names their hashes.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/pgautomate/pgautomate/db/dbq"
)

//go:embed web
var web embed.FS

type pageAssets struct {
	Style, Script template.HTML
	policy        string
}

func assets(style, script string) pageAssets {
	return pageAssets{
		Style:  template.HTML("<style>" + style + "</style>"),    //nolint:gosec // our own file
		Script: template.HTML("<script>" + script + "</script>"), //nolint:gosec // our own file
		policy: fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; img-src 'self' data:; "+
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", sourceHash(style), sourceHash(script)),
	}
}

func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func webFile(name string) string {
	b, err := web.ReadFile("web/" + name)
	if err != nil {
		panic(err) // embedded: it is there
	}
	return string(b)
}

var pageFuncs = template.FuncMap{
	"num": func(v any) string { return grouped(fmt.Sprint(v)) },
	"size": func(n int64) string {
		const unit = 1024
		if n < unit {
			return strconv.FormatInt(n, 10) + " B"
		}
		f, i := float64(n), -1
		for f >= unit && i < 4 {
			f, i = f/unit, i+1
		}
		return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
	},
	"seconds": func(f float64) string {
		d := time.Duration(f * float64(time.Second))
		switch {
		case d < time.Second:
			return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
		case d < time.Minute:
			return fmt.Sprintf("%.1f s", d.Seconds())
		default:
			return d.Round(time.Second).String()
		}
	},
	"stamp": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") },
	"ago":   func(t time.Time) string { return rough(time.Since(t)) + " ago" },
	"next": func(t time.Time) string {
		if t.Unix() == 0 { // the query's word for none
			return ""
		}
		if d := time.Until(t); d > 0 {
			return "in " + rough(d)
		}
		return "now"
	},
}

func rough(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(max(0, int(d.Seconds()))) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	default:
		return strconv.Itoa(int(d.Hours()/24)) + " days"
	}
}

func grouped(digits string) string {
	var b strings.Builder
	for i, r := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(r)
	}
	return b.String()
}

var (
	overviewAssets = assets(webFile("style.css"), webFile("overview.js"))
	overviewPage   = template.Must(template.New("overview").Funcs(pageFuncs).Parse(webFile("overview.html")))
	docsAssets     = assets(webFile("style.css"), webFile("docs.js"))
	docsPage       = template.Must(template.New("docs").Parse(webFile("docs.html")))
	docsHTML       = render(docsPage, docsAssets)
)

func render(t *template.Template, data any) []byte {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		panic(err) // only at start, of a page without data
	}
	return b.Bytes()
}

func serveDocs(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Security-Policy", docsAssets.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(docsHTML)
}

// overview is what the page shows.
type overview struct {
	pageAssets

	At              time.Time
	Version         string
	River, Mailbox  bool
	Metrics         bool
	Feed            FeedState
	PerSecond, Over float64
	Counts          dbq.ApiCountsRow
	Problems        []dbq.ApiProblemsRow
	Queue           []dbq.ApiActionQueueRow
	Finished        []dbq.ApiFinishedActionsRow
	Lateness        []dbq.ApiActionLatenessRow
	Firings         []dbq.ApiLatestFiringsRow
	FiringTotals    []total
	Slots           []dbq.ApiFeedStatusRow
	Failed          []string // what could not be read, and where to read it instead
}

type total struct {
	Name  string
	Count uint64
}

const (
	overviewCached  = 3 * time.Second // many viewers cost what one does
	overviewPatient = 3 * time.Second // for one part of the page
	overviewRows    = 50
	rateOver        = time.Minute
)

// overviewCache makes the page at most every few seconds, whoever asks how often,
// and remembers the feed's counter to tell changes per second.
type overviewCache struct {
	s *Server

	mu      sync.Mutex
	page    []byte
	until   time.Time
	samples []sample // oldest first
}

type sample struct {
	at      time.Time
	changes uint64
}

func newOverviewCache(s *Server) *overviewCache {
	c := &overviewCache{s: s}
	c.rate(time.Now())
	return c
}

// rate notes the counter and gives changes per second and over how many seconds.
func (c *overviewCache) rate(now time.Time) (perSecond, over float64) {
	changes := c.s.feed().Changes
	c.samples = append(c.samples, sample{now, changes})
	for len(c.samples) > 2 && now.Sub(c.samples[1].at) >= rateOver {
		c.samples = c.samples[1:]
	}
	first := c.samples[0]
	over = now.Sub(first.at).Seconds()
	if over <= 0 || changes < first.changes {
		return 0, over
	}
	return float64(changes-first.changes) / over, over
}

func (s *Server) feed() FeedState {
	if s.health == nil {
		return FeedState{State: "not known"}
	}
	return s.health.Feed()
}

func (c *overviewCache) get(ctx context.Context) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.until) {
		return c.page, nil
	}
	// One viewer's leaving is no reason to make the page for the others anew.
	ctx = context.WithoutCancel(ctx)
	v := c.s.readOverview(ctx)
	v.At = now
	v.PerSecond, v.Over = c.rate(now)
	var b bytes.Buffer
	if err := overviewPage.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("overview page: %w", err)
	}
	c.page, c.until = b.Bytes(), time.Now().Add(overviewCached)
	return c.page, nil
}

func (s *Server) readOverview(ctx context.Context) *overview {
	v := &overview{
		pageAssets: overviewAssets, Version: s.version, River: s.river != nil, Mailbox: s.mailbox, Metrics: s.registry != nil,
		Feed: s.feed(), FiringTotals: s.firingTotals(),
	}
	part := func(what, instead string, read func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, overviewPatient)
		defer cancel()
		if err := read(ctx); err != nil {
			s.log.Warn("a part of the overview could not be read", "part", what, "error", err)
			v.Failed = append(v.Failed, what+" could not be read in time: "+instead)
		}
	}
	part("The counts", "see the log", func(ctx context.Context) (err error) {
		v.Counts, err = s.q.ApiCounts(ctx)
		return err
	})
	part("Problems", "see the view pgautomate.problems", func(ctx context.Context) (err error) {
		v.Problems, err = s.q.ApiProblems(ctx, overviewRows)
		return err
	})
	part("The queue", "see the view pgautomate.action_queue", func(ctx context.Context) (err error) {
		v.Queue, err = s.q.ApiActionQueue(ctx, overviewRows)
		return err
	})
	part("Actions that ended", "see pgautomate.lead_stage_actions", func(ctx context.Context) (err error) {
		v.Finished, err = s.q.ApiFinishedActions(ctx)
		return err
	})
	part("Lateness", "see the view pgautomate.action_lateness", func(ctx context.Context) (err error) {
		v.Lateness, err = s.q.ApiActionLateness(ctx, overviewRows)
		return err
	})
	part("Firings", "see pgautomate.trigger_firings", func(ctx context.Context) (err error) {
		v.Firings, err = s.q.ApiLatestFirings(ctx, 20)
		return err
	})
	part("The slot", "see the view pgautomate.feed_status", func(ctx context.Context) (err error) {
		v.Slots, err = s.q.ApiFeedStatus(ctx)
		return err
	})
	return v
}

// firingTotals reads the engine's counter; the audit is too large to count.
func (s *Server) firingTotals() []total {
	if s.registry == nil {
		return nil
	}
	families, err := s.registry.Gather()
	if err != nil {
		return nil
	}
	var list []total
	for _, f := range families {
		if f.GetName() != "pgautomate_trigger_firings_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			name := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "object_type" {
					name = l.GetValue()
				}
			}
			list = append(list, total{name, uint64(m.GetCounter().GetValue())})
		}
	}
	return list
}

func (s *Server) serveOverview(w http.ResponseWriter, r *http.Request) {
	body, err := s.overview.get(r.Context())
	if err != nil {
		s.log.Error("request failed", "request_id", requestID(r.Context()), "error", err)
		plain(w, http.StatusInternalServerError, "an error on our side: look for request_id "+requestID(r.Context())+" in the log")
		return
	}
	w.Header().Set("Content-Security-Policy", overviewAssets.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(body)
}

// Problem is a row of the view problems on the wire.
type Problem struct {
	Severity string    `json:"severity" enum:"error,warning"`
	Subject  string    `json:"subject"`
	Problem  string    `json:"problem"`
	Fix      string    `json:"fix"`
	Since    time.Time `json:"since"`
}

// Feed is a row of the view feed_status on the wire, with what the engine in
// this process says.
type Feed struct {
	State  string     `json:"state" doc:"Of the feed in this process."`
	Slots  []FeedSlot `json:"slots"`
	Lag    int64      `json:"lag_bytes"`
	LagSec float64    `json:"lag_seconds"`
}

// FeedSlot is one slot.
type FeedSlot struct {
	SlotName               string    `json:"slot_name"`
	Active                 bool      `json:"active"`
	WALStatus              string    `json:"wal_status"`
	Position               string    `json:"position"`
	ConfirmedFlushLSN      string    `json:"confirmed_flush_lsn"`
	LagBytes               int64     `json:"lag_bytes"`
	RetainedBytes          int64     `json:"retained_bytes"`
	SecondsSinceCheckpoint float64   `json:"seconds_since_checkpoint"`
	UpdatedAt              time.Time `json:"updated_at"`
}

func (s *Server) registerOperator() {
	tags := []string{"operating"}
	type problemsInput struct {
		Limit int32 `query:"limit" minimum:"1" maximum:"500" default:"500"`
	}
	route(s, huma.Operation{
		OperationID: "list-problems", Method: http.MethodGet, Path: "/v1/problems", Tags: tags, Summary: "All that needs a person",
		Description: "For operators' keys. Not paged: the worst first.",
	}, func(ctx context.Context, in *problemsInput) (*List[Problem], error) {
		if err := operatorOnly(ctx); err != nil {
			return nil, err
		}
		rows, err := s.q.ApiProblems(ctx, in.Limit)
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, func(r *dbq.ApiProblemsRow) Problem { return Problem(*r) }, nil), nil
	})
	route(s, huma.Operation{
		OperationID: "get-feed", Method: http.MethodGet, Path: "/v1/feed", Tags: tags, Summary: "Where the feed is",
		Description: "For operators' keys.",
	}, func(ctx context.Context, _ *struct{}) (*Single[Feed], error) {
		if err := operatorOnly(ctx); err != nil {
			return nil, err
		}
		rows, err := s.q.ApiFeedStatus(ctx)
		if err != nil {
			return nil, err
		}
		now := s.feed()
		out := Feed{State: now.State, Slots: make([]FeedSlot, len(rows)), Lag: now.LagBytes, LagSec: now.LagSeconds}
		for i := range rows {
			r := &rows[i]
			out.Slots[i] = FeedSlot{
				r.SlotName, r.Active, r.WalStatus, r.Position, r.ConfirmedFlushLsn, r.LagBytes, r.RetainedBytes,
				r.SecondsSinceCheckpoint, r.UpdatedAt,
			}
		}
		return single(out), nil
	})
}
