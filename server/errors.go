package server

// Every error leaves in one shape, whoever found it: huma while decoding, the
// database, a rule elsewhere, or a bug. The shape has all members that any of
// Novu's SDKs asks for, so that one body serves native and compatible routes.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/trigger"
)

// ErrorBody is the body of every error.
type ErrorBody struct {
	StatusCode int    `json:"statusCode"`
	Timestamp  string `json:"timestamp"`
	Path       string `json:"path"`
	Message    any    `json:"message" doc:"One line that says what to do; of Novu's routes sometimes a list of them."`
	Error      string `json:"error" doc:"The status in words."`
	Type       string `json:"type,omitempty" doc:"With 400 and 422."`
	// Errors is a list with 400 and an object with 422.
	Errors  any    `json:"errors,omitempty" doc:"With 422: what is wrong, by JSON pointer: {code, messages, nearest?}. With 400: a list."`
	ErrorID string `json:"errorId,omitempty" doc:"With 500: the request's id, also in the log and in X-Request-ID."`
}

var errorBodyType = reflect.TypeFor[ErrorBody]()

// FieldError says what is wrong at one place of the body.
type FieldError struct {
	Code     string          `json:"code"`
	Messages []string        `json:"messages"`
	Nearest  json.RawMessage `json:"nearest,omitempty"`
}

// problem is an error that knows its HTTP status.
type problem struct {
	status  int
	message string
	fields  map[string]*FieldError // by JSON pointer; with 422
	id      string                 // with 500

	messages []string // said in the place of message, on Novu's routes
	list     []any    // errors of a 400
}

var _ huma.StatusError = (*problem)(nil)

func (p *problem) Error() string  { return p.message }
func (p *problem) GetStatus() int { return p.status }

func problemf(status int, format string, args ...any) *problem {
	return &problem{status: status, message: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) *problem {
	return problemf(http.StatusConflict, format, args...)
}

// notFound does not say whether the thing is another organization's.
func notFound(what, id string) *problem {
	return problemf(http.StatusNotFound, "there is no %s %s", what, clip(id))
}

// fields collects what is wrong with a body.
type fields struct{ list map[string]*FieldError }

func (f *fields) add(pointer, code, message string, nearest json.RawMessage) {
	if f.list == nil {
		f.list = map[string]*FieldError{}
	}
	if e := f.list[pointer]; e != nil {
		e.Messages = append(e.Messages, message)
		return
	}
	f.list[pointer] = &FieldError{Code: code, Messages: []string{message}, Nearest: nearest}
}

// query adds what package trigger finds wrong, below prefix.
func (f *fields) query(prefix string, err error) error {
	var invalid *trigger.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	for i := range invalid.Problems {
		p := &invalid.Problems[i]
		f.add(prefix+p.Pointer, p.Code, p.Message, p.Nearest)
	}
	return nil
}

// err is nil when nothing was added.
func (f *fields) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &problem{status: http.StatusUnprocessableEntity, fields: f.list, message: fieldsLine(f.list)}
}

func invalid(pointer, code, message string) error {
	var f fields
	f.add(pointer, code, message, nil)
	return f.err()
}

// fieldsLine is the message of a 422: the first in the order of the pointers, and
// how many more there are.
func fieldsLine(list map[string]*FieldError) string {
	first := ""
	for pointer := range list {
		if first == "" || pointer < first {
			first = pointer
		}
	}
	line := list[first].Messages[0]
	if first != "" {
		line = first + ": " + line
	}
	if more := len(list) - 1; more > 0 {
		line += fmt.Sprintf(" (and %d more in errors)", more)
	}
	return line
}

func (p *problem) body(path string) *ErrorBody {
	b := &ErrorBody{
		StatusCode: p.status, Timestamp: time.Now().UTC().Format(time.RFC3339Nano), Path: path,
		Message: p.message, Error: http.StatusText(p.status), ErrorID: p.id,
	}
	if len(p.messages) > 0 {
		b.Message = p.messages
	}
	switch p.status {
	case http.StatusBadRequest:
		b.Type = "bad_request"
		if b.Errors = any(p.list); p.list == nil {
			b.Errors = []any{}
		}
	case http.StatusUnprocessableEntity:
		b.Type = "validation_error"
		if b.Errors = any(p.fields); p.fields == nil {
			b.Errors = map[string]any{}
		}
	}
	return b
}

// write is for errors found outside of huma.
func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(p.body(r.URL.Path)) //nolint:errchkjson // nobody is left to be told
}

// errorShape turns problems, and what huma found while decoding, into the body.
func errorShape(ctx huma.Context, _ string, v any) (any, error) {
	var p *problem
	switch e := v.(type) {
	case *problem:
		p = e
	case *huma.ErrorModel:
		p = fromHuma(e)
	default:
		return v, nil
	}
	ctx.SetHeader("Content-Type", "application/json")
	u := ctx.URL()
	return p.body(u.Path), nil
}

