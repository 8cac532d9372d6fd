"""`pccl bench`: its figures fit together, and whatever happens to it, it ends and leaves nobody behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Optional, Sequence

from harness import Case, Failure, Skip, check


def _tool(case: Case) -> str:
    return str(Path(case.tools.master).parent / "pccl")


def _environment(case: Case) -> dict:
    """Its own folder for temporary files, so that what it leaves there can be seen."""
    folder = case.logs / "tmp"
    folder.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(folder)}


def _start(case: Case, arguments: Sequence[str], command: str = "bench") -> subprocess.Popen:
    process = subprocess.Popen(
        [_tool(case), command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=_environment(case), text=True)
    case.cleanups.append(lambda: (process.kill(), process.wait()))
    return process


def _finish(case: Case, process: subprocess.Popen) -> tuple:
    try:
        out, err = process.communicate(timeout=case.seconds_left())
    except subprocess.TimeoutExpired:
        raise Failure(f"{process.args} did not end") from None
    return process.returncode, out, err


def _run(case: Case, *arguments: str) -> tuple:
    return _finish(case, _start(case, arguments))


def _children(pid: int) -> List[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            # The name may have spaces and brackets; the parent is the second field behind it.
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _wait_for_children(case: Case, process: subprocess.Popen, count: int) -> List[int]:
    while case.seconds_left() > 0:
        children = _children(process.pid)
        if len(children) >= count:
            return children
        if process.poll() is not None:
            raise Failure(f"it ended with status {process.returncode}: {process.stderr.read()}")
        time.sleep(0.01)
    raise Failure(f"it did not start {count} processes")


def _runs(pid: int) -> bool:
    """An orphan that has ended stays in the list until somebody collects it; in a container there may be nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until_gone(case: Case, pids: Sequence[int]) -> None:
    left = list(pids)
    while left and case.seconds_left() > 0:
        left = [pid for pid in left if _runs(pid)]
        time.sleep(0.01)
    check(not left, f"processes {left} outlived it")


