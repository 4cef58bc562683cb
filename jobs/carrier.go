package jobs

// River's part: the jobs that carry work to a worker. A carrier is only a
// knock on the door: what is to be done, and whether it is still to be done, stands
// in pgautomate's own rows. A second carrier for the same action finds it taken
// and does nothing. Args are small: River keeps an index over them.

import (
	"context"
	"time"

	"github.com/riverqueue/river"
)

// FiringQueue is the River queue of trigger firings; every other queue is named
// by the action type it runs. UnknownQueue takes actions of types that no worker
// knows, to fail them with a clear word.
const (
	FiringQueue  = "firings"
	UnknownQueue = "unknown"
)

// ActionArgs carries one action, from the scheduler to the worker of its type.
type ActionArgs struct {
	ID int64 `json:"id"`
}

// Kind is River's name for it.
func (ActionArgs) Kind() string { return "action" }

// FiringArgs carries one trigger firing, from the feed's transaction to the
// worker that carries out the trigger's action.
type FiringArgs struct {
	ID int64     `json:"id"`
	At time.Time `json:"at"` // committed_at: which partition
}

// Kind is River's name for it.
func (FiringArgs) Kind() string { return "firing" }

// ObjectGoneArgs ends the runs of leads whose rows were deleted or left their
// organization; at most 1,000 ids a job.
//
// No organization: whose row it was isn't known, and its id is nobody else's.
type ObjectGoneArgs struct {
	OrganizationID string   `json:"organization_id"`
	ObjectType     string   `json:"object_type"`
	IDs            []string `json:"ids"`
	Reason         string   `json:"reason"` // object_deleted or left_organization
}

// Kind is River's name for it.
func (ObjectGoneArgs) Kind() string { return "object_gone" }

// ObjectRenamedArgs lets runs follow a lead whose id changed.
type ObjectRenamedArgs struct {
	OrganizationID string `json:"organization_id"`
	ObjectType     string `json:"object_type"`
	OldID          string `json:"old_id"`
	NewID          string `json:"new_id"`
}

// Kind is River's name for it.
func (ObjectRenamedArgs) Kind() string { return "object_renamed" }

// RepliedArgs wakes the waits of leads that have replied; at most 1,000 ids a job.
type RepliedArgs struct {
	OrganizationID string   `json:"organization_id"`
	ObjectType     string   `json:"object_type"`
	IDs            []string `json:"ids"`
}

// Kind is River's name for it.
func (RepliedArgs) Kind() string { return "replied" }

// carrierTimeout bounds firings and their like: a few statements each. River
// gives such a job to another worker some seconds after its process died.
const carrierTimeout = 10 * time.Second

// worker makes a River worker of a function.
type worker[A river.JobArgs] struct {
	river.WorkerDefaults[A]

	timeout time.Duration
	work    func(ctx context.Context, job *river.Job[A]) error
}

func (w *worker[A]) Work(ctx context.Context, job *river.Job[A]) error { return w.work(ctx, job) }

func (w *worker[A]) Timeout(*river.Job[A]) time.Duration { return w.timeout }

// NextRetry runs what failed or was rescued again soon: the carriers' work is
// idempotent and short.
func (w *worker[A]) NextRetry(job *river.Job[A]) time.Time {
	wait := min(time.Duration(job.Attempt*job.Attempt)*250*time.Millisecond, time.Minute)
	return time.Now().Add(wait)
}

// Work is what the workers do for each kind of carrier.
type Work struct {
	Action        func(ctx context.Context, id int64) error
	Firing        func(ctx context.Context, job *river.Job[FiringArgs]) error
	ObjectGone    func(ctx context.Context, job *river.Job[ObjectGoneArgs]) error
	ObjectRenamed func(ctx context.Context, job *river.Job[ObjectRenamedArgs]) error
	Replied       func(ctx context.Context, job *river.Job[RepliedArgs]) error
}

// AddWorker registers one more kind with River, bounded in time as the others are.
func AddWorker[A river.JobArgs](all *river.Workers, work func(ctx context.Context, job *river.Job[A]) error) {
	river.AddWorker(all, &worker[A]{timeout: carrierTimeout, work: work})
}

// Workers registers all kinds with River. Every process registers all of them,
// whichever queues it works: River's leader discards what it doesn't know.
// actionTimeout is the longest that one attempt of an action may take.
func Workers(w Work, actionTimeout time.Duration) *river.Workers {
	all := river.NewWorkers()
	river.AddWorker(all, &worker[ActionArgs]{
		// Longer than the action's own limit: its outcome is written under this one too.
		timeout: actionTimeout + time.Minute,
		work: func(ctx context.Context, job *river.Job[ActionArgs]) error {
			return w.Action(ctx, job.Args.ID)
		},
	})
	river.AddWorker(all, &worker[FiringArgs]{timeout: carrierTimeout, work: w.Firing})
	river.AddWorker(all, &worker[ObjectGoneArgs]{timeout: carrierTimeout, work: w.ObjectGone})
	river.AddWorker(all, &worker[ObjectRenamedArgs]{timeout: carrierTimeout, work: w.ObjectRenamed})
	river.AddWorker(all, &worker[RepliedArgs]{timeout: carrierTimeout, work: w.Replied})
	return all
}
