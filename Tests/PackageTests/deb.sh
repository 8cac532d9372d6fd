#!/usr/bin/env bash
# What a stranger does with the Debian packages. Runs in a clean Debian 12, see scripts/debian-root: with the packages in
# /carried/deb.
set -euo pipefail

packages=(/carried/deb/*.deb)
version=$(dpkg-deb -f "${packages[0]}" Version)
log=/root/apt.log
# Of the process that is a systemd for what runs in its namespaces.
init=

fail() {
    echo "test-deb: $*" >&2
    exit 1
}
passed() { echo "  ok: $*"; }

quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; fail "failed: $*"; }; }
apt() { quietly timeout 300 apt-get -y -q --no-install-recommends "$@"; }

# What is there, without what package managers and the tests themselves write.
listing() {
    find / -xdev \( -path /tmp -o -path /var/tmp -o -path /var/cache -o -path /var/log -o -path /var/lib/apt \
        -o -path /var/lib/dpkg -o -path /carried -o -path /root \) -prune -o -print | LC_ALL=C sort
}

# nothing_left: compares with the listing of before.
nothing_left() {
    listing >/root/after
    local left
    left=$(comm -13 /root/before /root/after)
    [ -z "$left" ] || fail "left behind after a purge: $left"
    left=$(find /var/lib/dpkg /var/cache/apt/*.bin /etc /usr /var/lib -xdev -name '*pccl*' 2>/dev/null || true)
    [ -z "$left" ] || fail "left behind after a purge: $left"
    if dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' '*pccl*' 2>/dev/null | grep -v ' un'; then
        fail "dpkg remembers these packages"
    fi
}

# two_peers ADDRESS ROUNDS: both must have averaged in all rounds.
two_peers() {
    local address=$1 rounds=$2 first second averaged log
    timeout 60 /root/peer "$address" "$rounds" 1 >/root/first.log 2>&1 &
    first=$!
    timeout 60 /root/peer "$address" "$rounds" 2 >/root/second.log 2>&1 &
    second=$!
    wait $first || { tail /root/first.log >&2; fail "the first peer failed"; }
    wait $second || { tail /root/second.log >&2; fail "the second peer failed"; }
    for log in /root/first.log /root/second.log; do
        averaged=$(grep -c '2 peers, average 1.5$' $log || true)
        [ "$averaged" = "$rounds" ] || fail "$log has $averaged right averages, not $rounds"
    done
}

# until_seen SECONDS COMMAND...
until_seen() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            [ -z "$init" ] || inside journalctl --no-pager --lines 20 --unit pccl-master >&2 || true
            fail "this did not come true: $*"
        fi
        sleep 0.1
    done
}

quietly timeout 120 apt-get update
apt install gcc libc6-dev pkg-config
! ldconfig -p | grep -q libuv || fail "this Debian is not clean: it has libuv"

# --- without systemd

listing >/root/before
apt install "${packages[@]}"
passed "apt installs ${packages[*]##*/} and what they depend on: $(
    dpkg-query -W -f '${Package}\n' libssl3 libuv1 libzstd1 libstdc++6 | tr '\n' ' ')"
[ "$(pkg-config --modversion pccl)-${version##*-}" = "$version" ] || fail "pkg-config has another version than dpkg"

# Unquoted: the flags are words.
# shellcheck disable=SC2046
gcc -std=c99 -Wall -Werror /usr/share/doc/libpccl-dev/examples/peer.c $(pkg-config --cflags --libs pccl) -o /root/peer
ldd /root/peer | grep -qE '=> (/usr)?/lib/[^/]*/libpccl.so' || { ldd /root/peer; fail "the example does not use the package's library"; }
pccl-master --listen 127.0.0.1 --port 0 2>/root/master.log &
master=$!
until_seen 10 grep -q 'listening on' /root/master.log
two_peers "$(sed -n 's/^pccl-master: listening on //p' /root/master.log)" 20
kill -TERM $master
wait $master || fail "pccl-master ended with status $? on SIGTERM"
passed "the C example, compiled through pkg-config, averages in two processes"

timeout 60 pccl simulate --schedules 100 >/root/simulate.log 2>&1 || { cat /root/simulate.log >&2; fail "pccl simulate failed"; }
for program in pccl pccl-master; do
    # minbase has no man, but gzip.
    page=$(zcat "/usr/share/man/man1/$program.1.gz" | sed 's/\\-/-/g')
    $program --help >/root/help
    for word in $(grep -oE -- '(^| )--[a-z-]+' /root/help | sort -u) $(sed -n '/^SUBCOMMANDS/,$ s/^  \([a-z-]\{1,\}\)  .*/\1/p' /root/help); do
        [ "$word" != --help ] || continue
        grep -qE -- "^\.(B|BI) $word( |$)" <<<"$page" || fail "the manual page of $program lacks $word"
    done
done
passed "the manual pages have every option and subcommand of --help"

apt purge --autoremove 'libpccl*' pccl-tools
nothing_left
passed "after a purge nothing is left"

# --- with systemd

