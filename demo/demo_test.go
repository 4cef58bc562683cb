package demo

import (
	"context"
	"encoding/csv"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// given readies a database as one that a user gives.
func given(t *testing.T, db *dbtest.DB) Options {
	t.Helper()
	if err := ClaimDatabase(t.Context(), db.URL, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return Options{DatabaseURL: db.URL, TableSchema: Schema, Exit: true}
}

func runDemo(t *testing.T, o Options) (*Demo, *Totals) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	d, err := New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	totals, err := d.Run(ctx, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return d, totals
}

// starts counts, from the file alone and by other means than ReadLog, how often a case starts to be in a status.
func starts(t *testing.T, name string, forms ...string) (firings map[string]int64, events int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	records = records[1:]
	when := func(text string) string {
		for _, form := range forms {
			if at, err := time.Parse(form, text); err == nil {
				return at.UTC().Format("20060102150405.000000000")
			}
		}
		t.Fatalf("time %q", text)
		return ""
	}
	slices.SortStableFunc(records, func(a, b []string) int { return strings.Compare(when(a[2]), when(b[2])) })
	firings, now := map[string]int64{}, map[string]string{}
	for _, r := range records {
		if was, known := now[r[0]]; !known || was != r[1] {
			firings[r[1]]++
		}
		now[r[0]] = r[1]
	}
	return firings, int64(len(records))
}

func checkReplay(t *testing.T, got *Totals, firings map[string]int64, events int64) {
	t.Helper()
	var sum int64
	for _, n := range firings {
		sum += n
	}
	want := &Totals{
		Changes: events, Firings: firings, Lateness: got.Lateness,
		Actions: map[string]map[string]int64{"log": {"completed": sum}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReplayExcerpt(t *testing.T) {
	t.Parallel()
	const name = "testdata/events.csv"
	want, n := starts(t, name, "2006-01-02 15:04:05", "2006/01/02 15:04:05", time.RFC3339, "2006-01-02")
	log, err := ReadLog(name)
	if err != nil {
		t.Fatal(err)
	}
	db := dbtest.NewEmpty(t)
	o := given(t, db)
	o.Log = log
	_, totals := runDemo(t, o)
	checkReplay(t, totals, want, n)

	// One commit an event, in the order of the events; a case is a lead.
	rows, err := db.Pool.Query(t.Context(), `SELECT object_id, data ->> 'status' FROM pgautomate.trigger_firings ORDER BY commit_lsn`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Event, err error) {
		err = row.Scan(&e.Case, &e.Activity)
		return e, err
	})
	if err != nil {
		t.Fatal(err)
	}
	var ordered []Event
	now := map[string]string{}
	for _, e := range log {
		if now[e.Case] != e.Activity {
			ordered = append(ordered, Event{Case: e.Case, Activity: e.Activity})
		}
		now[e.Case] = e.Activity
	}
	if diff := cmp.Diff(ordered, got); diff != "" {
		t.Errorf("firings in the order of their commits (-want +got)\n%s", diff)
	}
	var commits int64
	err = db.Pool.QueryRow(t.Context(), `SELECT count(DISTINCT commit_lsn) FROM pgautomate.trigger_firings`).Scan(&commits)
	if err != nil || commits != int64(len(ordered)) {
		t.Errorf("%d commits for %d firings, %v", commits, len(ordered), err)
	}
}

// TestReplaySpeed: a log of two seconds takes two seconds at its own pace.
func TestReplaySpeed(t *testing.T) {
	t.Parallel()
	o := given(t, dbtest.NewEmpty(t))
	start := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	o.Log = []Event{{"1", "a", start}, {"2", "a", start}, {"1", "b", start.Add(12 * time.Hour)}, {"1", "b", start.Add(48 * time.Hour)}}
	o.Speed = 86_400
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	var ready time.Time
	totals, err := d.Run(ctx, func() { ready = time.Now() })
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(ready); took < 2*time.Second || took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	checkReplay(t, totals, map[string]int64{"a": 2, "b": 1}, 4)
}

// TestReplayHelpdesk replays a real event log twice, each time in a fresh database of one server.
func TestReplayHelpdesk(t *testing.T) {
	t.Parallel()
	name := filepath.Join("..", "..", "shared", "data", "helpdesk.csv")
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		t.Skip("the event log is not on this machine")
	}
	want, n := starts(t, name, "2006-01-02 15:04:05")
	log, err := ReadLog(name)
	if err != nil {
		t.Fatal(err)
	}
	server := dbtest.OwnServer(t)
	for range 2 {
		url, err := FreshDatabase(t.Context(), server.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		_, totals := runDemo(t, Options{DatabaseURL: url, Log: log, Exit: true})
		checkReplay(t, totals, want, n)
	}
}

// expected says how often the triggers must fire, from what the app writes.
func expected(seed uint64, leads int) (firings map[string]int64, changes int64) {
	firings = map[string]int64{}
	for _, organization := range sampleOrganizations {
		w := newWriter(seed, organization)
		arrivals := w.arrivals(leads)
		score, gold, high := map[any]int{}, map[any]bool{}, map[any]bool{}
		value := map[any]int{}
		for _, s := range slices.Concat(arrivals, w.closings()) {
			changes += s.changes()
			for _, d := range s.does {
				switch d.name {
				case "add_lead":
					switch d.args[4] {
					case "adwords":
						firings[newInquiry]++
						firings[responded]++
					case "referral":
						firings[newReferral]++
					}
				case "add_contact":
					if d.args[3] == "CEO" || d.args[3] == "CTO" {
						firings[decider]++
					}
				case "set_score":
					id, n := d.args[0], d.args[1].(int)
					if score[id] < 80 && n >= 80 {
						firings[hotLead]++
						if !high[id] {
							firings[highPriority]++
						}
						high[id] = true
					}
					score[id] = n
				case "set_vip":
					firings[becameVIP]++
				case "set_plan":
					if id := d.args[0]; d.args[1] == "gold" && !gold[id] {
						gold[id] = true
						firings[goldPlan]++
					}
				case "add_message":
					firings[replied]++
				case "add_opportunity":
					value[d.args[0]] = d.args[3].(int)
				case "set_value":
					if n := d.args[1].(int); n >= 50_000 && value[d.args[0]] < 50_000 {
						firings[bigDeal]++
					}
				case "close_deal":
					if d.args[1] == "won" {
						firings[dealWon]++
						firings[becameWon]++
					} else {
						firings[dealLost]++
						firings[becameLost]++
					}
				}
			}
		}
	}
	return firings, changes
}

func TestSample(t *testing.T) {
	t.Parallel()
	db := dbtest.NewEmpty(t)
	o := given(t, db)
	o.Seed = 1
	d, totals := runDemo(t, o)
	firings, changes := expected(1, 200)
	if diff := cmp.Diff(firings, totals.Firings); diff != "" {
		t.Errorf("firings (-want +got)\n%s", diff)
	}
	changes += totals.Actions["update_row"]["completed"]
	if totals.Changes != changes {
		t.Errorf("%d changes, want %d", totals.Changes, changes)
	}
	for actionType, statuses := range totals.Actions {
		if len(statuses) != 1 || statuses["completed"] == 0 {
			t.Errorf("%s: %v, want all completed", actionType, statuses)
		}
	}
	f := firings
	want := map[string]int64{
		"email": 2*f[newInquiry] + f[newReferral] + f[highPriority] + f[dealWon],
		"wait":  f[newInquiry] + f[dealLost] + f[newReferral], "move": f[newInquiry] + f[newReferral],
		"webhook":     f[newInquiry] + f[dealWon] + f[newReferral] + f[becameVIP],
		"update_row":  f[newInquiry] + f[dealWon] + f[dealLost] + f[hotLead],
		"enter_stage": f[newInquiry] + f[dealWon] + f[dealLost], "exit": f[newReferral],
		"log": 2*f[dealLost] + f[newReferral] + f[responded] + f[goldPlan] + f[becameWon] + f[bigDeal] + f[decider] + f[replied],
	}
	got := map[string]int64{}
	for actionType, statuses := range totals.Actions {
		got[actionType] = statuses["completed"]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("actions (-want +got)\n%s", diff)
	}
	if n := int64(d.Mailbox.Count()); n != got["email"] {
		t.Errorf("%d mails in the mailbox, %d e-mails sent", n, got["email"])
	}
	if n := d.Webhooks(); n != got["webhook"] {
		t.Errorf("%d webhooks received, %d sent", n, got["webhook"])
	}
	if l := totals.Lateness; l.P50 < 0 || l.P50 > l.P99 || l.P99 > l.Max || l.Max > 60 {
		t.Errorf("lateness %+v", l)
	}
	// A change that an automation made says so.
	rows, err := db.Pool.Query(t.Context(), `SELECT DISTINCT t.name FROM pgautomate.trigger_firings f
		JOIN pgautomate.triggers t ON t.id = f.trigger_id WHERE f.depth > 0 AND f.cause IS NOT NULL ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	deep, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{becameWon, highPriority, responded, becameLost}, deep); diff != "" {
		t.Errorf("triggers that fire by automations (-want +got)\n%s", diff)
	}
}

// TestInterrupted: without Exit the demo goes on until it is told to end, and then gives its totals.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	o := given(t, dbtest.NewEmpty(t))
	o.Exit, o.Leads = false, 10
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, err := New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	_, script := expected(0, 10)
	go func() {
		for ctx.Err() == nil && d.written.Load() <= script { // until it trickles
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	totals, err := d.Run(ctx, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if totals.Changes <= script || totals.Firings[newInquiry] == 0 {
		t.Errorf("totals %+v", totals)
	}
}

func TestClaimDatabase(t *testing.T) {
	t.Parallel()
	quiet := slog.New(slog.DiscardHandler)
	exec := func(t *testing.T, db *dbtest.DB, sql string) {
		t.Helper()
		if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("again", func(t *testing.T) {
		t.Parallel()
		db := dbtest.New(t) // a schema without use is no hindrance
		for range 2 {
			o := given(t, db)
			o.Log = []Event{{"1", "a", time.Now()}, {"1", "b", time.Now()}}
			_, totals := runDemo(t, o)
			checkReplay(t, totals, map[string]int64{"a": 1, "b": 1}, 2)
			var slots int
			err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`).Scan(&slots)
			if err != nil || slots != 0 {
				t.Errorf("%d slots are left, %v", slots, err)
			}
		}
	})
	for name, sql := range map[string]string{
		"used for something else": `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type)
			VALUES ('mine', 'mine', 'lead', '{}', 'log')`,
		"not made by the demo": `CREATE SCHEMA ` + Schema,
		"an engine works":      `SELECT 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := dbtest.New(t)
			exec(t, db, sql)
			if name == "an engine works" {
				o := given(t, db)
				o.Exit, o.Log = false, []Event{{"1", "a", time.Now()}}
				d, err := New(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				ready, ended := make(chan struct{}), make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					_, err := d.Run(ctx, func() { close(ready) })
					ended <- err
				}()
				<-ready
				defer func() {
					cancel()
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}()
			}
			err := ClaimDatabase(t.Context(), db.URL, quiet)
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v", err)
			}
		})
	}
}
