package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/firing"
	"github.com/pgautomate/pgautomate/server"
	"github.com/pgautomate/pgautomate/trigger"
)

func (a *app) migrate() *cobra.Command {
	up := &cobra.Command{
		Use: "up", Short: "Bring the schema pgautomate up to this binary's version", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.migrateWith(cmd.Context(), db.Migrate)
		},
	}
	var yes bool
	down := &cobra.Command{
		Use: "down", Short: "Remove the schema pgautomate with all that is in it", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return usageError{errors.New("migrate down removes every trigger, pipeline, action and audit row: say --yes if that is meant")}
			}
			return a.migrateWith(cmd.Context(), db.MigrateDown)
		},
	}
	down.Flags().BoolVar(&yes, "yes", false, "yes, remove everything")
	status := &cobra.Command{
		Use: "status", Short: "List the migrations and whether the database has them", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := a.database(cmd.Context())
			if err != nil {
				return err
			}
			pool, err := db.Open(cmd.Context(), url, "pgautomate migrate", 4)
			if err != nil {
				return err
			}
			defer pool.Close()
			list, err := db.Status(cmd.Context(), pool, a.logger)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
			for _, m := range list {
				state := "pending"
				if m.Applied {
					state = "applied"
				}
				fmt.Fprintf(w, "%s\t%s\n", m.Name, state)
			}
			return w.Flush()
		},
	}
	return group("migrate", "Make, show or remove the schema pgautomate", up, down, status)
}

func (a *app) migrateWith(ctx context.Context, do migration) error {
	url, err := a.database(ctx)
	if err != nil {
		return err
	}
	pool, err := db.Open(ctx, url, "pgautomate migrate", 4)
	if err != nil {
		return err
	}
	defer pool.Close()
	return do(ctx, pool, a.logger)
}

