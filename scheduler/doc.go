// Package scheduler hands due actions to workers and writes what became of them.
//
// An action's way, each arrow one transaction:
//
//	pending, due ──claim──▶ queued ──start──▶ running ──finish──▶ completed
//	     ▲                                       │
//	     └────────── retry, later ◀──────────────┼──▶ delayed (a timer) ──claim──▶ queued …
//	                                             └──▶ failed
//
// A claim goes by lanes, one for each organization and action type, which say
// when a claim is next worth the while. It locks the lanes whose time has come
// (SKIP LOCKED, longest waiting first), reads what their throttles allow, takes
// from each lane its oldest due actions, as many as it may have of what the
// workers have room for, and puts a carrier for each into the River queue of its
// type. So its cost is that of what it claims: parked and finished rows, and
// other organizations' backlogs, are never read. Tokens are taken in the claim's
// transaction (see throttle.go for why the limit holds whatever happens next).
//
// Whatever makes an action due leaves a signal, a row that waits for nobody;
// the scheduler turns signals into lanes. Nothing in here waits for a lock that an
// app holds: rows that are locked are left for the next time.
//
// Any number of processes may do all this at once.
package scheduler
