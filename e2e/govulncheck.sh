#!/bin/sh
# Runs govulncheck where its database answers. Without it the check cannot say
# anything, and says so; a finding is always a failure.
set -u
go=$1 tool=$2
out=$(mktemp)
trap 'rm -f "$out"' EXIT
if "$go" run "$tool" ./... >"$out" 2>&1; then
	tail -1 "$out"
	exit 0
fi
if grep -qE 'fetching vulnerabilities|dial tcp|no such host|403 Forbidden|connection refused|i/o timeout|vuln.go.dev' "$out" && ! grep -q '^Vulnerability #' "$out"; then
	echo "govulncheck: NOT RUN: its database cannot be reached from here"
	exit 0
fi
cat "$out"
exit 1
