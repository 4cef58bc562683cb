package wallclock

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Sydney", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "Africa/Casablanca"}

func load(t testing.TB, zone string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// soon fails if do takes longer than it ever may.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: no answer", what)
	}
}

// The last day of a leap year once hung the search, in years beyond a zone's table.
func TestLastDayOfLeapYear(t *testing.T) {
	t.Parallel()
	for _, zone := range zones {
		loc := load(t, zone)
		for year := 2000; year <= 2420; year++ {
			for _, hour := range []int{0, 1, 12, 23} {
				wall := time.Date(year, 12, 31, hour, 30, 0, 0, loc)
				soon(t, fmt.Sprintf("%s in %s", wall, zone), func() {
					if at, skipped := First(wall, loc); skipped && zone != "Pacific/Apia" || !skipped && at.Format(time.DateTime) != wall.Format(time.DateTime) {
						t.Errorf("%s: %s, skipped %v, for %s", zone, at, skipped, wall)
					}
				})
			}
		}
	}
}

func TestClockChanges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		zone, wall, want string
		skipped          bool
	}{
		{"Europe/Berlin", "2026-03-29T02:30:00Z", "2026-03-29T01:00:00Z", true},
		{"Europe/Berlin", "2026-03-29T03:00:00Z", "2026-03-29T01:00:00Z", false},
		{"Europe/Berlin", "2026-10-25T02:30:00Z", "2026-10-25T00:30:00Z", false}, // twice
		{"Europe/Berlin", "2044-03-27T02:30:00Z", "2044-03-27T01:00:00Z", true},  // by the rule
		{"America/Havana", "2026-03-08T00:00:00Z", "2026-03-08T05:00:00Z", true}, // no midnight
		{"Australia/Lord_Howe", "2026-10-04T02:15:00Z", "2026-10-03T15:30:00Z", true},
		{"Pacific/Apia", "2011-12-30T12:00:00Z", "2011-12-30T10:00:00Z", true}, // a day that never was
		{"UTC", "2026-03-29T02:30:00.25Z", "2026-03-29T02:30:00.25Z", false},
	} {
		wall, err := time.Parse(time.RFC3339Nano, tt.wall)
		if err != nil {
			t.Fatal(err)
		}
		at, skipped := First(wall, load(t, tt.zone))
		if got := at.UTC().Format(time.RFC3339Nano); got != tt.want || skipped != tt.skipped {
			t.Errorf("%s in %s: %s, skipped %v; want %s, %v", tt.wall, tt.zone, got, skipped, tt.want, tt.skipped)
		}
	}
}

// Whatever the clocks show at some time, First finds that time or, where they show it twice, the one before.
func TestFindsBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		loc := load(t, rapid.SampledFrom(zones).Draw(r, "zone"))
		at := time.Unix(rapid.Int64Range(-5e9, 15e9).Draw(r, "seconds"), 0).In(loc)
		got, skipped := First(at, loc)
		if skipped || got.After(at) || got.Format(time.DateTime) != at.Format(time.DateTime) || at.Sub(got) > 25*time.Hour {
			r.Fatalf("%s: %s, skipped %v", at, got, skipped)
		}
	})
}
