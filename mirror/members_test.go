package mirror

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var memberSeeds = []string{
	`{"cf_a": 1, "cf_b": [1, {"x": "}"}]}`, `{ "cf_a" : "\"" , "cf_a" : 2e+5 }`, `{"\u0063f_a": true, "\ud83d\ude00": -1.5E-3, "\ud83d": 1}`,
	`{"": null, "a\\": {}}`, `{}`, `[]`, `nul`, `{"cf_a`, `{"cf_a":1}x`, " {\n\"cf_a\"\t:\r[ ] } ",
}

var memberNames = []string{"cf_a", "cf_b", "", "a\\", "😀", "\uFFFD", "é", `q"`, "<&>", strings.Repeat("long", 30)}

func checkMembers(t failer, text []byte) {
	t.Helper()
	m := newMembers(memberNames)
	got, ok := m.reduce([]byte("before"), text)
	if string(got[:6]) != "before" || !ok && len(got) != 6 {
		t.Fatalf("%q: %q", text, got)
	}
	got = got[6:]
	if !json.Valid(text) || !utf8.Valid(text) {
		return
	}
	want := reduceNaively(string(text), memberNames)
	if !ok {
		if want != "n" {
			t.Fatalf("%s: nothing, want %s", text, want)
		}
		return
	}
	var a, b map[string]json.RawMessage
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatalf("%s: %s: %v", text, got, err)
	}
	if want == "n" || json.Unmarshal([]byte(want[1:]), &b) != nil || len(a) != len(b) {
		t.Fatalf("%s: %s, want %s", text, got, want)
	}
	for k, v := range a {
		if string(b[k]) != string(v) {
			t.Fatalf("%s: %q is %s, want %s", text, k, v, b[k])
		}
	}
	// What is reduced already stays as it is.
	if again, ok := m.reduce(nil, got); !ok || string(again) != string(got) {
		t.Fatalf("%s: reduced again: %s", got, again)
	}
}

func FuzzMembers(f *testing.F) {
	for _, s := range memberSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkMembers(t, text) })
}

// TestMembers makes objects, and tears and bends them.
func TestMembers(t *testing.T) {
	m := newMembers(memberNames)
	var value func(t *rapid.T, depth int) any
	value = func(t *rapid.T, depth int) any {
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		if depth == 0 {
			kind = min(kind, 4)
		}
		switch kind {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return rapid.Float64Range(-1e9, 1e9).Draw(t, "number")
		case 3, 4:
			return rapid.StringOf(rapid.SampledFrom([]rune{'a', '"', '\\', '{', '}', '[', ']', ',', ':', 'é', '😀', '\n'})).Draw(t, "string")
		case 5:
			list := []any{}
			for range rapid.IntRange(0, 3).Draw(t, "n") {
				list = append(list, value(t, depth-1))
			}
			return list
		}
		object := map[string]any{}
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			object[rapid.SampledFrom(append(slices.Clone(memberNames), "other", "cf_", "cf_ab")).Draw(t, "key")] = value(t, depth-1)
		}
		return object
	}
	rapid.Check(t, func(t *rapid.T) {
		v := value(t, 3)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "indented") {
			if text, err = json.MarshalIndent(v, " ", "\t"); err != nil {
				t.Fatal(err)
			}
		}
		checkMembers(t, text)
		if len(text) == 0 || text[0] != '{' {
			if _, ok := m.reduce(nil, text); ok {
				t.Fatalf("%s is no object", text)
			}
			return
		}
		if torn := text[:rapid.IntRange(0, len(text)-1).Draw(t, "torn")]; true {
			if got, ok := m.reduce(nil, torn); ok {
				t.Fatalf("%s is torn, yet %s", torn, got)
			}
		}
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		text := []byte(memberSeeds[rnd.IntN(len(memberSeeds))])
		for range rnd.IntN(4) {
			text[rnd.IntN(len(text))] = "{}[]\",:\\ u0a\x80"[rnd.IntN(13)]
		}
		checkMembers(t, text)
	}
}
