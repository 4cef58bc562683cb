package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgautomate/pgautomate/bench"
)

func (a *app) soak() *cobra.Command {
	var o bench.SoakOptions
	var file, page string
	c := &cobra.Command{
		Use:   "soak",
		Short: "Run the engine under a steady load for long, and see what grows",
		Long: `Runs the whole engine as a process under a steady load, and looks every few seconds at all that could grow: lateness,
commit to firing, memory, connections, the log that the slot keeps, each table with its indexes and dead rows, what a
claim costs. At the end: a table (first tenth, middle, last tenth, slope), a page with plots, and for each series
whether it is flat or grows. Ends by itself; Ctrl-C ends it with the report so far.

It runs on a private Postgres of its own, which it starts in the folder for temporary files and removes at its end;
--database-url is not used, nothing leaves the machine. What is over is archived and deleted after a tenth of the time
(at least a minute, at most an hour), so that as much goes as comes.

--hold-snapshot holds a transaction open, from a third of the time on, as somebody does who forgets one: VACUUM can remove
nothing that died since then. The table then has what was before, while it was held, and after.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			if page, err = filepath.Abs(page); err != nil {
				return err
			}
			o.Engine, o.Progress, o.Logger = []string{program, "run"}, os.Stderr, a.logger
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			report, err := bench.Soak(cmd.Context(), o)
			if report == nil {
				return err
			}
			err = errors.Join(err, report.WriteTable(os.Stdout), writeTo(page, report.WritePage))
			if file != "" {
				err = errors.Join(err, writeTo(file, report.WriteJSON))
			}
			fmt.Println("plots: " + page)
			return err
		},
	}
	f := c.Flags()
	f.DurationVar(&o.For, "for", time.Hour, "how long, at most "+bench.MaxSoak.String())
	f.IntVar(&o.Rate, "rate", 300, fmt.Sprintf("`changes` a second, at most %d; a tenth fires", bench.MaxSoakRate))
	f.DurationVar(&o.Every, "every", 0, "between samples (default 10s, for short ones a hundredth of the time)")
	f.DurationVar(&o.Hold, "hold-snapshot", 0, "how long a transaction holds a snapshot open, at most a third of the time (default: none does)")
	f.StringVar(&page, "page", "pgautomate-soak.html", "write the page with the plots to this `file`")
	f.StringVar(&file, "json", "", "write everything, samples included, to a `file` as JSON, too")
	return c
}

func writeTo(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
