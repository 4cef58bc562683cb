package notification

// Sharing an event out among its recipients: so many a transaction, which also
// writes how far it is. So memory is bounded, whoever goes on after a crash goes on
// from there, and a cancelation waits for one transaction at most.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/failpoint"
)

// fanOutTime is how long one River job shares out before it makes place for others.
const fanOutTime = 4 * time.Second

// FanOut shares an event out, as far as it comes in some seconds; done says that
// nothing is left.
func (s *Service) FanOut(ctx context.Context, event int64) (done bool, err error) {
	until := time.Now().Add(fanOutTime)
	for time.Now().Before(until) {
		err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
			if err := dbq.New(tx).BeEngine(ctx); err != nil {
				return err
			}
			done, err = s.share(ctx, tx, event)
			failpoint.Hit("fan-out-before-commit")
			return err
		})
		if err != nil {
			return false, fmt.Errorf("fan-out of event %d: %w", event, err)
		}
		failpoint.Hit("fan-out-after-commit")
		s.changed()
		if done {
			return true, nil
		}
	}
	return false, nil
}

// WorkEvent is the River worker's part.
func (s *Service) WorkEvent(ctx context.Context, job *river.Job[EventArgs]) error {
	done, err := s.FanOut(ctx, job.Args.ID)
	if err == nil && !done {
		return river.JobSnooze(0)
	}
	return err
}

