package bench

// The soak: the whole engine as a process beside a private Postgres, under a steady load for
// as long as is wanted, with a look at everything that could grow, every few seconds.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db"
)

// The bounds of a soak: it ends by itself, and puts no more than so much on a machine.
const (
	MaxSoak     = 24 * time.Hour
	MaxSoakRate = 5000
	minSoakHold = time.Second
)

// SoakOptions say how long and how much. Engine is needed.
type SoakOptions struct {
	// For is how long the load lasts; default an hour, at most MaxSoak.
	For time.Duration
	// Rate is how many changes the app commits in a second; default 300, at most
	// MaxSoakRate. A tenth of them fires. A twentieth as many leads enter a pipeline, a
	// thirtieth as many workflows are triggered.
	Rate int
	// Every is how often a sample is taken; default 10 s, or a hundredth of For where that is less.
	Every time.Duration
	// Hold is how long a transaction holds a snapshot open, from a third of For on; default
	// 0: none does. At most a third of For.
	Hold time.Duration
	// Engine is the command that runs an engine: `pgautomate run`, to which arguments are added.
	Engine []string
	// Progress hears what is being done; default io.Discard.
	Progress io.Writer
	Logger   *slog.Logger // default slog.Default()
}

// Check sets the defaults, and says what can't be.
func (o *SoakOptions) Check() error {
	if o.For == 0 {
		o.For = time.Hour
	}
	if o.Rate == 0 {
		o.Rate = 300
	}
	if o.Every == 0 {
		o.Every = min(10*time.Second, o.For/100)
	}
	o.Every = max(o.Every, 100*time.Millisecond)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case o.For < time.Second || o.For > MaxSoak:
		return fmt.Errorf("a soak of %s: use 1s to %s", o.For, MaxSoak)
	case o.Rate < 1 || o.Rate > MaxSoakRate:
		return fmt.Errorf("%d changes a second: use 1 to %d", o.Rate, MaxSoakRate)
	case o.Hold != 0 && (o.Hold < minSoakHold || o.Hold > o.For/3):
		return fmt.Errorf("a snapshot held for %s: use %s to a third of the time, %s", o.Hold, minSoakHold, o.For/3)
	}
	return nil
}

// What a soak is made of.
const (
	soakRows          = 20_000 // of the watched table
	soakOrganizations = 100
	soakTriggers      = 1000
	soakLeads         = 20_000 // that enter pipelines, by turns
	soakSubscribers   = 20     // of each organization
	soakEnters        = 20     // one lead for so many changes
	soakNotifies      = 30     // one event for so many changes
)

// soakSettings are those of the benchmarks, with checkpoints as servers have them.
func soakSettings() map[string]string {
	all := maps.Clone(settings)
	all["max_wal_size"], all["checkpoint_timeout"] = "1GB", "5min"
	return all
}

// soak is one run.
type soak struct {
	run
	SoakOptions

	d          *database
	report     *SoakReport
	statements bool // the server has pg_stat_statements
	keep       time.Duration

	pacer   pacer
	changed atomic.Int64 // rows that the app has changed
}

// Soak runs one. When ctx ends before its time, the report is of what was seen until then.
func Soak(ctx context.Context, o SoakOptions) (*SoakReport, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o.Logger = db.Quiet(o.Logger)
	s := &soak{
		run:         run{Options: Options{Engine: o.Engine, Progress: o.Progress, Logger: o.Logger}, report: &Report{}},
		SoakOptions: o, report: &SoakReport{},
		// What is over is kept for a tenth of the time, so that as much goes as comes in the most of it.
		keep: min(max(o.For/10, time.Minute), time.Hour),
	}
	err := s.all(ctx)
	stopErr := s.stop(context.WithoutCancel(ctx))
	s.report.dir = s.dir
	if len(s.report.At) == 0 {
		return nil, errors.Join(err, stopErr)
	}
	if ctx.Err() != nil {
		s.report.Interrupted, err = true, nil
	}
	s.report.judge()
	return s.report, errors.Join(err, stopErr)
}

func (s *soak) progress(format string, args ...any) {
	fmt.Fprintf(s.Progress, format+"\n", args...)
}

func (s *soak) all(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	// Its end is ours to say: what is sampled last is of a living engine.
	p, err := s.process(context.WithoutCancel(ctx), s.d, "feed,scheduler,workers,server",
		"--listen", "127.0.0.1:0", "--archive-after", s.keep.String(), "--keep-spent", s.keep.String(), "--keep-finished", s.keep.String())
	if err != nil {
		return err
	}
	s.progress("the engine runs; %s of load, a sample every %s", s.For, s.Every)
	err = s.watch(ctx, p)
	return errors.Join(err, p.end())
}