def _free_port() -> int:
    """Free a moment ago: for what cannot be given port 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _check_figures(report: dict, libraries: Sequence[str], worlds: Sequence[int], sizes: Sequence[int]) -> None:
    rows = {(row["library"], row["peers"], row["bytes"]): row for row in report["results"]}
    wanted = {(library, peers, size) for library in libraries for peers in worlds for size in sizes}
    check(set(rows) == wanted and len(report["results"]) == len(wanted), f"rows {sorted(rows)}, not {sorted(wanted)}")
    for (library, peers, size), row in rows.items():
        check(row["wrong_elements"] == 0, f"wrong results: {row}")
        check(0 < row["min_seconds"] <= row["median_seconds"] <= row["p95_seconds"], f"not in their order: {row}")
        algorithm, bus = (row[f"{kind}_bandwidth_gigabytes_per_second"] for kind in ("algorithm", "bus"))
        check(abs(algorithm * row["median_seconds"] * 1e9 / size - 1) < 1e-6, f"not size by time: {row}")
        check(abs(bus / algorithm - 2 * (peers - 1) / peers) < 1e-6, f"not 2 (P-1)/P: {row}")
        check(row["cpu_seconds_per_gigabyte"] > 0, f"no processor time: {row}")
        check((row["times_of_pccl"] is None) == (library == "pccl"), f"a ratio of itself, or none: {row}")
        check(0 < row["extra_memory_bytes"] < 1 << 30, f"memory beyond the buffers: {row}")


def bench_figures_are_consistent(case: Case) -> None:
    status, out, err = _run(
        case, "--json", "--peers", "2,3", "--sizes", "8,4K,1000000", "--rounds", "2", "--iterations", "4", "--vs",
        "pump,tcp", "--pause", "0.01", "--plot", str(case.logs / "plot.svg"))
    check(status == 0, f"status {status}: {err}")
    report = json.loads(out)
    _check_figures(report, ("pccl", "pump", "pccl-tcp"), (2, 3), (8, 4096, 1000000))
    check(report["options"]["pause_seconds"] == 0.01, f"the pause: {report['options']}")
    check(all(row["calls"] == 8 for row in report["results"]), "2 rounds of 4 calls make 8")
    check(report["machine"]["cores"] >= 1 and report["skipped"] == [], f"the report: {report}")
    check("peers" in err and "1000000 B" in err, f"the table goes to standard error beside --json: {err}")
    check((case.logs / "plot.svg").read_text().count("<polyline") == 6, "a line for each library and world")
    check(list((case.logs / "tmp").iterdir()) == [], "temporary files were left")


def bench_state_says_what_was_moved(case: Case) -> None:
    def run(*arguments: str) -> tuple:
        return _finish(case, _start(case, arguments, "bench-state"))

    status, out, err = run("--peers", "3", "--size", "8M", "--tensors", "4", "--rounds", "2", "--differing", "50")
    check(status == 0, f"status {status}: {err}")
    # Of four tensors of two chunks one chunk each, and eight hashes.
    check("2 give and 1 receive" in out and f" {4 * (1 << 20) + 8 * 32} bytes received" in out, out)
    for wrong in (("--peers", "1"), ("--receivers", "2"), ("--size", "x"), ("--differing", "101")):
        status, out, err = run(*wrong)
        check(status == 64 and out == "", f"{wrong}: status {status}, {out}{err}")
    status, out, err = run("--master", "127.0.0.1:1")
    check(status == 1 and "127.0.0.1:1" in err, f"no master: status {status}, {err}")


def bench_version_is_the_release(case: Case) -> None:
    status, out, err = _run(case, "--json", "--sizes", "8", "--rounds", "1", "--iterations", "1")
    check(status == 0, f"status {status}: {err}")
    package = (Path(case.tools.master).parent.parent / "lib/pkgconfig/pccl.pc").read_text()
    version = re.search(r"^Version: *(\S+)", package, re.MULTILINE).group(1)
    check(json.loads(out)["version"] == version, f"the tool's version is not {version}: {out}")


def bench_reduces_every_type_and_operation(case: Case) -> None:
    types = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16", "float32",
             "float64")
    for index, kind in enumerate(types):
        for in_place in ([], ["--in-place"]):
            op = ("sum", "avg", "prod", "max", "min")[index % 5] if in_place else "sum"
            status, out, err = _run(
                case, "--type", kind, "--op", op, "--peers", "3", "--sizes", "8,100K", "--rounds", "1", "--iterations",
                "20", "--tags", str(1 + index % 3), "--stripes", str(index % 3), *in_place)
            check(status == 0, f"{kind} {op} {in_place}: status {status}: {err}{out}")


bench_reduces_every_type_and_operation.limit_seconds = 180


def bench_measures_codes_beside_what_is_coded(case: Case) -> None:
    for index, codec in enumerate(("min-max8", "zero-point16/64", "int4-e8m0+stochastic", "e3m0", "e4m3", "bfloat16")):
        op = ("sum", "avg", "max")[index % 3]
        status, out, err = _run(
            case, "--json", "--peers", "3", "--sizes", "64,100K,1M", "--rounds", "1", "--iterations", "5", "--codec", codec,
            "--op", op, "--vs", "plain", *(["--in-place"] if index % 2 else []))
        check(status == 0, f"{codec} {op}: status {status}: {err}{out}")
        report = json.loads(out)
        _check_figures(report, ("pccl", "plain"), (3,), (64, 102400, 1 << 20))
        check(report["options"]["codec"] == codec, f"the codec: {report['options']}")


def bench_joins_a_master(case: Case) -> None:
    """Three peers on as many hosts, as far as they know: one of them prints."""
    arguments = ["--master", f"127.0.0.1:{case.master.port}", "--peers", "3", "--sizes", "8,64K", "--rounds", "2",
                 "--iterations", "3", "--vs", "one-stripe,tcp", "--json"]
    results = [_finish(case, process) for process in [_start(case, arguments) for _ in range(3)]]
    check(all(status == 0 for status, _, _ in results), f"they ended with {results}")
    spoken = [out for _, out, _ in results if out]
    check(len(spoken) == 1, f"one of them prints, not {len(spoken)}: {results}")
    report = json.loads(spoken[0])
    _check_figures(report, ("pccl", "one-stripe", "pccl-tcp"), (3,), (8, 65536))
    check(report["options"]["master"] == arguments[1], f"where it was measured: {report}")
    check(list((case.logs / "tmp").iterdir()) == [], "temporary files were left")


def bench_peers_skip_alike(case: Case) -> None:
    arguments = ["--master", f"127.0.0.1:{case.master.port}", "--peers", "2", "--sizes", "8", "--rounds", "1", "--vs"]
    # Even where nobody has torch: it is said of all alike, and nobody waits for those who would have it.
    pythons = ["/no/python", os.environ.get("PCCL_TEST_TORCH", sys.executable)]

    def results(libraries: str) -> list:
        command = arguments + [libraries, "--gloo-store", "127.0.0.1:1", "--python"]
        return [_finish(case, process) for process in [_start(case, command + [python]) for python in pythons]]

    both = results("gloo,one-stripe")
    check(all(status == 0 for status, _, _ in both), f"one of two is there: {both}")
    spoken = "".join(out for _, out, _ in both)
    said = re.search(r"gloo is skipped: peer [01]: [^:]*python.*--python", spoken)
    check(said, f"it does not say what is missing: {both}")
    check("one-stripe" in spoken, f"the other one is not measured: {both}")
    for status, _, err in results("gloo"):
        check(status == 1 and "nothing of --vs" in err, f"none of one is there, status {status}: {err}")


def bench_peers_with_different_options_are_told(case: Case) -> None:
    arguments = ["--master", f"127.0.0.1:{case.master.port}", "--peers", "2", "--rounds", "1", "--sizes"]
    results = [_finish(case, process) for process in [_start(case, arguments + [size]) for size in ("8", "64")]]
    for status, out, err in results:
        check(status == 1 and "different options" in err and out == "", f"status {status}: {err}{out}")


def bench_alone_gives_up(case: Case) -> None:
    status, _, err = _run(case, "--master", f"127.0.0.1:{case.master.port}", "--peers", "2", "--timeout", "1")
    check(status == 1 and "no progress" in err, f"status {status}: {err}")


def bench_names_a_process_that_died(case: Case) -> None:
    process = _start(case, ["--sizes", "1M", "--rounds", "1000", "--vs", "pump"])
    children = _wait_for_children(case, process, 4)
    victim = case.random.choice(children)
    os.kill(victim, signal.SIGKILL)
    status, _, err = _finish(case, process)
    # The other peers may be the first to say something: that they have lost this one.
    check(status == 1 and err.startswith("pccl bench: "), f"status {status}: {err}")
    check(f"process {victim} was ended by signal 9" in err or ", peer " in err, f"it does not say who: {err}")
    _wait_until_gone(case, children)


def bench_is_interrupted(case: Case) -> None:
    process = _start(case, ["--sizes", "1M", "--rounds", "1000", "--vs", "pump"])
    children = _wait_for_children(case, process, 4)
    process.send_signal(signal.SIGINT)
    status, _, err = _finish(case, process)
    check(status == 130 and "interrupted" in err, f"status {status}: {err}")
    _wait_until_gone(case, children)
    check(list((case.logs / "tmp").iterdir()) == [], "temporary files were left")


def bench_is_killed(case: Case) -> None:
    """Nobody collects its children then: they have to see by themselves that it is gone."""
    process = _start(case, ["--sizes", "1M", "--rounds", "1000", "--vs", "pump"])
    children = _wait_for_children(case, process, 4)
    process.kill()
    process.communicate()
    _wait_until_gone(case, children)


def bench_says_what_is_missing(case: Case) -> None:
    status, out, err = _run(case, "--sizes", "8", "--rounds", "1", "--vs", "gloo,pump", "--python", "/no/python")
    check(status == 0, f"one of two is there, status {status}: {err}")
    check("gloo is skipped" in out and "--python" in out, f"it does not say what is missing: {out}")
    status, _, err = _run(case, "--sizes", "8", "--rounds", "1", "--vs", "gloo", "--python", "/no/python")
    check(status == 1 and "nothing of --vs" in err, f"none of one is there, status {status}: {err}")


def bench_beside_mpi(case: Case) -> None:
    """Where Open MPI is installed."""
    if not shutil.which("mpicc") or not shutil.which("mpirun"):
        raise Skip("there is no mpicc or no mpirun")
    status, out, err = _run(
        case, "--json", "--sizes", "8,1M", "--rounds", "2", "--iterations", "3", "--vs", "mpi", "--in-place",
        "--pause", "0.01")
    check(status == 0, f"status {status}: {err}")
    _check_figures(json.loads(out), ("pccl", "mpi-tcp", "mpi-shm"), (2,), (8, 1 << 20))


def bench_beside_gloo(case: Case) -> None:
    """Where PCCL_TEST_TORCH names a Python that has torch."""
    python: Optional[str] = os.environ.get("PCCL_TEST_TORCH")
    if not python:
        raise Skip("PCCL_TEST_TORCH does not name a Python with torch")
    status, out, err = _run(
        case, "--json", "--sizes", "8,1M", "--rounds", "2", "--iterations", "3", "--vs", "gloo", "--pause",
        "0.01", "--python", python)
    check(status == 0, f"status {status}: {err}")
    _check_figures(json.loads(out), ("pccl", "gloo"), (2,), (8, 1 << 20))


def bench_joins_a_master_beside_gloo(case: Case) -> None:
    """Where PCCL_TEST_TORCH names a Python that has torch."""
    python: Optional[str] = os.environ.get("PCCL_TEST_TORCH")
    if not python:
        raise Skip("PCCL_TEST_TORCH does not name a Python with torch")
    arguments = ["--master", f"127.0.0.1:{case.master.port}", "--peers", "3", "--sizes", "8,1M", "--rounds", "2",
                 "--iterations", "3", "--json", "--vs", "gloo", "--python", python, "--gloo-interface", "lo",
                 "--gloo-store"]

    def results(store: str) -> list:
        return [_finish(case, process) for process in [_start(case, arguments + [store]) for _ in range(3)]]

    measured = results(f"127.0.0.1:{_free_port()}")
    check(all(status == 0 for status, _, _ in measured), f"they ended with {measured}")
    _check_figures(json.loads("".join(out for _, out, _ in measured)), ("pccl", "gloo"), (3,), (8, 1 << 20))
    # An address that is nobody's (RFC 5737), and a port that is somebody else's.
    taken = f"127.0.0.1:{case.master.port}"
    for store, reason in (("192.0.2.1:1", "skipped: no peer has the address"), (taken, ": gloo with")):
        refused = results(store)
        check(all(status == 1 and "nothing of --vs" in err for status, _, err in refused), f"{store}: {refused}")
        check(any(reason in err for _, _, err in refused), f"{store}: {reason} is not said: {refused}")
