package firing

import (
	"bytes"
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
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

// TestRoom: what was kept stays as it is until the room is cleared, however much is taken, and memory is used again.
func TestRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var r room
		for range 3 {
			var kept, want [][]byte
			for i := range rapid.IntRange(1, 400).Draw(t, "documents") {
				size := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, roomBlock/4)).Draw(t, "size")
				asked := rapid.IntRange(0, size).Draw(t, "asked") // it may turn out to be larger
				document := bytes.Repeat([]byte{byte(i)}, size)
				kept, want = append(kept, r.keep(append(r.take(asked), document...))), append(want, document)
				if rapid.Bool().Draw(t, "not kept") {
					_ = append(r.take(10), "dropped"...)
				}
			}
			for i := range kept {
				if !bytes.Equal(kept[i], want[i]) {
					t.Fatalf("document %d of %d, of %d bytes, was changed", i, len(kept), len(want[i]))
				}
				_ = append(kept[i], "grown"...)
			}
			for i := range kept {
				if !bytes.Equal(kept[i], want[i]) {
					t.Fatalf("document %d of %d was changed by another one's growing", i, len(kept))
				}
			}
			if n := len(r.blocks); n > roomMost {
				t.Fatalf("%d blocks, want at most %d", n, roomMost)
			}
			r.clear()
		}
	})
	var r room
	for range 10 {
		for range 1000 {
			r.keep(append(r.take(100), "document"...))
		}
		r.clear()
	}
	if len(r.blocks) != 1 {
		t.Errorf("%d blocks where one has room", len(r.blocks))
	}
}
