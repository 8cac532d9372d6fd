"""What comes out of a reduction: every size of world, odd counts, all the ways to lay it over connections."""

from __future__ import annotations

import socket

from harness import Case, Skip, check, reduce

_COUNTS = (1, 2, 3, 7, 1000003)
_COUNTS_OF_WIDE_WORLDS = (1, 2, 3, 7, 33, 10007)


def _grow(case: Case, sizes, stripes: int = 0) -> None:
    """One group that grows from size to size, with the same reductions at each."""
    members = case.world(sizes[0], stripes=stripes)
    for size in sizes:
        newcomers = [case.worker(number, stripes=stripes) for number in range(len(members), size)]
        if newcomers:
            case.join(members, newcomers)
            members += newcomers
        for i, count in enumerate(_COUNTS if size <= 8 else _COUNTS_OF_WIDE_WORLDS):
            where = ("inplace", "apart")[i % 2]
            reduce(members, count, tag=i, seed=size, where=where)
            op = ("sum", "avg")[size % 2]
            reduce(members, count, kind="f32", op=op, tag=i, seed=size, where=where, pattern="noise")


def direct_worlds(case: Case) -> None:
    case.env["PCCL_ALGORITHM"] = "direct"
    _grow(case, (2, 3, 5, 8, 16, 32))


direct_worlds.limit_seconds = 120


def ring_worlds(case: Case) -> None:
    case.env["PCCL_ALGORITHM"] = "ring"
    _grow(case, (2, 3, 5, 8, 16, 32))


ring_worlds.limit_seconds = 120


def four_stripes(case: Case) -> None:
    _grow(case, (2, 3, 5), stripes=4)


def ring_of_four_stripes(case: Case) -> None:
    case.env["PCCL_ALGORITHM"] = "ring"
    _grow(case, (2, 3, 5), stripes=4)


def ipv6(case: Case) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        raise Skip(f"this machine has no IPv6 loopback: {error}") from None
    case.start_master("::1")
    members = case.world(3)
    for count in _COUNTS:
        reduce(members, count)


def same_bits_in_every_run(case: Case) -> None:
    """The same inputs in the same view: the same bits, call after call, whoever comes late."""
    members = case.world(4)
    hashes = set()
    for _ in range(8):
        case.random.shuffle(members)
        hashes.add(reduce(members, 300001, kind="f32", seed=7, pattern="noise", where="apart")[0].hash)
    check(len(hashes) == 1, f"the same inputs gave {len(hashes)} different results")


def many_in_flight(case: Case) -> None:
    """Launched in a different order on each member, awaited in another one."""
    members = case.world(3)
    tags = list(range(1000, 1040))
    for member in members:
        case.random.shuffle(tags)
        member.send(*(f"launch {1 + tag * 37 % 70000} u64 sum {tag} apart {tag} sum" for tag in tags))
        case.random.shuffle(tags)
        member.send(*(f"await {tag}" for tag in tags))
    hashes = {}
    for member in members:
        for _ in tags:
            line = member.expect("await")
            check(line.rc == 0 and line.wrong_results == 0 and line.wrong_inputs == 0, f"{member.name}: {line}")
            check(line.mask == 7, f"{member.name}: not everybody's contribution: {line}")
            check(hashes.setdefault(line.tag, line.hash) == line.hash, f"results differ: {line}")
    reduce(members, 100)


def multiple_with_retry(case: Case) -> None:
    members = case.world(3)
    for where in ("inplace", "apart"):
        for member in members:
            member.send(f"multi 50000 64 8 {where} 5")
        lines = [member.expect("multi") for member in members]
        for line in lines:
            check(line.rc == 0 and line.reduced == 64 and line.fences == "whole", f"not all is reduced: {line}")
            check(line.common == 7 and line.wrong_inputs == 0 and line.hash == lines[0].hash, f"wrong results: {line}")


def beyond_four_gibibytes(case: Case) -> None:
    need = 12 << 30
    with open("/proc/meminfo") as meminfo:
        free = next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable"))
    if free < need:
        raise Skip(f"{free >> 20} MiB of memory are free, {need >> 20} are needed")
    members = case.world(2)
    count = (1 << 32) + 300000007
    for member in members:
        member.send(f"big {count}")
    for member in members:
        line = member.expect("big")
        check(line.rc == 0 and line.mask == 3 and line.wrong_results == 0, f"{member.name}: {line}")
    reduce(members, 7)


beyond_four_gibibytes.limit_seconds = 120
beyond_four_gibibytes.is_long = True


def tags_cost_nothing(case: Case) -> None:
    """Nothing grows with the number of different tags used."""
    members = case.world(2)

    def use(first: int, count: int) -> None:
        for member in members:
            member.send(f"tags {first} {count}")
        for member in members:
            line = member.expect("tags")
            check(line.rc == 0 and line.done == count and line.wrong_results == 0, f"{member.name}: {line}")

    use(1 << 20, 2000)
    before = [member.resident_bytes() for member in members]
    use(1 << 40, 20000)
    for member, bytes_before in zip(members, before):
        growth = member.resident_bytes() - bytes_before
        check(growth < 4 << 20, f"{member.name} grew by {growth >> 10} KiB over 20,000 tags")


tags_cost_nothing.is_long = True
