package server

// Novu's wire: how its routes are read and answered, so that its SDKs work against
// this server unchanged. Bodies are read leniently, members that mean nothing here
// are ignored, answers stand in {"data": …}, and a member without a value is left out.

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

// obj is a JSON object of an answer.
type obj = map[string]any

// call is one request to a route of Novu's.
type call struct {
	*http.Request

	s    *Server
	ctx  context.Context
	org  string
	body []byte
}

// wire is one route of Novu's.
type wire struct {
	method, path, id, summary, tag string
	most                           int64 // bytes of the body; default maxBody
	query                          []string
	handle                         func(c *call) (status int, data any, err error)
	// stream, in the place of handle, writes its answer by itself; an error is one from before it began.
	stream func(c *call, rw http.ResponseWriter) error
}

var pathParam = regexp.MustCompile(`\{(\w+)\}`)

// novu registers routes and describes them.
func (s *Server) novu(mux *http.ServeMux, routes ...wire) {
	for _, w := range routes {
		if w.most == 0 {
			w.most = maxBody
		}
		mux.Handle(w.method+" "+w.path, s.serveNovu(w))
		s.describe(w)
	}
}

func (s *Server) describe(w wire) {
	op := &huma.Operation{
		OperationID: w.id, Method: w.method, Path: w.path, Summary: w.summary, Tags: []string{w.tag},
		Responses: map[string]*huma.Response{"2XX": {
			Description: "As Novu answers, in {\"data\": …}.",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}},
		}},
		Security: []map[string][]string{{"key": {}}, {"bearer": {}}},
	}
	for _, m := range pathParam.FindAllStringSubmatch(w.path, -1) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	for _, name := range w.query {
		op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "query", Schema: &huma.Schema{Type: huma.TypeString}})
	}
	if w.method != http.MethodGet {
		op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}}}
	}
	s.api.OpenAPI().AddOperation(op)
}

func (s *Server) serveNovu(w wire) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fail := func(err error) {
			var p *problem
			if !errors.As(s.toProblem(r.Context(), fromRefused(err)), &p) {
				p = internalError(requestID(r.Context()))
			}
			p.write(rw, r)
		}
		c := &call{Request: r, s: s, ctx: r.Context()}
		var err error
		o := OrgParam{OrganizationQuery: r.URL.Query().Get("organization_id"), OrganizationHeader: r.Header.Get("X-Organization-Id")}
		if c.org, err = writer(c.ctx, &o, ""); err != nil {
			fail(err)
			return
		}
		if c.body, err = io.ReadAll(http.MaxBytesReader(rw, r.Body, w.most)); err != nil {
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				err = problemf(http.StatusRequestEntityTooLarge, "the body is too large: send at most %d KiB", w.most>>10)
			} else {
				err = problemf(http.StatusBadRequest, "the body did not arrive: send it again")
			}
			fail(err)
			return
		}
		if w.stream != nil {
			if err := w.stream(c, rw); err != nil {
				fail(err)
			}
			return
		}
		status, data, err := w.handle(c)
		if err != nil {
			fail(err)
			return
		}
		if status == http.StatusNoContent {
			rw.WriteHeader(status)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(obj{"data": data}) //nolint:errchkjson // nobody is left to be told
	})
}

// fromRefused gives package notification's refusals their body.
func fromRefused(err error) error {
	r, ok := errors.AsType[*notification.RefusedError](err)
	if !ok {
		return err
	}
	p := &problem{status: r.Status, message: r.Message, messages: r.Messages}
	if p.message == "" && len(r.Messages) > 0 {
		p.message = r.Messages[0]
	}
	for field, messages := range r.Fields {
		if p.fields == nil {
			p.fields = map[string]*FieldError{}
		}
		p.fields[field] = &FieldError{Code: "invalid", Messages: messages}
	}
	for _, e := range r.Errors {
		p.list = append(p.list, e)
	}
	return p
}

// read decodes the body; one that is no JSON is a 400.
func (c *call) read(into any) error {
	if len(c.body) == 0 {
		return problemf(http.StatusBadRequest, "send a JSON object as the body")
	}
	return readInto(c.body, into, "the body")
}

// readInto decodes JSON; what names it in the 400 that says what is wrong with it.
func readInto(raw []byte, into any, what string) error {
	err := json.Unmarshal(raw, into)
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return refuse(cmp.Or(kind.Field, what) + " must be " + kindWord(kind.Type.Kind().String()))
	}
	if err != nil {
		return problemf(http.StatusBadRequest, "%s is not JSON: %s", what, clip(err.Error()))
	}
	return nil
}

// refusal is the line that one of many things in a body is refused with, be it by us
// or by the database; not known: the request itself has failed.
func (c *call) refusal(err error) (message string, known bool) {
	var p *problem
	if !errors.As(c.s.toProblem(c.ctx, fromRefused(err)), &p) || p.status >= http.StatusInternalServerError {
		return "", false
	}
	return p.message, true
}

func kindWord(kind string) string {
	switch kind {
	case "slice":
		return "an array"
	case "map", "struct":
		return "an object"
	case "bool":
		return "a boolean value"
	case "int", "float64", "int32", "int64":
		return "a number"
	default:
		return "a string"
	}
}

// refuse is a 400 whose message is a list, as Novu's validation says it.
func refuse(messages ...string) error {
	return &problem{status: http.StatusBadRequest, message: messages[0], messages: messages}
}

func (c *call) query(name string) string { return c.URL.Query().Get(name) }

