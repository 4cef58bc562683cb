package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/notification"
)

// TestMain is also the engine that the benchmarks start as a process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "engine" {
		if err := engine(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func engine(args []string) error {
	f := flag.NewFlagSet("engine", flag.ContinueOnError)
	url := f.String("database-url", "", "")
	only := f.String("only", "", "")
	f.String("log-level", "", "")
	f.String("listen", "", "")
	archive, spent, finished := f.Duration("archive-after", 0, ""), f.Duration("keep-spent", 0, ""), f.Duration("keep-finished", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	var parts []pgautomate.Part
	for part := range strings.SplitSeq(*only, ",") {
		if part != "server" { // that is the command's
			parts = append(parts, pgautomate.Part(part))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	e, err := pgautomate.New(ctx, pgautomate.Config{
		DatabaseURL: *url, Parts: parts, Logger: slog.New(slog.DiscardHandler), ArchiveAfter: *archive, KeepSpent: *spent, KeepFinished: *finished,
	})
	if err != nil {
		return err
	}
	if err := e.Prepare(ctx); err != nil {
		return err
	}
	go func() {
		for e.Ready(ctx) != nil {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("ready")
	}()
	return e.Run(ctx)
}

// serve is an API that knows triggers only.
func serve(_ context.Context, e *pgautomate.Engine, organization string) (http.Handler, string, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request notification.Request
		err := json.NewDecoder(r.Body).Decode(&request)
		if err == nil {
			_, err = e.Notifications().Trigger(r.Context(), organization, request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}), "key", nil
}

var tiny = scale{
	triggers: 300, organizations: 100, whale: 200, matching: 5 * time.Millisecond, reps: 1,
	rows: 2000, batches: 1000, singles: 200, fires: 1000, perTx: 100,
	pace: 200, phase: 300 * time.Millisecond, leads: 1000, workers: 20, steady: 400 * time.Millisecond,
	claim: 800, fewParked: 100, parked: 500, finished: 1000,
	importingOrgs: 5, imported: 100, importLimit: 20, importPer: "1 second", importAfter: 500 * time.Millisecond,
	members: 2000, topic: 500, edits: 2, large: 1000,
}

// promised are the names that others rely on.
var promised = []string{
	"match_only", "trigger_bytes", "trigger_load", "trigger_edit_live", "match_one_org", "feed_drain_1000", "feed_drain_1", "feed_drain_none",
	"feed_fire_1pct", "feed_fire_all", "commit_to_job_p50", "commit_to_job_p99", "cpu_per_change", "related_exactness", "actions_1_org",
	"actions_1000_orgs", "lateness_p99", "claim_5m_parked", "import_claim", "import_lateness_p99", "import_lateness_max", "app_writes", "rss",
	"triggers_accepted", "notification_3_steps", "topic_10000", "fan_out",
}

func TestEveryFigureIsThere(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var progress bytes.Buffer
	report, err := Run(ctx, Options{
		Engine: []string{program, "engine"}, Serve: serve, Progress: &progress, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), scale: &tiny,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if left, err := os.Stat(report.dir); !os.IsNotExist(err) {
		t.Errorf("left behind: %v, %v", left, err)
	}
	var raw bytes.Buffer
	if err := report.WriteJSON(&raw); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Figures []map[string]any `json:"figures"`
	}
	if err := json.Unmarshal(raw.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range got.Figures {
		name, _ := f["name"].(string)
		names = append(names, name)
		keys := slices.Sorted(maps.Keys(f))
		if want := []string{"conditions", "name", "ratio", "reach", "reference", "reference_name", "unit", "value"}; !slices.Equal(keys, want) {
			t.Errorf("%s has %v, want %v", name, keys, want)
		}
		for _, key := range []string{"value", "reference", "ratio", "reach"} {
			if v, ok := f[key].(float64); !ok || v <= 0 || math.IsInf(v, 0) {
				t.Errorf("%s: %s is %v", name, key, f[key])
			}
		}
		for _, key := range []string{"unit", "reference_name", "conditions"} {
			if text, _ := f[key].(string); text == "" {
				t.Errorf("%s has no %s", name, key)
			}
		}
	}
	for _, name := range promised {
		if !slices.Contains(names, name) {
			t.Errorf("%s is missing among %v", name, names)
		}
	}
	if want := Names(); !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want))) {
		t.Errorf("measured %v, of %v", names, want)
	}
	var table bytes.Buffer
	if err := report.WriteTable(&table); err != nil || !strings.Contains(table.String(), "feed_drain_1000") {
		t.Errorf("%v: %s", err, table.String())
	}
	t.Logf("\n%s", table.String())
	read, err := ReadReport(&raw)
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := read.WriteTable(&again); err != nil || again.String() != table.String() {
		t.Errorf("%v: read back as %s", err, again.String())
	}
	if page, err := read.Page(""); err != nil || strings.Count(page, "\n| `") != len(names) || strings.Count(page, "\n- `") != len(names) {
		t.Errorf("%v: %s", err, page)
	}
}

// A page's figures are replaced, and nothing else of it.
func TestPage(t *testing.T) {
	t.Parallel()
	report := func(value float64) *Report {
		return &Report{Server: "Postgres", Figures: []Figure{{
			Name: "rss", Unit: "MB", Value: value, ReferenceName: "nothing", Reference: 1, Ratio: value, Reach: 600, Conditions: "reach: MB at most 600; here, at least 1; there",
			of: ofValue, most: true,
		}}}
	}
	page, err := report(900).Page("# Title\n\n")
	if err != nil || !strings.Contains(page, "| `rss` | 900 | 1 | MB | 900.00 | ≤ 600 MB | **no** |") {
		t.Fatalf("%v: %s", err, page)
	}
	page, err = report(500).Page(page + "\nThe end.\n")
	if err != nil || strings.Contains(page, "900") || !strings.Contains(page, "| ≤ 600 MB | yes |") || !strings.Contains(page, "- `rss`, beside nothing: here, at least 1; there.") {
		t.Errorf("%v: %s", err, page)
	}
	if !strings.HasPrefix(page, "# Title\n\n<!--") || !strings.HasSuffix(page, "-->\n\nThe end.\n") {
		t.Errorf("around the figures: %s", page)
	}
	if _, err := report(1).Page(pageBegins); err == nil || !strings.Contains(err.Error(), "end of figures") {
		t.Errorf("a page without an end: %v", err)
	}
	var raw bytes.Buffer
	if err := report(500).WriteJSON(&raw); err != nil {
		t.Fatal(err)
	}
	if read, err := ReadReport(&raw); err != nil || read.Figures[0] != report(500).Figures[0] {
		t.Errorf("%v: read back as %+v", err, read)
	}
	for _, bad := range []string{"", "{", `{"figures":[{"name":"x"}]}`} {
		if _, err := ReadReport(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "bench --json") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestUnknownFigure(t *testing.T) {
	t.Parallel()
	if _, err := Run(t.Context(), Options{Only: []string{"speed"}}); err == nil || !strings.Contains(err.Error(), "match_only") {
		t.Errorf("got %v", err)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{1234567.8: "1,234,568", 12345: "12,345", -123456: "-123,456", 999.4: "999", 12.34: "12.3", 0.85: "0.85", 1.3: "1.3", 2: "2"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestMedians(t *testing.T) {
	t.Parallel()
	var m turns
	m.add(10, 20)
	m.add(30, 20)
	m.add(20, 40)
	f := m.into(Figure{Reach: 1})
	if f.Value != 20 || f.Reference != 20 || !strings.Contains(f.Conditions, "ratios 0.50 to 1.50") {
		t.Errorf("%+v", f)
	}
	if f := m.into(Figure{Unit: "ms", of: ofValue}); !strings.Contains(f.Conditions, "median of 3, 10.0 to 30.0 ms, ratios") {
		t.Error(f.Conditions)
	}
	at := Figure{Value: 10, Ratio: 0.5, Reach: 1}
	if at.Reached() {
		t.Error("a ratio of 0.5 reaches 1")
	}
	at.of, at.most = ofValue, true
	if at.Reached() {
		t.Error("10 is at most 1")
	}
}
