package main

import (
	"path/filepath"
	"testing"
)

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"1048576": 1 << 20, "64MiB": 64 << 20, "1GiB": 1 << 30, "512KiB": 512 << 10, "10MB": 10e6, "0": 0} {
		if got, err := size(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "64 MiB", "64Mi", "1TiB", "GiB1", "99999999999"} {
		if got, err := size(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestSpilling(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if limit, where, err := spilling("2MiB", dir); err != nil || limit != 2<<20 || where != dir {
		t.Errorf("%d, %q, %v", limit, where, err)
	}
	if entries, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	// Wrong usage, before anything is started.
	for _, args := range [][]string{
		{"--max-transaction-memory", "lots"}, {"--max-transaction-memory", "1KiB"}, {"--related-memory", "some"},
		{"--spill-dir", filepath.Join(dir, "nowhere")}, {"--archive-after", "59s"}, {"--keep-spent", "0s"}, {"--keep-finished-days", "-1"},
	} {
		if code := run(t.Context(), append([]string{"run", "--database-url", "postgres://127.0.0.1:1/none"}, args...)); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
	}
}

// What is bounded says so before anything is started.
func TestSoakBounds(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--for", "25h"}, {"--rate", "5001"}, {"--for", "1m", "--hold-snapshot", "30s"}, {"more"}} {
		if code := run(t.Context(), append([]string{"soak"}, args...)); code != 2 {
			t.Errorf("soak %v: exit code %d, want 2", args, code)
		}
	}
}
