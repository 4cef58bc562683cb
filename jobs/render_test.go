package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func rawJSON(t testing.TB, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// leadVars has a lead as it comes out of the database: numbers are json.Number.
func leadVars() *Vars {
	v := NewVars()
	v.Set("lead", map[string]any{
		"name": "Ada <b>", "score": json.Number("42"), "amount": json.Number("12.50"), "big": json.Number("9007199254740993"),
		"huge": json.Number("123456789012345678901234567890"), "rate": json.Number("0.1"), "million": json.Number("1000000"),
		"ok": true, "none": nil, "note": "a\nb & c", "created_at": "2028-03-13T08:05:09.25+00:00",
		"tags": []any{"x", "y"}, "custom": map[string]any{"plan": "pro", "n": json.Number("1.10")}, "evil": "x\r\nBcc: a@b.c",
	})
	return v
}

func TestRenderText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, template, want string }{
		{"plain text", "no template }} %}", "no template }} %}"},
		{"whole number", "{{ lead.score }}", "42"},
		{"decimal keeps its digits", "{{ lead.amount }}", "12.50"},
		{"beyond float64", "{{lead.big}} {{ lead.huge }}", "9007199254740993 123456789012345678901234567890"},
		{"no exponent", "{{ lead.million | times: 1000000000 }}", "1000000000000000"},
		{"bool and nil", "{{ lead.ok }}|{{ lead.none }}|{{ lead.missing.deeper }}", "true||"},
		{"array and object", "{{ lead.tags }} {{ lead.custom }}", `xy {"n":1.10,"plan":"pro"}`},
		{"index and size", "{{ lead.tags[1] }}{{ lead.tags.size }}{{ lead.tags.first }}", "y2x"},
		{"compare whole", "{% if lead.score > 41 and lead.score == 42 %}yes{% endif %}", "yes"},
		{"compare decimal", "{% if lead.amount >= 12.5 and lead.amount < 13 %}yes{% else %}no{% endif %}", "yes"},
		{"compare huge", "{% if lead.huge > 5 %}yes{% endif %}", "yes"},
		{"decimal sum", "{{ lead.rate | plus: 0.2 }}", "0.3"},
		{"whole division", "{{ 7 | divided_by: 2 }} {{ -7 | divided_by: 2 }} {{ lead.amount | divided_by: 2 }}", "3 -4 6.25"},
		{"modulo, abs, round", "{{ -7 | modulo: 3 }} {{ -4 | abs }} {{ 2.345 | round: 2 }} {{ 2.5 | round }} {{ 2.1 | ceil }} {{ -2.1 | floor }}", "2 4 2.35 3 3 -3"},
		{"minus exact", "{{ lead.big | minus: 1 }}", "9007199254740992"},
		{"unless, case", "{% unless lead.none %}a{% endunless %}{% case lead.custom.plan %}{% when 'pro' %}b{% else %}c{% endcase %}", "ab"},
		{"loop", "{% for x in lead.tags %}{{ forloop.index }}{{ x }}{% unless forloop.last %},{% endunless %}{% endfor %}", "1x,2y"},
		{"range", "{% for i in (1..3) %}{{ i }}{% endfor %}", "123"},
		{"break, continue", "{% for i in (1..9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "13"},
		{"empty loop runs else", "{% assign none = '' | split: ',' %}{% for x in none %}a{% else %}b{% endfor %}", "b"},
		{"assign and capture", "{% assign n = lead.name | upcase %}{% capture c %}[{{ n }}]{% endcapture %}{{ c }}", "[ADA <B>]"},
		{"raw block", "{% raw %}{{ lead.name }}{% endraw %}", "{{ lead.name }}"},
		{"comment", "a{% comment %}{{ nothing | nonsense }}{% endcomment %}b", "ab"},
		{"whitespace control", "a {{- lead.score -}} b", "a42b"},
		{"default", "{{ lead.none | default: 'there' }}", "there"},
		{"truncate", "{{ 'Ünïcödé words' | truncate: 6 }}|{{ 'a b c' | truncatewords: 2 }}|{{ 'ab' | truncate: 5000 }}", "Ünï...|a b...|ab"},
		{"slice", "{{ 'hello' | slice: 1, 3 }}|{{ 'hello' | slice: 99 }}|{{ 'hello' | slice: -2, 9 }}", "ell||lo"},
		{"join, json", `{{ lead.tags | join: "-" }} {{ lead.custom | json }}`, `x-y {"n":1.10,"plan":"pro"}`},
		{"date", "{{ lead.created_at | date: '%Y-%m-%d %H:%M' }}", "2028-03-13 09:05"},
		{"date of nothing", "[{{ lead.none | date: '%Y' }}]", "[]"},
		{"tablerow", "{% tablerow x in lead.tags cols:2 %}{{ x }}{% endtablerow %}", `<tr class="row1"><td class="col1">x</td><td class="col2">y</td></tr>`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			vars := leadVars()
			vars.SetLocation(time.FixedZone("there", 3600))
			got, err := RenderString(t.Context(), "body", tc.template, vars)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("%s = %q, want %q", tc.template, got, tc.want)
			}
		})
	}
}

