// Package faults breaks things while pgautomate works, and counts afterwards.
//
// Writers change rows of a watched table at random: inserts, updates, deletes,
// changed keys, moves between organizations, in transactions of several statements,
// some rolled back, some with savepoints that are. An audit trigger in the same
// database keeps each row's step from before to after, in the same transactions, so
// that what must have fired is computed from it alone, by rules written down a second
// time in a few lines (see oracle_test.go). Meanwhile a fault happens: processes are
// killed, frozen, cut off, the server crashes, its disk fills, slots vanish, VACUUM is
// held back. Then:
//
//	expected firings  =  trigger_firings      each once, in each object's order
//	                  =  River's firing jobs  one each
//	                  =  actions              one each, all completed
//	                  =  the actions' effects one row each, where they have one
//
// Two of the faults run with all other tests. The whole suite is `make test-faults`
// (build tag `faults`): it takes its own servers and some minutes; FAULT_SECONDS
// prolongs each fault. At its end it prints a table: how often each fault was
// inflicted, what was lost, what was there twice, how long the recovery took.
package faults
