package bench

// What notifications cost: a topic's members each get one of three steps, from the
// trigger to the last one's end; and the sharing out alone, with its memory.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/notification"
)

const notificationSteps = 3

func notifications(ctx context.Context, r *run) error {
	if r.wanted("notification_3_steps") {
		if err := r.threeSteps(ctx); err != nil {
			return err
		}
	}
	if !r.wanted("fan_out") {
		return nil
	}
	return r.fanOut(ctx)
}

func (r *run) threeSteps(ctx context.Context) error {
	alone, err := r.newRiverAlone(ctx)
	if err != nil {
		return err
	}
	defer alone.pool.Close()
	var t turns
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
		reference, err := alone.drain(ctx, r.leads*notificationSteps)
		if err != nil {
			return err
		}
		t.add(value, float64(r.leads)/reference)
	}
	return r.add(t.into(Figure{
		Name: "notification_3_steps", Unit: "notifications/s", ReferenceName: "River's own drain of three jobs that do nothing for each, same workers", Reach: 0.25,
		Conditions: fmt.Sprintf("a workflow of %d in-app steps triggered for a topic of %d members, from the trigger to the end of the last step: a notification, four jobs and three messages each; "+
			"%d workers, one process on the server's CPUs", notificationSteps, r.leads, r.workers),
	}))
}

// fanOut measures the sharing out alone: the workflow begins with a delay.
func (r *run) fanOut(ctx context.Context) error {
	var t turns
	var heap uint64
	for i := range r.reps {
		d, err := r.notified(ctx, fmt.Sprintf("fanned_out_%d", i), r.members)
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
			value = float64(r.members) / time.Since(began).Seconds()
			return nil
		})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := d.exec(ctx, "fan_out_at_once"); err != nil {
			return err
		}
		t.add(value, float64(r.members)/time.Since(began).Seconds())
	}
	return r.add(t.into(Figure{
		Name: "fan_out", Unit: "notifications/s", ReferenceName: "one statement that gives all of them theirs", Reach: 0.5,
		Conditions: fmt.Sprintf("a trigger for a topic of %d members, until all have their notification of three jobs; 1,000 a transaction, which keeps the progress; "+
			"the process, which runs what is due as well, took at most %d MB more", r.members, heap>>20),
	}))
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
