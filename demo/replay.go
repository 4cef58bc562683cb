package demo

// The replay of an event log: one commit an event, in the log's order, on one connection.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/catalog"
)

// logOrganization is whose leads a log's cases are.
const logOrganization = "replay"

// replayWindow is how many events are under way to the server at once. Each is a transaction of its own nonetheless.
const replayWindow = 512

// setUpLog makes the table of a log's cases, and a trigger for each activity.
func setUpLog(ctx context.Context, pool *pgxpool.Pool, schema string, events []Event) error {
	if _, err := pool.Exec(ctx, script("log.sql")); err != nil {
		return fmt.Errorf("the table of cases: %w", err)
	}
	o := catalog.WatchOptions{Table: schema + ".lead", As: "lead", Organization: "organization_id"}
	if _, _, err := catalog.Watch(ctx, pool, o, false); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, statements["put_organization"], logOrganization, "Replay", "UTC"); err != nil {
		return fmt.Errorf("organization: %w", err)
	}
	var triggers []triggerRow
	for _, activity := range Activities(events) {
		// A message without a template, so that the action reads no row: what is shown is the way of the row.
		triggers = append(triggers, triggerRow{
			Organization: logOrganization, Name: activity, ObjectType: "lead", Query: when("lead", field("status", isOneOf(activity))),
			ActionType: "log", ActionParams: object{"message": "the case is in this status now"},
		})
	}
	return putTriggers(ctx, pool, triggers)
}

// replayLog writes the events; wrote is told of each batch that is committed. speed is a multiple of the log's own time, 0
// as fast as it goes.
func replayLog(ctx context.Context, conn *pgx.Conn, events []Event, speed float64, wrote func(changes int64)) error {
	// Nobody is told of a commit before the engine has it, so there is no need to wait for the disk.
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off"); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	for _, name := range []string{"first_event", "next_event"} {
		if _, err := conn.Prepare(ctx, name, statements[name]); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	known := make(map[string]struct{}, len(events)/4)
	start := time.Now()
	for at := 0; at < len(events); {
		n := min(replayWindow, len(events)-at)
		if speed > 0 {
			due := func(i int) time.Time {
				return start.Add(time.Duration(float64(events[i].At.Sub(events[0].At)) / speed))
			}
			if err := pause(ctx, time.Until(due(at))); err != nil {
				return err
			}
			now := time.Now()
			for i := 1; i < n; i++ {
				if due(at + i).After(now) {
					n = i
					break
				}
			}
		}
		if err := writeEvents(ctx, conn.PgConn(), events[at:at+n], known); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		at += n
		wrote(int64(n))
	}
	return nil
}

// writeEvents sends the events without waiting for each other's answers. The sync after each ends its transaction, so that
// each is a commit, and they commit in order.
func writeEvents(ctx context.Context, conn *pgconn.PgConn, events []Event, known map[string]struct{}) error {
	p := conn.StartPipeline(ctx)
	for _, e := range events {
		at := []byte(e.At.UTC().Format("2006-01-02 15:04:05.999999Z07:00"))
		if _, ok := known[e.Case]; ok {
			p.SendQueryPrepared("next_event", [][]byte{[]byte(e.Case), []byte(e.Activity), at}, nil, nil)
		} else {
			known[e.Case] = struct{}{}
			p.SendQueryPrepared("first_event", [][]byte{[]byte(e.Case), []byte(logOrganization), []byte(e.Activity), at}, nil, nil)
		}
		p.SendPipelineSync()
	}
	if err := p.Flush(); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for synced := 0; synced < len(events); {
		answer, err := p.GetResults()
		if err != nil {
			_ = p.Close()
			return err
		}
		switch answer := answer.(type) {
		case *pgconn.ResultReader:
			if _, err := answer.Close(); err != nil {
				_ = p.Close()
				return err
			}
		case *pgconn.PipelineSync:
			synced++
		}
	}
	return p.Close()
}
