package feed

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
)

// TestTrackerNeverConfirmsUnappliedWork drives a Tracker with what a server, a
// reader, an applier and standbys may do in any order, against a plain list of the
// commits that hold work, and one of the checkpoints.
func TestTrackerNeverConfirmsUnappliedWork(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := change.EndLSN(rapid.Uint64Range(1, 1<<40).Draw(t, "checkpoint"))
		tracker := NewTracker(at, at)
		guarded := rapid.Bool().Draw(t, "guarded")
		type checkpoint struct{ end, own change.EndLSN }
		var (
			pending   []change.EndLSN // received work, in order, not applied
			open      bool
			sent      = at // how far the server has sent
			requested change.EndLSN
			confirmed = at
			log       = at // the server's own, where checkpoints are written
			standby   = at // how much of it the standbys have
			written   = []checkpoint{{at, at}}
		)
		// apply writes a checkpoint, which the standbys must have before it is
		// confirmed, or need not.
		apply := func(t *rapid.T, end change.EndLSN) {
			log = max(log, sent) + change.EndLSN(rapid.Uint64Range(1, 100).Draw(t, "own"))
			written = append(written, checkpoint{end, log})
			own := change.LSN(log)
			if !guarded {
				own = 0
			}
			tracker.Applied(end, own)
		}
		step := func(label string) change.EndLSN {
			sent += change.EndLSN(rapid.Uint64Range(1, 1000).Draw(t, label))
			return sent
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				if open {
					t.Skip()
				}
				open = true
				tracker.Begin()
			},
			"commit": func(t *rapid.T) {
				if !open {
					t.Skip()
				}
				open = false
				end := step("end")
				if rapid.Bool().Draw(t, "work") {
					tracker.Commit(end)
					pending = append(pending, end)
				} else {
					tracker.Skip(end)
				}
			},
			"keepalive": func(*rapid.T) {
				// Inside a transaction the server may report a position beyond
				// the transaction's own end.
				if open {
					tracker.Keepalive(sent + 500)
				} else {
					tracker.Keepalive(step("keepalive"))
				}
			},
			"apply": func(t *rapid.T) {
				if len(pending) == 0 {
					t.Skip()
				}
				n := rapid.IntRange(1, len(pending)).Draw(t, "n")
				apply(t, pending[n-1])
				pending = pending[n:]
				requested = 0
			},
			"standbys follow": func(t *rapid.T) {
				standby += change.EndLSN(rapid.Uint64Range(0, uint64(log-min(log, standby))).Draw(t, "standby"))
				tracker.Reached(change.LSN(standby))
			},
			"ask for an idle checkpoint": func(t *rapid.T) {
				requested = tracker.Idle()
				if requested == 0 {
					return
				}
				if open || len(pending) > 0 {
					t.Fatalf("idle at %v while open=%v, %d unapplied", requested, open, len(pending))
				}
				if requested > sent {
					t.Fatalf("idle at %v beyond what was sent, %v", requested, sent)
				}
			},
			"idle checkpoint is written": func(t *rapid.T) {
				if requested == 0 {
					t.Skip()
				}
				apply(t, requested) // commits may have arrived meanwhile
				requested = 0
			},
			"": func(t *rapid.T) {
				now := tracker.Confirmable()
				if now < confirmed {
					t.Fatalf("confirmed position went back from %v to %v", confirmed, now)
				}
				confirmed = now
				if len(pending) > 0 && now >= pending[0] {
					t.Fatalf("confirmed %v with %v unapplied", now, pending[0])
				}
				if now > sent {
					t.Fatalf("confirmed %v beyond what was sent, %v", now, sent)
				}
				// Promoted now, a standby would have the slot at most where its
				// checkpoint is.
				var kept change.EndLSN
				for _, c := range written {
					if c.own <= standby || !guarded {
						kept = c.end
					}
				}
				if now != kept {
					t.Fatalf("confirmed %v, the standbys have the checkpoint %v", now, kept)
				}
				if tracker.Held() != (kept < written[len(written)-1].end) {
					t.Fatalf("Held is %v with the checkpoint %v kept of %v", tracker.Held(), kept, written[len(written)-1].end)
				}
				if tracker.Unapplied() != (len(pending) > 0) {
					t.Fatalf("Unapplied is %v with %d pending", tracker.Unapplied(), len(pending))
				}
				if tracker.Received() < now {
					t.Fatalf("received %v before confirmed %v", tracker.Received(), now)
				}
			},
		})
	})
}
