//go:build large

package firing_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMemoryOfAMillionRows bounds what the process takes at most, whatever the
// size of a transaction. PGAUTOMATE_BINARY and PGAUTOMATE_PARTS try another
// program, or more of it.
//
//	make test ARGS="-tags large -run TestMemoryOfAMillionRows -v -timeout 30m ./firing"
func TestMemoryOfAMillionRows(t *testing.T) {
	const rows, limit = 1_000_000, 400
	binary := os.Getenv("PGAUTOMATE_BINARY")
	if binary == "" {
		binary = filepath.Join(t.TempDir(), "pgautomate")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/pgautomate").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	parts := os.Getenv("PGAUTOMATE_PARTS")
	if parts == "" {
		parts = "feed"
	}
	for _, test := range []struct {
		name string
		run  func(w *world)
	}{
		{"update", func(w *world) { w.exec(`UPDATE lead SET status_id = 'C'`) }},
		{"insert", func(w *world) { w.insert(rows, "C") }},
		{"update of one row at a time, then back and gone", func(w *world) { // touched three times, to nothing but the last
			w.exec(`DO $$ BEGIN
				UPDATE lead SET status_id = 'L';
				UPDATE lead SET status_id = 'C';
				DELETE FROM lead WHERE id % 2 = 0;
				INSERT INTO lead SELECT i, 'a', 'C', 'back' FROM generate_series(2, 1000000, 2) i;
			END $$`)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.name != "insert" {
				w.insert(rows, "Q") // before the slot is made
			}
			cmd := exec.CommandContext(t.Context(), binary, "run", "--only", parts, "--listen", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), "DATABASE_URL="+w.db.URL)
			out, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if t.Failed() {
					text, _ := os.ReadFile(out.Name())
					t.Logf("its log:\n%s", text[max(0, len(text)-4000):])
				}
			})
			active := func() bool {
				return one[bool](w, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE active AND database = current_database())`)
			}
			w.until("the stream is read", time.Minute, active)
			time.Sleep(time.Second)
			before := peak(t, cmd.Process.Pid)
			test.run(w)
			committed := time.Now()
			w.exec(`INSERT INTO lead VALUES (0, 'b', 'C', '')`)
			w.until("the commit after it is decided", 10*time.Minute, func() bool { return w.firings("b") == 1 })
			took := time.Since(committed)
			after := peak(t, cmd.Process.Pid)
			if n := w.firings("a"); n != rows {
				t.Errorf("%d firings, want %d", n, rows)
			}
			fmt.Printf("%s of %d rows: VmHWM %d MiB (idle %d MiB), decided %.1f s after the commit\n", test.name, rows, after, before, took.Seconds())
			if after > limit {
				t.Errorf("the process took %d MiB, limit %d", after, limit)
			}
		})
	}
}

// peak gives a process's VmHWM in MiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kib >> 10
}
