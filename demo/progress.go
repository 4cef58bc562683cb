package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// progress shows how far a demo is: on a terminal one line that changes, elsewhere a line now and then.
type progress struct {
	out      io.Writer
	terminal bool
	started  time.Time
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, started: time.Now()}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// run shows what line gives until ctx ends, and then once more.
func (p *progress) run(ctx context.Context, line func(context.Context) (string, error)) {
	every := 3 * time.Second
	if p.terminal {
		every = 500 * time.Millisecond
	}
	for wait := every; ; {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			p.show(last, line)
			cancel()
			if p.terminal {
				fmt.Fprintln(p.out)
			}
			return
		case <-time.After(wait):
			start := time.Now()
			p.show(ctx, line)
			wait = max(every, 20*time.Since(start)) // looking is not to be what the server is busy with
		}
	}
}

func (p *progress) show(ctx context.Context, line func(context.Context) (string, error)) {
	text, err := line(ctx)
	if err != nil {
		return // what is wrong shows elsewhere
	}
	text = fmt.Sprintf("%6.1f s  %s", time.Since(p.started).Seconds(), text)
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(p.out, text)
}
