package notification

// Layouts: HTML that stands around the content of e-mail steps.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// layoutPlace is where the step's content comes: {{{body}}} as in v1, {{content}} as in v2.
var layoutPlace = regexp.MustCompile(`\{\{\{?-?\s*(?:body|content)(?:\s*\|\s*raw)?\s*-?\}?\}\}`)

const layoutContent = "layout_content"

// layoutTemplate is a layout's content as the template that it is rendered by.
func layoutTemplate(content string) string {
	content, _, _ = BlocksHTML(content) // checked when it was saved
	return layoutPlace.ReplaceAllLiteralString(content, "{{ "+layoutContent+" | raw }}")
}

// CheckLayout refuses contents of layouts that no e-mail could stand in.
func CheckLayout(content string) error {
	content, _, err := BlocksHTML(content)
	if err != nil {
		return fmt.Errorf("the layout's content: %w", err)
	}
	if !layoutPlace.MatchString(content) {
		return errors.New("the layout's content has no place for the e-mail's: put {{{body}}} or {{content}} there")
	}
	if err := jobs.CheckTemplate(layoutTemplate(content)); err != nil {
		return fmt.Errorf("the layout's content: %w", err)
	}
	return nil
}

// LayoutsOf are the layouts that a step and its variants name.
func LayoutsOf(controls, variants json.RawMessage) []string {
	type named struct {
		LayoutID any `json:"layoutId"`
	}
	var own named
	var list []struct {
		Template named `json:"template"`
	}
	_ = json.Unmarshal(controls, &own)  // checked when the step was saved
	_ = json.Unmarshal(variants, &list) // likewise
	var out []string
	for _, v := range list {
		if id := text(v.Template.LayoutID); id != "" {
			out = append(out, id)
		}
	}
	if id := text(own.LayoutID); id != "" {
		out = append(out, id)
	}
	return out
}

// PreviewLayout renders a layout for values that a caller makes up; without a content
// among them its place is shown.
func PreviewLayout(ctx context.Context, content string, values map[string]any) (string, error) {
	v := previewVars(values)
	v.Set(layoutContent, first(text(values["content"]), "{{content}}"))
	return renderHTML(ctx, layoutTemplate(content), v)
}

func renderHTML(ctx context.Context, template string, v *jobs.Vars) (string, error) {
	raw, err := json.Marshal(map[string]string{"html": template})
	if err != nil {
		return "", jobs.Permanent(err)
	}
	out, err := jobs.Render(ctx, raw, v, jobs.HTML("html"))
	if err != nil {
		return "", err
	}
	return text(out["html"]), nil
}

// layout is the content of the layout for this e-mail, "" without one: what the trigger
// overrides, else what the step names (null and "": none), else the default.
func (r *run) layout(ctx context.Context) (string, error) {
	id, said := r.layoutID()
	if said && id == "" {
		return "", nil
	}
	var content string
	var err error
	if said {
		var l dbq.PgautomateLayout
		l, err = r.q.FindLayout(ctx, dbq.FindLayoutParams{OrganizationID: r.action.OrganizationID, Identifier: id})
		if errors.Is(err, pgx.ErrNoRows) {
			return "", jobs.Permanentf("there is no layout %q", id)
		}
		content = l.Content
	} else if content, err = r.q.DefaultLayout(ctx, r.action.OrganizationID); errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("layout: %w", err)
	}
	return content, nil
}

func (r *run) layoutID() (id string, said bool) {
	members := func(v any, path ...string) (map[string]any, bool) {
		for _, name := range path {
			m, _ := v.(map[string]any)
			v = m[name]
		}
		m, ok := v.(map[string]any)
		return m, ok
	}
	for _, place := range []struct {
		path []string
		name string
	}{
		{[]string{"steps", r.job.StepID}, "layoutId"}, {[]string{"channels", "email"}, "layoutId"},
		{[]string{"email"}, "layoutIdentifier"}, {nil, "layoutIdentifier"},
	} {
		if m, ok := members(r.overrides, place.path...); ok {
			if v, there := m[place.name]; there {
				return text(v), true
			}
		}
	}
	v, there := r.content["layoutId"]
	return text(v), there
}

// laidOut puts an e-mail's content into its layout; what was plain text keeps its lines.
func (r *run) laidOut(ctx context.Context, layout, content string) (string, error) {
	if !r.isHTML() {
		content = strings.ReplaceAll(content, "\n", "<br>\n")
	}
	r.vars.Set(layoutContent, content)
	return renderHTML(ctx, layoutTemplate(layout), r.vars)
}
