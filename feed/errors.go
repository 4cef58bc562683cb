package feed

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/change"
)

// Permanent errors. Run ends with one of these, wrapped in a line that says
// what is wrong and how to mend it; trying again without a person would either
// fail in the same way or lose changes in silence.
var (
	// ErrServer: the server is too old or not configured for logical replication.
	ErrServer = errors.New("the server cannot feed changes")
	// ErrPermission: the role may not replicate.
	ErrPermission = errors.New("missing permission")
	// ErrPublication: the publication is missing, incomplete, or was dropped
	// while changes waited to be read.
	ErrPublication = errors.New("unusable publication")
	// ErrForeignSlot: a slot of that name exists, and nothing says that it is
	// ours or that it is still the one that the checkpoint belongs to.
	ErrForeignSlot = errors.New("foreign replication slot")
	// ErrSlotLost: the checkpoint's slot is gone or was invalidated: changes
	// since the checkpoint may never have been seen.
	ErrSlotLost = errors.New("replication slot lost")
	// ErrForeignServer: the checkpoint belongs to another server, or to a
	// history of this one that it no longer has.
	ErrForeignServer = errors.New("checkpoint of another server")
	// ErrUnreadable: a message of the stream makes no sense, however often it is
	// read again.
	ErrUnreadable = errors.New("unreadable replication stream")
)

// ErrFenced is returned by Checkpoints.Advance when another process has moved
// the checkpoint: the transaction must be rolled back. The feed then drops to
// standby and reads the checkpoint anew. It is not permanent.
var ErrFenced = errors.New("another process moved the feed's checkpoint")

// errStandby: the slot is in use by another process.
var errStandby = errors.New("the slot is in use by another process")

var permanent = []error{ErrServer, ErrPermission, ErrPublication, ErrForeignSlot, ErrSlotLost, ErrForeignServer, ErrUnreadable}

func isPermanent(err error) bool {
	for _, p := range permanent {
		if errors.Is(err, p) {
			return true
		}
	}
	return false
}

// fault makes a permanent error: one line, ending with the fix.
func fault(kind error, format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{kind}, args...)...)
}

func sqlState(err error) string {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pe.Code
	}
	return ""
}

// place is a message's place in the stream, the same however often it is read.
type place struct {
	commit change.CommitLSN // of the transaction that it is in; 0: of none
	after  change.EndLSN    // else the end of the last one
	n      int              // changes and messages before it in the transaction
}

func (p place) String() string {
	if p.commit == 0 {
		return fmt.Sprintf("after the commit that ends at %v", p.after)
	}
	return fmt.Sprintf("after %d changes of the transaction that commits at %v", p.n, p.commit)
}

// garbledError is a message that makes no sense. The session ends, for the next one
// may be given it whole; see session.garbled.
type garbledError struct {
	place   place
	problem string
}

func (e *garbledError) Error() string {
	return fmt.Sprintf("a message of the replication stream, %v, makes no sense, it is read again: %s", e.place, e.problem)
}
