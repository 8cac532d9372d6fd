"""Changes the kernels' PTX one instruction at a time and asks whether the tests of that kernel notice.

Not all changes are ones that could be noticed: that a number is taken for signed where it is never so large makes no
difference, nor which of two ways to the same result is taken. What can be told from the text alone is not tried.

    mutate.py TEST DRIVER PTX...        --count N --seed N --least PERCENT

TEST is the program of kernels.c, DRIVER the one that stands in for a GPU. Prints each change that nobody noticed, and at
the end "mutants: ok ..." or "mutants: FAILED ...".
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

_SECONDS = 120


class Mutant(NamedTuple):
    kernel: str
    line: int
    before: str
    after: str
    text: str


_SWAPS = [
    ("add.", "sub."), ("sub.", "add."), ("mul.lo.", "add."), ("mul.rn.", "add.rn."), ("min.", "max."), ("max.", "min."),
    ("and.", "or."), ("or.", "and."), ("xor.", "or."), ("shl.b", "shr.u"), ("shr.u", "shl.b"), ("shr.s", "shr.u"),
    ("div.", "rem."), ("rem.", "div."), ("add.rn.", "sub.rn."), ("sub.rn.", "add.rn."), ("div.rn.", "mul.rn."),
    ("setp.lt.", "setp.le."), ("setp.le.", "setp.lt."), ("setp.gt.", "setp.ge."), ("setp.ge.", "setp.gt."),
    ("setp.eq.", "setp.ne."), ("setp.ne.", "setp.eq."), ("setp.lt.", "setp.gt."), ("setp.ge.", "setp.lt."),
    ("setp.num.", "setp.nan."), ("min.s", "min.u"), ("max.s", "max.u"), ("bfe.s", "bfe.u"), ("neg.", "mov."),
    ("cvt.rzi.", "cvt.rni."),
]


def _changes(instruction: str) -> Iterator[str]:
    guard = re.match(r"(@!?%p\d+ )?", instruction)[0]
    rest = instruction[len(guard):]
    for old, new in _SWAPS:
        name = rest.split(None, 1)[0]
        if name.startswith(old):
            yield guard + rest.replace(old, new, 1)
    if guard:
        yield ("@" + guard[2:] if "!" in guard else "@!" + guard[1:]) + rest
        yield rest if rest.startswith("bra") else guard + "mov.u32 %r0, %r0;"
    for match in re.finditer(r"(?<![\w%.])-?\d+(?![\w.])", rest):
        for step in (1, -1):
            yield guard + rest[:match.start()] + str(int(match.group()) + step) + rest[match.end():]
    choice = re.match(r"(selp\.\w+\s+[^,]+), ([^,]+), ([^,]+), (.*)", rest)
    if choice:
        yield f"{choice[1]}, {choice[3]}, {choice[2]}, {choice[4]}"
    order = re.match(r"((?:sub|div|rem|shl|shr)\.\S+\s+[^,]+), (%\w+), (%\w+);", rest)
    if order:
        yield f"{guard}{order[1]}, {order[3]}, {order[2]};"
    if rest.startswith(("st.", "bar.")):
        yield ""
    if re.match(r"(add|sub|and|or|xor|min|max|mul\.(lo|rn))\.\S+\s+(%\w+), (%\w+), ", rest):
        parts = re.match(r"\S+\.(\w+)\s+(%\w+), (%\w+), ", rest)
        yield f"{guard}mov.{parts[1]} {parts[2]}, {parts[3]};"


def _mutants(path: Path) -> Iterator[Mutant]:
    text = path.read_text()
    lines = text.split("\n")
    kernel: Optional[str] = None
    for number, line in enumerate(lines):
        entry = re.match(r"\.visible \.entry (\w+)\(", line)
        kernel = entry[1] if entry else kernel
        stripped = line.strip()
        is_instruction = line.startswith("\t") and stripped.endswith(";") and not stripped.startswith((".", "//"))
        if not is_instruction or kernel is None:
            continue
        for changed in _changes(stripped):
            if changed.strip() != stripped:
                yield Mutant(kernel, number + 1, stripped, changed,
                             "\n".join(lines[:number] + ["\t" + changed] + lines[number + 1:]))


def _is_noticed(mutant: Mutant, test: str, driver: str) -> Optional[bool]:
    """None if it is no PTX."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(mutant.text)
        file.flush()
        env = dict(os.environ, PCCL_LIBCUDA=driver, FAKE_CUDA_PTX=file.name, FAKE_CUDA_DELAY="0")
        try:
            done = subprocess.run([test, mutant.kernel], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            return True
        return None if b"INVALID_PTX" in done.stdout else done.returncode != 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("test")
    parser.add_argument("driver")
    parser.add_argument("ptx", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--least", type=float, default=95)
    arguments = parser.parse_args()
    print(f"mutants: seed {arguments.seed}", flush=True)
    # As many of each file: the few instructions of one are not lost among the many of another.
    chosen: List[Mutant] = []
    for path in arguments.ptx:
        generator = random.Random(f"{arguments.seed} {path.name}")
        everything = list(_mutants(path))
        chosen += generator.sample(everything, min(len(everything), arguments.count // len(arguments.ptx)))
    noticed = missed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(lambda mutant: _is_noticed(mutant, arguments.test, arguments.driver), chosen)
        for mutant, outcome in zip(chosen, outcomes):
            noticed += outcome is True
            if outcome is False:
                missed += 1
                print(f"not noticed: {mutant.kernel}, line {mutant.line}: {mutant.before} -> {mutant.after}", flush=True)
    share = 100 * noticed / max(noticed + missed, 1)
    is_good = noticed > 0 and share >= arguments.least
    print(f"mutants: {'ok' if is_good else 'FAILED'} noticed={noticed} missed={missed} share={share:.1f} "
          f"least={arguments.least:g} seed={arguments.seed}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
