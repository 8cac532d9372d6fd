"""DiLoCo against the same in plain PyTorch, bit by bit: three peers, in each mode, with weights that differ."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import pytest
from cluster import World

torch = pytest.importorskip("torch", reason="torch is not installed")

import diloco_reference as reference  # noqa: E402 (it imports torch)

import pccl.diloco  # noqa: E402

SIZES = [(7,), (30, 40), (5,), (100, 3), (1,)]
PEERS, STEPS = 3, 26


def start() -> List[Any]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) for size in SIZES]


def train(parameters: List[Any], rank: int, step: int) -> None:
    """An inner step of something that is no model, another one at each peer."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    for parameter in parameters:
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 1.25, 2.0]], ids=["equal", "weighted"])
@pytest.mark.parametrize("nesterov", [True, False], ids=["nesterov", "momentum"])
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "synchronous", "sync_every": 6},
        {"mode": "delayed", "sync_every": 6},
        {"mode": "streaming", "sync_every": 6, "fragments": 3, "overlap": 1, "mixing": 0.5},
        {"mode": "streaming", "sync_every": 6, "fragments": 2, "overlap": 5, "mixing": 0.3},
        {"mode": "streaming", "sync_every": 6, "fragments": 2, "overlap": 0, "mixing": 0.0},
    ],
    ids=["synchronous", "delayed", "streaming", "long overlap", "no overlap"],
)
def test_outer_parameters_are_those_of_plain_torch_to_the_bit(
    options: Dict[str, Any], nesterov: bool, weights: List[float]
) -> None:
    def run(_: int, communicator: pccl.Communicator) -> Tuple[int, List[Any], List[Any]]:
        rank = communicator.rank
        local = start()
        diloco = pccl.diloco.DiLoCo(
            [(str(index), parameter) for index, parameter in enumerate(local)],
            None,
            communicator,
            outer="nesterov" if nesterov else "momentum",
            # What is in flight stays there at the end of a round.
            check_every=0,
            minimum_peers=PEERS,
            **options,
        )
        diloco.weight = weights[rank]
        with diloco:
            for step in range(1, STEPS + 1):
                train(local, rank, step)
                diloco.step()
            before_end = [parameter.clone() for parameter in local]
        return rank, before_end, list(diloco.outer_parameters().values())

    with World(PEERS) as world:
        results = sorted(world.run(run), key=lambda result: result[0])

    table = reference.Timetable(
        options["mode"], options["sync_every"], options.get("fragments", 1), options.get("overlap", 0)
    )
    expected = reference.Reference(start(), table, nesterov=nesterov, mixing=options.get("mixing", 0.0))
    locals_of_peers = [start() for _ in range(PEERS)]
    for step in range(1, STEPS + 1):
        for rank, local in enumerate(locals_of_peers):
            train(local, rank, step)
        expected.after_inner_step(step, locals_of_peers, weights)
    for (_, local, _), other in zip(results, locals_of_peers):
        assert all(torch.equal(a, b) for a, b in zip(local, other))
    expected.finish(locals_of_peers)
    for _, _, outer in results:
        assert all(torch.equal(a, b) for a, b in zip(outer, expected.outer))