func TestRenderKeepsTypes(t *testing.T) {
	t.Parallel()
	params := json.RawMessage(`{"set":{"a":"{{ lead.score }}","b":"{{ lead.amount }}","c":"{{ lead.ok }}","d":"{{ lead.none }}","e":"{{ lead.name }}",
		"f":"{{ lead.custom }}","g":"{{ lead.score | plus: 1 }}","h":"x{{ lead.score }}","i":7.50,"j":["{{ lead.huge }}",null],"k":"{{ lead.score }} "},
		"other":"{{ lead.score }}"}`)
	got, err := Render(t.Context(), params, leadVars(), KeepTypes("set"))
	if err != nil {
		t.Fatal(err)
	}
	n := func(s string) json.Number { return json.Number(s) }
	want := map[string]any{
		"set": map[string]any{
			"a": n("42"), "b": n("12.50"), "c": true, "d": nil, "e": "Ada <b>",
			"f": map[string]any{"plan": "pro", "n": n("1.10")}, "g": n("43"), "h": "x42", "i": n("7.50"),
			"j": []any{n("123456789012345678901234567890"), nil}, "k": "42 ",
		},
		"other": "42",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRenderHTML(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ template, want string }{
		{"<p>{{ lead.name }}</p>", "<p>Ada &lt;b&gt;</p>"},
		{"{{ lead.name | raw }}", "Ada <b>"},
		{"{{ lead.name | escape }}", "Ada &lt;b&gt;"},
		{"{{ lead.name | upcase }}", "ADA &lt;B&gt;"},
		{"{{ lead.note | newline_to_br }}", "a<br />\nb &amp; c"},
		{"{{ lead.note | escape | newline_to_br }}", "a<br />\nb &amp; c"},
		{"{% capture c %}<i>{{ lead.name }}</i>{% endcapture %}{{ c }}", "<i>Ada &lt;b&gt;</i>"},
		{"{% if true %}{% capture c %}<i>{{ lead.name }}</i>{% endcapture %}{{ c }}{% endif %}", "<i>Ada &lt;b&gt;</i>"},
		{"{% for x in lead.tags %}{{ lead.name }}{% endfor %}", "Ada &lt;b&gt;Ada &lt;b&gt;"},
		{"{{ lead.custom }}", "{&#34;n&#34;:1.10,&#34;plan&#34;:&#34;pro&#34;}"},
	} {
		params := rawJSON(t, map[string]string{"html": tc.template})
		got, err := Render(t.Context(), params, leadVars(), HTML("html"))
		if err != nil {
			t.Fatal(err)
		}
		if got["html"] != tc.want {
			t.Errorf("%s = %q, want %q", tc.template, got["html"], tc.want)
		}
	}
}

func TestRenderLoadsOnlyWhatIsNamed(t *testing.T) {
	t.Parallel()
	loads := map[string]int{}
	vars := NewVars()
	for _, name := range []string{"lead", "trigger", "object"} {
		vars.SetLazy(name, func(context.Context) (any, error) {
			loads[name]++
			return map[string]any{"name": name}, nil
		})
	}
	params := json.RawMessage(`{"a":"{{ lead.name }} {{ lead.name | upcase }}","b":"no {{ 'lead' }}","c":"{% if false %}{{ object.name }}{% endif %}{% for x in lead %}{% endfor %}"}`)
	got, err := Render(t.Context(), params, vars)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]any{"a": "lead LEAD", "b": "no lead", "c": ""}, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]int{"lead": 1}, loads); d != "" {
		t.Error(d)
	}
	if !vars.Loaded("lead") || vars.Loaded("trigger") || vars.Loaded("nobody") {
		t.Error("Loaded is wrong")
	}
}

