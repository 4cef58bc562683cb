package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/bench"
	"github.com/pgautomate/pgautomate/server"
)

func (a *app) bench() *cobra.Command {
	var o bench.Options
	var file, page, from string
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure the engine on this machine's Postgres, beside references",
		Long: `Measures the engine and prints one table: each figure beside a reference that was measured in the same run on the
same server, with the conditions below. It runs on a private Postgres of its own, which it starts in the folder for
temporary files and removes at its end; --database-url is not used, nothing leaves the machine.

Takes about 15 minutes, with --quick about 2, at smaller sizes. The figures: ` + strings.Join(bench.Names(), ", ") + `.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range o.Only {
				if !slices.Contains(bench.Names(), name) {
					return usageError{fmt.Errorf("--only %s: the figures are %s", name, strings.Join(bench.Names(), ", "))}
				}
			}
			report, err := a.measured(cmd.Context(), o, from)
			if report == nil {
				return err
			}
			err = errors.Join(err, report.WriteTable(os.Stdout))
			if file != "" {
				err = errors.Join(err, writeTo(file, report.WriteJSON))
			}
			if page != "" {
				err = errors.Join(err, writePage(page, report))
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Quick, "quick", false, "smaller sizes, about 2 minutes")
	f.StringVar(&file, "json", "", "write the figures to a `file` as JSON, too")
	f.StringVar(&page, "markdown", "", "put the figures into a `page` in Markdown, in place of those it has, such as docs/benchmarks.md")
	f.StringVar(&from, "from", "", "measure nothing: take the figures that an earlier run wrote to a `file` with --json")
	f.StringSliceVar(&o.Only, "only", nil, "measure only these `figures`")
	return c
}

// measured measures, or reads what was measured before.
func (a *app) measured(ctx context.Context, o bench.Options, from string) (*bench.Report, error) {
	if from != "" {
		file, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		report, err := bench.ReadReport(file)
		if err != nil {
			return nil, fmt.Errorf("--from %s: %w", from, err)
		}
		return report, nil
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o.Engine, o.Serve, o.Progress, o.Logger = []string{program, "run"}, benchAPI, os.Stderr, a.logger
	return bench.Run(ctx, o)
}

// writePage puts the figures into a page, which need not be there yet.
func writePage(name string, report *bench.Report) error {
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	page, err := report.Page(string(old))
	if err != nil {
		return fmt.Errorf("--markdown %s: %w", name, err)
	}
	return writeTo(name, func(w io.Writer) error {
		_, err := io.WriteString(w, page)
		return err
	})
}

// benchAPI is the API that the benchmarks ask.
func benchAPI(ctx context.Context, e *pgautomate.Engine, organization string) (http.Handler, string, error) {
	s, err := server.New(server.Config{
		Pool: e.Pool(), River: e.River(), Objects: e.Catalog(), Actions: e.Registry(), Notifications: e.Notifications(),
	})
	if err != nil {
		return nil, "", err
	}
	key, _, err := server.CreateKey(ctx, e.Pool(), &organization, "bench")
	return s, key, err
}
