package jsonscan

import (
	"encoding/json"
	"testing"
)

func TestMembers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"a": 1, "b": {"c": [1, "}"]}, "d\"": "x\\"}`: `[["a","1"],["b","{\"c\": [1, \"}\"]}"],["d\\\"","\"x\\\\\""]]`,
		`{}`: `[]`, ` { } `: `[]`, `{"a":null}`: `[["a","null"]]`,
	} {
		list, ok := Members(nil, []byte(text))
		got := [][2]string{}
		for _, m := range list {
			got = append(got, [2]string{string(m.Key), string(m.Value)})
		}
		if raw, _ := json.Marshal(got); !ok || string(raw) != want {
			t.Errorf("%s: %s, %t, want %s", text, raw, ok, want)
		}
	}
	for _, text := range []string{``, `[]`, `1`, `{`, `{"a"`, `{"a":`, `{"a":}`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" 1}`, `{"a":1} x`, `{"a":[1}`, `{"a":"}`} {
		if list, ok := Members(nil, []byte(text)); ok {
			t.Errorf("%s: is not an object but has %d members", text, len(list))
		}
	}
}

func TestUnquote(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`plain`: "plain", `\"\\\/\b\f\n\r\t`: "\"\\/\b\f\n\r\t", `\u00e4\u20AC`: "ä€", `\ud83d\ude00`: "😀",
		`\ud83d`: "\ufffd", `\ud83dx`: "\ufffdx", `\u12`: "\ufffd12", `\x`: "\ufffd", `\`: "\ufffd",
	} {
		if got := string(Unquote(nil, []byte(text))); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