func TestRenderPassesLoaderErrorsThrough(t *testing.T) {
	t.Parallel()
	tries := 0
	vars := NewVars()
	vars.SetLazy("lead", func(context.Context) (any, error) {
		if tries++; tries == 1 {
			return nil, fmt.Errorf("lead 7: %w", ErrNotVisible)
		}
		return map[string]any{"name": "Ada"}, nil
	})
	for _, template := range []string{"{{ lead.name | upcase }}", "{% if lead.name == 'x' %}a{% endif %}", "{% for x in lead.list %}{% endfor %}"} {
		tries = 0
		_, err := RenderString(t.Context(), "body", template, vars)
		if class, _ := Classify(err); !errors.Is(err, ErrNotVisible) || class != ClassNotVisible || err.Error() != "lead 7: "+ErrNotVisible.Error() {
			t.Errorf("%s: %v (%v)", template, err, class)
		}
	}
	got, err := RenderString(t.Context(), "body", "{{ lead.name }}", vars)
	if err != nil || got != "Ada" {
		t.Errorf("second try: %q, %v: the error must not be remembered", got, err)
	}
}

func TestRenderErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, params, want string }{
		{"syntax", `{"set":{"x":["{{ lead..name }}"]}}`, `template in parameter "set.x[0]": line 1: syntax error in "lead..name"`},
		{"broken expression", `{"body":"{{ lead. | }}"}`, `template in parameter "body": `},
		{"unterminated", `{"body":"Hi {{ lead.name"}`, `template in parameter "body": syntax error: "{{ lead.name" has no end`},
		{"unterminated tag", `{"body":"{% if x"}`, `has no end`},
		{"unterminated block", `{"body":"{% if lead.ok %}x"}`, `unterminated "if" block`},
		{"unknown tag", `{"body":"{% nonsense %}"}`, `undefined tag "nonsense"`},
		{"our own tag", `{"body":"{% pga_out 0 %}"}`, `undefined tag "pga_out"`},
		{"unknown filter", `{"body":"{{ lead.name | upcas }}"}`, `unknown filter "upcas"; did you mean "upcase"?`},
		{"include reads no files", `{"body":"{% include '/etc/passwd' %}"}`, `include is not available`},
		{"number too long", `{"body":"{{ 99999999999999999999999 }}"}`, `template in parameter "body": syntax error`},
		{"division by zero", `{"body":"{{ 1 | divided_by: 0 }}"}`, `division by zero`},
		{"bad date", `{"body":"{{ 'soon' | date: '%Y' }}"}`, `"soon" is not a date`},
		{"wide date", `{"body":"{{ lead.created_at | date: '%999999999Y' }}"}`, `two digits at most`},
		{"panicking filter", `{"body":"{{ lead.tags | slice: 'x' }}"}`, `template in parameter "body": `},
		{"endless loop", `{"body":"{% for i in (1..9999999999) %}{% endfor %}"}`, `more than 100000 loop rounds`},
		{"nested loops", `{"body":"{% for i in (1..9999) %}{% for j in (1..9999) %}{% endfor %}{% endfor %}"}`, `more than 100000 loop rounds`},
		{"much output", `{"body":"{% for i in (1..99999) %}0123456789012345678901234567890123456789{% endfor %}"}`, `larger than 1048576 bytes`},
		{"captured output", `{"body":"{% capture x %}{% for i in (1..99999) %}{{ lead.name }}{% endfor %}{% for i in (1..99999) %}{{ lead.name }}{% endfor %}{% endcapture %}"}`, `more than 100000 loop rounds`},
		{"doubling", `{"body":"{% assign s = 'ab' %}{% for i in (1..64) %}{% assign s = s | append: s %}{% endfor %}"}`, `larger than 1048576 bytes`},
		{"doubling capture", `{"body":"{% capture s %}ab{% endcapture %}{% for i in (1..64) %}{% capture s %}{{ s }}{{ s }}{% endcapture %}{% endfor %}"}`, `larger than 1048576 bytes`},
		{"doubling array", `{"body":"{% assign s = 'a,b' | split: ',' %}{% for i in (1..64) %}{% assign s = s | concat: s %}{% endfor %}"}`, `more than 100000 items`},
		{"filtered range", `{"body":"{{ (1..99999999999) | join }}"}`, `a range (a..b) is only possible`},
		{"range in a variable", `{"body":"{% assign r = (1..99999999999) %}{{ r | join }}"}`, `a range (a..b) is only possible`},
		{"filtered loop range", `{"body":"{% for i in (1..99999999999) | reverse %}{% endfor %}"}`, `a range (a..b) is only possible`},
		{"replace blow-up", `{"body":"{% assign s = 'aaaaaaaaaa' %}{% for i in (1..12) %}{% assign s = s | replace: 'a', s %}{% endfor %}"}`, `larger than 1048576 bytes`},
		{"not an object", `[1]`, `params: use a JSON object`},
		{"too large", fmt.Sprintf(`{"body":"{{ x }}%s"}`, strings.Repeat("x", maxTemplate)), `use at most 262144`},
		{"too deep", `{"body":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, `nested deeper than 64 levels`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := Render(t.Context(), json.RawMessage(tc.params), leadVars())
			// On a busy machine the bound of time may be met before the other ones.
			if err == nil || !strings.Contains(err.Error(), tc.want) && !strings.Contains(err.Error(), "rendering takes longer") {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			want := ClassPermanent
			if errors.Is(err, errTooSlow) {
				want = ClassTransient
			}
			if class, _ := Classify(err); class != want {
				t.Errorf("class %v, want %v", class, want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// A process that is frozen while it renders has used its time up: that is not the template's fault.
func TestRenderTooSlow(t *testing.T) {
	t.Parallel()
	r := begin(t.Context())
	r.deadline = time.Now().Add(-time.Hour)
	template, err := compileTemplate("{{ lead.name }}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.render(&utcFilters, template, leadVars(), false, false)
	if err = renderError(t.Context(), "body", err); !errors.Is(err, errTooSlow) || !strings.Contains(err.Error(), `"body"`) {
		t.Errorf("got %v, want %v with the parameter's name", err, errTooSlow)
	}
	if class, _ := Classify(err); class != ClassTransient {
		t.Errorf("class %v, want transient", class)
	}
}

func TestRenderStopsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	vars := NewVars()
	vars.SetLazy("lead", func(context.Context) (any, error) { cancel(); return "x", nil })
	_, err := RenderString(ctx, "body", "{{ lead }}{% for i in (1..99999) %}{{ lead }}{% endfor %}", vars)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// One parsed template serves many renderings at once, and their variables stay apart.
func TestRenderConcurrently(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 50 {
				vars := NewVars()
				vars.Set("n", i)
				got, err := RenderString(t.Context(), "body", "{% assign x = n %}{% capture y %}{{ x }}{% endcapture %}{% for j in (1..3) %}{{ y }},{% endfor %}", vars)
				if want := fmt.Sprintf("%d,%d,%d,", i, i, i); err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// Every filter that is accepted at save exists when it runs: whatever its
// arguments, the outcome is text or an error, never a panic or "undefined".
func TestFiltersNeverPanic(t *testing.T) {
	t.Parallel()
	inputs := []string{"lead.name", "lead.score", "lead.tags", "lead.custom", "lead.none", "lead.huge", "lead.ok", "''", "-1.5"}
	args := []string{"", ": 0", ": -3", ": 'x'", ": nil", ": lead.tags", ": 99999999", ": 1, 'y'", ": lead.huge, 2"}
	for _, filter := range filterN {
		for _, in := range inputs {
			for _, arg := range args {
				template := "{{ " + in + " | " + filter + arg + " }}"
				_, err := RenderString(t.Context(), "body", template, leadVars())
				if err != nil && (strings.Contains(err.Error(), "undefined filter") || strings.Contains(err.Error(), "unknown filter")) {
					t.Errorf("%s: %v", template, err)
				}
			}
		}
	}
}

func TestRenderArbitrary(t *testing.T) {
	t.Parallel()
	piece := rapid.SampledFrom([]string{
		"{{ ", " }}", "{% ", " %}", "lead", ".name", ".score", " | ", "append: ", "'x'", "for x in lead.tags", "endfor", "if ", "endif", "else",
		"capture c", "endcapture", "assign c = ", "c", "(1..3)", "raw", "endraw", "\n", "-", "upcase", "size", "{", "}", "%", "case ", "when ", "1", "==",
	})
	rapid.Check(t, func(rt *rapid.T) {
		source := strings.Join(rapid.SliceOfN(piece, 0, 14).Draw(rt, "pieces"), "")
		_, err := RenderString(context.Background(), "body", source, leadVars())
		if class, _ := Classify(err); err != nil && class != ClassPermanent {
			rt.Fatalf("%q: %v", source, err)
		}
	})
}

// Whatever a variable holds, it cannot change the JSON around it nor, in HTML,
// the markup around it.
func TestRenderNeverInjects(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.String().Draw(rt, "value")
		vars := NewVars()
		vars.Set("v", value)
		got, err := Render(context.Background(), json.RawMessage(`{"a":"<{{ v }}>","html":"{{ v }}"}`), vars, HTML("html"))
		if err != nil {
			rt.Fatal(err)
		}
		if got["a"] != "<"+value+">" || len(got) != 2 {
			rt.Fatalf("got %q", got["a"])
		}
		if strings.ContainsAny(got["html"].(string), `<>"'`) {
			rt.Fatalf("not escaped: %q", got["html"])
		}
	})
}

func TestTemplateCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache[*compiled](maxCacheBytes)
	source := strings.Repeat("x", 100<<10)
	for i := range 400 {
		c.put(fmt.Sprint(i, source), &compiled{})
	}
	if c.bytes > maxCacheBytes || len(c.entries) != c.order.Len() || len(c.entries) == 0 {
		t.Errorf("%d bytes in %d entries", c.bytes, len(c.entries))
	}
	_, newest := c.get(fmt.Sprint(399, source))
	_, oldest := c.get(fmt.Sprint(0, source))
	if !newest || oldest {
		t.Error("the newest must be kept, the oldest go")
	}
}

// TestRenderSharesNothing: parameters are decoded once for all who have the same, and what one makes of them the next
// doesn't see.
func TestRenderSharesNothing(t *testing.T) {
	t.Parallel()
	params := json.RawMessage(`{"a": {"b": ["x", {"c": "{{ lead.name }}"}]}, "n": 1.50}`)
	for _, name := range []string{"Ann", "Bob"} {
		vars := NewVars()
		vars.Set("lead", map[string]any{"name": name})
		got, err := Render(t.Context(), params, vars)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(got)
		if err != nil || string(raw) != `{"a":{"b":["x",{"c":"`+name+`"}]},"n":1.50}` {
			t.Errorf("%s, %v", raw, err)
		}
		got["n"] = 2
		a := got["a"].(map[string]any)
		a["b"].([]any)[0] = "y"
		a["d"] = true
	}
}
