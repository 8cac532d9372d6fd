"""Memory of a CUDA device, with a driver that stands in for a real one (Tests/FakeCUDA), in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pccl

FAKE = Path(__file__).parents[3] / "Tests" / "FakeCUDA" / "build.sh"
WORKER = Path(__file__).with_name("cuda_worker.py")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("driver") / "libcuda.so"
    subprocess.run(["sh", str(FAKE), str(library)], check=True)
    return library


def run(driver: Path, what: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(WORKER), str(driver), what],
        env={**os.environ, "PCCL_LIBCUDA": str(driver), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_arrays_of_a_device_are_reduced_in_place_and_into_others(driver: Path) -> None:
    assert run(driver, "reduce").splitlines()[-1] == "ok"


def test_arrays_of_a_device_are_shared(driver: Path) -> None:
    assert run(driver, "share").splitlines()[-1] == "ok"


def test_what_dlpack_lends_of_a_device_is_reduced_and_shared_and_given_back(driver: Path) -> None:
    # One of its copies is to fail, and peers of one device make none where there are windows.
    assert run(driver, "borrow", PCCL_DEVICE_WINDOW="0").splitlines()[-1] == "ok"


def test_the_array_interface_comes_before_dlpack(driver: Path) -> None:
    assert run(driver, "prefer").splitlines()[-1] == "ok"


def test_what_cannot_be_lent_is_refused(driver: Path) -> None:
    assert run(driver, "refuse").splitlines()[-1] == "ok"


def test_a_shared_state_of_a_device_is_saved_and_loaded(driver: Path) -> None:
    assert run(driver, "save").splitlines()[-1] == "ok"


def test_diloco_of_a_device_gives_what_it_gives_on_the_host(driver: Path) -> None:
    assert run(driver, "diloco").splitlines()[-1] == "ok"


def test_the_driver_is_not_loaded_before_somebody_asks(driver: Path) -> None:
    assert run(driver, "status").splitlines()[-1] == "ok"


def test_without_a_driver_the_reason_is_told() -> None:
    status = pccl.cuda_status()
    assert status.is_ready or status.reason
    assert pccl.build_info().has_cuda_support