// all are the values of a repeated parameter, with or without [].
func (c *call) all(name string) []string {
	q := c.URL.Query()
	out := slices.Concat(q[name], q[name+"[]"])
	if out == nil {
		out = []string{}
	}
	return out
}

func (c *call) number(name string, otherwise, most int) (int32, error) {
	text := c.query(name)
	if text == "" {
		return int32(otherwise), nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 || n > int64(most) {
		return 0, refuse(name + " must be a number from 0 to " + strconv.Itoa(most))
	}
	return int32(n), nil
}

// paging reads page and limit.
func (c *call) paging(most int) (page, size int32, err error) {
	if page, err = c.number("page", 0, 1_000_000); err != nil {
		return 0, 0, err
	}
	if size, err = c.number("limit", 10, most); err != nil {
		return 0, 0, err
	}
	if size == 0 {
		size = 10
	}
	return page, size, nil
}

// flag reads a boolean parameter; nil when it is not there.
func (c *call) flag(name string) *bool {
	switch c.query(name) {
	case "true":
		t := true
		return &t
	case "false":
		f := false
		return &f
	default:
		return nil
	}
}

func wireTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// put adds a member unless its value is none.
func put(m obj, name string, value any) {
	switch v := value.(type) {
	case nil:
		return
	case *string:
		if v == nil {
			return
		}
		value = *v
	case *bool:
		if v == nil {
			return
		}
		value = *v
	case *time.Time:
		if v == nil {
			return
		}
		value = wireTime(*v)
	case time.Time:
		value = wireTime(v)
	case json.RawMessage:
		if len(v) == 0 || string(v) == "null" {
			return
		}
	}
	m[name] = value
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// number reads an id of ours; nil for any other text.
func idNumber(text string) *int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
		return &n
	}
	return nil
}

// limit reads how many are wanted, 100 at most; 0 stands for the default.
func (c *call) limit(otherwise int) (int32, error) {
	n, err := c.number("limit", otherwise, 100)
	if err == nil && n == 0 {
		n = int32(otherwise)
	}
	return n, err
}

// walk is where a page of a v2 list begins, and which way it goes: from a cursor on
// in the list's order, or backwards to what comes before it.
type walk struct {
	limit     int32
	above     int64 // ids greater than that; 0: all
	below     int64 // ids less than that; 0: all
	ascending bool  // the order in which the rows are read
	backwards bool
	began     bool // at a cursor
}

// walk reads limit, after, before and includeCursor; ascending says that the list's
// order is that of the ids.
func (c *call) walk(ascending bool) (w walk, err error) {
	if w.limit, err = c.limit(10); err != nil {
		return w, err
	}
	name := "after"
	if c.query(name) == "" {
		name = "before"
	}
	raw, err := decodeCursor(c.query(name))
	id := idNumber(raw)
	if err != nil || raw != "" && id == nil {
		return w, refuse(name + " is no cursor of ours")
	}
	w.began, w.backwards = id != nil, id != nil && name == "before"
	w.ascending = ascending != w.backwards
	if !w.began {
		return w, nil
	}
	around := int64(0)
	if c.query("includeCursor") == "true" {
		around = 1
	}
	if w.ascending {
		w.above = *id - around
	} else {
		w.below = *id + around
	}
	return w, nil
}

// rows is how many to ask for: one more than are shown says that there are more.
func (w *walk) rows() int32 { return w.limit + 1 }

// maxCounted is up to where v2's lists count.
const maxCounted = 50_000

// cursorPage is a v2 page of the rows that a walk came by; found counts all that
// there are, one more than maxCounted at most.
func cursorPage[R any](rows []R, w *walk, found int64, id func(*R) int64, show func(*R) obj) obj {
	more := len(rows) > int(w.limit)
	if more {
		rows = rows[:w.limit]
	}
	if w.backwards {
		slices.Reverse(rows)
	}
	list := make([]obj, 0, len(rows))
	for i := range rows {
		list = append(list, show(&rows[i]))
	}
	var next, previous any
	if len(rows) > 0 && (more || w.backwards) {
		next = encodeCursor(itoa(id(&rows[len(rows)-1])))
	}
	if len(rows) > 0 && w.began && (more || !w.backwards) {
		previous = encodeCursor(itoa(id(&rows[0])))
	}
	return obj{"data": list, "next": next, "previous": previous, "totalCount": min(found, maxCounted), "totalCountCapped": found > maxCounted}
}

// transaction runs do in one transaction.
func (c *call) transaction(do func(q *dbq.Queries) error) error {
	return c.s.inTx(c.ctx, do)
}

func none(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

func slugOf(name string) string {
	var b strings.Builder
	dash := false
	for _, r := range strings.ToLower(strings.TrimSpace(name)) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			if dash && b.Len() > 0 {
				b.WriteByte('-')
			}
			b.WriteRune(r)
			dash = false
			continue
		}
		dash = true
	}
	if b.Len() == 0 {
		return "workflow"
	}
	return b.String()
}

func (s *Server) registerNovu(mux *http.ServeMux) {
	s.registerEvents(mux)
	s.registerSubscribers(mux)
	s.registerTopics(mux)
	s.registerWorkflows(mux)
	s.registerLayouts(mux)
	s.registerActivity(mux)
	s.registerFeed(mux)
	s.registerInbox(mux)
	s.registerStream(mux)
	s.registerSettings(mux)
	s.registerEnvironments(mux)
	s.registerGroups(mux)
}

// randomSuffix tells things of one name apart.
func randomSuffix() string {
	var raw [3]byte
	_, _ = rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}
