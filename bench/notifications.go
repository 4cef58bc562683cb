package bench

// What notifications cost: a topic's members each get one of three steps, from the
// trigger to the last one's end; and the sharing out alone, with its memory.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/notification"
)

const (
	notificationSteps = 3
	plainBatch        = 1000 // notifications
)

func notifications(ctx context.Context, r *run) error {
	for _, f := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"triggers_accepted", r.accepted}, {"notification_3_steps", r.threeSteps},
		{"topic_10000", func(ctx context.Context) error { return r.fanOut(ctx, "topic_10000", r.topic) }},
		{"fan_out", func(ctx context.Context) error { return r.fanOut(ctx, "fan_out", r.members) }},
	} {
		if !r.wanted(f.name) {
			continue
		}
		if err := f.measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// triggering is how many clients trigger at one time, and connections write the same rows.
const triggering = 16

// accepted measures triggers over HTTP, beside the rows that each leaves, written in a transaction each.
func (r *run) accepted(ctx context.Context) error {
	var t turns
	for i := range r.reps {
		d, err := r.notified(ctx, fmt.Sprintf("accepted_%d", i), r.leads)
		if err != nil {
			return err
		}
		accepted, err := r.triggersOverHTTP(ctx, d)
		if err != nil {
			return err
		}
		written, err := r.manyAtOnce(ctx, func(ctx context.Context, n int) error {
			_, err := d.pool.Exec(ctx, statements["trigger_by_hand"], fmt.Sprintf("by hand %d", n), fmt.Sprintf("subscriber-%d", 1+n%r.leads))
			return err
		})
		if err != nil {
			return err
		}
		t.add(accepted, written)
	}
	return r.add(t.into(Figure{
		Name: "triggers_accepted", Unit: "triggers/s", ReferenceName: "the rows of each written by one statement, as many connections", Reach: 0.5,
		Conditions: fmt.Sprintf("POST /v1/events/trigger for one known subscriber, until the answer, %d clients; an event, a notification and three jobs each, in one transaction; "+
			"clients and server on the database's CPUs", triggering),
	}))
}

// triggersOverHTTP gives the triggers/s that a server accepts; nothing carries them out meanwhile.
func (r *run) triggersOverHTTP(ctx context.Context, d *database) (float64, error) {
	e, err := pgautomate.New(ctx, pgautomate.Config{DatabaseURL: d.url, Logger: r.Logger, Parts: []pgautomate.Part{pgautomate.SchedulerPart, pgautomate.WorkersPart}})
	if err != nil {
		return 0, err
	}
	defer e.Close()
	if err := e.Prepare(ctx); err != nil {
		return 0, err
	}
	api, key, err := r.Serve(ctx, e, notifiedOrg)
	if err != nil {
		return 0, err
	}
	site := httptest.NewServer(api)
	defer site.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: triggering}}
	defer client.CloseIdleConnections()
	return r.manyAtOnce(ctx, func(ctx context.Context, n int) error {
		body := fmt.Sprintf(`{"name":"late","to":{"subscriberId":"subscriber-%d"},"payload":{"n":1}}`, 1+n%r.leads)
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, site.URL+"/v1/events/trigger", strings.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "ApiKey "+key)
		request.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		said, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusCreated {
			err = fmt.Errorf("a trigger was answered with %s: %s", answer.Status, said)
		}
		return err
	})
}

