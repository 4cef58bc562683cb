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
func (r *run) process(ctx context.Context, d *database, parts string) (*child, error) {
	if len(r.Engine) == 0 {
		return nil, errors.New("there is no command that runs an engine")
	}
	args := append([]string{}, r.Engine[1:]...)
	args = append(args, "--only", parts, "--database-url", d.url, "--log-level", "warn")
	p := &child{c: exec.CommandContext(ctx, r.Engine[0], args...), ended: make(chan error, 1)}
	p.c.Stderr = r.Progress // warnings: figures that they come with are not to be trusted
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

// feedMemory gives the peak memory of a process that feeds, in MB: once it holds its
// triggers, and after a large transaction.
func (r *run) feedMemory(ctx context.Context, d *database, large int) (loaded, peak float64, err error) {
	p, err := r.process(ctx, d, "feed")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	dealt := func() error {
		end, err := d.mark(ctx)
		if err != nil {
			return err
		}
		return p.until(ctx, d, end)
	}
	if err := dealt(); err != nil {
		return 0, 0, err
	}
	if loaded, err = memoryOf(p.c.Process.Pid, "VmHWM"); err != nil || large == 0 {
		return loaded, loaded, err
	}
	if err := d.exec(ctx, "large_transaction", large); err != nil {
		return 0, 0, err
	}
	if err := dealt(); err != nil {
		return 0, 0, err
	}
	peak, err = memoryOf(p.c.Process.Pid, "VmHWM")
	return loaded, peak, err
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
	loaded, peak, err := r.feedMemory(ctx, f.d, r.large)
	if err != nil {
		return err
	}
	return r.add(Figure{
		Name: "rss", Unit: "MB", Value: max(loaded, peak), ReferenceName: "the same process without triggers", Reference: reference, Reach: 600, of: ofValue, most: true,
		Conditions: fmt.Sprintf("peak resident memory of `run --only feed`: %s MB once %d triggers are loaded, %s MB after a transaction of %d rows, too",
			number(loaded), r.triggers, number(peak), r.large),
	})
}
