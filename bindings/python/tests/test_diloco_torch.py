"""DiLoCo with torch modules, held against the plain PyTorch reference. Skipped aloud where torch is not installed."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from diloco_peers import as_peers

import pccl
from pccl.diloco import DiLoCo

torch: Any = pytest.importorskip("torch", reason="torch is not installed: DiLoCo with torch modules is NOT tested")

from diloco_reference import Reference, Timetable, digest  # noqa: E402  (it needs torch)

EVERY = 4
_seeding = threading.Lock()
MODES: Dict[str, Tuple[Dict[str, Any], Dict[str, Any]]] = {
    "synchronous": ({}, {}),
    "delayed": ({"mode": "delayed", "outer": "nesterov"}, {}),
    "streaming-3-1": ({"mode": "streaming", "fragments": 3, "overlap": 1}, {"fragments": 3, "overlap": 1}),
    "streaming-2-3": ({"mode": "streaming", "fragments": 2, "overlap": 3}, {"fragments": 2, "overlap": 3}),
    "streaming-4-4": ({"mode": "streaming", "fragments": 4, "overlap": 4}, {"fragments": 4, "overlap": 4}),
    "streaming-2-0": ({"mode": "streaming", "fragments": 2, "overlap": 0}, {"fragments": 2, "overlap": 0}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Sums in another order would be other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_model(index: int) -> Any:
    # Its generator is of all threads.
    with _seeding, torch.random.fork_rng():
        torch.manual_seed(index)
        return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def new_optimizer(model: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def data(index: int, step: int) -> Tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1000 * index + step)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)


def train(model: Any, optimizer: Any, index: int, step: int) -> None:
    inputs, targets = data(index, step)
    dtype = next(model.parameters()).dtype
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(inputs.to(dtype)), targets.to(dtype)).backward()
    optimizer.step()


def contents(tensors: Any) -> List[Any]:
    return [tensor.detach().clone() for tensor in tensors]


def check_against_reference(
    count: int,
    steps: int,
    options: Dict[str, Any],
    terms: Dict[str, Any],
    weights: Optional[List[float]] = None,
    **rule: Any,
) -> None:
    given = weights or [1.0] * count

    def peer(index: int, communicator: pccl.Communicator) -> Any:
        model = new_model(index)
        optimizer = new_optimizer(model)
        # Members that compare what they hold would take in what is on its way before.
        diloco = DiLoCo(
            model, optimizer, communicator, sync_every=EVERY, check_every=0, minimum_peers=count, **options
        )
        diloco.weight = given[index]
        with diloco:
            # Before anybody leaves.
            rank = communicator.rank
            start = contents(model.parameters())
            for step in range(1, steps + 1):
                train(model, optimizer, index, step)
            local = contents(model.parameters())
        return rank, index, start, local, model, diloco.outer_parameters()

    peers = sorted(as_peers(count, peer), key=lambda found: found[0])
    start = peers[0][2]
    models = [new_model(0) for _ in peers]
    for model in models:
        for parameter, value in zip(model.parameters(), start):
            parameter.data.copy_(value)
    optimizers = [new_optimizer(model) for model in models]
    timetable = Timetable(mode=options.get("mode", "synchronous"), sync_every=EVERY, **terms)
    reference = Reference(start, timetable, mixing=options.get("mixing", 0.5), **rule)
    parameters = [list(model.parameters()) for model in models]
    for step in range(1, steps + 1):
        for model, optimizer, found in zip(models, optimizers, peers):
            train(model, optimizer, found[1], step)
        reference.after_inner_step(step, parameters, [given[found[1]] for found in peers])
    for (_, _, _, local, _, _), wanted in zip(peers, parameters):
        assert digest(local) == digest(wanted)
    reference.finish(parameters)
    assert digest(reference.outer) != digest(start), "something was learnt"
    for _, _, _, _, model, outer in peers:
        assert digest(outer.values()) == digest(model.parameters()) == digest(reference.outer)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_does_what_the_reference_does_to_the_bit(mode: str, count: int) -> None:
    check_against_reference(count, 3 * EVERY + 3, *MODES[mode])


@pytest.mark.parametrize("mode", ["synchronous", "delayed", "streaming-2-3"])
def test_weights_count_as_in_the_reference(mode: str) -> None:
    check_against_reference(3, 3 * EVERY, *MODES[mode], weights=[1.0, 0.7, 1.9])


@pytest.mark.parametrize("mixing", [0.0, 0.25, 0.9])
def test_parameters_are_mixed_as_in_the_reference(mixing: float) -> None:
    options, terms = MODES["streaming-3-1"]
    check_against_reference(2, 3 * EVERY, {**options, "mixing": mixing}, terms)


@pytest.mark.parametrize("mode", ["synchronous", "streaming-2-3"])
@pytest.mark.parametrize(
    "options, rule",
    [
        ({"outer": "momentum", "outer_learning_rate": 0.5}, {"nesterov": False, "learning_rate": 0.5}),
        ({"outer": "descent"}, {"outer_is_average": True, "learning_rate": 1.0}),
        ({"outer_learning_rate": 0.4, "outer_momentum": 0.6}, {"learning_rate": 0.4, "mu": 0.6}),
    ],
    ids=["momentum", "descent", "nesterov"],
)
def test_outer_optimizers_do_what_the_reference_does(mode: str, options: Dict[str, Any], rule: Dict[str, Any]) -> None:
    of_mode, terms = MODES[mode]
    check_against_reference(2, 3 * EVERY, {**of_mode, **options}, terms, **rule)


def pair(
    body: Callable[[int, Any, Any, DiLoCo], Any],
    prepare: Callable[[Any], Any] = lambda model: None,
    **options: Any,
) -> List[Any]:
    """Two peers, each with a model and an optimizer, inside of the block."""

    def peer(index: int, communicator: pccl.Communicator) -> Any:
        model = new_model(index)
        prepare(model)
        optimizer = new_optimizer(model)
        diloco = DiLoCo(model, optimizer, communicator, **{"sync_every": 2, **options})
        with diloco:
            found = body(index, model, optimizer, diloco)
        return found, diloco.parameters_hash(), contents(model.parameters()), diloco.outer_parameters()

    peers = as_peers(2, peer)
    assert peers[0][1] == peers[1][1]
    return peers


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("mode", ["synchronous", "streaming"])
def test_models_of_other_types_hold_the_outer_parameters_rounded(mode: str, dtype: str) -> None:
    kind = getattr(torch, dtype)

    def body(index: int, model: Any, optimizer: Any, diloco: DiLoCo) -> None:
        for step in range(6):
            train(model, optimizer, index, step)

    for _, _, held, outer in pair(body, lambda model: model.to(kind), mode=mode):
        assert all(tensor.dtype == torch.float32 for tensor in outer.values())
        assert all(torch.equal(a, b.to(kind)) for a, b in zip(held, outer.values()))


def test_frozen_parameters_stay_each_peers_own() -> None:
    def freeze(model: Any) -> None:
        model[0].requires_grad_(False)

    def body(index: int, model: Any, optimizer: Any, diloco: DiLoCo) -> List[str]:
        for step in range(4):
            train(model, optimizer, index, step)
        return [tensor.name for tensor in diloco._tensors]

    for index, (names, _, held, outer) in enumerate(pair(body, freeze)):
        assert names == ["2.weight", "2.bias"] == list(outer)
        assert torch.equal(held[0], new_model(index)[0].weight)
        assert torch.equal(held[2], outer["2.weight"])


def test_with_gradient_accumulation_steps_of_the_optimizer_are_counted() -> None:
    def body(index: int, model: Any, optimizer: Any, diloco: DiLoCo) -> Tuple[int, List[int]]:
        seen: List[int] = []
        diloco.on_round = lambda info: seen.append(info.round)
        for step in range(12):
            inputs, targets = data(index, step)
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            if step % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        return diloco.round, seen

    assert [found for found, *_ in pair(body)] == [(2, [1, 2])] * 2


def test_the_hook_is_gone_after_the_block() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> int:
        model = new_model(index)
        optimizer = new_optimizer(model)
        diloco = DiLoCo(model, optimizer, communicator, sync_every=1)
        with diloco:
            train(model, optimizer, index, 1)
        train(model, optimizer, index, 2)
        return diloco.round

    assert as_peers(2, peer) == [1, 1]


def test_without_an_optimizer_steps_are_the_callers() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> str:
        model = new_model(index)
        optimizer = new_optimizer(model)
        with DiLoCo(model.named_parameters(), None, communicator, sync_every=2) as diloco:
            rounds = []
            for step in range(4):
                train(model, optimizer, index, step)
                rounds += diloco.step()
            assert [info.round for info in rounds] == [1, 2] and all(info.world_size == 2 for info in rounds)
        return diloco.parameters_hash()

    first, second = as_peers(2, peer)
    assert first == second


@pytest.mark.parametrize("mode", ["synchronous", "delayed", "streaming"])
def test_parameters_that_are_not_contiguous_do_what_others_do(mode: str) -> None:
    """They are copied there and back, in the steps that touch them alone."""

    def transpose(model: Any) -> None:
        for layer in (model[0], model[2]):
            layer.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous().t())
            assert not layer.weight.is_contiguous()

    def body(index: int, model: Any, optimizer: Any, diloco: DiLoCo) -> None:
        for step in range(7):
            for number, parameter in enumerate(model.parameters()):
                with torch.no_grad():
                    parameter.add_(0.01 * (index + 1), alpha=number + step)
            diloco.step()

    def without_optimizer(model: Any) -> List[Any]:
        def peer(index: int, communicator: pccl.Communicator) -> Any:
            local = new_model(7)
            model(local)
            with DiLoCo(local, None, communicator, mode=mode, sync_every=2) as diloco:
                body(index, local, None, diloco)
            return diloco.parameters_hash(), contents(local.parameters())

        return as_peers(2, peer)

    plain, staged = without_optimizer(lambda model: None), without_optimizer(transpose)
    for (a, held), (b, also_held) in zip(plain, staged):
        assert a == b and all(torch.equal(x, y) for x, y in zip(held, also_held))


def test_a_state_dict_goes_through_torch_save(tmp_path: Any) -> None:
    def body(index: int, model: Any, optimizer: Any, diloco: DiLoCo) -> Dict[str, Any]:
        for step in range(4):
            train(model, optimizer, index, step)
        return diloco.state_dict()

    (state, hash_before, held, _), _ = pair(body)
    torch.save(state, tmp_path / "state.pt")
    with pccl.Communicator("127.0.0.1:48148") as communicator:
        model = new_model(5)
        diloco = DiLoCo(model, None, communicator)
        diloco.load_state_dict(torch.load(tmp_path / "state.pt"))
        assert diloco.parameters_hash() == hash_before and diloco.round == 2
        assert digest(model.parameters()) == digest(held)


def test_tensors_that_were_moved_are_refused() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> None:
        model = new_model(index)
        diloco = DiLoCo(model, None, communicator, sync_every=2)
        diloco.begin()
        kept = model[2].bias.data
        model[2].bias.data = kept.clone()
        for refused in (diloco.step, diloco.end):
            with pytest.raises(pccl.InvalidUsageError, match=r"2\.bias was moved"):
                refused()
        # Nothing has happened, and with the old memory it goes on.
        model[2].bias.data = kept
        assert diloco.step() == [] and len(diloco.step()) == 1
        diloco.end()
        model.double()
        with pytest.raises(pccl.InvalidUsageError, match="was moved"):
            diloco.begin()

    as_peers(2, peer)


def test_an_error_of_the_outer_step_comes_out_of_the_optimizer() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> None:
        model = new_model(index)
        optimizer = new_optimizer(model)
        diloco = DiLoCo(model, optimizer, communicator, sync_every=1, minimum_peers=1)
        with pytest.raises(pccl.InvalidArgumentError), diloco:
            diloco.weight = float("inf")
            train(model, optimizer, index, 1)
        # Outside of the block the optimizer is its own again.
        train(model, optimizer, index, 2)

    as_peers(1, peer)


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_tensors_of_other_devices(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no other device here: copies from there and back are NOT tested but for strided tensors")
    if device == "meta":
        with pccl.Communicator("127.0.0.1:48148") as communicator, pytest.raises(NotImplementedError):
            DiLoCo(new_model(0).to("meta"), None, communicator)
        return

    def body(index: int, model: Any, optimizer: Any, diloco: DiLoCo) -> None:
        for step in range(6):
            inputs, targets = (tensor.cuda() for tensor in data(index, step))
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()

    for _, _, held, outer in pair(body, lambda model: model.cuda()):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(held, outer.values()))


def test_a_compiled_model_is_trained_as_it_is() -> None:
    try:
        # Without a compiler for the generated code, the graph is captured and run as it is.
        torch.compile(torch.nn.Linear(2, 2), backend="aot_eager")(torch.ones(1, 2))
    except Exception as reason:
        pytest.skip(f"torch.compile does not run here ({reason}): compiled models are NOT tested")
    hashes = []
    for compiled in (False, True):
        # One after the other: the compiler's state is of the whole process.
        def body(communicator: pccl.Communicator) -> str:
            model = new_model(0)
            used = torch.compile(model, backend="aot_eager") if compiled else model
            optimizer = new_optimizer(model)
            with DiLoCo(used, optimizer, communicator, sync_every=2, minimum_peers=1) as diloco:
                for step in range(4):
                    train(used, optimizer, 0, step)
                assert diloco.round == 2
            return diloco.parameters_hash()

        hashes += as_peers(1, lambda index, communicator: body(communicator))
    assert hashes[0] == hashes[1]
