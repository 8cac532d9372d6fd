"""The shared state of a group, over real connections."""

from __future__ import annotations

from typing import Any, Callable, Dict

import numpy
import pytest
from cluster import World

import pccl

Strategy = pccl.SharedStateSyncStrategy


def tensors(content: int) -> Dict[str, Any]:
    """Two megabytes and a half, so that there are chunks; and something short."""
    return {
        "weights": numpy.full((5, 131072), content, dtype=numpy.float32),
        "step": numpy.array([content], dtype=numpy.int64),
    }


def test_who_holds_something_else_gets_what_most_hold(new_world: Callable[[int], World]) -> None:
    def work(rank: int, communicator: pccl.Communicator) -> Any:
        mine = tensors(2 if rank > 0 else 1)
        state = pccl.SharedState.from_mapping(mine, revision=3)
        state.tensors.append(pccl.TensorInfo("rng", numpy.full(4, rank), allow_content_inequality=True))
        state.tensors.sort(key=lambda entry: entry.name, reverse=rank == 1)
        info = communicator.sync_shared_state(state)
        same = all((tensor == 2).all() for tensor in mine.values())
        rng = next(entry.data for entry in state.tensors if entry.name == "rng")
        return same and state.revision == 3 and (rng == rank).all(), info

    results = new_world(3).run(work)
    assert all(same for same, _ in results)
    moved = 5 * 131072 * 4 + 3 * 32 + 8
    assert results[0][1] == pccl.SharedStateSyncInfo(tx_bytes=0, rx_bytes=moved)
    assert sum(info.tx_bytes for _, info in results) == moved


def test_a_newcomer_takes_and_the_revision_is_the_others(new_world: Callable[[int], World]) -> None:
    def work(rank: int, communicator: pccl.Communicator) -> Any:
        strategy = Strategy.SEND_ONLY if rank == 0 else Strategy.RECEIVE_ONLY
        states = []
        for revision in (7, 8):
            mine = tensors(10 * revision + rank)
            state = pccl.SharedState.from_mapping(mine, revision=revision if rank == 0 else 0)
            communicator.sync_shared_state(state, strategy)
            states.append((state.revision, float(mine["weights"][4, -1]), int(mine["step"][0])))
        return states

    assert new_world(2).run(work) == [[(7, 70.0, 70), (8, 80.0, 80)]] * 2


def test_what_is_said_to_be_unchanged_is_not_read(new_world: Callable[[int], World]) -> None:
    def work(rank: int, communicator: pccl.Communicator) -> Any:
        mine = tensors(1)
        state = pccl.SharedState.from_mapping(mine, revision=0)
        communicator.sync_shared_state(state)
        if rank == 1:
            mine["step"][0] = 9
        seen = []
        for unchanged in (True, False):
            for entry in state.tensors:
                entry.unchanged = unchanged
            state.revision += 1
            communicator.sync_shared_state(state, Strategy.SEND_ONLY if rank == 0 else Strategy.RECEIVE_ONLY)
            seen.append(int(mine["step"][0]))
        return seen

    assert new_world(2).run(work) == [[1, 1], [9, 1]]


def test_where_all_only_take_there_is_nothing(new_world: Callable[[int], World]) -> None:
    def work(rank: int, communicator: pccl.Communicator) -> Any:
        state = pccl.SharedState.from_mapping(tensors(rank))
        with pytest.raises(pccl.NoSharedStateAvailableError):
            communicator.sync_shared_state(state, Strategy.RECEIVE_ONLY)
        return communicator.world_size

    assert new_world(2).run(work) == [2, 2]


def test_who_does_not_fit_is_put_out_and_told_why(new_world: Callable[[int], World]) -> None:
    def work(rank: int, communicator: pccl.Communicator) -> Any:
        mine = tensors(1)
        if rank == 2:
            mine["step"] = mine["step"].astype(numpy.int32)
        state = pccl.SharedState.from_mapping(mine)
        if rank < 2:
            communicator.sync_shared_state(state)
            return communicator.world_size
        with pytest.raises(pccl.InvalidUsageError, match="no longer a member"):
            communicator.sync_shared_state(state)
        return None

    assert new_world(3).run(work) == [2, 2, None]