func (a *app) watch() *cobra.Command {
	var o catalog.WatchOptions
	var dryRun bool
	var replyWhen string
	c := &cobra.Command{
		Use:   "watch TABLE",
		Short: "Make a table's rows objects that triggers can watch",
		Long: `Registers the table as an object type, sets REPLICA IDENTITY FULL on it (so that changes
carry the row before), and adds it to the publication pgautomate. Relations to other watched
tables come from foreign keys. Changes committed from then on are seen.

With --reply-when and --lead the rows that come to meet the query are replies of the lead that the
column names: they end the lead's wait_for_reply. What the query leaves out, such as automatic
answers and bounces, is no reply. Whoever watches the table again says it again.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			o.Table = args[0]
			if replyWhen != "" {
				if o.ReplyWhen, err = argument(replyWhen); err != nil {
					return fmt.Errorf("--reply-when: %w", err)
				}
			}
			t, statements, err := catalog.Watch(cmd.Context(), pool, o, dryRun)
			if err != nil {
				return err
			}
			printStatements(os.Stdout, statements)
			if !dryRun {
				organization := "all rows belong to the organization \"default\""
				if t.Organization != "" {
					organization = "organization in " + t.Organization
				}
				fmt.Fprintf(os.Stderr, "%s is watched as %s: id in %s, %s\n", t.Quoted, t.Type, t.ID, organization)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.As, "as", "", "`name` of the object type (default: the table's)")
	f.StringVar(&o.ID, "id", "", "`column` that names an object (default: the primary key)")
	f.StringVar(&o.Organization, "organization", "", "`column` with the organization (default: every row belongs to \"default\")")
	f.StringVar(&o.Custom, "custom", "", "jsonb `column` with custom fields (default: one named custom)")
	f.StringVar(&replyWhen, "reply-when", "", "a row is a reply when it meets this `query` (JSON, or @file)")
	f.StringVar(&o.Lead, "lead", "", "with --reply-when: `column` that names the lead")
	f.StringVar(&o.Contact, "contact", "", "with --reply-when: `column` that names the contact")
	f.StringVar(&o.Channel, "channel", "", "with --reply-when: `column` that names the channel")
	f.BoolVar(&dryRun, "dry-run", false, "only print the SQL")
	return c
}

// argument is a JSON argument, or the content of the file that @ names.
func argument(s string) (json.RawMessage, error) {
	if name, isFile := strings.CutPrefix(s, "@"); isFile {
		raw, err := os.ReadFile(name)
		return raw, err
	}
	return json.RawMessage(s), nil
}

func (a *app) unwatch() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use: "unwatch TABLE", Short: "Stop watching a table", Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			statements, err := catalog.Unwatch(cmd.Context(), pool, args[0], dryRun)
			if err != nil {
				return err
			}
			printStatements(os.Stdout, statements)
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print the SQL")
	return c
}

func printStatements(w io.Writer, statements []string) {
	for _, s := range statements {
		fmt.Fprintln(w, s+";")
	}
}

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check server, slot, publication and tables; each problem with its fix", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := a.database(cmd.Context())
			if err != nil {
				return err
			}
			pool, err := db.Open(cmd.Context(), url, "pgautomate doctor", 4)
			if err != nil {
				return err
			}
			defer pool.Close()
			if err := db.CheckSchema(cmd.Context(), pool, a.logger); err != nil {
				return err
			}
			problems, err := catalog.Doctor(cmd.Context(), pool)
			if err != nil {
				return err
			}
			count := 0
			for _, p := range problems {
				fmt.Printf("%s: %s: %s\n    fix: %s\n", p.Severity, p.Subject, p.Problem, p.Fix)
				if p.Severity != "note" {
					count++
				}
			}
			if count == 0 {
				fmt.Println("all is well")
				return nil
			}
			return fmt.Errorf("problems: %d, see above", count)
		},
	}
}

func (a *app) trigger() *cobra.Command {
	var objectType string
	check := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a trigger's query against the watched tables",
		Long:  `Reads a query (JSON) from a file, or from standard input if FILE is -, and says everything that is wrong with it, each with where it stands and the nearest accepted form.`,
		Args:  exactly(1),
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
			return checkQuery(cmd.Context(), catalog.New(pool), query, objectType)
		},
	}
	check.Flags().StringVar(&objectType, "object-type", "", "the object `type` (default: the one that the query names)")
	return group("trigger", "Check and explain triggers, look at what they match, fire them for it", check, a.explain(), a.preview(), a.backfill())
}

func (a *app) explain() *cobra.Command {
	var commit string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain ID OBJECT_ID",
		Short: "Say why a trigger fired for an object, or did not, node by node",
		Long: `Explains the object's latest change, or with --commit the one at or before a
position: what each node of the trigger's query was before and after it. The
process that feeds keeps the latest changes and answers.`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usageError{fmt.Errorf("trigger %q: give its id, a number", args[0])}
			}
			var at *string
			if commit != "" {
				if _, err := change.ParseLSN(commit); err != nil {
					return usageError{fmt.Errorf("--commit: %w", err)}
				}
				at = &commit
			}
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			x, err := firing.Ask(cmd.Context(), pool, id, args[1], at)
			if err != nil {
				return fmt.Errorf("trigger %d: %w", id, err)
			}
			if asJSON {
				return json.NewEncoder(os.Stdout).Encode(x)
			}
			show(x)
			return nil
		},
	}
	c.Flags().StringVar(&commit, "commit", "", "explain the last change at or before this `position` of the log")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func show(x *firing.Explanation) {
	fmt.Printf("%s: trigger %s, version %d, object %s\n", x.Verdict, x.TriggerID, x.Version, x.ObjectID)
	if x.CommitLSN != "" {
		fmt.Printf("commit %s at %s\n", x.CommitLSN, x.CommittedAt.Format(time.RFC3339Nano))
	}
	if x.Note != "" {
		fmt.Println(x.Note)
	}
	fmt.Printf("%-9s %-9s %s\n", "before", "after", "node")
	for _, n := range x.Nodes {
		before, after := n.Before, n.After
		if before == "" {
			before = "-"
		}
		if after == "" {
			after = "-"
		}
		fmt.Printf("%-9s %-9s %s %s\n", before, after, n.Pointer, n.Node)
	}
}

func readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s can't be read: %w", name, err)
	}
	return raw, nil
}

func checkQuery(ctx context.Context, c *catalog.Catalog, query []byte, objectType string) error {
	parsed, err := trigger.Parse(query)
	if err == nil {
		if objectType == "" {
			objectType = parsed.ObjectType()
		}
		schemas, failed := c.Schemas(ctx)
		if failed != nil {
			return failed
		}
		if objectType != "" && schemas(objectType) == nil {
			return catalog.NotWatched(objectType)
		}
		err = trigger.Check(query, objectType, schemas, time.UTC)
	}
	if err != nil {
		return explainQuery(err)
	}
	fmt.Println("the query is valid")
	return nil
}

func (a *app) keys() *cobra.Command {
	var organization, name string
	var operator bool
	create := &cobra.Command{
		Use: "create", Short: "Make an API key; it is printed once and kept nowhere", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if operator == (organization != "") {
				return usageError{errors.New("keys create needs either --organization ORG or --operator")}
			}
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			var org *string
			if !operator {
				org = &organization
			}
			key, _, err := server.CreateKey(cmd.Context(), pool, org, name)
			if err != nil {
				return err
			}
			fmt.Println(key)
			return nil
		},
	}
	create.Flags().StringVar(&organization, "organization", "", "the `organization` that the key sees")
	create.Flags().BoolVar(&operator, "operator", false, "the key sees all organizations")
	create.Flags().StringVar(&name, "name", "", "what the key is for")
	list := &cobra.Command{
		Use: "list", Short: "List the API keys", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			keys, err := server.ListKeys(cmd.Context(), pool, nil)
			if err != nil {
				return err
			}
			enc := json.NewEncoder(os.Stdout)
			for _, k := range keys {
				if err := enc.Encode(k); err != nil {
					return err
				}
			}
			return nil
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Revoke an API key", Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usageError{fmt.Errorf("%q is not a key's id: `pgautomate keys list` shows them", args[0])}
			}
			pool, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			if err := server.RevokeKey(cmd.Context(), pool, nil, id); err != nil {
				return fmt.Errorf("key %d: %w", id, err)
			}
			return nil
		},
	}
	return group("keys", "Make, list and revoke API keys", create, list, revoke)
}

func (a *app) slot() *cobra.Command {
	var yes bool
	var slot string
	recreate := &cobra.Command{
		Use:   "recreate",
		Short: "Make the replication slot anew; the gap is recorded in pgautomate.feed_gaps",
		Long: `For when the slot was lost, or belongs to somebody else, or the publication was dropped under
it. Changes committed between the old checkpoint and the new slot were seen by no trigger; that gap is
recorded, never hidden.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := a.database(cmd.Context())
			if err != nil {
				return err
			}
			engine, err := pgautomate.New(cmd.Context(), pgautomate.Config{DatabaseURL: url, Logger: a.logger, Slot: slot})
			if err != nil {
				return err
			}
			defer engine.Close()
			if gap, err := engine.HasCheckpoint(cmd.Context()); err != nil {
				return err
			} else if gap && !yes {
				return usageError{errors.New("changes since the last checkpoint will be seen by no trigger: say --yes if that is meant; the gap is recorded in feed_gaps")}
			}
			r, err := engine.RecreateSlot(cmd.Context(), "slot recreate")
			if err != nil {
				return err
			}
			fmt.Printf("the slot begins at %s; the checkpoint before was %s\n", r.To, r.From)
			return nil
		},
	}
	recreate.Flags().BoolVar(&yes, "yes", false, "yes, there will be a gap")
	recreate.Flags().StringVar(&slot, "slot", "", "`name` of the replication slot (default pgautomate_<database>)")
	return group("slot", "Look after the replication slot", recreate)
}
