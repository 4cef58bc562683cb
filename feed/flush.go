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
//   - Where the slot is copied to standbys, a position waits until they have the
//     commit of the checkpoint itself, which lies beyond it in the log. Else one
//     of them, promoted, would have the slot at the position and the checkpoint
//     before it, and what is in between would be lost.
//
// A Tracker lives as long as one replication connection. It is not safe for
// concurrent use.
type Tracker struct {
	open     bool          // between BEGIN and COMMIT
	received change.EndLSN // end of the last commit that has work in it
	applied  change.EndLSN // checkpoint, committed
	idle     change.EndLSN // everything before it has been received; 0 is unknown

	confirmable change.EndLSN
	held        []held // applied, in order, not yet confirmable
}

// held is a position whose checkpoint the standbys must have first.
type held struct {
	end change.EndLSN
	own change.LSN // the checkpoint's commit ends here or before
}

// NewTracker starts at the checkpoint, with what the server holds for confirmed.
func NewTracker(checkpoint, confirmed change.EndLSN) Tracker {
	return Tracker{received: checkpoint, applied: checkpoint, confirmable: min(confirmed, checkpoint)}
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

// Applied says that everything up to end, and the checkpoint end, is committed. It
// is confirmable at once, or, when own is not 0, once Reached(own).
func (t *Tracker) Applied(end change.EndLSN, own change.LSN) {
	t.applied = max(t.applied, end)
	if own == 0 {
		t.confirmable = max(t.confirmable, end)
	} else {
		t.held = append(t.held, held{end, own})
	}
}

// Reached says that the standbys have the log up to a position.
func (t *Tracker) Reached(position change.LSN) {
	n := 0
	for ; n < len(t.held) && t.held[n].own <= position; n++ {
		t.confirmable = max(t.confirmable, t.held[n].end)
	}
	t.held = t.held[:copy(t.held, t.held[n:])]
}

// Held says that a position waits for the standbys.
func (t *Tracker) Held() bool { return len(t.held) > 0 }

// Confirmable is the position that may be reported to the server as flushed.
func (t *Tracker) Confirmable() change.EndLSN { return t.confirmable }

// Checkpoint is the last one that was committed.
func (t *Tracker) Checkpoint() change.EndLSN { return t.applied }

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
