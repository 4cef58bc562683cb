package jobs

// The template engine: osteele/liquid with bounds. The library trusts the author
// of a template; here that is any user who may save a pipeline, so
//
//   - nothing is read from files (no include);
//   - output, loop rounds and time are bounded: each {{ }} and each loop round is
//     accounted, which is why the parsed tree is rewritten to use tags of our own;
//   - every filter's result is bounded, and its panics become errors;
//   - in HTML, values are escaped unless they pass the filter raw;
//   - numbers print as Postgres prints them, whatever their size.
//
// Ranges are allowed only as what a loop runs over: a filtered range would be
// made an array of any size.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osteele/liquid/expressions"
	"github.com/osteele/liquid/filters"
	"github.com/osteele/liquid/render"
	"github.com/osteele/liquid/tags"
)

// Bounds of templates.
const (
	maxTemplate    = 256 << 10       // bytes of one template
	maxRendered    = 1 << 20         // bytes that one Render may put out, over all its parameters
	maxRounds      = 100_000         // loop rounds of one Render
	maxRenderTime  = 2 * time.Second // of one Render, loads of variables not counted
	maxCacheBytes  = 16 << 20        // sources of cached templates
	maxParamsDepth = 64              // nesting of parameters
)

var (
	errOutputTooLarge = fmt.Errorf("the result is larger than %d bytes: make the template or its data smaller", maxRendered)
	errTooManyRounds  = fmt.Errorf("more than %d loop rounds: limit the loop", maxRounds)
	errTooSlow        = fmt.Errorf("rendering takes longer than %s: make the template simpler", maxRenderTime)
)

// Tags that take the place of {{ }}, open each loop round and follow a capture.
const (
	outTag  = "pga_out"
	tickTag = "pga_tick"
	safeTag = "pga_safe"
)

// runKey is the binding that holds the *run; no template can name it.
const runKey = "\x00run"

// run is one Render: what it may still use up, and the first error of a loader.
type run struct {
	ctx      context.Context
	deadline time.Time
	rounds   int
	output   int
	html     bool
	tmpl     *compiled
	err      error
}

func (r *run) spend(bytes int) error {
	r.output += bytes
	switch {
	case r.err != nil:
		return r.err
	case r.output > maxRendered:
		r.err = errOutputTooLarge
	case r.ctx.Err() != nil:
		r.err = r.ctx.Err()
	case time.Now().After(r.deadline):
		r.err = errTooSlow
	}
	return r.err
}

// root is a variable that is loaded when the template evaluates it.
type root struct {
	run  *run
	vars *Vars
	name string
}

// ToLiquid makes root a Liquid drop.
func (r root) ToLiquid() any {
	if r.run.err != nil {
		return nil
	}
	began := time.Now()
	v, err := r.vars.Get(r.run.ctx, r.name)
	r.run.deadline = r.run.deadline.Add(time.Since(began))
	if err != nil {
		r.run.err = loadError{err}
		return nil
	}
	return v
}

// loadError tells a loader's error from the template's own.
type loadError struct{ error }

// safeHTML is text that is HTML already. brText becomes HTML with its line ends as <br />.
type (
	safeHTML string
	brText   string
)

func (t brText) String() string { return strings.ReplaceAll(string(t), "\n", "<br />\n") }

// number is a decimal that float64 can't hold: exact when printed, a float when compared.
type number string

// ToLiquid makes number a Liquid drop.
func (n number) ToLiquid() any {
	f, _ := strconv.ParseFloat(string(n), 64)
	return f
}

func (n number) String() string { return string(n) }

// MarshalJSON writes the digits as they are.
func (n number) MarshalJSON() ([]byte, error) { return []byte(n), nil }

// compiled is a parsed template.
type compiled struct {
	root   render.Node
	exprs  []outExpr
	loops  []int    // bytes of literal text in a round
	names  []string // of captures
	single int      // the expression that is the whole template, or -1
}

type outExpr struct {
	expr expressions.Expression
	path []string // set when the expression is nothing but a path
}

var (
	pathPattern     = regexp.MustCompile(`^[A-Za-z_][\w-]*\??(\.[A-Za-z_][\w-]*\??)*$`)
	captureName     = regexp.MustCompile(`^[A-Za-z_][\w-]*$`)
	notPaths        = []string{"true", "false", "nil", "empty", "blank"}
	engine, filterN = newEngine()
	utcFilters      = withFilters(time.UTC)
	parsed          = newCache[*compiled](maxCacheBytes)
)

