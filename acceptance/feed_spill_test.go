package acceptance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A large transaction goes through files in the folder that is set; while that is gone, it waits.
func TestSpillDir(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.config.MaxTransactionBytes, w.config.SpillDir = 1<<20, filepath.Join(t.TempDir(), "spill")
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (organization_id, status_id, description) SELECT 'a', 'C', repeat('x', 5000) FROM generate_series(1, 1000)`)
	w.until("the feed says what it lacks", func() bool { return strings.Contains(w.log.String(), w.config.SpillDir) })
	if err := os.Mkdir(w.config.SpillDir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.until("all have fired", func() bool { return w.firings(id, "") == 1000 })
}
