package batch

import (
	"context"
	"fmt"
	"slices"
	"testing"
)

// TestBatcher: everybody gets his own answer, also in batches, errors and after
// the end.
func TestBatcher(t *testing.T) {
	t.Parallel()
	var sizes []int
	gate := make(chan struct{})
	b := New(10, 1, func(_ context.Context, in []int) ([]int, error) {
		<-gate
		sizes = append(sizes, len(in))
		out := make([]int, len(in))
		for i, v := range in {
			if v < 0 {
				return nil, fmt.Errorf("%d", v)
			}
			out[i] = 2 * v
		}
		return out, nil
	})
	answers := make(chan error, 100)
	for i := range 50 {
		go func() {
			got, err := b.Do(t.Context(), i)
			if err == nil && got != 2*i {
				err = fmt.Errorf("%d became %d", i, got)
			}
			answers <- err
		}()
	}
	close(gate)
	for range 50 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if _, err := b.Do(t.Context(), -1); err == nil || err.Error() != "-1" {
		t.Errorf("an error came as %v", err)
	}
	b.Stop()
	b.Stop()
	if _, err := b.Do(t.Context(), 1); err == nil {
		t.Error("it works on after its end")
	}
	if slices.Max(sizes) > 10 {
		t.Errorf("batches of %v, want at most 10", sizes)
	}
}
