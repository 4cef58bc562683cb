package notification

// Digests and delays. All that decides about a window happens with its group's row
// locked, in the transaction that writes the job's outcome: who opens it, who is
// merged into it, what it holds when it ends, who takes it over.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

func internal(detail string) *jobs.Records {
	return &jobs.Records{Details: []jobs.Detail{{Status: "Pending", Detail: detail, Source: "Internal"}}}
}

var canceledResult = jobs.Result{Status: jobs.StatusCanceled, Reason: "canceled"}

// digestKey is the value that an event is grouped by; "" without one.
func (r *run) digestKey(s settings) string {
	if s.DigestKey == "" {
		return ""
	}
	value, there := lookup(r.payload, s.DigestKey)
	if !there || value == nil {
		return ""
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(raw)
}

// decideDigest lets an event open a window, or merges it into the one that is open.
func (r *run) decideDigest(ctx context.Context, tx pgx.Tx) (jobs.Result, error) {
	q := dbq.New(tx)
	settings := parseSettings("digest", r.job.Settings)
	n, err := q.LockNotification(ctx, r.job.NotificationID)
	if err != nil {
		return jobs.Result{}, err
	}
	if n.Canceled {
		return canceledResult, nil
	}
	group, err := q.LockDigestGroup(ctx, dbq.LockDigestGroupParams{
		WorkflowID: r.job.WorkflowID, StepID: r.job.StepID, SubscriberNo: r.job.SubscriberNo, DigestKey: r.digestKey(settings),
	})
	if err != nil {
		return jobs.Result{}, err
	}
	if err := q.JoinDigestGroup(ctx, dbq.JoinDigestGroupParams{ID: r.job.ID, DigestGroup: group.ID}); err != nil {
		return jobs.Result{}, err
	}
	if settings.Type == "backoff" {
		seen, err := q.DigestSeenWithin(ctx, dbq.DigestSeenWithinParams{
			DigestGroup: group.ID, ID: r.job.ID, Since: settings.LookBack.before(r.job.CreatedAt, r.zone),
		})
		if err != nil {
			return jobs.Result{}, err
		}
		if !seen {
			return jobs.Result{Status: jobs.StatusSkipped, Reason: "backoff", Records: internal("Digest was skipped first backoff event")}, nil
		}
	}
	if group.MasterJobID != nil {
		if result, err := r.merge(ctx, q, &group); result != nil || err != nil {
			if err != nil {
				return jobs.Result{}, err
			}
			return *result, nil
		}
	}
	ends, err := r.windowEnd(settings)
	if err != nil {
		return jobs.Result{}, jobs.Permanent(err)
	}
	err = q.OpenWindow(ctx, dbq.OpenWindowParams{ID: group.ID, MasterJobID: &r.job.ID, EndsAt: &ends})
	return jobs.Result{Until: ends, Records: internal("Step delayed")}, err
}

func (r *run) windowEnd(s settings) (time.Time, error) {
	if s.Type == "timed" {
		return s.next(r.action.Now, r.zone)
	}
	return s.Wait.after(r.action.Now, r.zone), nil
}

// merge merges this job's event into the open window; nil when there is none. The
// window belongs to the event that came first: one that was overtaken on its way
// here takes it over from a later one.
func (r *run) merge(ctx context.Context, q *dbq.Queries, group *dbq.LockDigestGroupRow) (*jobs.Result, error) {
	master, err := q.JobState(ctx, *group.MasterJobID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	switch master.Status {
	case jobs.StatusDelayed:
		if master.ID < r.job.ID {
			break
		}
		demoted, err := q.DemoteMaster(ctx, dbq.DemoteMasterParams{ID: master.ID, MergedInto: r.job.ID})
		if err != nil || demoted == 0 {
			return nil, err
		}
		err = errors.Join(
			q.MergeRest(ctx, dbq.MergeRestParams{NotificationID: master.NotificationID, AfterNumber: master.SequenceNumber, MergedInto: r.job.ID}),
			q.MergeFollowers(ctx, dbq.MergeFollowersParams{DigestGroup: group.ID, OldMaster: master.ID, NewMaster: r.job.ID}),
			q.OpenWindow(ctx, dbq.OpenWindowParams{ID: group.ID, MasterJobID: &r.job.ID, EndsAt: group.EndsAt}),
		)
		return &jobs.Result{Until: *group.EndsAt, Records: internal("Step delayed")}, err
	case jobs.StatusPending, jobs.StatusQueued, jobs.StatusRunning: // it has not closed its window yet
	default:
		return nil, nil
	}
	err = errors.Join(
		q.JoinDigestGroup(ctx, dbq.JoinDigestGroupParams{ID: r.job.ID, DigestGroup: group.ID, MergedInto: &master.ID}),
		q.MergeRest(ctx, dbq.MergeRestParams{NotificationID: r.job.NotificationID, AfterNumber: r.job.SequenceNumber, MergedInto: master.ID}),
	)
	return &jobs.Result{Status: jobs.StatusMerged, Records: internal("Digest was merged with other digest")}, err
}

// resume goes on when a delay or window has ended.
func (r *run) resume() (jobs.Result, error) {
	if r.job.Type != "digest" {
		if r.job.Canceled {
			return canceledResult, nil
		}
		return jobs.Result{Records: internal("Delay is finished")}, nil
	}
	return jobs.Result{Decide: r.closeWindow}, nil
}

// closeWindow ends a window: what was merged into it so far are its events, what
// comes later opens another.
func (r *run) closeWindow(ctx context.Context, tx pgx.Tx) (jobs.Result, error) {
	q := dbq.New(tx)
	n, err := q.LockNotification(ctx, r.job.NotificationID)
	if err != nil {
		return jobs.Result{}, err
	}
	group, err := q.LockDigestGroup(ctx, dbq.LockDigestGroupParams{
		WorkflowID: r.job.WorkflowID, StepID: r.job.StepID, SubscriberNo: r.job.SubscriberNo,
		DigestKey: r.digestKey(parseSettings("digest", r.job.Settings)),
	})
	if err != nil {
		return jobs.Result{}, err
	}
	if n.Canceled {
		return canceledResult, handOver(ctx, q, group.ID, r.job.ID, group.EndsAt)
	}
	rows, err := q.DigestEvents(ctx, dbq.DigestEventsParams{DigestGroup: group.ID, Master: r.job.ID})
	if err != nil {
		return jobs.Result{}, err
	}
	events := make([]digestEvent, len(rows))
	for i, e := range rows {
		events[i] = digestEvent{strconv.FormatInt(e.NotificationID, 10), e.CreatedAt, e.Payload}
	}
	if group.MasterJobID != nil && *group.MasterJobID == r.job.ID {
		if err := q.OpenWindow(ctx, dbq.OpenWindowParams{ID: group.ID}); err != nil {
			return jobs.Result{}, err
		}
	}
	return jobs.Result{Output: map[string]any{"events": events}, Records: internal("Digest triggered events")}, nil
}

// handOver gives the window of a digest that was canceled to its oldest follower,
// with the end that it had.
func handOver(ctx context.Context, q *dbq.Queries, group, master int64, ends *time.Time) error {
	heir, err := q.OldestFollower(ctx, dbq.OldestFollowerParams{DigestGroup: group, Master: master})
	if errors.Is(err, pgx.ErrNoRows) {
		return q.OpenWindow(ctx, dbq.OpenWindowParams{ID: group})
	}
	if err != nil {
		return err
	}
	if ends == nil {
		now := time.Now()
		ends = &now
	}
	err = errors.Join(
		q.Promote(ctx, dbq.PromoteParams{ID: heir.ID, NotificationID: heir.NotificationID, FromNumber: heir.SequenceNumber, EndsAt: *ends}),
		q.MergeFollowers(ctx, dbq.MergeFollowersParams{DigestGroup: group, OldMaster: master, NewMaster: heir.ID}),
		q.OpenWindow(ctx, dbq.OpenWindowParams{ID: group, MasterJobID: &heir.ID, EndsAt: ends}),
		q.SignalJob(ctx, heir.ID),
	)
	if err != nil {
		return fmt.Errorf("the digest's next: %w", err)
	}
	return nil
}

// decideThrottle lets a notification through unless so many have come through within
// the window; then what follows is canceled.
func (r *run) decideThrottle(ctx context.Context, tx pgx.Tx) (jobs.Result, error) {
	q := dbq.New(tx)
	s := parseSettings("throttle", r.job.Settings)
	n, err := q.LockNotification(ctx, r.job.NotificationID)
	if err != nil {
		return jobs.Result{}, err
	}
	if n.Canceled {
		return canceledResult, nil
	}
	window := s.Wait
	if s.Type == "dynamic" {
		value, _ := lookup(r.payload, s.DelayPath)
		raw, err := json.Marshal(value)
		if err != nil {
			return jobs.Result{}, jobs.Permanent(err)
		}
		window = parseSettings("throttle", raw).Wait
		if err := window.check("payload." + strings.TrimPrefix(s.DelayPath, "payload.")); err != nil {
			return jobs.Result{}, jobs.Permanent(&jobs.UnsentError{Err: err, Detail: "Invalid throttle configuration"})
		}
	}
	group, err := q.LockDigestGroup(ctx, dbq.LockDigestGroupParams{
		WorkflowID: r.job.WorkflowID, StepID: r.job.StepID, SubscriberNo: r.job.SubscriberNo, DigestKey: r.digestKey(s),
	})
	if err != nil {
		return jobs.Result{}, err
	}
	if err := q.JoinDigestGroup(ctx, dbq.JoinDigestGroupParams{ID: r.job.ID, DigestGroup: group.ID}); err != nil {
		return jobs.Result{}, err
	}
	through, err := q.LetThrough(ctx, dbq.LetThroughParams{DigestGroup: group.ID, ID: r.job.ID, Since: window.before(r.action.Now, r.zone)})
	if err != nil {
		return jobs.Result{}, err
	}
	if through < int64(max(s.Threshold, 1)) {
		return jobs.Result{Output: map[string]any{"throttled": false}, Records: internal("Step was let through")}, nil
	}
	err = q.CancelRest(ctx, dbq.CancelRestParams{NotificationID: r.job.NotificationID, AfterNumber: r.job.SequenceNumber, Reason: "throttled"})
	return jobs.Result{Status: jobs.StatusSkipped, Reason: "throttled", Records: internal("Step was throttled")}, err
}

// delay parks a job until its time.
func (r *run) delay() (jobs.Result, error) {
	until, err := r.delayEnd()
	if err != nil {
		return jobs.Result{}, jobs.Permanent(&jobs.UnsentError{Err: err, Detail: "Invalid delay configuration"})
	}
	return jobs.Result{Decide: func(ctx context.Context, tx pgx.Tx) (jobs.Result, error) {
		n, err := dbq.New(tx).LockNotification(ctx, r.job.NotificationID)
		if err != nil {
			return jobs.Result{}, err
		}
		if n.Canceled {
			return canceledResult, nil
		}
		return jobs.Result{Until: until, Records: internal("Step delayed")}, nil
	}}, nil
}

func (r *run) delayEnd() (time.Time, error) {
	s := parseSettings("delay", r.job.Settings)
	if over, ok := r.overrides["delay"].(map[string]any); ok {
		raw, err := json.Marshal(over)
		if err != nil {
			return time.Time{}, err
		}
		o := parseSettings("delay", raw)
		if o.Wait.Unit == "" {
			o.Wait.Unit = s.Wait.Unit
		}
		if err := o.Wait.check("overrides.delay"); err != nil {
			return time.Time{}, err
		}
		return o.Wait.after(r.action.PerformAt, r.zone), nil
	}
	switch s.Type {
	case "scheduled", "dynamic":
		path := "payload." + strings.TrimPrefix(s.DelayPath, "payload.")
		value, _ := lookup(r.payload, s.DelayPath)
		if span, ok := value.(map[string]any); ok && s.Type == "dynamic" {
			raw, err := json.Marshal(span)
			if err != nil {
				return time.Time{}, err
			}
			d := parseSettings("delay", raw)
			if err := d.Wait.check(path); err != nil {
				return time.Time{}, err
			}
			return d.Wait.after(r.action.PerformAt, r.zone), nil
		}
		at, ok := instant(value)
		if !ok {
			return time.Time{}, fmt.Errorf("%s is no ISO 8601 instant", path)
		}
		if !at.After(r.action.Now) {
			return time.Time{}, fmt.Errorf("%s is in the past: %s", path, at.Format(time.RFC3339))
		}
		if at.Sub(r.action.Now) > longest {
			return time.Time{}, fmt.Errorf("%s is too far away: %s", path, at.Format(time.RFC3339))
		}
		return at, nil
	case "timed":
		return s.next(r.action.Now, r.zone)
	default:
		if err := s.Wait.check("delay"); err != nil {
			return time.Time{}, err
		}
		return s.Wait.after(r.action.PerformAt, r.zone), nil
	}
}
