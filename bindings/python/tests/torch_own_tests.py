"""Runs PyTorch's own tests of torch.distributed on this backend, those that are about the CPU.

    python torch_own_tests.py [--backend pccl] [--world-size 3] [PATTERN...]

They come with torch, in torch.testing; the package expecttest is needed. Not part of the test suite: they take minutes,
are for torch's own backends, and change with it. The README says which pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import unittest
from typing import Any, Dict, List

# What the tests' module reads when it is imported, here and in every process of a test.
os.environ.setdefault("BACKEND", "pccl")
os.environ.setdefault("WORLD_SIZE", "3")
os.environ.setdefault("TEMP_DIR", tempfile.mkdtemp())
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch.testing._internal.common_distributed as common  # noqa: E402

import pccl.distributed  # noqa: E402, F401 - registers the backend

# "gpu" is what tests ask for that are for the usual backends; those that need a GPU skip themselves.
for feature in ("ddp", "gpu", "plugin", "subgroup"):
    common.DistTestCases.backend_feature[feature].add("pccl")

from torch.testing._internal.distributed.distributed_test import Barrier, DistributedTest, TestDistBackend  # noqa: E402

# Other devices, other backends, and what this one refuses.
_LEFT_OUT = re.compile(
    r"cuda|gpu|nccl|monitored|send_recv|isend|irecv|all_to_all|sparse_all_reduce|barrier_timeout", re.I
)
_CONTEXT = multiprocessing.get_context("forkserver")
# This file as a module: what it changes must be so where the tests are imported first.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")]
)
_CONTEXT.set_forkserver_preload(["torch_own_tests"])


class TorchOwnTests(TestDistBackend, DistributedTest._DistTestBase):
    """The tests, with processes that need not import torch one by one."""

    def setUp(self) -> None:
        # As in TestDistBackend, but for the folder, which all processes know from their common parent and so must stay.
        common.MultiProcessTestCase.setUp(self)
        for name in ("barrier", "test_dir", "init_dir"):
            os.makedirs(os.path.join(os.environ["TEMP_DIR"], name), exist_ok=True)
        Barrier.init()
        self.skip_return_code_checks = [self.test_ddp_has_finalized.__wrapped__]
        self._spawn_processes()

    def tearDown(self) -> None:
        common.MultiProcessTestCase.tearDown(self)

    def _spawn_processes(self) -> None:
        self._start_processes(_CONTEXT.Process)


class Result(unittest.TestResult):
    """Prints a line for each test when it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Dict[str, str] = {}

    def note(self, test: Any, outcome: str, why: str = "") -> None:
        self.outcomes[test._testMethodName] = outcome
        print(f"{outcome:8} {test._testMethodName}  {why}", flush=True)

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        self.note(test, "passed")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self.note(test, "skipped", reason[:100])

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self.addError(test, err)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        lines = [line for line in str(err[1]).splitlines() if "Error" in line]
        self.note(test, "FAILED", (lines[-1] if lines else str(err[1]))[:200])
        if os.environ.get("VERBOSE"):
            print(err[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="pccl")
    parser.add_argument("--world-size", default="3")
    parser.add_argument("patterns", nargs="*", default=["."])
    arguments = parser.parse_args()
    if (arguments.backend, arguments.world_size) != (os.environ["BACKEND"], os.environ["WORLD_SIZE"]):
        os.environ.update(BACKEND=arguments.backend, WORLD_SIZE=arguments.world_size)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    names: List[str] = [
        name
        for name in unittest.TestLoader().getTestCaseNames(TorchOwnTests)
        if not _LEFT_OUT.search(name) and any(re.search(pattern, name) for pattern in arguments.patterns)
    ]
    result = Result()
    for name in names:
        TorchOwnTests(name).run(result)
    counts = {outcome: list(result.outcomes.values()).count(outcome) for outcome in ("passed", "skipped", "FAILED")}
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


if __name__ == "__main__":
    main()
