// Package demo shows the whole engine at work on a sample CRM: tables, pipelines, triggers, a throttle, a local mailbox and a
// receiver of webhooks, and something that writes rows as an app would. Nothing leaves the machine.
//
//	FreshDatabase or ClaimDatabase -> New -> Run -> Totals
//
// What it drives through is either made here, from a seed (script.go), or an event log of the user's (ReadLog, replay.go).
// Both are reproducible: the same seed or the same log gives the same firings in each run. For the log that is the engine's
// own promise. The sample CRM keeps to two rules of its own, so that the order in which automations and app get to a row
// can't matter:
//
//   - every column that a trigger looks at has one writer, either the app or one automation, and each trigger looks at one
//     column beside those that never change;
//   - the app closes deals, which moves leads out of their stages, only when nothing is under way in the pipelines.
//
// The demo is an app beside the engine, so its SQL is what an app would write; it stands in the folder sql.
package demo
