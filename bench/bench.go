// Package bench measures the engine: one run on a private Postgres of its own,
// each figure beside a reference that was measured in the same run on the same
// server, with the conditions.
//
// What is measured is the real thing: the feed with the real applier (package
// firing), the scheduler, the workers, or a whole engine in a process of its own.
// References are others' tools and the least that must be done: pg_recvlogical,
// River by itself, a bare loop of decode, INSERT and commit, the same table unwatched.
//
// A value and its reference are measured by turns, some times over, and the medians
// are given: machines are shared, and what disturbs one turn rarely disturbs most.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/internal/garbage"
)

// Options say what is measured. Only Engine and Serve are needed.
type Options struct {
	// Quick takes smaller sizes and less time, about two minutes; the conditions say what.
	Quick bool
	// Only are the names of the figures that are wanted; default all.
	Only []string
	// Engine is the command that runs an engine, for what is measured of a whole
	// process: `pgautomate run`, to which arguments are added.
	Engine []string
	// Serve gives the API of an engine that was prepared, and a key for an organization.
	Serve func(ctx context.Context, e *pgautomate.Engine, organization string) (api http.Handler, key string, err error)
	// Progress hears what is being measured; default io.Discard.
	Progress io.Writer
	Logger   *slog.Logger // default slog.Default()

	scale *scale // tests have a smaller one
}

// group is what is measured together, because it shares what must be set up.
type group struct {
	title string
	names []string
	run   func(ctx context.Context, r *run) error
}

// groups are in the order in which they run: what needs no database, what comes
// before any slot holds the log, then the rest.
var groups = []group{
	{"matching in memory", []string{"match_only", "trigger_bytes", "match_one_org"}, matching},
	{"claims", []string{"claim_5m_parked"}, claims},
	{"imports", []string{"import_lateness_p99", "import_lateness_max", "import_claim"}, imports},
	{"actions", []string{"actions_1_org", "actions_1000_orgs", "lateness_p99"}, actions},
	{"notifications", []string{"triggers_accepted", "notification_3_steps", "topic_10000", "fan_out"}, notifications},
	{"commit to job", []string{"commit_to_job_p50", "commit_to_job_p99"}, commitToJob},
	{"an app's writes", []string{"app_writes", "app_writes_row_trigger"}, appWrites},
	{"related rows", []string{"related_exactness"}, relatedRows},
	{"draining", []string{
		"trigger_load", "trigger_edit_live", "feed_drain_1000", "feed_drain_1", "cpu_per_change", "feed_drain_none",
		"feed_fire_1pct", "feed_fire_all", "rss",
	}, draining},
}

// Names are those of all figures, in the order of the table.
func Names() []string {
	var all []string
	for _, g := range groups {
		all = append(all, g.names...)
	}
	return all
}

// run is one run of the benchmarks.
type run struct {
	Options
	scale

	server    *private.Server
	dir       string
	databases []*database
	report    *Report
}

// settings of the private server, beside its own. Nothing that would make a
// figure better than it is where data matters: what is written is on disk when
// a commit returns.
var settings = map[string]string{
	"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "8GB",
	"checkpoint_timeout": "15min", "autovacuum": "on",
}

// Run measures. A figure that can't be measured is left out, and the error names
// it; the others are in the report all the same.
func Run(ctx context.Context, o Options) (*Report, error) {
	for _, name := range o.Only {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("there is no figure %q: the figures are %s", name, strings.Join(Names(), ", "))
		}
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = db.Quiet(o.Logger)
	r := &run{Options: o, scale: full, report: &Report{Figures: []Figure{}}}
	switch {
	case o.scale != nil:
		r.scale = *o.scale
	case o.Quick:
		r.scale = quick
	}
	// As `run` does, for all that is measured and for the references.
	tending, leave := context.WithCancel(ctx)
	var tended sync.WaitGroup
	tended.Go(func() { garbage.Tend(tending) })
	defer tended.Wait()
	defer leave()
	err := r.start(ctx)
	if err == nil {
		err = r.measure(ctx)
	}
	return r.report, errors.Join(err, r.stop(context.WithoutCancel(ctx)))
}

func (r *run) measure(ctx context.Context) error {
	var failed []error
	began := time.Now()
	for _, g := range groups {
		if !slices.ContainsFunc(g.names, r.wanted) {
			continue
		}
		fmt.Fprintf(r.Progress, "%6.1f s  %s: %s\n", time.Since(began).Seconds(), g.title, strings.Join(g.names, ", "))
		err := g.run(ctx, r)
		if dropErr := r.drop(context.WithoutCancel(ctx)); err == nil {
			err = dropErr
		}
		if ctx.Err() != nil {
			return errors.New("interrupted before all was measured")
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", g.title, err))
		}
		debug.FreeOSMemory()
	}
	r.report.Took = time.Since(began)
	return errors.Join(failed...)
}

// wanted says whether a figure was asked for.
func (r *run) wanted(name string) bool { return len(r.Only) == 0 || slices.Contains(r.Only, name) }

// add takes a figure into the report, if it was asked for.
func (r *run) add(f Figure) error {
	if !r.wanted(f.Name) {
		return nil
	}
	f.Ratio = f.Value / f.Reference
	for _, v := range []float64{f.Value, f.Reference, f.Ratio} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s: %v of %v is no figure", f.Name, f.Value, f.Reference)
		}
	}
	f.Conditions = f.reachText() + "; " + f.Conditions
	r.report.Figures = append(r.report.Figures, f)
	fmt.Fprintf(r.Progress, "          %s %s %s, ratio %.2f\n", f.Name, number(f.Value), f.Unit, f.Ratio)
	return nil
}

func (r *run) start(ctx context.Context) error {
	if err := r.open(ctx, settings); err != nil {
		return err
	}
	if err := r.template(ctx); err != nil {
		return err
	}
	r.report.dir = r.dir
	r.report.Server = fmt.Sprintf("Postgres %s on this machine, over loopback; fsync, synchronous_commit and full_page_writes on, "+
		"shared_buffers %s, max_wal_size %s, autovacuum on; %d CPUs, %s",
		r.server.Version(), settings["shared_buffers"], settings["max_wal_size"], runtime.NumCPU(), runtime.Version())
	return nil
}

// open starts the server.
func (r *run) open(ctx context.Context, settings map[string]string) error {
	var err error
	if r.dir, err = os.MkdirTemp("", "pgautomate-bench-"); err != nil {
		return fmt.Errorf("no folder for the private Postgres: %w; set TMPDIR", err)
	}
	r.server, err = private.Start(ctx, private.Options{DataDir: r.dir, Settings: settings, Logger: r.Logger})
	return err
}

// stop ends the server and removes all that it wrote.
func (r *run) stop(ctx context.Context) error {
	if r.server != nil {
		// Nothing of it is worth a checkpoint: an immediate shutdown.
		now, cancel := context.WithCancel(ctx)
		cancel()
		if err := r.server.Stop(now); err != nil {
			return err
		}
	}
	if r.dir == "" {
		return nil
	}
	return os.RemoveAll(r.dir)
}
