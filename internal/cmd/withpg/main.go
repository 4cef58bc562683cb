// Withpg runs a command with a throwaway Postgres: `withpg [--] go test ./...`.
//
// The packages of one test run then share a server, which saves a second or two for each of them. The server's URL is in
// PGAUTOMATE_TEST_URL; when that is set already, the command just runs. The command has our stdin, stdout and stderr, gets
// our signals, and its exit code is ours; the server and its folder are gone afterwards.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: withpg [--] command [argument…]")
		os.Exit(2)
	}
	code, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
		code = 1
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	if os.Getenv(dbtest.URLEnv) == "" {
		dir, err := dbtest.Folder()
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		server, err := start(dir, signals)
		if err != nil {
			return 0, err
		}
		defer func() {
			now, cancel := context.WithCancel(context.Background())
			cancel() // nothing in it is worth a checkpoint
			_ = server.Stop(now)
		}()
		if err := os.Setenv(dbtest.URLEnv, server.URL("postgres")); err != nil {
			return 0, err
		}
	}
	return command(args, signals)
}

// start gives up when a signal comes.
func start(dir string, signals <-chan os.Signal) (*private.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // a download may be part of it
	defer cancel()
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-finished:
		}
	}()
	return private.Start(ctx, private.Options{
		DataDir: dir, Volatile: true,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// command runs the command to its end and returns its exit code; 128 + n when signal n ended it, as shells do.
func command(args []string, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
				return 0, err
			}
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return cmd.ProcessState.ExitCode(), nil
		}
	}
}
