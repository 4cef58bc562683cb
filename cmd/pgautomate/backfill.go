package main

// What a trigger's query matches now: to look at, and to fire for.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgautomate/pgautomate/backfill"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/trigger"
)

func (a *app) preview() *cobra.Command {
	var objectType, organization string
	c := &cobra.Command{
		Use:   "preview FILE",
		Short: "Show what a query matches now",
		Long: `Reads a query (JSON) from a file, or from standard input if FILE is -, asks the table, and prints how many
objects match and up to 10 of them. The search ends at 100,000 objects or after 5 s.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query, err := readFile(args[0])
			if err != nil {
				return err
			}
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			return previewQuery(cmd.Context(), pool, query, objectType, organization)
		},
	}
	c.Flags().StringVar(&objectType, "object-type", "", "the object `type` (default: the one that the query names)")
	c.Flags().StringVar(&organization, "organization", "", "the `organization` whose objects are meant")
	return c
}

func previewQuery(ctx context.Context, pool *pgxpool.Pool, query []byte, objectType, organization string) error {
	tables, err := catalog.New(pool).Snapshot(ctx)
	if err != nil {
		return err
	}
	parsed, err := trigger.Parse(query)
	if err != nil {
		return explainQuery(err)
	}
	if objectType == "" {
		objectType = parsed.ObjectType()
	}
	schema := tables.Schema(objectType)
	switch {
	case schema == nil && objectType != "":
		return catalog.NotWatched(objectType)
	case schema == nil:
		return explainQuery(trigger.CheckRuntime(query, "", tables.Schema, time.UTC))
	case schema.Organization == "" && organization == "":
		organization = "default"
	case organization == "":
		return usageError{errors.New("trigger preview needs --organization ORG: whose objects are meant")}
	}
	zone, err := dbq.New(pool).ApiOrganizationTimeZone(ctx, organization)
	if err != nil {
		return err
	}
	where, err := time.LoadLocation(zone)
	if err != nil {
		where = time.UTC // as everywhere
	}
	p, err := tables.Preview(ctx, pool, organization, objectType, query, where)
	if err != nil {
		return explainQuery(err)
	}
	least := ""
	if p.More {
		least = "at least "
	}
	fmt.Printf("%s%d objects match\n", least, p.Count)
	for _, m := range p.Sample {
		fmt.Printf("%s\t%s\n", m.ID, m.Data)
	}
	return nil
}

// explainQuery prints what is wrong with a query, each with its place.
func explainQuery(err error) error {
	invalid, ok := errors.AsType[*trigger.ValidationError](err)
	if !ok {
		return err
	}
	for _, p := range invalid.Problems {
		at := p.Pointer
		if at == "" {
			at = "/"
		}
		fmt.Printf("%s: %s: %s\n", at, p.Code, p.Message)
		if len(p.Nearest) > 0 {
			fmt.Printf("    nearest: %s\n", p.Nearest)
		}
	}
	return fmt.Errorf("the query can't be used; problems: %d, see above", len(invalid.Problems))
}

func (a *app) backfill() *cobra.Command {
	var limit int64
	var perMinute int32
	c := &cobra.Command{
		Use:   "backfill ID",
		Short: "Fire a trigger for what matches now",
		Long: `Lists the objects that match the trigger's query at this moment, and fires for each of them once, in the
background: the workers of a running "pgautomate run" do it, and go on after any interruption. Shows the progress until it is
done; Ctrl-C ends the showing only.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usageError{fmt.Errorf("%q is not a trigger's id: look it up in pgautomate.triggers", args[0])}
			}
			var most *int64
			var pace *int32
			if cmd.Flags().Changed("limit") {
				most = &limit
			}
			if cmd.Flags().Changed("per-minute") {
				pace = &perMinute
			}
			if most != nil && limit < 1 || pace != nil && perMinute < 1 {
				return usageError{errors.New("--limit and --per-minute are at least 1")}
			}
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			return runBackfill(cmd.Context(), pool, id, most, pace)
		},
	}
	c.Flags().Int64Var(&limit, "limit", 0, "at most so `many` objects, the first by their ids (default all)")
	c.Flags().Int32Var(&perMinute, "per-minute", 0, "at most so `many` firings in any minute (default no limit)")
	return c
}

func runBackfill(ctx context.Context, pool *pgxpool.Pool, id int64, limit *int64, perMinute *int32) error {
	q := dbq.New(pool)
	t, err := q.ApiGetTrigger(ctx, dbq.ApiGetTriggerParams{ID: id})
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("there is no trigger %d: look it up in pgautomate.triggers", id)
	}
	if err != nil {
		return err
	}
	client, err := backfill.Client(pool)
	if err != nil {
		return err
	}
	b, err := backfill.Start(ctx, pool, client, &t, limit, perMinute)
	if err != nil {
		return err
	}
	began, shown := time.Now(), ""
	for {
		if line := progress(&b, time.Since(began)); line != shown {
			fmt.Fprintf(os.Stderr, "backfill %d: %s\n", b.ID, line)
			shown = line
		}
		switch b.Status {
		case "completed":
			fmt.Printf("backfill %d completed: %d fired, %d skipped\n", b.ID, b.Fired, b.Skipped)
			return nil
		case "canceled", "failed":
			why := "on request"
			if b.Error != nil {
				why = *b.Error
			}
			return fmt.Errorf("backfill %d was %s after %d firings: %s", b.ID, b.Status, b.Fired, why)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("backfill %d goes on; to stop it: UPDATE pgautomate.trigger_backfills SET status = 'canceled' WHERE id = %d", b.ID, b.ID)
		case <-time.After(time.Second):
		}
		next, err := q.GetBackfill(ctx, dbq.GetBackfillParams{ID: b.ID, TriggerID: id})
		if ctx.Err() == nil && err != nil {
			return fmt.Errorf("backfill %d goes on, but can't be seen: %w", b.ID, err)
		}
		if err == nil {
			b = next
		}
	}
}

func progress(b *dbq.PgautomateTriggerBackfill, since time.Duration) string {
	switch {
	case b.Status == "failed" || b.Status == "canceled":
		return b.Status
	case b.Found != nil:
		return fmt.Sprintf("%d of %d objects", b.Position, *b.Found)
	case b.Error != nil:
		return *b.Error
	case since > 10*time.Second:
		return "listing what matches, or no workers are there: is `pgautomate run` up?"
	}
	return "listing what matches"
}
