package feed

import "github.com/pgautomate/pgautomate/change"

// Tracker is the flush rule: which position may be told to the server as
// durably done. It is pure, so that the rule can be tested by itself.
//
// The server forgets, for ever, whatever lies before a confirmed position. So:
//
//   - Only a position that Applied reported is ever confirmable: the checkpoint
//     with that position, and all work before it, is then committed.
//   - A keepalive's position is not confirmable by itself. When no transaction
//     is open and nothing received is unapplied, Idle offers it to be written
//     as a checkpoint first; confirming follows from that. So the slot's
//     confirmed position can never be ahead of the checkpoint, and a start that
//     finds it ahead knows that someone else moved the slot.
//   - A confirmed position never goes back.
//
// A Tracker lives as long as one replication connection. It is not safe for
// concurrent use.
type Tracker struct {
	open     bool          // between BEGIN and COMMIT
	received change.EndLSN // end of the last commit that has work in it
	applied  change.EndLSN // checkpoint, committed
	idle     change.EndLSN // everything before it has been received; 0 is unknown
}

// NewTracker starts at the checkpoint.
func NewTracker(checkpoint change.EndLSN) Tracker {
	return Tracker{received: checkpoint, applied: checkpoint}
}

// Begin says that a transaction's messages follow.
func (t *Tracker) Begin() { t.open = true }

// Commit says that a whole transaction with work in it has been received.
func (t *Tracker) Commit(end change.EndLSN) {
	t.open = false
	t.received = max(t.received, end)
}

// Skip says that the open transaction ended and holds nothing to do: it touched
// no watched table, or it is at or before the checkpoint.
func (t *Tracker) Skip(end change.EndLSN) {
	t.open = false
	t.idle = max(t.idle, end)
}

// Keepalive says that the server has sent everything before position.
func (t *Tracker) Keepalive(position change.EndLSN) {
	if !t.open {
		t.idle = max(t.idle, position)
	}
}

// Applied says that everything up to end, and the checkpoint end, is committed.
func (t *Tracker) Applied(end change.EndLSN) { t.applied = max(t.applied, end) }

// Confirmable is the position that may be reported to the server as flushed.
func (t *Tracker) Confirmable() change.EndLSN { return t.applied }

// Received is how far the stream has been read.
func (t *Tracker) Received() change.EndLSN { return max(t.received, t.idle, t.applied) }

// Unapplied says whether received work waits to be applied.
func (t *Tracker) Unapplied() bool { return t.received > t.applied }

// Idle is the position that may be written as the next checkpoint although no
// commit with work in it ends there, or 0.
func (t *Tracker) Idle() change.EndLSN {
	if t.open || t.Unapplied() || t.idle <= t.applied {
		return 0
	}
	return t.idle
}
