"""`pccl demo` in rounds: four peers train with DiLoCo, one is killed, another joins, and all hold the same after each round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from harness import Case, Process, check

LOWEST_ACCURACY = 0.9


def _demo(case: Case, *arguments: str) -> Process:
    case.started += 1
    tool = str(Path(case.tools.master).with_name("pccl"))
    process = Process(case, f"demo-{case.started}", [tool, "demo", "--no-color", *arguments], case.env)
    case.processes.append(process)
    return process


def _lines(process: Process) -> Sequence[str]:
    """All that it says."""
    with process.changed:
        while not process.is_at_end:
            check(process.changed.wait(process.case.seconds_left()), f"{process.name} did not end")
    return [line.text for line in process.lines]


def _trains_in_rounds(case: Case, mode: str, codec: str) -> None:
    run = _demo(case, "--diloco", mode, "--codec", codec, "--pace", "10")
    lines = _lines(run)
    check(run.wait() == 0, f"status {run.popen.returncode}: {lines[-1:]}")
    said = re.fullmatch(
        r"demo: ok world=4 joined=1 killed=1 rounds=(\d+) accuracy=([\d.]+) weights=[0-9a-f]{16}"
        rf" mode={mode} codec={codec} identical=yes", lines[-1].strip())
    check(said, f"another last line: {lines[-1]}")
    check(int(said[1]) >= 40, f"{said[1]} rounds of 40")
    check(float(said[2]) >= LOWEST_ACCURACY, f"accuracy {said[2]}")


def demo_trains_in_synchronous_rounds(case: Case) -> None:
    _trains_in_rounds(case, "synchronous", "none")


def demo_trains_in_delayed_rounds(case: Case) -> None:
    _trains_in_rounds(case, "delayed", "none")


def demo_streams_fragments_in_four_bits(case: Case) -> None:
    _trains_in_rounds(case, "streaming", "e3m0")


def demo_says_what_it_cannot_do(case: Case) -> None:
    wrong = (["--codec", "e3m0"], ["--diloco", "streaming", "--sync-every", "1"],
             ["--diloco", "delayed", "--codec", "e3"], ["--diloco", "synchronous", "--steps", "100"])
    for arguments in wrong:
        run = _demo(case, *arguments)
        check(run.wait() != 0, f"{arguments} are taken")
        check("demo: ok" not in "".join(_lines(run)), f"{arguments}: it says ok")
