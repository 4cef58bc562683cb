// Package server is the HTTP edge: the JSON API under /v1, health and readiness,
// metrics, the pages for people, and River's UI. It holds no rules: what a trigger
// may say is decided by package trigger, what an entry into a stage does by the
// database, what an action type takes by its handler. Here a request is decoded,
// its key is turned into an organization, and an error into one body.
//
// Two doors, two rules:
//
//	/v1/…                         a key in the Authorization header, always. A key sees
//	                              one organization; other organizations' things do not
//	                              exist for it (404). An operator's key sees all.
//	/, /river/, /metrics, …       all organizations' data, so: an operator's key (for
//	                              browsers as the password of HTTP Basic), or a request
//	                              that comes over loopback and names a loopback host, so
//	                              that a web page elsewhere can't reach it by rebinding DNS.
//
// Timeouts are the listener's business (http.Server); bodies are bounded here.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/riverqueue/river"
	"riverqueue.com/riverui"

	"github.com/pgautomate/pgautomate/backfill"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/notification"
	"github.com/pgautomate/pgautomate/trigger"
)

// Objects answers what is watched; catalog.Catalog does.
type Objects interface {
	// Schemas gives the watched object types' columns and relations as they are now.
	Schemas(ctx context.Context) (trigger.Schemas, error)
	// Identity says whether the table's REPLICA IDENTITY is FULL, and the ALTER TABLE
	// that makes it so.
	Identity(ctx context.Context, objectType string) (full bool, alter string, err error)
	// Types lists the names of the watched object types.
	Types(ctx context.Context) ([]string, error)
	// Snapshot gives the watched tables as they are now, for queries that run as SQL.
	Snapshot(ctx context.Context) (*catalog.Snapshot, error)
}

// ActionTypes knows the action types and their parameters; jobs.Registry does.
type ActionTypes interface {
	// Validate checks the parameters of a known type; the error is one line that
	// says what to do.
	Validate(actionType string, params json.RawMessage) error
	// References are the stages of its own pipeline that an action names, and the
	// queries that stand in its parameters.
	References(actionType string, params json.RawMessage) ([]jobs.StageRef, []jobs.QueryRef)
	// Types lists the names of the action types.
	Types() []string
}

// FeedState is where the feed is, as the engine in this process knows it.
type FeedState struct {
	State      string // one or two words, e.g. streaming, standing by, off
	LagBytes   int64
	LagSeconds float64
	Changes    uint64 // since the process started
}

// Health is the engine's own view of itself.
type Health interface {
	// Ready is nil when all parts of this process serve; else one line that says
	// what does not.
	Ready(ctx context.Context) error
	Feed() FeedState
}

// Config is what a Server is made of.
type Config struct {
	// Pool is required. The API needs few connections: one for each request at work.
	Pool *pgxpool.Pool
	// River, when set, is shown at /river/.
	River *river.Client[pgx.Tx]
	// Objects is required.
	Objects Objects
	// DryRun says what would happen to a lead that entered the stage (0: the first)
	// of a pipeline now; nil when there is no such lead. Without it the route answers 501.
	DryRun func(ctx context.Context, pipeline, stage int64, lead string) (*jobs.DryRun, error)
	// Actions is required.
	Actions ActionTypes
	// Health, when nil, makes /readyz ask only whether the database answers.
	Health Health
	// Registry, when set, is served at /metrics; the engine defines the metrics.
	Registry *prometheus.Registry
	// Notifications accepts triggers of workflows; when nil, the server has its own,
	// which needs an engine on the same database to be carried out, and refuses attachments.
	Notifications *notification.Service
	// Mailbox, when set, is served at /mailbox: the demo's local mailbox.
	Mailbox http.Handler
	// Logger defaults to slog.Default(). Requests are logged at debug.
	Logger *slog.Logger
	// Version is shown on the pages and in /openapi.json.
	Version string
	// RequireKey asks for an operator's key at the pages over loopback too. Set it
	// when a reverse proxy on this machine passes requests on with a loopback Host.
	RequireKey bool
}

