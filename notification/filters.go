package notification

// When a step is carried out: v1's filters, v2's skip (JSON logic).

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/diegoholiveira/jsonlogic/v3"
	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// filterGroup is one of a step's filters; it passes when one of them does.
type filterGroup struct {
	IsNegated bool     `json:"isNegated"`
	Type      string   `json:"type"`
	Value     string   `json:"value"` // AND or OR
	Children  []filter `json:"children"`
}

type filter struct {
	On            string          `json:"on"`
	Field         string          `json:"field"`
	Operator      string          `json:"operator"`
	Value         json.RawMessage `json:"value"`
	Step          string          `json:"step"`
	StepType      string          `json:"stepType"`
	TimeOperator  string          `json:"timeOperator"`
	WebhookURL    string          `json:"webhookUrl"`
	ExpectedValue json.RawMessage `json:"-"`
}

var (
	operators = []string{
		"EQUAL", "NOT_EQUAL", "LARGER", "LARGER_EQUAL", "SMALLER", "SMALLER_EQUAL", "IN", "NOT_IN", "IS_DEFINED",
		"LIKE", "NOT_LIKE", "BETWEEN", "NOT_BETWEEN", "ANY_IN", "ALL_IN",
	}
	filteredOn = []string{"payload", "subscriber", "tenant", "actor", "isOnline", "isOnlineInLast", "previousStep", "webhook"}
	compared   = []string{"payload", "subscriber", "tenant", "actor", "webhook"} // those that have an operator
)

// CheckFilters refuses filters that would never be what they say.
func CheckFilters(raw json.RawMessage) error {
	var groups []filterGroup
	if len(bytes.TrimSpace(raw)) == 0 || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &groups); err != nil {
		return errors.New("filters: use [{value: AND or OR, children: [{on, field, operator, value}]}]")
	}
	for _, g := range groups {
		if g.Value != "" && g.Value != "AND" && g.Value != "OR" {
			return fmt.Errorf("filters: value %q: use AND or OR", g.Value)
		}
		for _, f := range g.Children {
			if !slices.Contains(filteredOn, f.On) {
				return fmt.Errorf("filters: on %q is not known: use one of %s", f.On, strings.Join(filteredOn, ", "))
			}
			if slices.Contains(compared, f.On) && !slices.Contains(operators, f.Operator) {
				return fmt.Errorf("filters: operator %q is not known: use one of %s", f.Operator, strings.Join(operators, ", "))
			}
			if f.On != "webhook" {
				continue
			}
			if _, err := jobs.CheckAddress(f.WebhookURL); err != nil {
				return fmt.Errorf("filters: webhookUrl: %w", err)
			}
		}
	}
	return nil
}

// passes says whether a step's filters let it be carried out.
func (r *run) passes(ctx context.Context, raw json.RawMessage) (bool, error) {
	var groups []filterGroup
	if len(raw) == 0 {
		return true, nil
	}
	if err := json.Unmarshal(raw, &groups); err != nil {
		return false, jobs.Permanentf("filters: %w", err)
	}
	if len(groups) == 0 {
		return true, nil
	}
	// What others are to be asked for is looked at last.
	slices.SortStableFunc(groups, func(a, b filterGroup) int { return cmp.Compare(a.asks(), b.asks()) })
	for _, g := range groups {
		ok, err := r.passesGroup(ctx, g)
		if errors.Is(err, errUnanswered) {
			continue
		}
		if err != nil {
			return false, err
		}
		if ok != g.IsNegated {
			return true, nil
		}
	}
	return false, nil
}

func (f filter) asks() int {
	if f.On == "webhook" {
		return 1
	}
	return 0
}

func (g filterGroup) asks() int {
	if slices.ContainsFunc(g.Children, func(f filter) bool { return f.asks() > 0 }) {
		return 1
	}
	return 0
}

// errUnanswered says that a condition is neither met nor not met, because who was to
// be asked did not answer. What depends on it does not pass, negated or not.
var errUnanswered = errors.New("a webhook did not answer")

// meets says whether an integration's conditions hold; they are filters, and a
// condition on a tenant fails where there is none.
func (r *run) meets(ctx context.Context, raw json.RawMessage) (bool, error) {
	if err := CheckFilters(raw); err != nil {
		return false, jobs.Permanent(err)
	}
	return r.passes(ctx, raw)
}

