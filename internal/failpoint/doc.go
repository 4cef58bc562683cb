// Package failpoint names the places between two durable steps, where a process
// that dies must leave nothing undone and nothing done twice. In ordinary builds Hit
// is empty and costs nothing. In builds with the tag `failpoints` the environment
// tells where to die:
//
//	PGAUTOMATE_FAILPOINT=claim-before-commit:2
//
// is a kill -9 of the process by itself, when it comes by that place for the second
// time. The tests of package faults build such a binary and go through all names.
package failpoint