// Server serves everything. Start must be called before the River UI is used.
type Server struct {
	pool    *pgxpool.Pool
	q       *dbq.Queries
	objects Objects
	actions ActionTypes
	jobs    *river.Client[pgx.Tx] // only inserts
	health  Health
	log     *slog.Logger
	version string

	notifications *notification.Service
	listeners     *listeners
	ends          <-chan struct{} // streams end then

	requireKey bool
	keys       *keyCache
	api        huma.API
	overview   *overviewCache
	registry   *prometheus.Registry
	river      *riverui.Handler
	mailbox    bool
	dryRun     func(ctx context.Context, pipeline, stage int64, lead string) (*jobs.DryRun, error)
	handler    http.Handler
}

const (
	maxBody      = 1 << 20
	maxLeadsBody = 10 << 20
)

// New makes a Server; it fails on a Config that lacks something.
func New(cfg Config) (*Server, error) {
	if cfg.Pool == nil || cfg.Objects == nil || cfg.Actions == nil {
		return nil, errors.New("server: Pool, Objects and Actions are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Version == "" {
		cfg.Version = "devel"
	}
	s := &Server{
		pool: cfg.Pool, q: dbq.New(cfg.Pool), objects: cfg.Objects, actions: cfg.Actions, health: cfg.Health,
		log: cfg.Logger, version: cfg.Version, requireKey: cfg.RequireKey, keys: newKeyCache(cfg.Pool),
		registry: cfg.Registry, mailbox: cfg.Mailbox != nil, dryRun: cfg.DryRun,
	}
	s.overview = newOverviewCache(s)
	var err error
	if s.jobs, err = backfill.Client(cfg.Pool); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}

	if s.notifications = cfg.Notifications; s.notifications == nil {
		s.notifications = &notification.Service{Pool: cfg.Pool, River: s.jobs, Logger: cfg.Logger}
	}

	s.listeners = &listeners{pool: cfg.Pool, log: cfg.Logger, of: map[int64]map[chan struct{}]bool{}}

	v1 := http.NewServeMux()
	s.api = newAPI(v1, cfg.Version)
	s.registerTriggers()
	s.registerPreview()
	s.registerExplain()
	s.registerBackfills()
	s.registerPipelines()
	s.registerLeads()
	s.registerActions()
	s.registerThrottles()
	s.registerSuppressions()
	s.registerKeys()
	s.registerOperator()
	s.registerNovu(v1)
	spec, err := finishSpec(s.api)
	if err != nil {
		return nil, fmt.Errorf("server: openapi.json: %w", err)
	}

	mux := http.NewServeMux()
	mux.Handle("/v1/", s.withKey(s.idempotent(jsonNotFound(v1))))
	mux.Handle("/v2/", s.withKey(s.idempotent(jsonNotFound(v1))))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(spec)
	})
	mux.HandleFunc("GET /docs", serveDocs)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)

	mux.Handle("GET /{$}", s.forOperators(http.HandlerFunc(s.serveOverview)))
	if cfg.Registry != nil {
		mux.Handle("GET /metrics", s.forOperators(promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{
			Registry: nil, ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
		})))
	}
	if cfg.Mailbox != nil {
		mux.Handle("/mailbox", s.forOperators(withPolicy(mailboxPolicy, cfg.Mailbox)))
		mux.Handle("/mailbox/", s.forOperators(withPolicy(mailboxPolicy, cfg.Mailbox)))
	}
	if cfg.River != nil {
		quiet := db.Quiet(cfg.Logger)
		s.river, err = riverui.NewHandler(&riverui.HandlerOpts{
			Endpoints: riverui.NewEndpoints(cfg.River, nil), Logger: quiet, Prefix: "/river", JobListHideArgsByDefault: true,
		})
		if err != nil {
			return nil, fmt.Errorf("server: River's UI: %w", err)
		}
		mux.Handle("/river/", s.forOperators(withPolicy(riverPolicy, s.river)))
		mux.Handle("GET /river", http.RedirectHandler("/river/", http.StatusMovedPermanently))
	}
	s.handler = s.observe(secure(jsonNotFound(mux)))
	return s, nil
}