func (r *run) passesGroup(ctx context.Context, g filterGroup) (bool, error) {
	if len(g.Children) == 0 {
		return true, nil
	}
	slices.SortStableFunc(g.Children, func(a, b filter) int { return cmp.Compare(a.asks(), b.asks()) })
	var unanswered error
	for _, f := range g.Children {
		ok, err := r.passesFilter(ctx, f)
		if errors.Is(err, errUnanswered) {
			unanswered = err
			continue
		}
		if err != nil {
			return false, err
		}
		if ok == (g.Value == "OR") {
			return ok, nil
		}
	}
	return g.Value != "OR", unanswered
}

func (r *run) passesFilter(ctx context.Context, f filter) (bool, error) {
	switch f.On {
	case "payload":
		value, there := lookup(r.payload, f.Field)
		return r.compare(ctx, f, value, there)
	case "subscriber":
		value, there := lookup(r.subscriber, f.Field)
		return r.compare(ctx, f, value, there && value != nil)
	case "tenant", "actor":
		v, err := r.vars.Get(ctx, f.On)
		if err != nil {
			return false, err
		}
		m, _ := v.(map[string]any)
		value, there := lookup(m, f.Field)
		return r.compare(ctx, f, value, there && value != nil)
	case "isOnline":
		online, known := r.subscriber["isOnline"].(bool)
		return known && online == (string(f.Value) != "false"), nil
	case "isOnlineInLast":
		return r.onlineInLast(f), nil
	case "previousStep":
		return r.previousStep(ctx, f)
	case "webhook":
		return r.asked(ctx, f)
	default:
		return false, nil
	}
}

// askTime is how long all webhooks that a step's conditions ask may take together.
const askTime = 10 * time.Second

// answer is what a webhook answered.
type answer struct {
	value map[string]any
	err   error
}

// asked compares a member of what a webhook answers.
func (r *run) asked(ctx context.Context, f filter) (bool, error) {
	a, there := r.answers[f.WebhookURL]
	if !there {
		a = r.ask(ctx, f.WebhookURL)
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if r.answers == nil {
			r.answers = map[string]answer{}
		}
		r.answers[f.WebhookURL] = a
	}
	if a.err != nil {
		return false, a.err
	}
	value, there := lookup(a.value, f.Field)
	return r.compare(ctx, f, value, there)
}

// ask asks a webhook. When it does not answer, or not with JSON, the job's details say so.
func (r *run) ask(ctx context.Context, address string) answer {
	handler, _ := r.s.Senders.Handler("webhook")
	asker, ok := handler.(jobs.Asker)
	if !ok {
		return answer{err: jobs.Permanent(errors.New("filters: nothing here asks webhooks"))}
	}
	if r.askUntil.IsZero() {
		r.askUntil = time.Now().Add(askTime)
	}
	ctx, cancel := context.WithDeadline(ctx, r.askUntil)
	defer cancel()
	raw, err := asker.Ask(ctx, r.action, address, map[string]any{
		"subscriber": r.subscriber, "payload": r.payload, "identifier": r.job.WorkflowIdentifier, "channel": r.job.Type, "providerId": "novu",
	})
	var value any
	if err == nil {
		err = decode(raw, &value)
	}
	if err != nil {
		r.details = append(r.details, jobs.Detail{
			Status: "Failed", Detail: "Failed to get response from remote webhook filter on last retry", Source: "Webhook", Raw: err.Error(),
		})
		return answer{err: fmt.Errorf("%w: %w", errUnanswered, err)}
	}
	m, _ := value.(map[string]any)
	return answer{value: m}
}

func (r *run) onlineInLast(f filter) bool {
	if online, _ := r.subscriber["isOnline"].(bool); online {
		return true
	}
	last, ok := instant(r.subscriber["lastOnlineAt"])
	if !ok {
		return false
	}
	var amount number
	_ = json.Unmarshal(f.Value, &amount)
	unit := f.TimeOperator
	if unit == "" {
		unit = "minutes"
	}
	return !span{float64(amount), unit}.before(r.action.Now, r.zone).After(last)
}

func (r *run) previousStep(ctx context.Context, f filter) (bool, error) {
	m, err := r.q.StepMessage(ctx, dbq.StepMessageParams{NotificationID: r.job.NotificationID, StepID: f.Step})
	if errors.Is(err, pgx.ErrNoRows) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("the step before: %w", err)
	}
	switch f.StepType {
	case "read":
		return m.Read, nil
	case "unread":
		return !m.Read, nil
	case "seen":
		return m.Seen, nil
	case "unseen":
		return !m.Seen, nil
	default:
		return true, nil
	}
}

