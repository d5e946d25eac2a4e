#!/bin/sh
# Installs the Debian packages of programs that are missing. Arguments are
# program=package, or one word where both have the same name. Fails, rather than
# letting tests skip, when it cannot.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=""
for pair in "$@"; do
	command -v "${pair%%=*}" >/dev/null || missing="$missing ${pair##*=}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "these packages are missing and installing them needs root:$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# Servers are run by the tests themselves, never as services of this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get -qq update
# shellcheck disable=SC2086
apt-get -qq install -y --no-install-recommends $missing >/dev/null
