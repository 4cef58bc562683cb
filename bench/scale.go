package bench

import "time"

// scale is how much is measured.
type scale struct {
	triggers, organizations int // in all
	whale                   int // triggers of the one organization of match_one_org
	matching                time.Duration
	reps                    int

	rows    int // of the watched table
	batches int // changes of a backlog in 1,000-row transactions
	singles int // and in 1-row ones
	fires   int // of the backlogs that fire
	perTx   int

	pace    int           // changes/s of commit_to_job
	phase   time.Duration // of each turn of commit_to_job and app_writes
	leads   int           // of actions_*, two actions each
	workers int
	steady  time.Duration // of lateness_p99

	claim, fewParked, parked, finished int

	importingOrgs, imported int // organizations that import, and the leads of each
	importLimit             int // starts that each may have
	importPer               string
	importAfter             time.Duration // watched after all are in

	members int // of fan_out's topic
	topic   int // of topic_10000's

	edits int
	large int // rows of the large transaction
}

var full = scale{
	triggers: 1_000_000, organizations: 20_000, whale: 10_000, matching: 2 * time.Second, reps: 3,
	rows: 200_000, batches: 200_000, singles: 100_000, fires: 100_000, perTx: 1000,
	pace: 1000, phase: 4 * time.Second, leads: 10_000, workers: 200, steady: 8 * time.Second,
	claim: 1000, fewParked: 10_000, parked: 5_000_000, finished: 10_000_000,
	importingOrgs: 100, imported: 16_000, importLimit: 60, importPer: "1 minute", importAfter: 80 * time.Second,
	members: 100_000, topic: 10_000, edits: 11, large: 1_000_000,
}

var quick = scale{
	triggers: 100_000, organizations: 2_000, whale: 10_000, matching: 500 * time.Millisecond, reps: 1,
	rows: 40_000, batches: 40_000, singles: 20_000, fires: 20_000, perTx: 1000,
	pace: 1000, phase: 2 * time.Second, leads: 3_000, workers: 200, steady: 3 * time.Second,
	claim: 1000, fewParked: 10_000, parked: 200_000, finished: 400_000,
	importingOrgs: 100, imported: 1_600, importLimit: 6, importPer: "6 seconds", importAfter: 8 * time.Second,
	members: 20_000, topic: 10_000, edits: 5, large: 100_000,
}
