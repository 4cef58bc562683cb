package trigger

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	const at = "/queries/1/queries/0"
	field := func(f string) string {
		return `{"type":"field_condition","field":` + f + `,"condition":{"type":"exists"}}`
	}
	deep := matchAll
	for range MaxDepth {
		deep = and(deep)
	}
	many := make([]string, MaxNodes)
	ids := make([]string, MaxList+1)
	for i := range many {
		many[i] = matchAll
	}
	tests := []struct {
		name, query, pointer, code, nearest string
	}{
		{"T28 full_words", q("lead", fc("title", `{"type":"text","mode":"full_words","value":"CEO"}`)), at + "/condition", CodeTextMode, `{"type":"text","mode":"exact_value","value":"CEO"}`},
		{"T28 phrase", q("lead", fc("title", `{"type":"text","mode":"phrase","value":"CEO"}`)), at + "/condition", CodeTextMode, `{"type":"text","mode":"exact_value","value":"CEO"}`},
		{"T28 beginning_of_words", q("lead", fc("title", `{"type":"text","mode":"beginning_of_words","value":"CEO"}`)), at + "/condition", CodeTextMode, `{"type":"text","mode":"exact_value","value":"CEO"}`},
		{"unknown text mode", q("lead", fc("title", `{"type":"text","mode":"fuzzy","value":"CEO"}`)), at + "/condition", CodeTextMode, `{"type":"text","mode":"exact_value","value":"CEO"}`},
		{"T29 now", q("lead", fc("created_at", `{"type":"moment_range","before":{"type":"now"}}`)), at + "/condition/before", CodeRelativeMoment,
			`{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"seconds":0},"which_day_end":null}`},
		{"a bad offset", q("lead", fc("created_at", `{"type":"moment_range","on_or_after":{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":-7},"which_day_end":null}}`)), at + "/condition/on_or_after/offset/days", CodeTypeMismatch, ""},
		{"T30 current_user", q("lead", fc("owner_id", `{"type":"current_user"}`)), at + "/condition", CodeCurrentUser, ""},
		{"T30 bare text", q("lead", `{"type":"text","mode":"full_words","value":"x"}`), at, CodeBareText, ""},
		{"T30 derived field", q("lead", field(`{"type":"computed_field","object_type":"lead","field_name":"num_contacts"}`)), at + "/field", CodeComputedField, ""},
		{"T30 unknown field", q("lead", fc("statusid", exists)), at + "/field", CodeUnknownField, `{"type":"regular_field","object_type":"lead","field_name":"status_id"}`},
		{"T30 field of contact", q("lead", field(`{"type":"regular_field","object_type":"contact","field_name":"title"}`)), at + "/field", CodeWrongObjectType, `{"type":"regular_field","object_type":"lead","field_name":"title"}`},
		{"saved search", q("lead", `{"type":"saved_search","saved_search_id":"save_1"}`), at, CodeSavedSearch, ""},
		{"has_related without a relation", q("lead", `{"type":"has_related","this_object_type":"lead","related_object_type":"contact","related_query":{"type":"match_all"}}`), at + "/related_object_type", CodeUnknownObjectType, ""},
		{"unlike any field", q("lead", fc("zzzzzzzzzz", exists)), at + "/field", CodeUnknownField, ""},

		{"number_range on text", q("lead", fc("title", `{"type":"number_range","gte":1}`)), at + "/condition", CodeTypeMismatch, ""},
		{"boolean on a number", q("lead", fc("value", `{"type":"boolean","value":true}`)), at + "/condition", CodeTypeMismatch, ""},
		{"text on a number", q("lead", fc("value", exact("12"))), at + "/condition", CodeTypeMismatch, `{"type":"term","values":["12"]}`},
		{"text on a boolean", q("lead", fc("is_vip", exact("true"))), at + "/condition", CodeTypeMismatch, `{"type":"boolean","value":true}`},
		{"reference on a date", q("lead", fc("close_date", `{"type":"reference","object_ids":["1"]}`)), at + "/condition", CodeTypeMismatch, ""},
		{"moment_range on text", q("lead", fc("title", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01","which":"start"}}`)), at + "/condition", CodeTypeMismatch, ""},
		{"range on a uuid", q("lead", fc("ref", `{"type":"number_range","gte":1}`)), at + "/condition", CodeTypeMismatch, ""},
		{"term on a number", q("lead", fc("value", term("1", "x"))), at + "/condition/values/1", CodeTypeMismatch, ""},
		{"term on a date", q("lead", fc("close_date", term("2026-02-30"))), at + "/condition/values/0", CodeTypeMismatch, ""},
		{"no such day", q("lead", fc("close_date", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-02-30","which":"end"}}`)), at + "/condition/before/value", CodeTypeMismatch, ""},
		{"number as text", q("lead", fc("value", `{"type":"number_range","gte":"10"}`)), at + "/condition/gte", CodeTypeMismatch, "10"},
		{"boolean as text", q("lead", fc("is_vip", `{"type":"boolean","value":"true"}`)), at + "/condition/value", CodeTypeMismatch, "true"},
		{"a value for a list", q("lead", fc("source", `{"type":"term","values":"web"}`)), at + "/condition/values", CodeTypeMismatch, `["web"]`},
		{"null in a list", q("lead", fc("source", `{"type":"term","values":["web",null]}`)), at + "/condition/values/1", CodeTypeMismatch, ""},
		{"number without end", q("lead", fc("value", `{"type":"number_range","gte":1e999999999999}`)), at + "/condition/gte", CodeTypeMismatch, ""},
		{"negate as text", q("lead", `{"type":"match_all","negate":"yes"}`), at + "/negate", CodeTypeMismatch, ""},
		{"id of a number", q("lead", `{"type":"id","value":"x"}`), at + "/value", CodeTypeMismatch, ""},

		{"no mode", q("lead", fc("title", `{"type":"text","value":"x"}`)), at + "/condition", CodeMissingMember, `{"type":"text","value":"x","mode":"exact_value"}`},
		{"no value", q("lead", fc("is_vip", `{"type":"boolean"}`)), at + "/condition", CodeMissingMember, `{"type":"boolean","value":true}`},
		{"no bound", q("lead", fc("value", `{"type":"number_range","gte":null}`)), at + "/condition", CodeMissingMember, exists},
		{"no moment", q("lead", fc("created_at", `{"type":"moment_range","before":null,"on_or_after":null}`)), at + "/condition", CodeMissingMember, exists},
		{"no which", q("lead", fc("close_date", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01"}}`)), at + "/condition/before", CodeMissingMember, `{"type":"fixed_local_date","value":"2026-01-01","which":"start"}`},
		{"no queries", q("lead", `{"type":"and"}`), at, CodeMissingMember, and()},
		{"misspelled negate", q("lead", `{"type":"match_all","negated":true}`), at + "", CodeUnknownMember, matchAll},
		{"which of an instant", q("lead", fc("created_at", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-01-01T00:00:00Z","which":"end"}}`)), at + "/condition/before", CodeUnknownMember, `{"type":"fixed_local_date","value":"2026-01-01T00:00:00Z"}`},

		{"unknown node", q("lead", `{"type":"field_conditoin","field":1}`), at, CodeUnknownNode, `{"type":"field_condition","field":1}`},
		{"unknown condition", q("lead", fc("title", `{"type":"terms","values":[]}`)), at + "/condition", CodeUnknownCondition, `{"type":"term","values":[]}`},
		{"invalid", `{"type":`, "", CodeInvalidJSON, ""},
		{"empty", ``, "", CodeInvalidJSON, ""},
		{"twice", `{"type":"and","type":"or"}`, "", CodeInvalidJSON, ""},
		{"deep", q("lead", deep), at + strings.Repeat("/queries/0", MaxDepth-2), CodeTooDeep, ""},
		{"deeper than any query", strings.Repeat("[", 1000), "", CodeTooDeep, ""},
		{"many nodes", q("lead", many...), "/queries/1/queries/" + strconv.Itoa(MaxNodes-3), CodeTooLarge, ""},
		{"long list", q("lead", fc("source", term(ids...))), at + "/condition/values", CodeTooLarge, ""},
		{"many bytes", `"` + strings.Repeat("x", MaxBytes) + `"`, "", CodeTooLarge, ""},

		{"no object type", and(statusC), "", CodeObjectTypeMissing, and(`{"type":"object_type","object_type":"lead"}`, and(statusC))},
		{"two object types", q("lead", `{"type":"object_type","object_type":"lead"}`), at, CodeObjectTypeRepeated, matchAll},
		{"object type in or", or(`{"type":"object_type","object_type":"lead"}`, statusC), "/queries/0", CodeObjectTypeMisplaced, ""},
		{"object type negated", not(q("lead", statusC)), "/queries/0", CodeObjectTypeMisplaced, ""},
		{"another object type", q("contact", matchAll), "/queries/0", CodeWrongObjectType, `{"type":"object_type","object_type":"lead"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			problems := problemsOf(t, Check([]byte(tt.query), "lead", only(&leadSchema), nil))
			if len(problems) != 1 {
				t.Fatalf("want one problem, got %+v", problems)
			}
			p := problems[0]
			if p.Pointer != tt.pointer || p.Code != tt.code || string(p.Nearest) != tt.nearest {
				t.Errorf("got  %s %s %s\nwant %s %s %s", p.Pointer, p.Code, p.Nearest, tt.pointer, tt.code, tt.nearest)
			}
			if p.Message == "" || strings.Contains(p.Message, "\n") {
				t.Errorf("message: %q", p.Message)
			}
			if tt.nearest == "" || tt.code == CodeUnknownNode {
				return
			}
			// What is said to be accepted is.
			if err := Check(replaceAt(t, tt.query, p.Pointer, p.Nearest), "lead", only(&leadSchema), nil); err != nil {
				t.Errorf("the nearest form is refused: %v", err)
			}
		})
	}
}

// replaceAt puts a value at a JSON pointer.
func replaceAt(t *testing.T, query, pointer string, value json.RawMessage) []byte {
	t.Helper()
	var doc any
	if err := json.Unmarshal([]byte(query), &doc); err != nil {
		t.Fatal(err)
	}
	var replace func(doc any, tokens []string) any
	replace = func(doc any, tokens []string) any {
		if len(tokens) == 0 {
			return value
		}
		switch d := doc.(type) {
		case map[string]any:
			d[tokens[0]] = replace(d[tokens[0]], tokens[1:])
		case []any:
			i, err := strconv.Atoi(tokens[0])
			if err != nil || i >= len(d) {
				t.Fatalf("%s points nowhere", pointer)
			}
			d[i] = replace(d[i], tokens[1:])
		default:
			t.Fatalf("%s points nowhere", pointer)
		}
		return doc
	}
	out, err := json.Marshal(replace(doc, strings.Split(pointer, "/")[1:]))
	if pointer == "" {
		out = value
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAllProblemsAreReportedInOrder(t *testing.T) {
	t.Parallel()
	query := q("lead",
		fc("owner_id", `{"type":"current_user"}`),
		`{"type":"text","mode":"full_words","value":"x"}`,
		`{"type":"what"}`,
		fc("nonsense_here", `{"type":"moment_range","before":{"type":"now"}}`),
		fc("cf_x", `{"type":"text","mode":"phrase","value":"x"}`),
		`{"type":"match_all","x":1,"negate":3}`,
	)
	var got []string
	for _, p := range problemsOf(t, Check([]byte(query), "lead", only(&leadSchema), nil)) {
		got = append(got, p.Pointer+" "+p.Code)
	}
	const at = "/queries/1/queries/"
	want := []string{
		at + "0/condition " + CodeCurrentUser,
		at + "1 " + CodeBareText,
		at + "2 " + CodeUnknownNode,
		at + "3/field " + CodeUnknownField,
		at + "3/condition/before " + CodeRelativeMoment,
		at + "4/condition " + CodeTextMode,
		at + "5 " + CodeUnknownMember,
		at + "5/negate " + CodeTypeMismatch,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUnknownObjectType(t *testing.T) {
	t.Parallel()
	for query, pointer := range map[string]string{q("lead", fc("x", exists)): "/queries/0", `{"type":"object_type","object_type":"lead"}`: ""} {
		for _, name := range []string{"lead", ""} {
			p := problemsOf(t, Check([]byte(query), name, only(), nil))
			if len(p) != 1 || p[0].Code != CodeUnknownObjectType || p[0].Pointer != pointer {
				t.Errorf("%s: %+v", query, p)
			}
		}
	}
	s := NewSet()
	err := s.Put(Definition{ID: 5, Version: 2, Organization: "A", ObjectType: "lead", Query: json.RawMessage(qs)})
	if p := problemsOf(t, err); p[0].Code != CodeUnknownObjectType || s.Len() != 0 || len(s.Broken()) != 1 {
		t.Errorf("%+v", p)
	}
	s.SetSchema(leadSchema, nil)
	if r := s.TakeRecovered(); len(r) != 1 || r[0] != (Recovered{5, 2, "A", "lead"}) || s.Len() != 1 {
		t.Errorf("%+v", r)
	}
}

func TestCustomFieldsNeedTheirColumn(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*Schema){
		func(s *Schema) { s.Custom = "" },
		func(s *Schema) { s.Custom = "not_there" },
		func(s *Schema) { s.Custom = "title" },
	} {
		schema := leadSchema
		change(&schema)
		if p := problemsOf(t, Check([]byte(q("lead", fc("cf_x", exists))), "lead", only(&schema), nil)); len(p) != 1 || p[0].Code != CodeUnknownField {
			t.Errorf("%q: %+v", schema.Custom, p)
		}
	}
}

func TestParseKeepsWhatTriggersRefuse(t *testing.T) {
	t.Parallel()
	related := `{"type":"has_related","this_object_type":"lead","related_object_type":"contact","related_query":` +
		and(`{"type":"has_related","this_object_type":"contact","related_object_type":"contact_email","related_query":{"type":"match_all","negate":true}}`,
			`{"type":"saved_search","saved_search_id":"s"}`, `{"type":"text","mode":"phrase","value":"x"}`) + `}`
	query, err := Parse([]byte(q("lead", related)))
	if err != nil {
		t.Fatal(err)
	}
	if query.ObjectType() != "lead" {
		t.Errorf("object type %q", query.ObjectType())
	}
	if got, want := string(appendNode(nil, query.root)), q("lead", related); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNumberNextToPointerEscapes(t *testing.T) {
	t.Parallel()
	p := path{{key: "a/b"}, {idx: 3}, {key: "m~n"}}
	if got := p.String(); got != "/a~1b/3/m~0n" {
		t.Error(got)
	}
}
