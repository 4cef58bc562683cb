// Package batch turns many small requests into few statements.
package batch

import (
	"context"
	"runtime"
	"sync"
)

// Batcher turns many callers' single requests into few statements, by natural
// batching: while one batch is under way the next gathers; nobody waits for a
// timer. It ends when its owner calls stop.
type Batcher[In, Out any] struct {
	most int
	run  func(ctx context.Context, in []In) ([]Out, error) // one Out for each In, in order

	requests chan request[In, Out]
	stopOnce sync.Once
	stopped  chan struct{}
	done     sync.WaitGroup
}

type request[In, Out any] struct {
	in    In
	reply chan reply[Out]
}

type reply[Out any] struct {
	out Out
	err error
}

// New makes a batcher of at most `most` requests a batch and `parallel` batches at once.
// run answers each request, in order.
func New[In, Out any](most, parallel int, run func(context.Context, []In) ([]Out, error)) *Batcher[In, Out] {
	b := &Batcher[In, Out]{most: most, run: run, requests: make(chan request[In, Out]), stopped: make(chan struct{})}
	for range parallel {
		b.done.Add(1)
		go b.loop()
	}
	return b
}

// Do hands one request in and waits for its answer.
func (b *Batcher[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	r := request[In, Out]{in, make(chan reply[Out], 1)}
	var none Out
	select {
	case b.requests <- r:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-b.stopped:
		return none, context.Canceled
	}
	// Once taken, a request is answered: run has its own time limit.
	answer := <-r.reply
	return answer.out, answer.err
}

func (b *Batcher[In, Out]) loop() {
	defer b.done.Done()
	for {
		var batch []request[In, Out]
		select {
		case r := <-b.requests:
			batch = append(batch, r)
		case <-b.stopped:
			return
		}
		// Who is about to ask, too, is let ahead, as long as there are any: mostly many begin at one time, and the
		// first would be answered alone.
		for yielded := false; len(batch) < b.most; {
			select {
			case r := <-b.requests:
				batch = append(batch, r)
				yielded = false
				continue
			default:
			}
			if yielded {
				break
			}
			yielded = true
			runtime.Gosched()
		}
		in := make([]In, len(batch))
		for i, r := range batch {
			in[i] = r.in
		}
		out, err := b.run(context.Background(), in)
		for i, r := range batch {
			if err != nil {
				r.reply <- reply[Out]{err: err}
			} else {
				r.reply <- reply[Out]{out: out[i]}
			}
		}
	}
}

// Stop waits for batches under way; later requests fail with context.Canceled.
func (b *Batcher[In, Out]) Stop() {
	b.stopOnce.Do(func() { close(b.stopped) })
	b.done.Wait()
}
