package feed

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"github.com/pgautomate/pgautomate/change"
)

// This file is the look ahead: an Applier that keeps a copy of rows can only
// read them as they are now, which is ahead of the checkpoint by what is yet to
// be read from the stream. So it reads that once, before it is applied, and
// learns from the rows before each change how they were at the checkpoint.

// ErrAgain is what Apply returns, having committed nothing, to be given the
// commits since the checkpoint once more on a new connection, after LookAhead
// was asked.
var ErrAgain = errors.New("the stream is wanted again from the checkpoint")

// Ahead is implemented by an Applier that wants to read ahead.
type Ahead interface {
	// LookAhead is called at the start of every connection, with the slot held, so
	// that nobody else moves the checkpoint. It may take long. nil: nothing is
	// wanted.
	LookAhead(ctx context.Context, checkpoint change.EndLSN) (*LookAhead, error)
}

// LookAhead is a stretch of the stream to be read without being applied.
type LookAhead struct {
	// Until is a position in the log that a commit is known to follow, e.g. that
	// of a transactional message. The stretch ends with that commit.
	Until change.LSN

	// Commit is given each commit of the stretch, as Apply would be; a commit
	// whose Large is set can be read until it returns.
	Commit func(*change.Commit) error

	// Done is called when all were given. The stream is read from the checkpoint
	// then.
	Done func() error
}

var errAheadRead = errors.New("read ahead")

// lookAhead asks the applier and reads what it wants. When it gives true, the
// connection is used up.
func (s *session) lookAhead(ctx context.Context, checkpoint change.EndLSN) (bool, error) {
	applier, ok := s.f.cfg.Applier.(Ahead)
	if !ok {
		return false, nil
	}
	var look *LookAhead
	err := s.while(ctx, func() (err error) {
		look, err = applier.LookAhead(ctx, checkpoint)
		return err
	})
	if err != nil || look == nil {
		return false, err
	}
	s.f.log.Debug("feed looks ahead", "from", checkpoint, "until", look.Until)
	s.ahead = look
	defer context.AfterFunc(ctx, s.stop)()
	if err := s.sendStatus(ctx); err != nil {
		return false, err
	}
	if err := s.read(ctx); !errors.Is(err, errAheadRead) {
		return false, err
	}
	if err := s.while(ctx, look.Done); err != nil {
		return false, err
	}
	if _, err := pglogrepl.SendStandbyCopyDone(ctx, s.conn); err != nil {
		return true, fmt.Errorf("end the look ahead: %w", err)
	}
	return true, nil
}

// commitAhead takes a whole transaction of the stretch.
func (s *session) commitAhead(ctx context.Context, c *change.Commit, nothing bool) error {
	if c.End > s.skipTo && !nothing {
		if err := s.while(ctx, func() error { return s.ahead.Commit(c) }); err != nil {
			return err
		}
	}
	if large, ok := c.Large.(*spill); ok {
		s.spills.close(large)
	}
	if change.LSN(c.End) > s.ahead.Until {
		return errAheadRead
	}
	if s.registry {
		return s.reload(ctx)
	}
	return nil
}
