package main

// Leads from files.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pgautomate/pgautomate/leadimport"
)

func (a *app) imports() *cobra.Command { return group("import", "Import leads", a.importLeads()) }

func (a *app) importLeads() *cobra.Command {
	var o leadimport.Options
	var delimiter string
	c := &cobra.Command{
		Use:   "leads FILE.csv --into TABLE",
		Short: "Import leads from a CSV file and put them into a stage",
		Long: `Inserts the rows of a CSV file into a watched table and, with --stage, puts each lead into that stage of its pipeline.
The file's first line names the table's columns; an empty value is NULL. Rows that the database refuses go to
FILE.rejects.csv with their line and the error: mend them there and import that file.

The import goes in transactions of 1,000 rows. One that was interrupted goes on where it was when the same command is given
again; no row is imported twice.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.File = args[0]
			if o.Table == "" {
				return usageError{errors.New("import leads needs --into TABLE: the watched table that the leads go to")}
			}
			if o.Delimiter, _ = utf8.DecodeRuneInString(delimiter); utf8.RuneCountInString(delimiter) != 1 {
				return usageError{fmt.Errorf("--delimiter is one character, not %q", delimiter)}
			}
			return a.runImport(cmd.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Table, "into", "", "the watched `table`, or its object type")
	c.Flags().Int64Var(&o.Stage, "stage", 0, "the `id` of the stage that the leads enter (pgautomate.pipeline_stages)")
	c.Flags().StringVar(&o.Organization, "organization", "", "the `organization` of all leads, if the file doesn't say it")
	c.Flags().StringVar(&delimiter, "delimiter", ",", "what stands between values")
	c.Flags().BoolVar(&o.Suppress, "suppress", false, "don't fire triggers for these rows")
	c.Flags().BoolVar(&o.Again, "again", false, "also if the very same was imported before")
	return c
}

func (a *app) runImport(ctx context.Context, o leadimport.Options) error {
	pool, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	var bar *progressbar.ProgressBar
	o.Progress = func(p leadimport.Progress) {
		if bar == nil {
			bar = progressbar.NewOptions64(p.Size, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionShowBytes(true),
				progressbar.OptionSetDescription("importing"), progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionClearOnFinish())
		}
		bar.Describe(fmt.Sprintf("%d imported, %d rejected", p.Imported, p.Rejected))
		_ = bar.Set64(p.Bytes)
	}
	p, err := leadimport.Run(ctx, pool, o)
	if bar != nil {
		_ = bar.Exit()
		fmt.Fprintln(os.Stderr)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: the same command goes on where it was (%w)", ctx.Err())
	}
	if err != nil {
		return err
	}
	fmt.Println(summary(p, &o))
	if p.Imported == 0 && p.Rejected > 0 {
		return fmt.Errorf("every row was rejected: see %s", p.RejectsFile)
	}
	return nil
}

func summary(p *leadimport.Progress, o *leadimport.Options) string {
	text := fmt.Sprintf("%d leads imported into %s", p.Imported, o.Table)
	if o.Stage > 0 {
		text += fmt.Sprintf(", %d entered stage %d", p.Entered, o.Stage)
		var refused []string
		for _, reason := range slices.Sorted(maps.Keys(p.Refused)) {
			refused = append(refused, fmt.Sprintf("%d %s", p.Refused[reason], reason))
		}
		if len(refused) > 0 {
			text += " (the others could not: " + strings.Join(refused, ", ") + ")"
		}
	}
	if p.Rejected > 0 {
		text += fmt.Sprintf("; %d rows rejected, see %s", p.Rejected, p.RejectsFile)
	}
	return text
}
