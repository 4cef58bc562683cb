package jobs

// When an action that failed runs again: the four kinds of error, and the wait
// between attempts. Both are pure, so that the engine, the tests and a dry run
// agree.

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// The wait between attempts: BackoffBase after the first failure, doubled with
// each further one, at most BackoffCap, then BackoffJitter of it more or less so
// that actions which failed together don't come back together.
const (
	BackoffBase   = 2 * time.Second
	BackoffCap    = 10 * time.Minute
	BackoffJitter = 0.1
)

// Backoff is how long to wait after attempt (1 for the first) failed.
func Backoff(attempt int) time.Duration {
	return BackoffAt(attempt, rand.Float64()) //nolint:gosec // spreads load, protects nothing
}

// BackoffAt is Backoff with the jitter given: 0 for the shortest wait, just
// under 1 for the longest.
func BackoffAt(attempt int, jitter float64) time.Duration {
	wait := BackoffBase
	for i := 1; i < attempt && wait < BackoffCap; i++ {
		wait *= 2
	}
	wait = min(wait, BackoffCap)
	return time.Duration(float64(wait) * (1 + BackoffJitter*(2*jitter-1)))
}

// ErrorClass is what an error means for the next attempt.
type ErrorClass int

// The classes of errors.
const (
	ClassNone       ErrorClass = iota // no error
	ClassTransient                    // again after Backoff, an attempt is used
	ClassPermanent                    // never again
	ClassRetryAfter                   // again after the time given, no attempt is used
	ClassNotVisible                   // again soon, no attempt is used, for a bounded time
	ClassStopped                      // the worker was told to stop: again at once, no attempt is used
)

func (c ErrorClass) String() string {
	switch c {
	case ClassNone:
		return "none"
	case ClassTransient:
		return "transient"
	case ClassPermanent:
		return "permanent"
	case ClassRetryAfter:
		return "retry_after"
	case ClassNotVisible:
		return "not_visible"
	case ClassStopped:
		return "stopped"
	default:
		return "unknown"
	}
}

// Classify tells what a handler's error means, and for ClassRetryAfter how long
// to wait. An error marked Permanent is permanent whatever it wraps. An error
// that comes from the end of the handler's own time limit is transient; only
// context.Canceled means that the worker stops.
func Classify(err error) (ErrorClass, time.Duration) {
	var permanent *PermanentError
	var after *RetryAfterError
	switch {
	case err == nil:
		return ClassNone, 0
	case errors.As(err, &permanent):
		return ClassPermanent, 0
	case errors.As(err, &after):
		return ClassRetryAfter, max(0, after.After)
	case errors.Is(err, ErrNotVisible):
		return ClassNotVisible, 0
	case errors.Is(err, context.Canceled):
		return ClassStopped, 0
	default:
		return ClassTransient, 0
	}
}
