package firing

import (
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// recentBytes bounds what is kept of the latest changes.
const recentBytes = 32 << 20

// recent keeps the latest changes of watched tables, so that why one of them did
// or did not fire can still be said (see Explain). Nobody else knows the rows
// before a change that fired nothing: Postgres forgets them, and keeping them in
// a table would cost more than matching them.
type recent struct {
	commits []recentCommit // in commit order
	first   int            // the oldest one kept
	bytes   int
	end     change.EndLSN // of the latest one
}

type recentCommit struct {
	lsn        change.CommitLSN
	end        change.EndLSN
	time       time.Time
	suppressed bool
	depth      int
	changes    []change.Change // whose rows are copies
	bytes      int
	partial    bool // too large to be kept whole
}

// add takes up a commit, and forgets the oldest ones for it. One that came to nothing may
// come again.
func (r *recent) add(c *change.Commit, suppressed bool, depth int) {
	if c.End <= r.end {
		return
	}
	r.end = c.End
	k := recentCommit{lsn: c.LSN, end: c.End, time: c.Time, suppressed: suppressed, depth: depth}
	if c.Large != nil {
		k.partial = true
	} else {
		for i := range c.Changes {
			ch := &c.Changes[i]
			k.bytes += len(ch.Before) + len(ch.After) + 160
		}
		if k.partial = k.bytes > recentBytes/2; !k.partial {
			k.changes = make([]change.Change, len(c.Changes))
			rows := make([]byte, 0, k.bytes)
			keep := func(row change.Row) change.Row {
				if row == nil {
					return nil
				}
				at := len(rows)
				rows = append(rows, row...)
				return change.Row(rows[at:len(rows):len(rows)])
			}
			for i := range c.Changes {
				ch := c.Changes[i]
				ch.Before, ch.After = keep(ch.Before), keep(ch.After)
				ch.ID, ch.OldID = strings.Clone(ch.ID), strings.Clone(ch.OldID)
				ch.Organization, ch.OldOrganization = strings.Clone(ch.Organization), strings.Clone(ch.OldOrganization)
				k.changes[i] = ch
			}
		}
	}
	if k.partial {
		k.bytes = 0
	}
	k.bytes += 200
	r.commits = append(r.commits, k)
	for r.bytes += k.bytes; r.bytes > recentBytes; r.first++ {
		r.bytes -= r.commits[r.first].bytes
		r.commits[r.first] = recentCommit{}
	}
	if r.first > len(r.commits)/2 {
		r.commits = append(r.commits[:0:0], r.commits[r.first:]...)
		r.first = 0
	}
}

// forget drops everything: what follows is not what came next.
func (r *recent) forget() { *r = recent{} }

// find gives the latest change of an object up to a position (0: any), and the
// place of its commit.
func (r *recent) find(objectType, id string, upTo change.LSN) (ch *change.Change, commit int) {
	for i := len(r.commits) - 1; i >= r.first; i-- {
		k := &r.commits[i]
		if upTo != 0 && change.LSN(k.lsn) > upTo {
			continue
		}
		for j := range k.changes {
			if c := &k.changes[j]; c.ID == id && c.Object.Type == objectType {
				return c, i
			}
		}
	}
	return nil, 0
}
