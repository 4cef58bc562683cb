package garbage

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, Most / 16: 800, Most / 8: 400, Most / 2: 100, Most * 3 / 4: 100, Most: 100, 2 * Most: 50, 4 * Most: 25, 40 * Most: 20} {
		if got := Percent(live, Most); got != want {
			t.Errorf("%d MiB live: %d, want %d", live>>20, got, want)
		}
	}
}

// A process whose heap lives leaves less garbage, and as much as before once it doesn't.
func TestTend(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	await := func(what string, ok func(p int) bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			runtime.GC()
			p := percent()
			if ok(p) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: GOGC is %d", what, p)
			}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tend(ctx, 16<<20, time.Millisecond)
	}()
	lives := make([]byte, 40<<20)
	await("40 MB live, 16 may be garbage", func(p int) bool { return p >= LeastPercent && p < 50 })
	runtime.KeepAlive(lives)
	lives = nil
	_ = lives
	await("nothing lives", func(p int) bool { return p > usualPercent })
	stop()
	<-ended
	if p := percent(); p != 100 {
		t.Errorf("GOGC is %d afterwards", p)
	}
}

// Who sets GOGC knows better.
func TestTendLeavesBe(t *testing.T) {
	t.Setenv("GOGC", "150")
	tend(t.Context(), 1, time.Millisecond) // returns
}
