package scheduler

import (
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// An infinite time, written by an app, would stop every claim.
func TestTimesAreMoments(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	if _, err := db.Pool.Exec(t.Context(), `INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at) VALUES ('a', '1', 'log', now() + interval '1 day')`); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"infinity", "-infinity"} {
		_, err := db.Pool.Exec(t.Context(), `UPDATE pgautomate.lead_stage_actions SET perform_at = $1::text::timestamptz`, at)
		if err == nil || !strings.Contains(err.Error(), "perform_at_is_a_moment") {
			t.Errorf("%s: %v", at, err)
		}
	}
}
