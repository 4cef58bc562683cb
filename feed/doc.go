// Package feed reads committed changes from one logical replication slot and
// hands them on, each exactly once.
//
//	server ──pgoutput──▶ reader ──whole commits──▶ queue ──batch──▶ applier
//	   ▲                                                            │ one transaction:
//	   └──────── confirmed position ◀── checkpoint committed ◀──────┘ effects + checkpoint
//
// # Exactly once
//
// Every committed change of a watched table takes effect exactly once in the
// database that the Applier writes to. The effects of commits and the
// checkpoint, the end position of the last of them, are one transaction; the
// checkpoint moves by compare-and-set, so that of two processes one fails
// instead of overwriting. The server is told a position only after it was
// committed as checkpoint (see Tracker); so it may send commits again, after a
// crash of either side, and those at or before the checkpoint are dropped
// whole, but it can never leave any out.
//
// That holds for one making of one slot on one server. A checkpoint and a slot
// that do not belong together, because one of them was lost, recreated,
// restored or moved, are a permanent error with its fix in the text; Recreate
// is that fix, and records the gap.
//
// # The unit is the commit
//
// Protocol version 1 sends whole transactions in commit order; what is rolled
// back is never sent. Within a commit each object's changes are netted to the
// row before and the row after.
//
// # Large transactions
//
// The memory that a transaction takes is bounded, its size is not: beyond
// Config.MaxTransactionBytes it is netted in temporary files without a name, by
// the same code and to the same effect (see spill.go), and handed on by
// change.Commit's Each, which walks the files in the order of first touch, as
// often as the applier has to try. It is a batch by itself, in one transaction
// with its checkpoint like any other; when it fails, or the session ends, the
// files go, and it comes again whole.
//
// Nothing overtakes it, for commits take effect in commit order: a commit that
// comes after it, of whatever organization, is decided when its turn comes. That
// is as soon as the large one is applied, not later; with an applier that writes
// a row and a job for each change, that was about 40 s for a million changes.
// Commits that are received before it don't wait for it.
//
// # States
//
//	starting ──▶ streaming ◀──▶ reconnecting     any error that may pass
//	    │            ▲ │
//	    ▼            │ ▼
//	 standby ────────┘ stopped                   asked to, or a permanent error
//
// Standby is normal: another process reads the slot, and this one takes over
// when it becomes free.
package feed
