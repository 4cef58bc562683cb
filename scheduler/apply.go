package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// Applied says what became of the leads in a pipeline whose newest version was
// applied to them.
type Applied struct {
	Applied int `json:"applied" doc:"Leads that have the newest version's actions now."`
	Kept    int `json:"kept" doc:"Leads that are as they were: nothing changed for them, or an action was under way."`
	MovedOn int `json:"moved_on" doc:"Leads that waited for what the newest version has no more, and went on from there."`
}

// applyChunk is how many leads one transaction deals with.
const applyChunk = 500

// Apply gives the parked leads of a pipeline the newest version of the stage that
// they are in. Those that go on because of it do so at most perMinute a minute (0:
// at once). It can be done again at any time; broken off, it has been done for some.
//
// What a lead waits for stays as it is when the newest version has the very same
// action; one of the same type in the same place takes its place, a wait's time
// counted from when the wait began. Is it gone, the lead goes on from that place.
func Apply(ctx context.Context, pool *pgxpool.Pool, pipeline int64, perMinute int) (Applied, error) {
	var done Applied
	q := dbq.New(pool)
	total, err := q.ActiveInPipeline(ctx, pipeline)
	if err != nil {
		return done, fmt.Errorf("leads in the pipeline: %w", err)
	}
	for after := int64(0); ; {
		var last int64
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
			c := applying{q: dbq.New(tx), perMinute: perMinute, done: &done, newest: map[int64][]newAction{}}
			last, err = c.chunk(ctx, pipeline, after)
			return err
		})
		if err != nil {
			return done, fmt.Errorf("apply: %w", err)
		}
		if last == 0 {
			break
		}
		after = last
	}
	done.Kept = max(0, int(total)-done.Applied-done.MovedOn)
	return done, nil
}

// newAction is an action of the newest version.
type newAction struct {
	actionType  string
	params      json.RawMessage
	maxAttempts int32
}

// applying is one chunk: what is to be written.
type applying struct {
	q         *dbq.Queries
	perMinute int
	done      *Applied
	newest    map[int64][]newAction // by stage

	superseded []int64
	replace    dbq.ReplaceActionsParams
	add        dbq.AddActionsParams
	advance    []int64
	spread     dbq.SpreadActionsParams
}

func (c *applying) chunk(ctx context.Context, pipeline, after int64) (last int64, err error) {
	if err := c.q.BeEngine(ctx); err != nil {
		return 0, err
	}
	newest, err := c.q.NewestActions(ctx, pipeline)
	if err != nil {
		return 0, err
	}
	for _, a := range newest {
		c.newest[a.PipelineStageID] = append(c.newest[a.PipelineStageID], newAction{a.ActionType, a.Params, a.MaxAttempts})
	}
	stages, err := c.q.LockStagesToApply(ctx, dbq.LockStagesToApplyParams{PipelineID: pipeline, AfterID: after, Most: applyChunk})
	if err != nil || len(stages) == 0 {
		return 0, err
	}
	ids := make([]int64, len(stages))
	for i, s := range stages {
		ids[i] = s.ID
	}
	ours, err := c.q.LockActionsToApply(ctx, ids)
	if err != nil {
		return 0, err
	}
	held := make(map[int64]bool, len(ours))
	for _, id := range ours {
		held[id] = true
	}
	rows, err := c.q.ActionsToApply(ctx, ids)
	if err != nil {
		return 0, err
	}
	of := make(map[int64][]dbq.ActionsToApplyRow, len(stages))
	for _, r := range rows {
		of[*r.LeadStageID] = append(of[*r.LeadStageID], r)
	}
	for _, s := range stages {
		c.lead(s, of[s.ID], held)
	}
	return ids[len(ids)-1], c.write(ctx)
}

