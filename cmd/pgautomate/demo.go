package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/demo"
)

const defaultListen = "127.0.0.1:8080"

func (a *app) demo() *cobra.Command {
	var o demo.Options
	var replay, listen string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole engine at work on a sample CRM",
		Long: `Runs the whole engine on a sample CRM: tables, pipelines, triggers, a throttle, a web page, a local
mailbox (nothing leaves the machine), and an app that writes rows. Each run begins anew, in a database
of its own (pgautomate_demo) of the private Postgres, or in a schema of its own (pgautomate_demo) of the
database that is given. At its end it drops its replication slot, so that the server keeps no log for it.

--replay takes an event log instead: a CSV file with a header and case, activity and time in its first three
columns. A case becomes a lead, an activity its status, one commit an event, in the order of time, then of
the file; each activity has a trigger of its name.

It goes on until Ctrl-C, or with --exit until all is done, and then prints the totals as one JSON object.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.Leads < 1 || o.Leads > 100_000:
				return usageError{fmt.Errorf("--leads %d: use 1 to 100000", o.Leads)}
			case cmd.Flags().Changed("replay") && replay == "":
				return usageError{errors.New("--replay needs a file")}
			case cmd.Flags().Changed("speed") && replay == "":
				return usageError{errors.New("--speed is the pace of a replay: give --replay FILE too")}
			case cmd.Flags().Changed("speed") && !(o.Speed > 0):
				return usageError{fmt.Errorf("--speed %v: use a number above 0, such as 86400 for a day in a second", o.Speed)}
			}
			if replay != "" {
				var err error
				if o.Log, err = demo.ReadLog(replay); err != nil {
					return err
				}
			}
			// A port that somebody else took is an error only when it was asked for.
			asked := listen != ""
			if !asked {
				listen = defaultListen
			}
			return a.runDemo(cmd.Context(), o, listen, !asked)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Exit, "exit", false, "end when all is done")
	f.StringVar(&replay, "replay", "", "replay an event log, a CSV `file` with the columns case, activity, time")
	f.Float64Var(&o.Speed, "speed", 0, "the replay's pace as a `multiple` of real time (default as fast as it goes)")
	f.StringVar(&listen, "listen", os.Getenv("PGAUTOMATE_LISTEN"), "HTTP `address` (PGAUTOMATE_LISTEN; default "+defaultListen+", or a free port if that one is taken)")
	f.IntVar(&o.Leads, "leads", 200, "leads of each of the three organizations")
	f.Uint64Var(&o.Seed, "seed", 1, "what decides what happens to them")
	return c
}

func (a *app) runDemo(ctx context.Context, o demo.Options, listen string, otherwiseFree bool) error {
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", listen)
	if err != nil && otherwiseFree {
		fmt.Fprintf(os.Stderr, "%s is taken, so a free port is used\n", listen)
		listener, err = listening.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return fmt.Errorf("the address %s can't be listened on: %w; choose another one with --listen or PGAUTOMATE_LISTEN", listen, err)
	}
	defer listener.Close()
	if err := a.demoDatabase(ctx, &o); err != nil {
		return err
	}
	o.Logger, o.Progress = a.logger, os.Stderr
	d, err := demo.New(ctx, o)
	if err != nil {
		return err
	}
	group, httpCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	httpCtx, stopHTTP := context.WithCancel(httpCtx)
	defer stopHTTP()
	if err := serveHTTP(httpCtx, group, a.handlerConfig(d.Engine, d.Mailbox), listener); err != nil {
		d.Close()
		return err
	}
	database := o.DatabaseURL
	if a.private == nil {
		database = db.Redacted(d.Engine.Pool().Config().ConnConfig) // the password is the user's
	}
	totals, err := d.Run(ctx, func() {
		url := "http://" + reachable(listener.Addr().String())
		fmt.Fprintf(os.Stderr, "overview:  %s/\nmailbox:   %s/mailbox\nRiver UI:  %s/river/\ndatabase:  %s\n", url, url, url, database)
		if !o.Exit {
			fmt.Fprintln(os.Stderr, "Ctrl-C ends it")
		}
	})
	stopHTTP()
	if httpErr := group.Wait(); err == nil {
		err = httpErr
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(totals)
}

// demoDatabase readies the database that the demo begins anew in.
func (a *app) demoDatabase(ctx context.Context, o *demo.Options) error {
	if a.databaseURL != "" {
		o.DatabaseURL, o.TableSchema = a.databaseURL, demo.Schema
		return demo.ClaimDatabase(ctx, a.databaseURL, db.Quiet(a.logger))
	}
	dir := a.dataDir
	if dir == "" {
		var err error
		if dir, err = private.DefaultDataDir(); err != nil {
			return err
		}
	}
	server, err := private.Start(ctx, private.Options{DataDir: dir, Logger: db.Quiet(a.logger)})
	if err != nil {
		return err
	}
	a.private = server // stopped at the end
	o.DatabaseURL, err = demo.FreshDatabase(ctx, server.URL("postgres"))
	return err
}

// reachable is the address that a browser on this machine takes for one that is listened on.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return strings.TrimSpace(addr)
}