// newEngine builds the grammar. The names of all filters come with it, so that an
// unknown one is refused at save.
func newEngine() (render.Config, []string) {
	cfg := render.NewConfig()
	names := map[string]any{}
	addFilters(filterNames(names), time.UTC)
	tags.AddStandardTags(cfg)
	cfg.AddTag("include", func(string) (func(io.Writer, render.Context) error, error) {
		return nil, errors.New("include is not available: put the text into the template itself")
	})
	indexed := func(do func(w io.Writer, ctx render.Context, r *run, i int) error) render.TagCompiler {
		return func(arg string) (func(io.Writer, render.Context) error, error) {
			i, err := strconv.Atoi(arg)
			if err != nil {
				return nil, errors.New("undefined tag")
			}
			return func(w io.Writer, ctx render.Context) error {
				r, ok := ctx.Get(runKey).(*run)
				if !ok {
					return errors.New("undefined tag")
				}
				return do(w, ctx, r, i)
			}, nil
		}
	}
	cfg.AddTag(outTag, indexed(func(w io.Writer, ctx render.Context, r *run, i int) error {
		v, err := r.value(ctx.Bindings(), func(e expressions.Expression) (any, error) { return ctx.Evaluate(e) }, i)
		if err != nil {
			return err
		}
		s := text(v, r.html)
		if err := r.spend(len(s)); err != nil {
			return err
		}
		_, err = io.WriteString(w, s)
		return err
	}))
	cfg.AddTag(tickTag, indexed(func(_ io.Writer, _ render.Context, r *run, i int) error {
		if r.rounds++; r.rounds > maxRounds {
			r.err = errTooManyRounds
		}
		return r.spend(r.tmpl.loops[i])
	}))
	cfg.AddTag(safeTag, indexed(func(_ io.Writer, ctx render.Context, r *run, i int) error {
		if s, ok := ctx.Get(r.tmpl.names[i]).(string); ok && r.html {
			ctx.Set(r.tmpl.names[i], safeHTML(s))
		}
		return nil
	}))
	return cfg, slices.Sorted(maps.Keys(names))
}

type filterNames map[string]any

func (n filterNames) AddFilter(name string, fn any) { n[name] = fn }

// withFilters is the engine with the filters of a time zone.
func withFilters(loc *time.Location) render.Config {
	cfg := engine
	cfg.Config.Config = expressions.NewConfig()
	addFilters(&cfg, loc)
	return cfg
}

func addFilters(to filters.FilterDictionary, loc *time.Location) {
	filters.AddStandardFilters(to)
	addOwnFilters(to, loc)
}

// compileTemplate parses a template, or finds it parsed.
func compileTemplate(source string) (*compiled, error) {
	if t, ok := parsed.get(source); ok {
		return t, nil
	}
	t, err := parseTemplate(source)
	if err != nil {
		return nil, err
	}
	parsed.put(source, t)
	return t, nil
}

func parseTemplate(source string) (t *compiled, err error) {
	if len(source) > maxTemplate {
		return nil, fmt.Errorf("the template has %d bytes: use at most %d", len(source), maxTemplate)
	}
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("syntax error: %v", p)
		}
	}()
	node, perr := engine.Compile(source, newLocation())
	if perr != nil {
		return nil, liquidError(perr)
	}
	t = &compiled{root: node, single: -1}
	seq, ok := node.(*render.SeqNode)
	if !ok {
		return nil, errors.New("syntax error")
	}
	whole := false
	if len(seq.Children) == 1 {
		_, whole = seq.Children[0].(*render.ObjectNode)
	}
	if _, err := t.rewrite(seq.Children, len(source)); err != nil {
		return nil, err
	}
	if whole {
		t.single = 0
	}
	return t, nil
}

// rewrite puts our tags into the tree, in place, and returns the bytes of literal
// text below it.
func (t *compiled) rewrite(nodes []render.Node, sourceSize int) (literal int, err error) {
	for i, node := range nodes {
		switch n := node.(type) {
		case *render.TextNode:
			if at := strings.Index(n.Source, "{{"); at >= 0 {
				return 0, fmt.Errorf("syntax error: %q has no end or nothing in it", excerpt(n.Source[at:]))
			}
			if at := strings.Index(n.Source, "{%"); at >= 0 {
				return 0, fmt.Errorf("syntax error: %q has no end or nothing in it", excerpt(n.Source[at:]))
			}
			literal += len(n.Source)
		case *render.RawNode:
			literal += sourceSize
		case *render.ObjectNode:
			if err := checkExpression(n.Args, false); err != nil {
				return 0, fmt.Errorf("%w in %s", err, excerpt(n.Source))
			}
			expr, err := expressions.Parse(n.Args)
			if err != nil {
				return 0, err
			}
			out := outExpr{expr: expr}
			if pathPattern.MatchString(n.Args) && !slices.Contains(notPaths, n.Args) {
				out.path = strings.Split(n.Args, ".")
			}
			t.exprs = append(t.exprs, out)
			if nodes[i], err = ownTag(outTag, len(t.exprs)-1, n.Source, n.SourceLoc.LineNo); err != nil {
				return 0, err
			}
		case *render.TagNode:
			switch n.Name {
			case outTag, tickTag, safeTag:
				return 0, fmt.Errorf("undefined tag %q", n.Name)
			}
			if err := checkExpression(n.Args, false); err != nil {
				return 0, fmt.Errorf("%w in %s", err, excerpt(n.Source))
			}
			literal += len(n.Source)
		case *render.BlockNode:
			size, err := t.rewriteBlock(n, sourceSize)
			if err != nil {
				return 0, err
			}
			literal += size
			if n.Name == "capture" {
				name := strings.TrimSpace(n.Args)
				if !captureName.MatchString(name) {
					return 0, fmt.Errorf("syntax error: capture needs a name in %s", excerpt(n.Source))
				}
				t.names = append(t.names, name)
				mark, err := ownTag(safeTag, len(t.names)-1, n.Source, n.SourceLoc.LineNo)
				if err != nil {
					return 0, err
				}
				nodes[i] = &render.SeqNode{Children: []render.Node{n, mark}}
			}
		case *render.SeqNode:
			size, err := t.rewrite(n.Children, sourceSize)
			if err != nil {
				return 0, err
			}
			literal += size
		}
	}
	return literal, nil
}

