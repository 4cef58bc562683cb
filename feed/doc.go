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
// row before and the row after. A single transaction is held in memory whole.
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
