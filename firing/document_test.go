package firing

import (
	"encoding/json"
	"testing"
)

func TestAppendString(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "plain text", `a "quoted" \ one`, "tab\tand\nline", "ü and €", "<html> & co", "\x00", "\xff broken"} {
		var got string
		out := appendString([]byte("x"), text)
		if err := json.Unmarshal(out[1:], &got); err != nil {
			t.Errorf("%q: %s: %v", text, out, err)
		}
		if want := string([]rune(text)); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}