func (t *compiled) rewriteBlock(n *render.BlockNode, sourceSize int) (int, error) {
	loop := n.Name == "for" || n.Name == "tablerow"
	if err := checkExpression(n.Args, loop); err != nil {
		return 0, fmt.Errorf("%w in %s", err, excerpt(n.Source))
	}
	size, err := t.rewrite(n.Body, sourceSize)
	if err != nil {
		return 0, err
	}
	if loop {
		round := size
		if n.Name == "tablerow" {
			round += len(`<tr class="row99999"><td class="col99999"></td></tr>`)
		}
		t.loops = append(t.loops, round)
		tick, err := ownTag(tickTag, len(t.loops)-1, n.Source, n.SourceLoc.LineNo)
		if err != nil {
			return 0, err
		}
		n.Body = append([]render.Node{tick}, n.Body...)
	}
	for _, clause := range n.Clauses {
		s, err := t.rewriteBlock(clause, sourceSize)
		if err != nil {
			return 0, err
		}
		size += s
	}
	return size, nil
}

// ownTag is one of our tags, that reports errors as if it were the source it replaces.
func ownTag(name string, index int, source string, line int) (render.Node, error) {
	root, err := engine.Compile("{% "+name+" "+strconv.Itoa(index)+" %}", newLocation())
	if err != nil {
		return nil, err
	}
	tag, ok := root.(*render.SeqNode).Children[0].(*render.TagNode)
	if !ok {
		return nil, errors.New("syntax error")
	}
	tag.Source, tag.SourceLoc.LineNo = source, line
	return tag, nil
}

// checkExpression refuses unknown filters and ranges outside of loops, which the
// library would find at run time or not at all.
func checkExpression(source string, loop bool) error {
	bare := blankStrings(source)
	rest := bare
	for {
		at := strings.IndexByte(rest, '|')
		if at < 0 {
			break
		}
		rest = strings.TrimLeft(rest[at+1:], " \t\r\n")
		end := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
		name := rest
		if end >= 0 {
			name = rest[:end]
		}
		if !slices.Contains(filterN, name) {
			hint := ""
			if n := nearest(name, filterN); n != "" {
				hint = fmt.Sprintf("; did you mean %q?", n)
			}
			return fmt.Errorf("unknown filter %q%s", name, hint)
		}
	}
	if strings.Contains(bare, "..") && (!loop || strings.Contains(bare, "|")) {
		return errors.New("a range (a..b) is only possible as what a for loop runs over, without filters")
	}
	return nil
}

// blankStrings replaces what stands in quotes by spaces.
func blankStrings(s string) string {
	b, quote := []byte(s), byte(0)
	for i, c := range b {
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				b[i] = ' '
			}
		}
	}
	return string(b)
}

// value evaluates an expression. A plain path keeps the exact number.
func (r *run) value(bindings map[string]any, eval func(expressions.Expression) (any, error), i int) (any, error) {
	e := r.tmpl.exprs[i]
	if v, ok := r.resolve(bindings, e.path); ok || r.err != nil {
		return v, r.err
	}
	v, err := eval(e.expr)
	if r.err != nil {
		return nil, r.err
	}
	return v, err
}