func fromHuma(e *huma.ErrorModel) *problem {
	p := &problem{status: e.Status, message: e.Detail}
	switch e.Status {
	case http.StatusUnprocessableEntity:
		var f fields
		for _, d := range e.Errors {
			pointer, code, message := fromDetail(d)
			f.add(pointer, code, message, nil)
		}
		if len(f.list) > 0 {
			p.fields, p.message = f.list, fieldsLine(f.list)
		}
	case http.StatusBadRequest:
		p.message = "send a JSON object as the body"
		if len(e.Errors) > 0 {
			p.message = "the body is not JSON: " + clip(e.Errors[0].Message)
		}
	case http.StatusUnsupportedMediaType:
		p.message = "send JSON, with Content-Type: application/json"
	case http.StatusRequestEntityTooLarge:
		p.message = "the body is too large: send less at once, at most 1 MiB (10 MiB for leads)"
	case http.StatusRequestTimeout:
		p.message = "the body did not arrive in time: send it again"
	}
	return p
}

// fromDetail makes a JSON pointer of huma's "body.stages[0].name". Parameters are
// named as ?limit.
func fromDetail(d *huma.ErrorDetail) (pointer, code, message string) {
	place, rest, _ := strings.Cut(d.Location, ".")
	code, message = "invalid", d.Message
	switch {
	case d.Message == "unexpected property":
		code, message = "unknown_member", "this member is not known: leave it out"
	case d.Message == "unknown query parameter":
		code, message = "unknown_parameter", "this parameter is not known: leave it out"
	case strings.HasPrefix(d.Message, "expected required property "):
		name, _, _ := strings.Cut(strings.TrimPrefix(d.Message, "expected required property "), " ")
		code, message = "missing_member", "this member is required"
		if rest != "" {
			rest += "."
		}
		rest += name
	}
	if place != "body" {
		return "?" + rest, code, message
	}
	var b strings.Builder
	for part := range strings.SplitSeq(strings.ReplaceAll(strings.ReplaceAll(rest, "[", "."), "]", ""), ".") {
		if part != "" {
			b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
		}
	}
	return b.String(), code, message
}

// toProblem is the one place where an error of a handler gets its status.
func (s *Server) toProblem(ctx context.Context, err error) error {
	if known, ok := errors.AsType[*problem](err); ok {
		return known
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if p := fromPostgres(pg); p != nil {
			return p
		}
	}
	id := requestID(ctx)
	if ctx.Err() != nil {
		s.log.Info("request given up", "request_id", id, "error", err)
		return problemf(http.StatusServiceUnavailable, "the request took too long or was given up: send it again")
	}
	s.log.Error("request failed", "request_id", id, "error", err)
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return problemf(http.StatusServiceUnavailable, "the database does not answer: send the request again later")
	}
	return internalError(id)
}

func internalError(id string) *problem {
	p := problemf(http.StatusInternalServerError, "an error on our side: look for request_id %s in the log", id)
	p.id = id
	return p
}

// fromPostgres knows the database's own refusals; nil for everything else.
func fromPostgres(e *pgconn.PgError) *problem {
	at := func(pointer, code, message string) *problem {
		var p *problem
		errors.As(invalid(pointer, code, message), &p)
		return p
	}
	switch e.Code {
	case pgerrcode.UntranslatableCharacter, pgerrcode.CharacterNotInRepertoire:
		return at("", "invalid", "text may not contain the character U+0000")
	case pgerrcode.InvalidTextRepresentation:
		if strings.HasPrefix(e.Message, "invalid input syntax for type json") {
			return at("", "invalid", "the JSON holds half a character: write the escapes \\ud800 to \\udfff in pairs only")
		}
	case pgerrcode.InvalidDatetimeFormat, pgerrcode.DatetimeFieldOverflow, pgerrcode.IntervalFieldOverflow:
		return at("", "invalid", firstLine(e.Message))
	case pgerrcode.ProgramLimitExceeded:
		return at("", "too_large", firstLine(e.Message))
	case pgerrcode.LockNotAvailable:
		return conflict("an open transaction holds what this request needs: end it, or send the request again later")
	case pgerrcode.SerializationFailure, pgerrcode.DeadlockDetected:
		return conflict("another request changed the same thing at the same moment: send it again")
	case pgerrcode.TooManyConnections, pgerrcode.CannotConnectNow, pgerrcode.AdminShutdown, pgerrcode.CrashShutdown:
		return problemf(http.StatusServiceUnavailable, "the database does not answer: send the request again later")
	case pgerrcode.UniqueViolation:
		if e.ConstraintName == "pipelines_organization_id_name_key" {
			return conflict("there is a pipeline of that name already: choose another name")
		}
	case pgerrcode.CheckViolation:
		switch e.ConstraintName {
		case "reenrolment_is_a_policy":
			return at("/reenrolment", "invalid", reenrolmentHelp)
		case "throttles_per_check":
			return at("/per", "invalid", perHelp)
		}
	}
	return nil
}

// isPG tells whether err is the database's refusal with that code.
func isPG(err error, codes ...string) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	return slices.Contains(codes, pg.Code)
}

// orNotFound turns "no row" into a 404.
func orNotFound(err error, what, id string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound(what, id)
	}
	return err
}

func parseID(what, id string) (int64, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return 0, notFound(what, id)
	}
	return n, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// clip bounds what a message repeats of a request.
func clip(s string) string {
	s = firstLine(s)
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
