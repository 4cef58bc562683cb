#!/bin/bash
# The whole fault suite as a check: prints its report. A firing that is lost, twice or wrong fails it at once. A fault that
# fails in another way, for a bound of time as a rule, is inflicted once more by itself, for the machine may have been busy;
# what fails then fails. What the first go said is printed with a mark before each line, lest it be taken for the result.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/ensure-go.sh
scripts/ensure-postgres.sh

out=$(mktemp)
trap 'rm -f "$out"' EXIT
inflict() { # parallel pattern
	go test -tags faults -count 1 -timeout 0 -v -parallel "$1" -run "$2" ./faults >"$out" 2>&1
}
report() { sed -n '/^fault  .*times/,/^actions:/p' "$out"; }
# Columns from the right: actions, feed, wrong, twice, lost.
broken() { report | awk '/^fault  |^feed:|^actions:|^$/ { next } { if ($(NF-2) + $(NF-3) + $(NF-4) > 0) bad = 1 } END { exit !bad }'; }

code=0
inflict "${FAULT_PARALLEL:-5}" 'Test(Faults|FailpointsComplete)' || code=$?
report
[ "$code" -eq 0 ] && exit 0
if broken || [ -z "$(report)" ]; then
	grep -v '^=== ' "$out" | tail -300
	exit 1
fi
failed=$(sed -n 's/^ *--- FAIL: TestFaults\/\(.*\) (.*/\1/p' "$out")
if [ -z "$failed" ]; then
	grep -v '^=== ' "$out" | tail -300
	exit 1
fi
# What go test -v prints belongs to the test that it named last.
FAILED="$failed" awk 'BEGIN { n = split(ENVIRON["FAILED"], f, "\n"); for (i = 1; i <= n; i++) of["TestFaults/" f[i]] = 1 }
	/^=== / { now = $3; next } now in of && !/^ *--- / { print "first go: " now ": " $0 }' "$out" | tail -200
pattern=$(printf '%s' "$failed" | sed 's/[][\.*^$()+?{}|]/\\&/g' | paste -sd '|')
echo "once more, by themselves: $failed"
code=0
inflict 1 "TestFaults/^($pattern)\$" || code=$?
report
[ "$code" -eq 0 ] || grep -v '^=== ' "$out" | tail -200
exit "$code"
