package catalog

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestWatchReplies: which rows are replies is said when a table is watched, and
// what can't be is refused then.
func TestWatchReplies(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	exec(t, d, `CREATE TABLE customers (id bigint PRIMARY KEY)`)
	exec(t, d, `CREATE TABLE message (id bigint PRIMARY KEY, direction text, lead_id bigint REFERENCES customers, contact_id text, channel text, body text)`)
	if _, _, err := Watch(ctx, d.Pool, WatchOptions{Table: "customers", As: "customer"}, false); err != nil {
		t.Fatal(err)
	}
	in := func(field string) json.RawMessage {
		return json.RawMessage(`{"type":"field_condition","field":{"type":"regular_field","object_type":"msg","field_name":"` + field + `"},"condition":{"type":"term","values":["in"]}}`)
	}
	for _, tc := range []struct {
		o    WatchOptions
		want string
	}{
		{WatchOptions{ReplyWhen: in("direction")}, "--reply-when needs --lead COLUMN"},
		{WatchOptions{Lead: "lead_id"}, "--lead lead_id says whose a reply is: say with --reply-when QUERY which rows are replies"},
		{WatchOptions{ReplyWhen: in("direction"), Lead: "lead"}, "has no column lead (--lead): it has id, direction, lead_id"},
		{WatchOptions{ReplyWhen: in("direction"), Lead: "lead_id", Channel: "ch"}, "has no column ch (--channel)"},
		{WatchOptions{ReplyWhen: in("directed"), Lead: "lead_id"}, `--reply-when can't be asked of a row of public.message`},
		{WatchOptions{ReplyWhen: json.RawMessage(`{`), Lead: "lead_id"}, `--reply-when can't be asked`},
		{WatchOptions{ReplyWhen: json.RawMessage(`{"type":"has_related","this_object_type":"msg","related_object_type":"customer","related_query":{"type":"match_all"}}`), Lead: "lead_id"}, `--reply-when can't be asked`},
		{WatchOptions{ReplyWhen: json.RawMessage(`{"type":"field_condition","field":{"type":"regular_field","object_type":"msg","field_name":"body"},"condition":{"type":"text","mode":"full_words","value":"yes"}}`), Lead: "lead_id"}, `exact_value`},
	} {
		tc.o.Table, tc.o.As = "message", "msg"
		if _, _, err := Watch(ctx, d.Pool, tc.o, false); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.o, err, tc.want)
		}
	}
	want(t, d, objects, "customer public.customers id - -")

	o := WatchOptions{Table: "message", As: "msg", ReplyWhen: in("direction"), Lead: "lead_id", Contact: "contact_id", Channel: "channel"}
	if _, _, err := Watch(ctx, d.Pool, o, false); err != nil {
		t.Fatal(err)
	}
	c := New(d.Pool)
	if err := c.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	r := c.Type("msg").Reply
	if r == nil || r.Lead != "lead_id" || r.LeadType != "customer" || r.Contact != "contact_id" || r.ContactType != "contact" || r.Channel != "channel" {
		t.Errorf("the replies are %+v", r)
	}
	if !strings.Contains(string(r.When), `"object_type"`) {
		t.Errorf("the query doesn't name its type: %s", r.When)
	}
	// Said again without them, there are no replies any more.
	if _, _, err := Watch(ctx, d.Pool, WatchOptions{Table: "message", As: "msg"}, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if r := c.Type("msg").Reply; r != nil {
		t.Errorf("the replies are %+v after they were taken back", r)
	}
}