// compare applies an operator. What is expected may be a template, and takes the
// kind of what is there.
func (r *run) compare(ctx context.Context, f filter, value any, there bool) (bool, error) {
	if f.Operator == "IS_DEFINED" {
		return there, nil
	}
	var expected any
	if len(f.Value) > 0 {
		if err := decode(f.Value, &expected); err != nil {
			return false, nil //nolint:nilerr // such a filter is never true
		}
	}
	if s, ok := expected.(string); ok && strings.Contains(s, "{{") {
		text, err := jobs.RenderString(ctx, "value", s, r.vars)
		if err != nil {
			return false, err
		}
		expected = text
	}
	return compareValues(f.Operator, value, expected, there), nil
}

func compareValues(operator string, value, expected any, there bool) bool {
	switch operator {
	case "NOT_EQUAL", "NOT_IN", "NOT_LIKE", "NOT_BETWEEN":
		return !compareValues(strings.TrimPrefix(operator, "NOT_"), value, expected, there)
	}
	if !there {
		return false
	}
	switch operator {
	case "EQUAL":
		return text(value) == text(expected)
	case "IN":
		return contains(value, expected)
	case "LIKE":
		return strings.Contains(strings.ToLower(text(value)), strings.ToLower(text(expected)))
	case "ANY_IN":
		return slices.ContainsFunc(listOf(expected), func(e any) bool { return contains(value, e) })
	case "ALL_IN":
		return !slices.ContainsFunc(listOf(expected), func(e any) bool { return !contains(value, e) })
	case "BETWEEN":
		bounds := listOf(expected)
		return len(bounds) == 2 && order(value, bounds[0]) >= 0 && order(value, bounds[0]) != unordered &&
			order(value, bounds[1]) <= 0
	case "LARGER":
		return order(value, expected) == 1
	case "LARGER_EQUAL":
		return slices.Contains([]int{0, 1}, order(value, expected))
	case "SMALLER":
		return order(value, expected) == -1
	case "SMALLER_EQUAL":
		return slices.Contains([]int{0, -1}, order(value, expected))
	default:
		return false
	}
}

const unordered = 2

// order compares numbers as numbers, instants as instants, all else as text.
func order(a, b any) int {
	x, errX := strconv.ParseFloat(text(a), 64)
	y, errY := strconv.ParseFloat(text(b), 64)
	if errX == nil && errY == nil {
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		default:
			return 0
		}
	}
	if s, ok := instant(a); ok {
		if t, ok := instant(b); ok {
			return s.Compare(t)
		}
	}
	if errX == nil || errY == nil {
		return unordered
	}
	return strings.Compare(text(a), text(b))
}

func contains(value, expected any) bool {
	if list, ok := value.([]any); ok {
		return slices.ContainsFunc(list, func(e any) bool { return text(e) == text(expected) })
	}
	return strings.Contains(text(value), text(expected))
}

func listOf(v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case string:
		var out []any
		for part := range strings.SplitSeq(v, ",") {
			out = append(out, strings.TrimSpace(part))
		}
		return out
	default:
		return []any{v}
	}
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool, int, int64, float64:
		return fmt.Sprint(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	default:
		raw, _ := json.Marshal(v)
		return string(raw)
	}
}

// CheckSkip says whether a JSON logic expression can be one.
func CheckSkip(raw json.RawMessage) error {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if raw[0] != '{' {
		return errors.New("skip: use JSON logic, an object such as {\"==\": [{\"var\": \"payload.plan\"}, \"free\"]}")
	}
	if !jsonlogic.IsValid(bytes.NewReader(raw)) {
		return errors.New("skip: this is no JSON logic that is known: use operators such as ==, and, or, in, var")
	}
	return nil
}

// skips evaluates a step's skip expression.
func (r *run) skips(ctx context.Context, raw json.RawMessage) (bool, error) {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" || string(raw) == "{}" {
		return false, nil
	}
	data := map[string]any{"payload": r.payload, "subscriber": r.subscriber, "steps": r.steps}
	for _, name := range []string{"tenant", "actor"} {
		v, err := r.vars.Get(ctx, name)
		if err != nil {
			return false, err
		}
		data[name] = v
	}
	doc, err := json.Marshal(data)
	if err != nil {
		return false, jobs.Permanentf("skip: %w", err)
	}
	var out bytes.Buffer
	if err := jsonlogic.Apply(bytes.NewReader(raw), bytes.NewReader(doc), &out); err != nil {
		return false, jobs.Permanentf("skip: %w", err)
	}
	switch answer := strings.TrimSpace(out.String()); answer {
	case "", "false", "null", "0", `""`, "[]":
		return false, nil
	default:
		return true, nil
	}
}
