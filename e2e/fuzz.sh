#!/bin/sh
# Runs every fuzz target of the module for a bounded time each. Inputs are not
# made smaller: targets that run a whole handler cover other lines each time, and
# Go would spend the time on that.
set -eu
go=$1 each=$2
"$go" list ./... | while read -r pkg; do
	for target in $("$go" test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$each" -fuzzminimizetime 1x "$pkg" </dev/null
	done
done