func (r *run) resolve(bindings map[string]any, path []string) (any, bool) {
	if path == nil {
		return nil, false
	}
	v := bindings[path[0]]
	if lazy, ok := v.(root); ok {
		v = lazy.ToLiquid()
	}
	for _, name := range path[1:] {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// begin starts the account of one Render.
func begin(ctx context.Context) *run {
	return &run{ctx: ctx, deadline: time.Now().Add(maxRenderTime)}
}

// render renders t as text; typed keeps the type of a template that is nothing
// but one expression.
func (r *run) render(cfg *render.Config, t *compiled, vars *Vars, asHTML, typed bool) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("the template can't be rendered with this data: %s", excerpt(fmt.Sprint(p)))
		}
		if r.err != nil {
			result, err = nil, r.err
		}
	}()
	r.tmpl, r.html = t, asHTML
	bindings := map[string]any{runKey: r}
	for _, name := range vars.Names() {
		bindings[name] = root{r, vars, name}
	}
	if typed && t.single >= 0 {
		v, err := r.value(bindings, func(e expressions.Expression) (any, error) {
			return e.Evaluate(expressions.NewContext(bindings, cfg.Config.Config))
		}, t.single)
		if err != nil {
			return nil, err
		}
		if err := r.spend(len(text(v, false))); err != nil {
			return nil, err
		}
		return plain(v), nil
	}
	var buf bytes.Buffer
	if rerr := render.Render(t.root, &buf, bindings, *cfg); rerr != nil {
		return nil, liquidError(rerr)
	}
	return buf.String(), nil
}

// liquidValue brings a value into the few types that templates see: nil, bool,
// string, int, float64, number, time.Time, []any and map[string]any.
func liquidValue(v any) any {
	switch v := v.(type) {
	case nil, bool, string, int, time.Time, number:
		return v
	case json.Number:
		return exactNumber(v.String())
	case json.RawMessage:
		var decoded any
		if len(v) == 0 || decodeJSON(v, &decoded) != nil {
			return nil
		}
		return liquidValue(decoded)
	case []byte:
		return string(v)
	case map[string]any:
		if v == nil {
			return nil
		}
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = liquidValue(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = liquidValue(e)
		}
		return l
	case float64, float32, int64, int32, int16, int8, uint, uint64, uint32, uint16, uint8:
		return exactNumber(mustJSON(v))
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && rv.IsNil() {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return liquidValue(json.RawMessage(data))
}

func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil { // NaN and infinities
		return fmt.Sprint(v)
	}
	return string(data)
}

func exactNumber(s string) any {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return int(i)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s // NaN, Infinity
	}
	if strconv.FormatFloat(f, 'f', -1, 64) == s {
		return f
	}
	return number(s)
}

// text is how a value stands in the output: numbers without exponent unless they
// have one in Postgres, objects as JSON, arrays item after item as in Liquid.
func text(v any, asHTML bool) string {
	escape := func(s string) string {
		if asHTML {
			return html.EscapeString(s)
		}
		return s
	}
	switch v := v.(type) {
	case nil:
		return ""
	case safeHTML:
		return string(v)
	case brText:
		if asHTML {
			return brText(html.EscapeString(string(v))).String()
		}
		return v.String()
	case string:
		return escape(v)
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case number:
		return string(v)
	case time.Time:
		return v.Format("2006-01-02 15:04:05 -0700")
	case root:
		return text(v.ToLiquid(), asHTML)
	case []byte:
		return escape(string(v))
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Slice || rv.Kind() == reflect.Array {
		var b strings.Builder
		for i := range rv.Len() {
			b.WriteString(text(rv.Index(i).Interface(), asHTML))
		}
		return b.String()
	}
	data, err := json.Marshal(v)
	if err != nil {
		return escape(fmt.Sprint(v))
	}
	return escape(string(data))
}

// plain turns a value of the engine into what encoding/json decodes with
// UseNumber: nil, bool, string, json.Number, []any, map[string]any.
func plain(v any) any {
	switch v := v.(type) {
	case nil, bool, string:
		return v
	case safeHTML:
		return string(v)
	case brText:
		return v.String()
	case int, int64, float64, number:
		return json.Number(text(v, false))
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = plain(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = plain(e)
		}
		return l
	}
	var decoded any
	if data, err := json.Marshal(v); err == nil && decodeJSON(data, &decoded) == nil {
		return decoded
	}
	return fmt.Sprint(v)
}

// liquidError says the library's errors shortly and on one line.
func liquidError(err render.Error) error {
	if filter, ok := errors.AsType[expressions.FilterError](err.Cause()); ok {
		return fmt.Errorf("line %d: filter %s: %s", err.LineNumber(), filter.FilterName, oneLine(filter.Err.Error()))
	}
	return errors.New(strings.TrimPrefix(strings.Replace(strings.Replace(oneLine(err.Error()), "Liquid error (line ", "line ", 1), "): ", ": ", 1), "Liquid error: "))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// excerpt is the beginning of s, on one line.
func excerpt(s string) string {
	s = oneLine(s)
	if r := []rune(s); len(r) > 80 {
		return string(r[:77]) + "..."
	}
	return s
}