// manyAtOnce does something over and over, by several at one time, and gives how often a second.
func (r *run) manyAtOnce(ctx context.Context, do func(ctx context.Context, n int) error) (float64, error) {
	var n atomic.Int64
	g, over := errgroup.WithContext(ctx)
	began := time.Now()
	for range triggering {
		g.Go(func() error {
			for time.Since(began) < r.phase {
				if err := do(over, int(n.Add(1))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), err
}

func (r *run) threeSteps(ctx context.Context) error {
	var t turns
	var sets []float64
	for i := range r.reps {
		d, err := r.notified(ctx, fmt.Sprintf("notified_%d", i), r.leads)
		if err != nil {
			return err
		}
		value := 0.0
		err = r.withEngine(ctx, d, func(e *pgautomate.Engine) error {
			// A fifth goes before, so that the server knows the tables as it would have come to know them.
			if err := triggered(ctx, d, e, "steps", "fifth"); err != nil {
				return err
			}
			if err := d.run(ctx, "VACUUM (ANALYZE)"); err != nil {
				return err
			}
			began := time.Now()
			err := triggered(ctx, d, e, "steps", "all")
			value = float64(r.leads) / time.Since(began).Seconds()
			return err
		})
		if err != nil {
			return err
		}
		var left int
		if err := d.pool.QueryRow(ctx, statements["not_notified"]).Scan(&left); err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("%d jobs of notifications are not completed", left)
		}
		plain, err := r.notified(ctx, fmt.Sprintf("notified_plainly_%d", i), r.leads)
		if err != nil {
			return err
		}
		rows, set := 0.0, 0.0
		for _, by := range []struct {
			rate  *float64
			write func(ctx context.Context, d *database, first, last int) error
		}{{&rows, notifyByRows}, {&set, func(ctx context.Context, d *database, first, last int) error {
			return d.exec(ctx, "notified_plainly", first, last)
		}}} {
			began := time.Now()
			for first := 0; first < r.leads; first += plainBatch {
				if err := by.write(ctx, plain, first, min(first+plainBatch, r.leads)); err != nil {
					return err
				}
			}
			*by.rate = float64(r.leads) / time.Since(began).Seconds()
		}
		t.add(value, rows)
		sets = append(sets, set)
	}
	return r.add(t.into(Figure{
		Name: "notification_3_steps", Unit: "notifications/s", ReferenceName: fmt.Sprintf("its rows, as they are in the end, by an INSERT each, sent in batches of %s notifications, a transaction each", number(plainBatch)), Reach: 0.3,
		Conditions: fmt.Sprintf("a workflow of %d in-app steps triggered for a topic of %d members, from the trigger to the end of the last step: a notification, four jobs and three messages each; "+
			"%d workers, one process on the server's CPUs; one INSERT ... SELECT for all rows of %s notifications writes %s a second",
			notificationSteps, r.leads, r.workers, number(plainBatch), number(median(sets))),
	}))
}

// notifyByRows writes the rows of notifications as an app would that has them: a batch of statements, in a transaction.
func notifyByRows(ctx context.Context, d *database, first, last int) error {
	var workflow int64
	var steps []int64
	if err := d.pool.QueryRow(ctx, statements["steps_of"]).Scan(&workflow, &steps); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		var event int64
		transaction := fmt.Sprintf("by rows %d", first)
		if err := tx.QueryRow(ctx, statements["insert_event"], notifiedOrg, workflow, transaction, steps, last-first).Scan(&event); err != nil {
			return err
		}
		var batch pgx.Batch
		for no := first + 1; no <= last; no++ {
			subscriber := fmt.Sprintf("subscriber-%d", no)
			batch.Queue(statements["insert_notification"], notifiedOrg, event, workflow, subscriber, no, transaction)
			batch.Queue(statements["insert_step"], notifiedOrg, subscriber, transaction, 0, "trigger", "", nil)
			for i, step := range steps {
				batch.Queue(statements["insert_step"], notifiedOrg, subscriber, transaction, i+1, "in_app", fmt.Sprintf("step-%d", i+1), step)
				batch.Queue(statements["insert_message"], notifiedOrg, workflow, subscriber, no, transaction, "Hello "+subscriber+", 1")
			}
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
}

// fanOut measures the sharing out alone: the workflow begins with a delay.
func (r *run) fanOut(ctx context.Context, name string, members int) error {
	var t turns
	var heap uint64
	for i := range r.reps {
		d, err := r.notified(ctx, fmt.Sprintf("%s_%d", name, i), members)
		if err != nil {
			return err
		}
		value := 0.0
		err = r.withEngine(ctx, d, func(e *pgautomate.Engine) error {
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			if _, err := e.Notifications().Trigger(ctx, notifiedOrg, request("late", "all")); err != nil {
				return err
			}
			for left := true; left; time.Sleep(20 * time.Millisecond) {
				if err := d.pool.QueryRow(ctx, statements["fanning_out"]).Scan(&left); err != nil {
					return err
				}
				runtime.ReadMemStats(&now)
				heap = max(heap, now.HeapInuse-min(before.HeapInuse, now.HeapInuse))
			}
			value = float64(members) / time.Since(began).Seconds()
			return nil
		})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := d.exec(ctx, "fan_out_at_once"); err != nil {
			return err
		}
		t.add(value, float64(members)/time.Since(began).Seconds())
	}
	f := Figure{
		Name: name, Unit: "notifications/s", ReferenceName: "one statement that gives all of them theirs", Reach: 0.5,
		Conditions: fmt.Sprintf("a trigger for a topic of %d members, until all have their notification of three jobs; 1,000 a transaction, which keeps the progress; "+
			"the process, which runs what is due as well, took at most %d MB more", members, heap>>20),
	}
	return r.add(t.into(f))
}

const notifiedOrg = "org_0"

// notified makes a database with so many subscribers, the topics all and fifth, and the workflows steps and late.
func (r *run) notified(ctx context.Context, name string, subscribers int) (*database, error) {
	d, err := r.database(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "subscribers", notifiedOrg, subscribers); err != nil {
		return nil, err
	}
	for topic, members := range map[string]int{"all": subscribers, "fifth": subscribers / 5} {
		if err := d.exec(ctx, "topic", notifiedOrg, topic, members); err != nil {
			return nil, err
		}
	}
	for workflow, steps := range map[string][]string{"steps": {"in_app", "in_app", "in_app"}, "late": {"delay", "in_app"}} {
		if err := d.exec(ctx, "workflow", notifiedOrg, workflow, steps); err != nil {
			return nil, err
		}
	}
	return d, d.run(ctx, "VACUUM (ANALYZE)")
}

func request(workflow, topic string) notification.Request {
	return notification.Request{Name: workflow, To: []byte(`{"type":"Topic","topicKey":"` + topic + `"}`), Payload: []byte(`{"n":1}`)}
}

// triggered triggers a workflow for a topic and waits until nothing of it is left to do.
func triggered(ctx context.Context, d *database, e *pgautomate.Engine, workflow, topic string) error {
	if _, err := e.Notifications().Trigger(ctx, notifiedOrg, request(workflow, topic)); err != nil {
		return err
	}
	return d.untilNone(ctx, "to_notify")
}

// withEngine runs scheduler and workers while do is at work.
func (r *run) withEngine(ctx context.Context, d *database, do func(e *pgautomate.Engine) error) error {
	e, stop, err := r.engineOf(ctx, d)
	if err != nil {
		return err
	}
	return errors.Join(do(e), stop())
}