// prepare makes server, database and what the load works on.
func (s *soak) prepare(ctx context.Context) error {
	began := time.Now()
	settings := soakSettings()
	if err := s.open(ctx, settings); err != nil {
		return err
	}
	if err := s.preload(ctx); err != nil {
		return err
	}
	if err := s.template(ctx); err != nil {
		return err
	}
	var err error
	if s.d, err = s.database(ctx, "soak"); err != nil {
		return err
	}
	if s.statements {
		if err := s.d.run(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
			return err
		}
	}
	if err := s.d.exec(ctx, "soak_tables"); err != nil {
		return err
	}
	if err := s.d.leads(ctx, soakRows, soakOrganizations); err != nil {
		return err
	}
	if err := s.d.triggers(ctx, soakTriggers, soakOrganizations); err != nil {
		return err
	}
	limit := s.limit()
	for _, step := range []struct {
		name string
		args []any
	}{
		{"soak_pipelines", []any{soakOrganizations}},
		{"soak_throttles", []any{soakOrganizations, limit}},
		{"soak_workflows", []any{soakOrganizations, soakSubscribers}},
	} {
		if err := s.d.exec(ctx, step.name, step.args...); err != nil {
			return err
		}
	}
	if err := s.d.exec(ctx, "soak_heat"); err != nil {
		return err
	}
	s.d.pool.Reset() // the sessions count what they did when they end; then VACUUM counts
	for range 2 {
		if err := s.d.run(ctx, "VACUUM (ANALYZE)"); err != nil {
			return err
		}
	}
	s.report.Server = fmt.Sprintf("Postgres %s on this machine, over loopback; fsync, synchronous_commit and full_page_writes on, shared_buffers %s, max_wal_size %s, "+
		"checkpoint_timeout %s, autovacuum as it comes; %d CPUs for server, engine and load, %s",
		s.server.Version(), settings["shared_buffers"], settings["max_wal_size"], settings["checkpoint_timeout"], runtime.NumCPU(), runtime.Version())
	s.report.Load = fmt.Sprintf("for each second %d changes of 2 of 32 columns, one a commit, %.3g of which fire (%d triggers, %d organizations; a standalone action each), "+
		"%.3g leads that enter a pipeline of 3 actions (log, a wait of 2 s, log), %.3g triggers of a workflow (a digest of 5 s, an in-app message); "+
		"every tenth organization is held to %d starts in any 10 s",
		s.Rate, float64(s.Rate)/hotEvery, soakTriggers, soakOrganizations, float64(s.Rate)/soakEnters, float64(s.Rate)/soakNotifies, limit)
	s.report.Retention = fmt.Sprintf("--archive-after, --keep-spent and notifications: %s", s.keep)
	s.report.For, s.report.Every, s.report.Hold = s.For.Seconds(), s.Every.Seconds(), s.Hold.Seconds()
	s.progress("server and data are there after %.1f s", time.Since(began).Seconds())
	return nil
}

// limit is what an organization may start in 10 s: half as much again as comes, so that bursts are held and nothing heaps up.
func (s *soak) limit() int {
	starts := float64(s.Rate) / hotEvery                        // standalone actions: the rows' organizations go from hot to cold together
	starts = max(starts*5, starts+2*float64(s.Rate)/soakEnters) // every fifth row: a fifth of the organizations has all of them
	return int(starts/soakOrganizations*10*1.5) + 10
}

// preload restarts the server with pg_stat_statements, if it comes with it.
func (s *soak) preload(ctx context.Context) error {
	for _, lib := range []string{"lib", "lib/postgresql"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(s.server.BinDir()), lib, "pg_stat_statements.*"))
		s.statements = s.statements || err == nil && len(found) > 0
	}
	if !s.statements {
		s.progress("this server comes without pg_stat_statements: what claims cost it is not seen")
		return nil
	}
	if err := s.admin(ctx, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"); err != nil {
		return err
	}
	return s.server.Restart(ctx)
}

// watch puts the load on and samples until the time is over, ctx ends, or something fails.
func (s *soak) watch(ctx context.Context, p *child) error {
	load, over := context.WithTimeout(ctx, s.For)
	defer over()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer over()
	failed := make(chan error, 4)
	began := time.Now()
	for _, part := range []func(context.Context, time.Time) error{s.changes, s.enters, s.notifies, s.hold} {
		beside.Go(func() {
			if err := part(load, began); err != nil && load.Err() == nil {
				failed <- err
			}
		})
	}
	looker, err := s.newLooker(ctx, p.c.Process.Pid)
	if err != nil {
		return err
	}
	defer looker.close()
	ticks := time.NewTicker(s.Every)
	defer ticks.Stop()
	told := time.Now()
	defer func() { s.report.Missed = s.pacer.missed.Load() }()
	for {
		select {
		case <-load.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("the load ended: %w", err)
		case err := <-p.ended:
			p.ended <- nil
			if load.Err() != nil { // both were asked to end
				return nil
			}
			return fmt.Errorf("the engine ended: %w", errors.Join(err, errors.New("its log is above")))
		case <-ticks.C:
		}
		if err := looker.look(load, time.Since(began)); err != nil {
			if load.Err() != nil { // cut off by the end
				return nil
			}
			return fmt.Errorf("sample: %w", err)
		}
		if time.Since(told) >= min(time.Minute, s.For/4) {
			told = time.Now()
			s.progress("%7.0f s  %s", time.Since(began).Seconds(), s.report.line())
		}
	}
}

// hold holds a snapshot open, as somebody does who forgets a transaction.
func (s *soak) hold(ctx context.Context, began time.Time) error {
	if s.Hold == 0 {
		return nil
	}
	from := s.For / 3
	if !sleepUntil(ctx, began.Add(from)) {
		return nil
	}
	conn, err := pgx.Connect(ctx, s.d.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{"SET application_name = 'forgotten'", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	s.report.hold(time.Since(began), s.For)
	s.progress("%7.0f s  a snapshot is held", time.Since(began).Seconds())
	sleepUntil(ctx, began.Add(from+s.Hold))
	_, err = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK")
	s.report.hold(0, time.Since(began))
	s.progress("%7.0f s  and let go", time.Since(began).Seconds())
	return err
}

// sleepUntil says whether ctx lasted so long.
func sleepUntil(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
