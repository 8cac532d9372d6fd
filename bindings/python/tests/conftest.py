"""Fixtures, and the watchdog that bounds every test."""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Callable, Iterator

import pytest
from cluster import World

# Far more than any test needs, on a loaded machine too; it only has to be finite.
SECONDS_PER_TEST = float(os.environ.get("PCCL_TEST_TIMEOUT", "120"))


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A test that hangs ends the whole run, with the stack of every thread.

    A thread that blocks in the library cannot be interrupted from Python, so the test alone cannot be failed.
    """
    faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def pair() -> Iterator[World]:
    """Two connected peers, threads of this process, for all tests of a module."""
    with World(2) as world:
        yield world


@pytest.fixture(scope="module")
def trio() -> Iterator[World]:
    """Three connected peers, threads of this process, for all tests of a module."""
    with World(3) as world:
        yield world


@pytest.fixture
def new_world() -> Iterator[Callable[[int], World]]:
    """Makes worlds of the asked size, for one test only."""
    made = []

    def make(size: int) -> World:
        made.append(World(size))
        return made[-1]

    yield make
    for world in made:
        world.close()
