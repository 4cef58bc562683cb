package trigger

import "testing"

var (
	crmLead = Schema{
		ObjectType: "lead", ID: "id", Custom: "custom", Organization: "organization_id", Fields: leadSchema.Fields,
		Relations: []Relation{{"id", "contact", "lead_id"}, {"id", "opportunity", "lead_id"}},
	}
	crmContact = Schema{
		ObjectType: "contact", ID: "id", Organization: "organization_id",
		Fields: []Field{
			{"id", KindNumber, false}, {"organization_id", KindText, false}, {"lead_id", KindNumber, false}, {"title", KindText, false},
			{"email", KindText, false}, {"boss", KindNumber, false},
		},
		Relations: []Relation{{"boss", "contact", "id"}, {"id", "contact", "boss"}, {"lead_id", "lead", "id"}},
	}
	crmOpportunity = Schema{
		ObjectType: "opportunity", ID: "id", Organization: "organization_id",
		Fields:    []Field{{"id", KindNumber, false}, {"organization_id", KindText, false}, {"lead_id", KindNumber, false}, {"value", KindNumber, false}},
		Relations: []Relation{{"lead_id", "lead", "id"}},
	}
	crm = only(&crmLead, &crmContact, &crmOpportunity)
)

func hasRelated(this, other, query, more string) string {
	return `{"type":"has_related","this_object_type":"` + this + `","related_object_type":"` + other + `","related_query":` + query + more + `}`
}

func fieldOf(objectType, name, condition string) string {
	return `{"type":"field_condition","field":{"type":"regular_field","object_type":"` + objectType + `","field_name":"` + name + `"},"condition":` + condition + `}`
}

func TestRelatedRefusals(t *testing.T) {
	t.Parallel()
	all := `{"type":"match_all"}`
	at := "/queries/1/queries/0"
	for _, tt := range []struct{ name, query, pointer, code, nearest string }{
		{"accepted", q("lead", hasRelated("lead", "contact", fieldOf("contact", "title", exists), "")), "", "", ""},
		{"with its type named", q("lead", hasRelated("lead", "contact", and(`{"type":"object_type","object_type":"contact"}`, fieldOf("contact", "email", exists)), "")), "", "", ""},
		{"nested", q("lead", hasRelated("lead", "contact", hasRelated("contact", "lead", hasRelated("lead", "opportunity", all, ""), ""), "")), "", "", ""},
		{"counted", q("lead", hasRelated("lead", "contact", all, `,"at_least":2,"at_most":5`)), "", "", ""},
		{"none", q("lead", hasRelated("lead", "contact", all, `,"at_most":0`)), "", "", ""},
		{"one way of several", q("contact", hasRelated("contact", "contact", all, `,"this_field_name":"boss"`)), "", "", ""},
		{"not watched", q("lead", hasRelated("lead", "task", all, "")), at + "/related_object_type", CodeUnknownObjectType, ""},
		{"no foreign key", q("opportunity", hasRelated("opportunity", "contact", all, "")), at, CodeRelationUnknown, ""},
		{"no such way", q("lead", hasRelated("lead", "contact", all, `,"related_field_name":"boss"`)), at, CodeRelationUnknown, ""},
		{"several ways", q("contact", hasRelated("contact", "contact", all, "")), at, CodeRelationAmbiguous,
			`{"type":"has_related","this_object_type":"contact","related_object_type":"contact","this_field_name":"boss","related_field_name":"id","related_query":{"type":"match_all"}}`},
		{"another type's relation", q("lead", hasRelated("contact", "lead", all, "")), at + "/this_object_type", CodeWrongObjectType, `"lead"`},
		{"a field of the outer type", q("lead", hasRelated("lead", "contact", fieldOf("lead", "title", exists), "")), at + "/related_query/field", CodeWrongObjectType,
			`{"type":"regular_field","object_type":"contact","field_name":"title"}`},
		{"the outer type named inside", q("lead", hasRelated("lead", "contact", and(`{"type":"object_type","object_type":"lead"}`), "")), at + "/related_query/queries/0", CodeWrongObjectType,
			`{"type":"object_type","object_type":"contact"}`},
		{"too deep", q("lead", hasRelated("lead", "contact", hasRelated("contact", "lead", hasRelated("lead", "contact", hasRelated("contact", "lead", all, ""), ""), ""), "")),
			at + "/related_query/related_query/related_query", CodeTooDeep, ""},
		{"less than nothing", q("lead", hasRelated("lead", "contact", all, `,"at_least":-1`)), at + "/at_least", CodeTypeMismatch, ""},
		{"more than at most", q("lead", hasRelated("lead", "contact", all, `,"at_least":3,"at_most":2`)), at + "/at_most", CodeTypeMismatch, ""},
		{"text mode inside", q("lead", hasRelated("lead", "contact", fieldOf("contact", "title", `{"type":"text","mode":"phrase","value":"CEO"}`), "")), at + "/related_query/condition", CodeTextMode,
			`{"type":"text","mode":"exact_value","value":"CEO"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := Check([]byte(tt.query), "", crm, nil)
			if tt.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			problems := problemsOf(t, err)
			if p := problems[0]; len(problems) != 1 || p.Pointer != tt.pointer || p.Code != tt.code || string(p.Nearest) != tt.nearest {
				t.Errorf("got  %s %s %s: %s\nwant %s %s %s", p.Pointer, p.Code, p.Nearest, p.Message, tt.pointer, tt.code, tt.nearest)
			}
		})
	}
}