// Start runs what the River UI does in the background, until ctx ends, and with it
// the streams. Call it before anything is served.
func (s *Server) Start(ctx context.Context) error {
	s.ends = ctx.Done()
	if s.river == nil {
		return nil
	}
	if err := s.river.Start(ctx); err != nil {
		return fmt.Errorf("server: River's UI: %w", err)
	}
	return nil
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	err := s.pool.Ping(ctx)
	if err != nil {
		s.log.Warn("not ready", "error", err)
		err = errors.New("the database does not answer")
	} else if s.health != nil {
		err = s.health.Ready(ctx)
	}
	if err != nil {
		plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(line + "\n"))
}

// newAPI makes huma's part: JSON only, no links to schemas in bodies, errors in
// our own shape, unknown members and parameters refused.
func newAPI(mux *http.ServeMux, version string) huma.API {
	return humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "pgautomate", Version: version,
				Description: "Triggers, pipelines and their actions. Ids are strings; collections are paged by next_cursor.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {
						Type: "apiKey", In: "header", Name: "Authorization",
						Description: "`ApiKey KEY`. Make a key with `pgautomate keys create --organization ORG`.",
					},
					"bearer": {Type: "http", Scheme: "bearer", Description: "The same key as a bearer token."},
				},
			},
			Security: []map[string][]string{{"key": {}}, {"bearer": {}}},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{errorShape},
	})
}

// finishSpec puts our error body into the description, in the place of huma's.
func finishSpec(api huma.API) ([]byte, error) {
	doc := api.OpenAPI()
	doc.Components.Schemas.Schema(errorBodyType, true, "Error")
	response := &huma.Response{
		Description: "What is wrong, and what to do.",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Ref: "#/components/schemas/ErrorBody"}}},
	}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				op.Responses["default"] = response
			}
		}
	}
	delete(doc.Components.Schemas.Map(), "ErrorModel")
	delete(doc.Components.Schemas.Map(), "ErrorDetail")
	return json.Marshal(doc)
}

// route registers an operation. Whatever its handler returns as an error leaves
// as one shape; what is not foreseen is logged and says nothing of its inside.
func route[I, O any](s *Server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxBody + 1
	}
	op.BodyReadTimeout = time.Minute
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, s.toProblem(ctx, err)
		}
		return out, nil
	})
}

// Single is the answer that holds one object.
type Single[T any] struct {
	Body struct {
		Data T `json:"data"`
	}
}

func single[T any](data T) *Single[T] {
	out := &Single[T]{}
	out.Body.Data = data
	return out
}

// List is one page of a collection.
type List[T any] struct {
	Body struct {
		Data []T `json:"data"`
		// NextCursor is null on the last page.
		NextCursor *string `json:"next_cursor" doc:"Give it as cursor to get the next page; null on the last."`
	}
}

// page makes a List of rows, of which there may be one more than limit: then
// there is a next page, after the last row shown.
func page[R, T any](rows []R, limit int32, show func(*R) T, cursor func(*R) string) *List[T] {
	out := &List[T]{}
	out.Body.Data = make([]T, 0, len(rows))
	if len(rows) > int(limit) {
		rows = rows[:limit]
		next := encodeCursor(cursor(&rows[limit-1]))
		out.Body.NextCursor = &next
	}
	for i := range rows {
		out.Body.Data = append(out.Body.Data, show(&rows[i]))
	}
	return out
}

// Paged are the parameters of every collection.
type Paged struct {
	Limit  int32  `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many at most."`
	Cursor string `query:"cursor" maxLength:"1000" doc:"next_cursor of the page before."`
}

// Empty is an answer without a body.
type Empty struct{}

// inTx runs do in one transaction, which waits for locks only so long.
func (s *Server) inTx(ctx context.Context, do func(q *dbq.Queries) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		q := s.q.WithTx(tx)
		if err := q.ApiBoundWaits(ctx); err != nil {
			return err
		}
		return do(q)
	})
}
