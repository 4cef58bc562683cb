package trigger

import "testing"

func TestSmoke(t *testing.T) {
	sc := Schema{ObjectType: "lead", ID: "id", Fields: []Field{{"id", KindNumber, false}, {"status_id", KindText, false}}}
	q := `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},{"type":"and","queries":[{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"status_id"},"condition":{"type":"term","values":["C"]}}]}]}`
	if err := Check([]byte(q), "lead", &sc, nil); err != nil {
		t.Fatal(err)
	}
}
