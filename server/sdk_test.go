package server_test

// The official SDKs against this server. They check answers more strictly than any
// test of ours; each is a program of its own in sdks/, run where it can be.

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// nine makes a notification whose jobs have all nine statuses; its transactionId.
func (p *post) nine() string {
	p.t.Helper()
	var steps []string
	for range 8 {
		steps = append(steps, template("in_app", "x"))
	}
	p.workflow("nine", steps)
	id := p.trigger("processed", `{"name":"nine","to":"S1"}`)
	p.until("8", `SELECT count(*)::text FROM pgautomate.messages WHERE transaction_id = $1`, id)
	// The one that runs does so in a process that isn't ours, else it would be missed there.
	p.exec(`INSERT INTO pgautomate.workers (hostname, pid, capacity, heartbeat_at) VALUES ('elsewhere', 1, '{}', now() + interval '1 hour')`)
	p.exec(`UPDATE pgautomate.notification_jobs SET status = (ARRAY['pending','queued','running','failed','delayed','canceled','merged','skipped']::pgautomate.job_status[])[sequence_number],
		perform_at = now() + interval '1 day', worker_id = (SELECT max(id) FROM pgautomate.workers), queued_at = now()
		WHERE transaction_id = $1 AND sequence_number > 0`, id)
	return id
}

func (p *post) program(cmd *exec.Cmd) {
	p.t.Helper()
	cmd.Env = append(os.Environ(), "NOVU_URL="+p.http.URL, "NOVU_KEY="+p.a, "NOVU_STATUSES="+p.nine())
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

// TestNovuAPI runs @novu/api, which scripts/npm-novu.sh unpacks.
func TestNovuAPI(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("PGAUTOMATE_NOVU_API")
	if folder == "" {
		t.Skip("PGAUTOMATE_NOVU_API is not set: PGAUTOMATE_NOVU_API=$(scripts/npm-novu.sh)")
	}
	p := newPost(t)
	p.program(exec.CommandContext(t.Context(), "node", "../sdks/node/round.mjs", folder))
}

// TestNovuGo runs novu-go, in a module of its own.
func TestNovuGo(t *testing.T) {
	t.Parallel()
	if os.Getenv("PGAUTOMATE_NOVU_GO") == "" {
		t.Skip("PGAUTOMATE_NOVU_GO is not set: its module is fetched from the network")
	}
	p := newPost(t)
	dir, err := filepath.Abs("../sdks/go")
	ok(t, err)
	cmd := exec.CommandContext(t.Context(), "go", "run", ".")
	cmd.Dir = dir
	p.program(cmd)
}
