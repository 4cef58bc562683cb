package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
)

// child is an engine in a process of its own.
type child struct {
	c     *exec.Cmd
	ended chan error
}

// process starts one of some parts only, and returns when it is ready.
func (r *run) process(ctx context.Context, d *database, parts string, more ...string) (*child, error) {
	if len(r.Engine) == 0 {
		return nil, errors.New("there is no command that runs an engine")
	}
	args := append([]string{}, r.Engine[1:]...)
	args = append(args, "--only", parts, "--database-url", d.url, "--log-level", "warn")
	p := &child{c: exec.CommandContext(ctx, r.Engine[0], append(args, more...)...), ended: make(chan error, 1)}
	p.c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is ours: we end it
	p.c.Stderr = r.Progress                               // warnings: figures that they come with are not to be trusted
	out, err := p.c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.c.Start(); err != nil {
		return nil, fmt.Errorf("an engine: %w", err)
	}
	ready, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, out)
		p.ended <- p.c.Wait()
	}()
	if err != nil {
		return nil, fmt.Errorf("an engine said %q and ended: %w", ready, errors.Join(err, p.end()))
	}
	return p, nil
}

func (p *child) end() error {
	_ = p.c.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		return err
	case <-time.After(30 * time.Second):
		_ = p.c.Process.Kill()
		return <-p.ended
	}
}

// until waits until it has dealt with all before a position.
func (p *child) until(ctx context.Context, d *database, end change.LSN) error {
	for {
		var text string
		err := d.pool.QueryRow(ctx, "SELECT coalesce(position, '0/0')::text FROM pgautomate.feed_checkpoints WHERE slot_name = $1",
			catalog.SlotName(d.name)).Scan(&text)
		if err != nil {
			return err
		}
		at, err := change.ParseLSN(text)
		if err != nil {
			return err
		}
		if at >= end {
			return nil
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("the engine ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// held is what a process that feeds has taken until a moment: its peak memory in MB, and
// the time since the moment before.
type held struct {
	peak         float64
	seconds, cpu float64
}

// feedMemory measures a process that feeds: until it holds its triggers, and over a large
// transaction.
func (r *run) feedMemory(ctx context.Context, d *database, large int) (loaded, after held, err error) {
	began := time.Now()
	p, err := r.process(ctx, d, "feed")
	if err != nil {
		return loaded, after, err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	dealt := func(h *held) error {
		end, err := d.mark(ctx)
		if err != nil {
			return err
		}
		if err := p.until(ctx, d, end); err != nil {
			return err
		}
		h.seconds = time.Since(began).Seconds()
		if h.cpu, err = cpuOfLiving(p.c.Process.Pid); err != nil {
			return err
		}
		h.peak, err = memoryOf(p.c.Process.Pid, "VmHWM")
		return err
	}
	if err := dealt(&loaded); err != nil || large == 0 {
		return loaded, loaded, err
	}
	if err := d.exec(ctx, "large_transaction", large); err != nil {
		return loaded, after, err
	}
	began = time.Now() // what is decoded before the commit is little: it is one transaction
	err = dealt(&after)
	after.cpu -= loaded.cpu
	return loaded, after, err
}

// resident measures the memory of a whole process, beside one with nothing to hold.
func (r *run) resident(ctx context.Context, f *feeder) error {
	f.matcher = nil // it must not be in the way
	idle, err := r.database(ctx, "idle")
	if err != nil {
		return err
	}
	if err := idle.leads(ctx, 1, 1); err != nil {
		return err
	}
	reference, _, err := r.feedMemory(ctx, idle, 0)
	if err != nil {
		return err
	}
	if err := idle.dropSlots(ctx); err != nil {
		return err
	}
	loaded, after, err := r.feedMemory(ctx, f.d, r.large)
	if err != nil {
		return err
	}
	return r.add(Figure{
		Name: "rss", Unit: "MB", Value: after.peak, ReferenceName: "the same process without triggers", Reference: reference.peak, Reach: 600, of: ofValue, most: true,
		Conditions: fmt.Sprintf("peak resident memory of `run --only feed`: %s MB once %d triggers are loaded, which takes %s s and %s CPU s from the process's start, "+
			"%s MB after a transaction of %d rows, too, which takes %s s and %s CPU s",
			number(loaded.peak), r.triggers, number(loaded.seconds), number(loaded.cpu), number(after.peak), r.large, number(after.seconds), number(after.cpu)),
	})
}
