package pgautomate

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/trigger"
)

// Metrics are the engine's Prometheus metrics. Their names are promises.
type Metrics struct {
	registry *prometheus.Registry
	feed     func() feed.Status

	refresh     func(context.Context) error
	refreshLock sync.Mutex
	refreshed   time.Time

	firings    *prometheus.CounterVec
	candidates prometheus.Counter
	related    prometheus.Counter
	mismatches prometheus.Counter
	live       prometheus.Gauge
	actions    *prometheus.CounterVec
	jobs       *prometheus.CounterVec
	lateness   prometheus.Histogram
	throttled  *prometheus.GaugeVec
	problems   prometheus.Gauge
	lagBytes   prometheus.Gauge
	lagSeconds prometheus.Gauge
}

// NewMetrics makes the metrics on a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		firings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgautomate_trigger_firings_total", Help: "Firings of triggers, by object type.",
		}, []string{"object_type"}),
		candidates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pgautomate_trigger_candidates_total", Help: "Triggers evaluated against a change.",
		}),
		related: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pgautomate_related_fetches_total", Help: "Statements that fetched related rows to decide a trigger.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pgautomate_type_mismatches_total", Help: "Conditions that met a value of another type and were false.",
		}),
		live: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgautomate_triggers_active", Help: "Triggers that can fire."}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgautomate_actions_total", Help: "Ends of attempts of actions, by type and the status that followed.",
		}, []string{"action_type", "status"}),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgautomate_notification_jobs_total", Help: "Ends of attempts of notifications' jobs, by type and the status that followed.",
		}, []string{"type", "status"}),
		lateness: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pgautomate_action_lateness_seconds", Help: "Start of an action minus its perform_at.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600},
		}),
		throttled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pgautomate_throttled_actions", Help: "Due actions that a throttle holds, by type.",
		}, []string{"action_type"}),
		problems:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgautomate_problems", Help: "Rows of the view pgautomate.problems."}),
		lagBytes:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgautomate_feed_lag_bytes", Help: "Log written and not dealt with yet."}),
		lagSeconds: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgautomate_feed_lag_seconds", Help: "Age of the oldest commit not dealt with; 0 when there is none."}),
	}
	changes := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "pgautomate_feed_changes_total", Help: "Net changes of objects taken in.",
	}, func() float64 {
		if m.feed == nil {
			return 0
		}
		return float64(m.feed().Changes)
	})
	m.registry.MustRegister(m.firings, m.candidates, m.related, m.mismatches, m.live, m.actions, m.jobs, m.lateness, changes,
		&gauges{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Fired counts firings.
func (m *Metrics) Fired(objectType string, n int) {
	m.firings.WithLabelValues(objectType).Add(float64(n))
}

// RelatedFetched implements firing.Observer.
func (m *Metrics) RelatedFetched() { m.related.Inc() }

// Matched counts what matching did.
func (m *Metrics) Matched(c trigger.Counters) {
	m.candidates.Add(float64(c.Candidates))
	m.mismatches.Add(float64(c.TypeMismatch))
}

// Live says how many triggers can fire.
func (m *Metrics) Live(n int) { m.live.Set(float64(n)) }

// Started observes a start's lateness.
func (m *Metrics) Started(_ string, late time.Duration) { m.lateness.Observe(late.Seconds()) }

// Ended counts an attempt's end.
func (m *Metrics) Ended(actionType, status string, notification bool) {
	if notification {
		m.jobs.WithLabelValues(actionType, status).Inc()
		return
	}
	m.actions.WithLabelValues(actionType, status).Inc()
}

// gauges are those that only the database knows. They are read when somebody
// asks for metrics, at most every 15 s: counting what is parked is not free.
type gauges struct{ *Metrics }

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{g.throttled, g.problems, g.lagBytes, g.lagSeconds} {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	g.refreshLock.Lock()
	if g.refresh != nil && time.Since(g.refreshed) > 15*time.Second {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		// A database that is away leaves the gauges as they were.
		if g.refresh(ctx) == nil {
			g.refreshed = time.Now()
		}
		cancel()
	}
	g.refreshLock.Unlock()
	for _, c := range []prometheus.Collector{g.throttled, g.problems, g.lagBytes, g.lagSeconds} {
		c.Collect(ch)
	}
}

// refreshMetrics reads the gauges.
func (e *Engine) refreshMetrics(ctx context.Context) error {
	rows, err := e.pool.Query(ctx, "SELECT action_type, sum(held)::bigint FROM pgautomate.action_queue WHERE held > 0 GROUP BY 1")
	if err != nil {
		return err
	}
	e.metrics.throttled.Reset()
	for rows.Next() {
		var t string
		var n int64
		if err := rows.Scan(&t, &n); err != nil {
			return err
		}
		e.metrics.throttled.WithLabelValues(t).Set(float64(n))
	}
	if err := rows.Err(); err != nil {
		return err
	}
	var problems int64
	if err := e.pool.QueryRow(ctx, "SELECT count(*) FROM pgautomate.problems").Scan(&problems); err != nil {
		return err
	}
	e.metrics.problems.Set(float64(problems))
	var bytes, seconds float64
	err = e.pool.QueryRow(ctx, "SELECT coalesce(max(lag_bytes), 0)::float8, coalesce(max(CASE WHEN lag_bytes > 0 THEN seconds_since_checkpoint ELSE 0 END), 0)::float8 FROM pgautomate.feed_status").Scan(&bytes, &seconds)
	if err != nil {
		return err
	}
	e.metrics.lagBytes.Set(bytes)
	if e.feed != nil {
		s := e.feed.Status()
		seconds = 0
		if (s.Busy || s.Waiting > 0) && !s.LastCommit.IsZero() {
			seconds = time.Since(s.LastCommit).Seconds()
		}
	}
	e.metrics.lagSeconds.Set(seconds)
	return nil
}
