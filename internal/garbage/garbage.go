// Package garbage bounds what a process leaves uncollected.
//
// Go lets a heap double before it collects. An engine's heap is mostly triggers, which
// live as long as the process: with a million of them, 315 MB, it would take 630. So the
// more there is that lives, the lower is the share that garbage may come to. Where little
// lives, doubling means to collect all the time: there garbage may come to more.
package garbage

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// Most is what garbage may come to, in bytes; beyond Most/(LeastPercent/100) of
	// living heap it is LeastPercent of that.
	Most = 64 << 20
	// LeastPercent bounds what collecting costs: a collection looks at all that lives, so for each
	// byte that is allocated at five others at most.
	LeastPercent = 20
	usualPercent = 100 // Go's own
	mostPercent  = 800

	every = 100 * time.Millisecond // a load of triggers makes 5 MB in that time
	step  = 3                      // percent of itself that are worth a change, which stops the world for a moment
)

// Percent is the GOGC for so many bytes that live: garbage may come to as much again, but to half of most at least and to
// most at most, and to LeastPercent of what lives in any case.
func Percent(live, most uint64) int {
	if live == 0 {
		return mostPercent
	}
	share := min(max(usualPercent*live, 100*most/2), 100*most) / live
	return int(min(max(share, LeastPercent), mostPercent))
}

// Tend sets the process's GOGC by what lives, until ctx ends; then it is what it was.
// Where the environment says GOGC or GOMEMLIMIT, somebody knows better: nothing is done.
func Tend(ctx context.Context) { tend(ctx, Most, every) }

func tend(ctx context.Context, most uint64, every time.Duration) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := usualPercent
	before := debug.SetGCPercent(set)
	defer debug.SetGCPercent(before)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		metrics.Read(sample)
		if p := Percent(sample[0].Value.Uint64(), most); 100*p > (100+step)*set || 100*p < (100-step)*set || p != set && (p == mostPercent || p == LeastPercent) {
			debug.SetGCPercent(p)
			set = p
		}
	}
}