// share gives the next recipients their notifications; done says that none are left.
func (s *Service) share(ctx context.Context, tx pgx.Tx, event int64) (done bool, err error) {
	q := dbq.New(tx)
	e, err := q.LockEvent(ctx, event)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && e.Status != "pending" {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	progress := dbq.EventProgressParams{ID: event, TopicNo: e.TopicNo, TopicAfter: e.TopicAfter}
	var singles []recipient
	var topics []topicRef
	if err := errors.Join(json.Unmarshal(e.Recipients, &singles), json.Unmarshal(e.Topics, &topics)); err != nil {
		return false, err
	}
	switch {
	case len(singles) > 0:
		progress.RecipientsDone = true
		progress.Made, err = s.shareSingles(ctx, q, &e, singles)
	case int(e.TopicNo) < len(topics):
		err = s.shareTopic(ctx, q, &e, topics[e.TopicNo], &progress)
	case e.Broadcast:
		done, err = s.shareAll(ctx, q, &e, &progress)
	}
	if err != nil {
		return false, err
	}
	if !e.Broadcast {
		done = int(progress.TopicNo) >= len(topics)
	}
	if err := q.EventProgress(ctx, progress); err != nil {
		return false, err
	}
	if done {
		return true, q.EventDone(ctx, event)
	}
	return false, nil
}

func (s *Service) shareSingles(ctx context.Context, q *dbq.Queries, e *dbq.LockEventRow, singles []recipient) (int64, error) {
	numbers, err := s.upsert(ctx, q, e.OrganizationID, singles)
	if err != nil {
		return 0, err
	}
	p := dbq.MakeNotificationsParams{EventID: e.ID}
	for _, r := range singles {
		p.Nos, p.Ids = append(p.Nos, numbers[r.SubscriberID]), append(p.Ids, r.SubscriberID)
	}
	made, err := q.MakeNotifications(ctx, p)
	return int64(made), err
}

func (s *Service) shareTopic(ctx context.Context, q *dbq.Queries, e *dbq.LockEventRow, topic topicRef, progress *dbq.EventProgressParams) error {
	next := func() { progress.TopicNo, progress.TopicAfter = e.TopicNo+1, 0 }
	id, err := q.FindTopic(ctx, dbq.FindTopicParams{OrganizationID: e.OrganizationID, Key: topic.TopicKey})
	if errors.Is(err, pgx.ErrNoRows) {
		text := fmt.Sprintf("Topic with key %s not found in current environment", topic.TopicKey)
		if err := q.InsertFailure(ctx, dbq.InsertFailureParams{EventID: e.ID, TopicKey: topic.TopicKey, Detail: text}); err != nil {
			return err
		}
		if e.Error != nil {
			text = *e.Error + "; " + text
		}
		progress.Error = &text
		next()
		return nil
	}
	if err != nil {
		return err
	}
	without := topic.Exclude
	if without == nil {
		without = []string{}
	}
	if e.Actor != nil {
		without = append(without, *e.Actor)
	}
	members, err := q.TopicMembers(ctx, dbq.TopicMembersParams{TopicID: id, After: e.TopicAfter, Most: int64(s.chunk()), Without: without})
	if err != nil {
		return err
	}
	p := dbq.MakeNotificationsParams{EventID: e.ID, Topic: &topic.TopicKey}
	for _, m := range members {
		progress.TopicAfter = m.ID
		if !m.LeftOut {
			p.Nos, p.Ids = append(p.Nos, m.SubscriberNo), append(p.Ids, m.SubscriberID)
		}
	}
	if len(p.Nos) > 0 {
		made, err := q.MakeNotifications(ctx, p)
		if err != nil {
			return err
		}
		progress.Made = int64(made)
	}
	if len(members) < s.chunk() {
		next()
	}
	return nil
}

func (s *Service) shareAll(ctx context.Context, q *dbq.Queries, e *dbq.LockEventRow, progress *dbq.EventProgressParams) (done bool, err error) {
	rows, err := q.AllSubscribers(ctx, dbq.AllSubscribersParams{OrganizationID: e.OrganizationID, After: e.TopicAfter, Most: int64(s.chunk())})
	if err != nil {
		return false, err
	}
	p := dbq.MakeNotificationsParams{EventID: e.ID}
	for _, r := range rows {
		progress.TopicAfter = r.ID
		p.Nos, p.Ids = append(p.Nos, r.ID), append(p.Ids, r.SubscriberID)
	}
	if len(rows) > 0 {
		made, err := q.MakeNotifications(ctx, p)
		if err != nil {
			return false, err
		}
		progress.Made = int64(made)
	}
	return len(rows) < s.chunk(), nil
}

// upsert makes or changes subscribers and gives their numbers.
func (s *Service) upsert(ctx context.Context, q *dbq.Queries, organization string, list []recipient) (map[string]int64, error) {
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	if err := q.UpsertSubscribers(ctx, dbq.UpsertSubscribersParams{OrganizationID: organization, Recipients: raw}); err != nil {
		return nil, fmt.Errorf("subscribers: %w", err)
	}
	var ids, unset []string
	for _, r := range list {
		ids = append(ids, r.SubscriberID)
		if r.EmailNull {
			unset = append(unset, r.SubscriberID)
		}
	}
	if len(unset) > 0 {
		if err := q.UnsetEmails(ctx, dbq.UnsetEmailsParams{OrganizationID: organization, Ids: unset}); err != nil {
			return nil, fmt.Errorf("subscribers: %w", err)
		}
	}
	for _, r := range list {
		if len(r.Channels) == 0 {
			continue
		}
		if err := MergeSubscriberChannels(ctx, q, organization, r.SubscriberID, r.Channels, true); err != nil {
			return nil, err
		}
	}
	rows, err := q.SubscriberNumbers(ctx, dbq.SubscriberNumbersParams{OrganizationID: organization, Ids: ids})
	if err != nil {
		return nil, fmt.Errorf("subscribers: %w", err)
	}
	numbers := make(map[string]int64, len(rows))
	for _, r := range rows {
		numbers[r.SubscriberID] = r.ID
	}
	for _, id := range ids {
		if numbers[id] == 0 {
			return nil, fmt.Errorf("subscriber %q was deleted meanwhile", id)
		}
	}
	return numbers, nil
}

// MergeSubscriberChannels adds credentials to a subscriber's.
func MergeSubscriberChannels(ctx context.Context, q *dbq.Queries, organization, id string, channels json.RawMessage, union bool) error {
	have, err := q.SubscriberChannels(ctx, dbq.SubscriberChannelsParams{OrganizationID: organization, SubscriberID: id})
	if err != nil {
		return err
	}
	merged, err := MergeChannels(have, channels, union)
	if err != nil {
		return err
	}
	return q.SetSubscriberChannels(ctx, dbq.SetSubscriberChannelsParams{OrganizationID: organization, SubscriberID: id, Channels: merged})
}

// UpsertSubscriber makes or changes one subscriber from its wire form, and says
// whether the document could be one.
func (s *Service) UpsertSubscriber(ctx context.Context, q *dbq.Queries, organization string, raw json.RawMessage) (id string, err error) {
	r, ok := readSubscriber(raw)
	if !ok {
		return "", unprocessable("subscriberId", "subscriberId is missing: name the subscriber by your own id")
	}
	_, err = s.upsert(ctx, q, organization, []recipient{*r})
	return r.SubscriberID, err
}