// lead decides for one lead.
func (c *applying) lead(s dbq.LockStagesToApplyRow, actions []dbq.ActionsToApplyRow, held map[int64]bool) {
	at := slices.IndexFunc(actions, func(a dbq.ActionsToApplyRow) bool {
		return (a.Status == "pending" || a.Status == "delayed") && a.PerformAt != nil
	})
	if at < 0 || slices.ContainsFunc(actions, func(a dbq.ActionsToApplyRow) bool {
		return a.Status == "queued" || a.Status == "running" || (a.Status == "pending" || a.Status == "delayed") && !held[a.ID]
	}) {
		return
	}
	parked := actions[at]
	var later []dbq.ActionsToApplyRow
	for _, a := range actions[at+1:] {
		if a.Status == "pending" {
			later = append(later, a)
		}
	}
	place, from := 0, s.EnteredAt // among the stage's actions, and since when it waits
	for i, a := range actions[:at] {
		if i == 0 || a.SequenceNumber != actions[i-1].SequenceNumber {
			place++
		}
		if a.FinishedAt != nil && a.Status != "canceled" {
			from = *a.FinishedAt
		}
	}
	newest := c.newest[s.PipelineStageID]
	again, same := match(newest, parked.ActionType, parked.Params, place)
	var follow []newAction
	switch {
	case again >= 0:
		follow = newest[again+1:]
		if same && equal(later, follow) {
			return // nothing is new
		}
		if !same {
			c.again(&parked, newest[again], from)
		}
		c.done.Applied++
	default:
		follow = newest[min(place, len(newest)):]
		c.superseded = append(c.superseded, parked.ID)
		c.advance = append(c.advance, s.ID)
		c.spread.LeadStageIds, c.spread.Laters = append(c.spread.LeadStageIds, s.ID), append(c.spread.Laters, c.later())
		c.done.MovedOn++
	}
	for _, a := range later {
		c.superseded = append(c.superseded, a.ID)
	}
	for i, n := range follow {
		p := &c.add
		p.LeadStageIds, p.SequenceNumbers = append(p.LeadStageIds, s.ID), append(p.SequenceNumbers, parked.SequenceNumber+int32(i)+1)
		p.ActionTypes, p.Params, p.MaxAttempts = append(p.ActionTypes, n.actionType), append(p.Params, n.params), append(p.MaxAttempts, n.maxAttempts)
	}
}

// again lets what a lead waits for be done with other parameters.
func (c *applying) again(parked *dbq.ActionsToApplyRow, n newAction, from time.Time) {
	if parked.WaitsFrom != nil {
		from = *parked.WaitsFrom
	}
	anew := parked.Status == "delayed" || parked.Timer
	later := 0.0
	if anew {
		later = c.later()
	}
	p := &c.replace
	p.Ids, p.Params, p.MaxAttempts = append(p.Ids, parked.ID), append(p.Params, n.params), append(p.MaxAttempts, n.maxAttempts)
	p.Anews, p.WaitsFroms, p.Laters = append(p.Anews, anew), append(p.WaitsFroms, from), append(p.Laters, later)
}

// later is how many seconds from now the next lead may go on.
func (c *applying) later() float64 {
	if c.perMinute <= 0 {
		return 0
	}
	return float64(c.done.Applied+c.done.MovedOn) * 60 / float64(c.perMinute)
}

// match finds in the newest version what a lead waits for: the very same action,
// nearest to its place, else the one of the same type in its place.
func match(newest []newAction, actionType string, params json.RawMessage, place int) (at int, same bool) {
	at = -1
	distance := func(i int) int { return max(i-place, place-i) }
	for i, n := range newest {
		if n.actionType == actionType && bytes.Equal(n.params, params) && (at < 0 || distance(i) < distance(at)) {
			at = i
		}
	}
	if at >= 0 {
		return at, true
	}
	if place < len(newest) && newest[place].actionType == actionType {
		return place, false
	}
	return -1, false
}

func equal(later []dbq.ActionsToApplyRow, follow []newAction) bool {
	return slices.EqualFunc(later, follow, func(a dbq.ActionsToApplyRow, n newAction) bool {
		return a.ActionType == n.actionType && bytes.Equal(a.Params, n.params)
	})
}

func (c *applying) write(ctx context.Context) error {
	if len(c.superseded) > 0 {
		if err := c.q.SupersedeActions(ctx, c.superseded); err != nil {
			return err
		}
	}
	if len(c.add.LeadStageIds) > 0 {
		if err := c.q.AddActions(ctx, c.add); err != nil {
			return err
		}
	}
	if len(c.replace.Ids) > 0 {
		rows, err := c.q.ReplaceActions(ctx, c.replace)
		if err != nil {
			return err
		}
		var signal dbq.SignalParams
		for _, r := range rows {
			signal.OrganizationIds, signal.ActionTypes = append(signal.OrganizationIds, r.OrganizationID), append(signal.ActionTypes, r.ActionType)
			signal.PerformAts = append(signal.PerformAts, *r.PerformAt)
		}
		if err := c.q.Signal(ctx, signal); err != nil {
			return err
		}
	}
	if len(c.advance) == 0 {
		return nil
	}
	if err := c.q.Advance(ctx, c.advance); err != nil {
		return err
	}
	if c.perMinute <= 0 {
		return nil
	}
	return c.q.SpreadActions(ctx, c.spread)
}