if [ ! -e /sys/fs/cgroup/cgroup.procs ]; then
    echo "  SKIPPED: the service; systemd wants control groups of version 2, which are not to be had here"
    exit 0
fi
apt install systemd systemd-sysv dbus iproute2
listing >/root/before
apt install "${packages[@]}"
# It says on standard error what it would have printed as warnings, with status 0.
said=$(systemd-analyze verify --man=no pccl-master.service 2>&1) || fail "the unit: $said"
[ -z "$said" ] || fail "the unit: $said"
exposure=$(systemd-analyze security --offline=true --threshold=20 pccl-master.service | tail -n 1) || fail "$exposure"
passed "systemd-analyze: $exposure"
[ "$(systemctl is-enabled pccl-master)" = disabled ] || fail "the service was enabled by the installation"

# A systemd as the first process of namespaces in these. With a network of its own, so that the port is free.
mkdir /sys/fs/cgroup/booted
(
    echo $BASHPID >/sys/fs/cgroup/booted/cgroup.procs
    exec unshare --mount --pid --fork --kill-child=KILL --cgroup --net --mount-proc bash -c '
        umount /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mount -t tmpfs tmpfs /run
        ip link set lo up
        exec env -i container=other /lib/systemd/systemd --system --unit=multi-user.target'
) >/root/boot.log 2>&1 &
unshared=$!
until_seen 5 grep -q . /proc/$unshared/task/$unshared/children
init=$(tr -d ' ' </proc/$unshared/task/$unshared/children)
inside() { timeout 90 nsenter --target "$init" --mount --pid --net --cgroup "$@"; }
main_process() { inside systemctl show --property MainPID --value pccl-master; }
# is_active [PID]: and its process is another than that
is_active() { inside systemctl is-active pccl-master && [ "$(main_process)" != "${1:-0}" ]; }
until_seen 30 inside systemctl is-active multi-user.target

inside systemctl enable --now pccl-master 2>/dev/null
until_seen 10 is_active
two=$(declare -f two_peers fail)
inside bash -c "set -euo pipefail; $two; two_peers 127.0.0.1:48148 20"
inside test -s /var/lib/pccl/master-48148.journal || fail "the service keeps no journal"
before=$(main_process)
inside grep -q '^Seccomp:.*2' "/proc/$before/status" || fail "the service has no filter of system calls"
passed "the service, enabled by hand, runs two peers: $(inside grep -E '^(Uid|CapEff)' "/proc/$before/status" | tr -s '\t\n' ' ')"

# While two peers run on and on: killed, and then upgraded.
for value in 1 2; do
    inside systemd-run --quiet --unit=peer-$value --property=StandardOutput=file:/root/peer-$value.log \
        /root/peer 127.0.0.1:48148 1000000000 $value
done
rounds() { grep -c '2 peers, average 1.5$' "/root/peer-$1.log"; }
is_beyond() { [ "$(rounds 1)" -gt "$1" ] && [ "$(rounds 2)" -gt "$2" ]; }
go_on() { until_seen 20 is_beyond $(($(rounds 1) + 100)) $(($(rounds 2) + 100)); }
until_seen 20 is_beyond 100 100
inside systemctl kill --signal=KILL pccl-master
until_seen 10 is_active "$before"
go_on
passed "killed, it is started again, and two peers go on"
before=$(main_process)
inside env DEBIAN_FRONTEND=noninteractive apt-get -y -q install --reinstall "${packages[@]}" >$log 2>&1 || { cat $log >&2; fail "cannot be upgraded"; }
until_seen 10 is_active "$before"
# A member that had to connect anew would be a newcomer, which the other lets in at a join point.
inside bash -c 'timeout 20 /root/peer 127.0.0.1:48148 10 3' >/root/third.log 2>&1 || { tail /root/third.log >&2; fail "the master does not admit a third peer after the upgrade"; }
grep -q '3 peers, average 2$' /root/third.log || { tail /root/third.log >&2; fail "the third peer averaged something else"; }
go_on
inside systemctl is-active --quiet peer-1 peer-2 || fail "a peer did not outlive two masters"
lost=$(cat /root/peer-[12].log | grep -c 'the master is lost' || true)
[ "$lost" = 4 ] || { grep -vh '^round' /root/peer-[12].log >&2; fail "each peer should have lost its master twice; it was $lost times in all"; }
inside systemctl stop peer-1 peer-2
rm /root/peer-*.log
passed "an upgrade starts it again, and two peers go on, and admit a third"

inside env DEBIAN_FRONTEND=noninteractive apt-get -y -q purge --autoremove 'libpccl*' pccl-tools >$log 2>&1 || { cat $log >&2; fail "cannot be purged"; }
! inside systemctl is-active pccl-master >/dev/null || fail "purged, and the service still runs"
kill -KILL "$init"
wait $unshared 2>/dev/null || true
listing >/root/after
left=$(comm -13 /root/before /root/after | grep -i pccl || true)
[ -z "$left" ] || fail "left behind after a purge: $left"
passed "a purge ends it, and leaves nothing"
