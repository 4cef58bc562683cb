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
// # Failover
//
// A promoted standby goes on with the stream if its history holds the checkpoint and
// it has a slot that is not ahead of it: such a slot sends every commit after the
// checkpoint (see verify). With the checkpoint in the same database both come from
// the same log, and what the standby lacked of it, firings as well as rows, is gone
// together.
//
// Until Postgres 16 a standby has no copy of the slot: a permanent error, and a gap
// from the checkpoint on. From 17 on the slot is a failover slot, of which a standby
// keeps a copy when told to (sync_replication_slots, hot_standby_feedback,
// primary_slot_name, a dbname in primary_conninfo). The copy could be ahead of the
// checkpoint, whose own commit lies further on in the log than what it covers: a gap
// again. It can't be where commits wait for the standby
// (synchronous_standby_names), nor where the standby's physical slot is named in
// synchronized_standby_slots, for then a position is confirmed only once the standby
// has the checkpoint (see Tracker).
//
// # What comes through
//
// A connection that died without a word is noticed (see package line), on a stream by
// the answers that the status messages ask for. A message that makes no sense is
// neither applied nor left out: the commit is read again on a new connection, since
// something on the way may have changed it; what stays so is a permanent error that
// says where it is, but for rows, which are noted (see session.garbled). Bytes that
// were changed to other sensible ones can't be told; TLS can.
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
