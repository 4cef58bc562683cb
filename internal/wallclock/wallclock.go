// Package wallclock finds instants by what clocks show.
package wallclock

import "time"

// First gives the first instant at which the clocks of loc show the date and time of wall, whose own zone doesn't count. A
// time that comes twice is meant the first time. One that a clock change skips is the first instant after the gap, and
// skipped is true. time.Date promises neither.
func First(wall time.Time, loc *time.Location) (at time.Time, skipped bool) {
	_, own := wall.Zone()
	wall = wall.Add(time.Duration(own) * time.Second).UTC()
	// No zone is further than a day from UTC.
	for in := wall.Add(-36 * time.Hour).In(loc); ; {
		start, end := bounds(in)
		_, offset := in.Zone()
		first := wall.Add(-time.Duration(offset) * time.Second)
		if skipped = !start.IsZero() && first.Before(start); skipped {
			first = start
		}
		if end.IsZero() || first.Before(end) {
			return first.In(loc), skipped
		}
		in = end
	}
}

// bounds is ZoneBounds with an end that comes. Beyond a zone's table of changes, which may end long ago, the time package
// reckons a year's last period until the 365th day is over: on the last day of a leap year that end is past.
func bounds(t time.Time) (start, end time.Time) {
	start, end = t.ZoneBounds()
	if !end.IsZero() && !end.After(t) {
		end = time.Date(t.UTC().Year()+1, time.January, 1, 0, 0, 0, 0, time.UTC).In(t.Location())
	}
	return start, end
}
