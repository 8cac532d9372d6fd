"""The torch.distributed backend. Skipped, with a line in the summary, where torch is not installed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from cluster import start_master

torch: Any = pytest.importorskip("torch", reason="torch is not installed: the torch.distributed backend is NOT tested")

import distributed_worker as worker  # noqa: E402 - needs torch

SECONDS_PER_WORLD = 60
# torch takes seconds to be imported: once, in a process that all others are forked from, before there are any threads.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pccl.distributed", "torch._dynamo", "torch.distributed.fsdp"])


def run_rank(function: Callable[..., Any], rank: int, size: int, path: str, pipe: Any, with_tell: bool) -> None:
    try:
        function(rank, size, path, *([lambda word: pipe.send(("told", word))] if with_tell else []))
        pipe.send(("done", None))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


class Ranks:
    """``size`` processes that run ``function(rank, size, path)``, with ``tell`` as a further argument if asked for."""

    def __init__(self, function: Callable[..., Any], size: int, path: Path, with_tell: bool = False) -> None:
        self.processes: List[Any] = []
        self.pipes: List[Any] = []
        for rank in range(size):
            here, there = CONTEXT.Pipe()
            arguments = (function, rank, size, str(path / "store"), there, with_tell)
            self.processes.append(CONTEXT.Process(target=run_rank, args=arguments, daemon=True))
            self.pipes.append(here)
            self.processes[-1].start()
            there.close()

    def hear(self, rank: int) -> Any:
        assert self.pipes[rank].poll(SECONDS_PER_WORLD), f"rank {rank} says nothing"
        try:
            kind, what = self.pipes[rank].recv()
        except EOFError:
            return "died", None
        assert kind != "error", f"rank {rank}: {what}"
        return kind, what

    def kill(self, rank: int) -> None:
        os.kill(self.processes[rank].pid, signal.SIGKILL)

    def finish(self, *survivors: int) -> None:
        for rank in survivors or range(len(self.processes)):
            assert self.hear(rank) == ("done", None)
            self.processes[rank].join(SECONDS_PER_WORLD)
            assert self.processes[rank].exitcode == 0

    def close(self) -> None:
        for process, pipe in zip(self.processes, self.pipes):
            if process.is_alive():
                process.kill()
            process.join()
            process.close()
            pipe.close()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A master that no loss takes away."""
    node, address = start_master()
    with node:
        yield address


def run(function: Callable[..., Any], size: int, path: Path) -> None:
    with Ranks(function, size, path) as ranks:
        ranks.finish()


class AgainstGloo:
    """The function of a rank for some collectives; processes need one that can be pickled."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def __call__(self, rank: int, size: int, path: str) -> None:
        worker.against_gloo(rank, size, path, self.names)


class WithMaster:
    """A function of a rank in an environment that names the master."""

    def __init__(self, function: Callable[..., Any], address: str) -> None:
        self.function, self.address = function, address

    def __call__(self, *arguments: Any) -> None:
        os.environ["PCCL_MASTER"] = self.address
        self.function(*arguments)


@pytest.mark.parametrize(
    "names",
    [
        ("all_reduce", "all_reduce_coalesced", "reduce"),
        ("all_gather", "all_gather_into_tensor", "reduce_scatter"),
        ("broadcast", "gather_and_scatter", "empty", "objects"),
    ],
    ids=" ".join,
)
def test_collectives_give_what_those_of_gloo_give(names: Any, tmp_path: Path) -> None:
    run(AgainstGloo(*names), 3, tmp_path)


def test_a_master_is_told_by_an_address_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from pccl import _distributed_meeting as meeting

    def stored_at(host: str) -> Any:
        return SimpleNamespace(underlying_store=SimpleNamespace(host=host, port=29500))

    assert meeting.own_host(stored_at("127.0.0.1")) == ("127.0.0.1", "127.0.0.1")
    assert meeting.own_host(SimpleNamespace()) == ("127.0.0.1", "127.0.0.1")
    monkeypatch.setattr(meeting, "_towards", lambda host, port: "10.0.0.7")
    assert meeting.own_host(stored_at("node0")) == ("10.0.0.7", "10.0.0.7")
    monkeypatch.setattr(meeting, "_towards", lambda host, port: "127.0.1.1")
    assert meeting.own_host(stored_at("node0")) == ("0.0.0.0", "node0")


def test_averages_and_booleans(tmp_path: Path) -> None:
    run(worker.averages, 3, tmp_path)


def test_works_and_futures(tmp_path: Path) -> None:
    run(worker.asynchronous, 2, tmp_path)


def test_functional_collectives(tmp_path: Path) -> None:
    run(worker.functional, 2, tmp_path)


def test_what_is_not_possible_is_refused(tmp_path: Path) -> None:
    run(worker.refusals, 2, tmp_path)


def test_subgroups(tmp_path: Path) -> None:
    run(worker.subgroups, 3, tmp_path)


def test_data_parallel_training_ends_with_the_weights_that_gloo_gives(tmp_path: Path) -> None:
    run(worker.distributed_data_parallel, 2, tmp_path)


def test_hybrid_sharding_ends_with_the_weights_that_gloo_gives(tmp_path: Path) -> None:
    run(worker.hybrid_sharding, 4, tmp_path)


def test_a_killed_peer_is_an_error_and_the_others_go_on(master: str, tmp_path: Path) -> None:
    with Ranks(WithMaster(worker.loses_a_peer, master), 3, tmp_path, with_tell=True) as ranks:
        for rank in range(3):
            assert ranks.hear(rank) == ("told", "reducing")
        ranks.kill(0)
        ranks.finish(1, 2)


def test_operations_that_only_some_have_launched_end(master: str, tmp_path: Path) -> None:
    with Ranks(WithMaster(worker.loses_a_peer_with_different_operations_in_flight, master), 3, tmp_path) as ranks:
        ranks.finish(0, 1)


def test_a_subgroup_goes_on_without_the_default_group(master: str, tmp_path: Path) -> None:
    with Ranks(WithMaster(worker.loses_a_peer_of_a_subgroup, master), 3, tmp_path) as ranks:
        ranks.finish(0, 2)


def test_the_last_one_goes_on_alone(master: str, tmp_path: Path) -> None:
    with Ranks(WithMaster(worker.loses_all_others, master), 2, tmp_path) as ranks:
        ranks.finish(0)


def test_the_loss_of_a_master_is_an_error(tmp_path: Path) -> None:
    with Ranks(worker.loses_the_master, 3, tmp_path) as ranks:
        ranks.finish(1, 2)


def test_data_parallel_training_goes_on_after_a_loss(master: str, tmp_path: Path) -> None:
    with Ranks(WithMaster(worker.trains_on, master), 3, tmp_path) as ranks:
        ranks.finish(1, 2)


def test_a_peer_that_does_not_call_is_an_error_at_the_time_out(tmp_path: Path) -> None:
    run(worker.is_too_late, 2, tmp_path)


@pytest.mark.skipif(
    not hasattr(torch.distributed.ProcessGroup, "reconfigure"), reason="this torch has no ProcessGroup.reconfigure"
)
def test_groups_are_formed_from_handles(tmp_path: Path) -> None:
    run(worker.forms_groups_from_handles, 3, tmp_path)
