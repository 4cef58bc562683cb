package trigger

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The table of groups against a map.
func TestGroupTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var x groupTable
		model := map[string]*group{}
		names := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e", "f", "g", strings.Repeat("x", shortName), strings.Repeat("x", shortName+1), strings.Repeat("y", 300)})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := names.Draw(t, "name")
			switch g := x.get(name); {
			case g != model[name]:
				t.Fatalf("%q: found %p, want %p", name, g, model[name])
			case g == nil:
				model[name] = &group{organization: name}
				x.put(model[name])
			default:
				x.remove(g)
				delete(model, name)
			}
		}
		seen := 0
		x.each(func(g *group) {
			if seen++; model[g.organization] != g {
				t.Fatalf("%q is there", g.organization)
			}
		})
		if x.n != len(model) || seen != x.n {
			t.Fatalf("%d groups, %d seen, want %d", x.n, seen, len(model))
		}
	})
}
