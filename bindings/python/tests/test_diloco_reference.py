"""The reference that DiLoCo is held against is held against torch's own optimizer, and against hand-made cases."""

from __future__ import annotations

from typing import List

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import diloco_reference as reference  # noqa: E402 (it imports torch)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_outer_step_is_that_of_torch_but_for_fused_roundings(nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    parameter = torch.nn.Parameter(torch.randn(1000, generator=generator))
    optimizer = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=nesterov)
    outer, momentum = parameter.detach().clone(), torch.zeros(1000)
    for _ in range(10):
        average = torch.randn(1000, generator=generator)
        parameter.grad = average.clone()
        optimizer.step()
        outer, momentum = reference.outer_step(outer, momentum, average, 0.7, 0.9, nesterov)
        torch.testing.assert_close(outer, parameter.detach(), rtol=1e-5, atol=1e-5)


def test_contributions_count_by_their_weights() -> None:
    average = reference.weighted_average([torch.tensor([1.0, 8.0]), torch.tensor([4.0, 2.0])], [1.0, 2.0])
    torch.testing.assert_close(average, torch.tensor([3.0, 4.0]))


def test_equal_weights_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(7)
    deltas = [torch.randn(1000, generator=generator) for _ in range(3)]
    plain = (deltas[0] + deltas[1] + deltas[2]) / 3
    assert torch.equal(reference.weighted_average(deltas, [1.0] * 3), plain)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_fragments_are_contiguous_groups_of_whole_parameters_and_none_is_empty(count: int) -> None:
    for sizes in ([5] * 8, [1000, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1000], [1, 1000, 1, 1, 1, 1, 1000, 1]):
        groups = reference.fragments_of(sizes, count)
        assert [index for group in groups for index in group] == list(range(8))
        assert len(groups) == count and all(len(group) > 0 for group in groups)


def events(mode: str, steps: int, **rhythm: int) -> List[str]:
    table = reference.Timetable(mode, **rhythm)
    return [f"{step} {e.kind} {e.fragment}" for step in range(1, steps + 1) for e in table.events(step)]


def test_synchronous_rounds_end_where_they_are_launched() -> None:
    assert events("synchronous", 8, sync_every=4) == ["4 launch 0", "4 apply 0", "8 launch 0", "8 apply 0"]


def test_delayed_rounds_are_applied_at_the_end_of_the_next() -> None:
    assert events("delayed", 12, sync_every=4) == ["4 launch 0", "8 launch 0", "8 apply 0", "12 launch 0", "12 apply 0"]


def test_streamed_fragments_take_turns_and_are_applied_some_steps_after_their_launch() -> None:
    assert events("streaming", 8, sync_every=4, fragments=2, overlap=1) == [
        "2 launch 1",
        "3 apply 1",
        "4 launch 0",
        "5 apply 0",
        "6 launch 1",
        "7 apply 1",
        "8 launch 0",
    ]


def test_a_peer_alone_with_learning_rate_one_and_no_momentum_keeps_what_it_learnt() -> None:
    local = [torch.tensor([1.0, 2.0])]
    run = reference.Reference(local, reference.Timetable("synchronous", 1), learning_rate=1.0, mu=0.0)
    local[0] += torch.tensor([0.5, -0.25])
    run.after_inner_step(1, [local])
    assert torch.equal(run.outer[0], torch.tensor([1.5, 1.75])) and torch.equal(local[0], run.outer[0])


def test_at_the_end_what_is_in_flight_is_applied_and_all_peers_hold_the_same() -> None:
    table = reference.Timetable("streaming", 4, fragments=2, overlap=2)
    peers = [[torch.zeros(3), torch.zeros(3)] for _ in range(2)]
    run = reference.Reference(peers[0], table)
    for step in range(1, 5):
        for peer, local in enumerate(peers):
            for parameter in local:
                parameter += peer + 1.0
        run.after_inner_step(step, peers)
    assert run.outer_steps == [0, 1]
    run.finish(peers)
    assert run.outer_steps == [1, 1]
    assert all(torch.equal(a, b) for local in peers for a, b in zip(local, run.outer))
