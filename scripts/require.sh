#!/bin/sh
# Makes sure that what the project needs beside Go is there: a C compiler (the PKCS#11 binding), SoftHSM, openssl and Node.js (foreign
# verifiers, tests only). Missing Debian packages are installed when this runs as root on Debian or Ubuntu; otherwise the command that
# would do it is printed.
#
#   scripts/require.sh demo     compiler, SoftHSM
#   scripts/require.sh test     the same, openssl, Node.js with npm, procps
#   scripts/require.sh faults   demo, p11-kit with its client, strace, the headers of OpenSSL
#   scripts/require.sh monitoring  demo, openssl, Prometheus with promtool, sqlite3, curl, strace
set -eu
want=${1:-demo}
missing=
need() { missing="$missing $1"; }

command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || need gcc
echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || case $missing in *gcc*) need libc6-dev ;; *) need "gcc libc6-dev" ;; esac
found=
for m in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/libsofthsm2.so; do
	if [ -e "$m" ]; then found=$m; fi
done
[ -n "$found" ] || need softhsm2
if [ "$want" = test ]; then
	command -v openssl >/dev/null 2>&1 || need openssl
	command -v node >/dev/null 2>&1 || need nodejs
	command -v npm >/dev/null 2>&1 || need npm
	command -v pgrep >/dev/null 2>&1 || need procps
fi
if [ "$want" = faults ]; then
	command -v p11-kit >/dev/null 2>&1 || need p11-kit
	found=
	for m in /usr/lib*/pkcs11/p11-kit-client.so /usr/lib/*/pkcs11/p11-kit-client.so; do
		if [ -e "$m" ]; then found=$m; fi
	done
	[ -n "$found" ] || need p11-kit-modules
	command -v strace >/dev/null 2>&1 || need strace
	echo '#include <openssl/ec.h>' | cc -E - >/dev/null 2>&1 || need libssl-dev
fi
if [ "$want" = monitoring ]; then
	command -v openssl >/dev/null 2>&1 || need openssl
	command -v prometheus >/dev/null 2>&1 && command -v promtool >/dev/null 2>&1 || need prometheus
	command -v sqlite3 >/dev/null 2>&1 || need sqlite3
	command -v curl >/dev/null 2>&1 || need curl
	command -v pkill >/dev/null 2>&1 || need procps
	command -v strace >/dev/null 2>&1 || need strace
fi
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 && exit 0
	apt-get update >/dev/null
	apt-get install -y --no-install-recommends $missing >/dev/null
	exit 0
fi
echo "missing:$missing" >&2
if command -v apt-get >/dev/null 2>&1; then
	echo "run: sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
elif command -v dnf >/dev/null 2>&1; then
	echo "run: sudo dnf install -y gcc softhsm openssl nodejs npm (faults: p11-kit-server strace openssl-devel; monitoring: golang-github-prometheus sqlite curl procps-ng strace)" >&2
else
	echo "install a C compiler, SoftHSM 2.6, openssl 3 and Node.js 18 or later, then try again" >&2
fi
exit 1
