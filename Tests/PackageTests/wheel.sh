#!/usr/bin/env bash
# What a stranger does with the Python wheel. Runs in a clean Debian 12, see scripts/debian-root, with the wheel in
# /carried/wheel and those it depends on in /carried/dependencies: pip has no index to ask.
set -euo pipefail

log=/root/log

fail() {
    echo "test-wheel: $*" >&2
    exit 1
}
passed() { echo "  ok: $*"; }
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; fail "failed: $*"; }; }

quietly timeout 120 apt-get update
quietly timeout 300 apt-get -y -q --no-install-recommends install python3 python3-venv
! ldconfig -p | grep -q libuv || fail "this Debian is not clean: it has libuv"
quietly python3 -m venv /root/venv
quietly timeout 120 /root/venv/bin/pip install --no-index --find-links /carried/dependencies /carried/wheel/*.whl
passed "pip installs $(cd /carried/wheel && echo *.whl), $(du -sh /root/venv/lib/python3*/site-packages/pccl* | awk '{print $2 " " $1}' | sed 's|.*/||' | paste -sd ' ')"
cd /root
python=/root/venv/bin/python

quietly $python -W error -m pccl.master --help
grep -q 'USAGE: pccl-master' "$log" || { cat "$log" >&2; fail "python -m pccl.master --help says something else"; }
status=0
$python -m pccl.master --no-such-option >"$log" 2>&1 || status=$?
[ $status = 64 ] || fail "wrong options end the master with status $status, not 64"

$python -m pccl.master --listen 127.0.0.1 --port 0 2>/root/master.log &
master=$!
for _ in $(seq 100); do
    address=$(sed -n 's/^pccl-master: listening on //p' /root/master.log)
    [ -z "$address" ] || break
    sleep 0.1
done
[ -n "$address" ] || { cat /root/master.log >&2; fail "the master does not listen"; }
cp /carried/PackageTests/wheel_peer.py /root
timeout 60 $python wheel_peer.py "$address" 1 >/root/first.log 2>&1 &
first=$!
timeout 60 $python wheel_peer.py "$address" 2 >/root/second.log 2>&1 &
second=$!
wait $first || { cat /root/first.log >&2; fail "the first peer failed"; }
wait $second || { cat /root/second.log >&2; fail "the second peer failed"; }
[ "$(cat /root/first.log /root/second.log | grep -c '^ok')" = 2 ] || fail "a peer did not finish"
kill -TERM $master
wait $master || fail "the master ended with status $? on SIGTERM"
passed "$(grep '^ok' /root/first.log | sed 's/^ok: //')"
passed "python -m pccl.master served them, and ended when asked"

licences=$(echo /root/venv/lib/python3*/site-packages/pccl-*.dist-info/licenses)
for name in LICENSE LICENSE.libcrypto LICENSE.libuv LICENSE.libzstd LICENSE.swift; do
    [ -s "$licences/$name" ] || fail "$name is not among what was installed"
done
grep -q 'TERMS AND CONDITIONS' "$licences/LICENSE.libcrypto" || fail "the licence of libcrypto is a reference only"
passed "the licences of what is bundled are installed with it"

quietly /root/venv/bin/pip uninstall -y pccl
[ -z "$(find /root/venv -name '*pccl*')" ] || fail "left behind: $(find /root/venv -name '*pccl*')"
passed "pip uninstalls all of it"
