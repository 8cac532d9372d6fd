"""DiLoCo with NumPy arrays: its arithmetic, restarts, and what is refused. Peers are threads of this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy
import pytest
from diloco_peers import SHAPES, Arrays, Plain, as_peers, bits, new_arrays, train

import pccl
from pccl.diloco import DiLoCo

# The modes, and the same in the terms of the plain arithmetic.
MODES: Dict[str, Tuple[Dict[str, Any], Dict[str, Any]]] = {
    "synchronous": ({}, {}),
    "delayed": ({"mode": "delayed", "outer": "nesterov"}, {"overlap": 6}),
    "streaming": (
        {"mode": "streaming", "fragments": 3, "overlap": 2},
        {"fragments": [["first"], ["second"], ["third"]], "overlap": 2, "mixing": 0.5},
    ),
    "streaming-far": (
        {"mode": "streaming", "fragments": 2, "overlap": 4, "mixing": 0.25},
        {"fragments": [["first", "second"], ["third"]], "overlap": 4, "mixing": 0.25},
    ),
    "streaming-at-once": (
        {"mode": "streaming", "fragments": 3, "overlap": 0, "mixing": 0},
        {"fragments": [["first"], ["second"], ["third"]]},
    ),
}
EVERY = 6


class Trained(NamedTuple):
    """What became of a peer."""

    rank: int
    index: int
    start: Arrays
    local: Arrays
    outer: Arrays
    hash: str
    rounds: List[pccl.diloco.RoundInfo]


def trained(count: int, steps: int, weights: List[float], **options: Any) -> List[Trained]:
    """So many peers train for so many steps. In the order of their ranks."""

    def peer(index: int, communicator: pccl.Communicator) -> Trained:
        arrays = new_arrays(index)
        rounds: List[pccl.diloco.RoundInfo] = []
        diloco = DiLoCo(arrays, None, communicator, sync_every=EVERY, minimum_peers=count, **options)
        diloco.on_round = rounds.append
        diloco.weight = weights[index]
        with diloco:
            # Before anybody leaves.
            rank = communicator.rank
            start = {name: array.copy() for name, array in arrays.items()}
            for step in range(1, steps + 1):
                train(arrays, index, step)
                diloco.step()
            local = {name: array.copy() for name, array in arrays.items()}
        outer = diloco.outer_parameters()
        assert bits(outer) == bits(arrays), "at the end the model has the outer parameters"
        return Trained(rank, index, start, local, outer, diloco.parameters_hash(), rounds)

    return sorted(as_peers(count, peer))


def plainly(peers: List[Trained], steps: int, weights: List[float], **terms: Any) -> Tuple[Plain, List[Arrays]]:
    """The same in plain arithmetic, and the local parameters before the end."""
    plain = Plain(peers[0].start, [weights[peer.index] for peer in peers], EVERY, **terms)
    for step in range(1, steps + 1):
        for local, peer in zip(plain.locals, peers):
            train(local, peer.index, step)
        plain.after_inner_step(step)
    local = [{name: array.copy() for name, array in arrays.items()} for arrays in plain.locals]
    plain.finish()
    return plain, local


def check_same(peers: List[Trained], plain: Plain, local: List[Arrays]) -> None:
    assert len({peer.hash for peer in peers}) == 1
    for peer, arrays in zip(peers, local):
        assert bits(peer.start) == bits(peers[0].start), "all begin with the same parameters"
        assert bits(peer.local) == bits(arrays)
        assert bits(peer.outer) == bits(plain.outer)
    assert bits(plain.outer) != bits(peers[0].start), "something was learnt"


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 0.3, 2.1]], ids=["alike", "weighted"])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_does_what_plain_arithmetic_does_to_the_bit(mode: str, weights: List[float]) -> None:
    options, terms = MODES[mode]
    steps = 3 * EVERY + 2
    peers = trained(3, steps, weights, **options)
    check_same(peers, *plainly(peers, steps, weights, **terms))


@pytest.mark.parametrize(
    "options, terms",
    [
        ({"outer": "momentum", "outer_learning_rate": 0.5, "outer_momentum": 0.6}, {"rate": 0.5, "factor": 0.6}),
        ({"outer": "descent"}, {"rate": 1.0}),
        ({"outer": "descent", "outer_learning_rate": 0.4}, {"rate": 0.4}),
        ({"momentum_limit": 0.5}, {"limit": 0.5}),
        ({"mode": "delayed", "outer": "nesterov", "momentum_limit": 0.5}, {"limit": 0.5, "overlap": EVERY}),
        ({"mode": "delayed", "outer": "nesterov", "staleness_penalty": 0.5}, {"penalty": 0.5, "overlap": EVERY}),
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_each_outer_optimizer_does_so_too(options: Dict[str, Any], terms: Dict[str, Any]) -> None:
    steps = 4 * EVERY
    peers = trained(2, steps, [1.0, 1.0], **options)
    rule = {"rule": options.get("outer", "nesterov")}
    check_same(peers, *plainly(peers, steps, [1.0, 1.0], **terms, **rule))


def test_without_checks_nothing_is_taken_in_early_at_boundaries() -> None:
    options, terms = MODES["streaming-far"]
    steps = 3 * EVERY + 2
    peers = trained(2, steps, [1.0, 1.0], check_every=0, **options)
    check_same(peers, *plainly(peers, steps, [1.0, 1.0], drains=False, **terms))


def test_peers_with_rounds_of_different_lengths_take_the_same_outer_steps() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> Tuple[int, str]:
        arrays = new_arrays(index)
        every = [3, 6][index]
        with DiLoCo(arrays, None, communicator, mode="streaming", fragments=3, sync_every=every, overlap=1) as diloco:
            for step in range(1, 3 * every + 1):
                train(arrays, index, step)
                diloco.step()
        return diloco.round, diloco.parameters_hash()

    first, second = as_peers(2, peer)
    assert first == second and first[0] == 3


@pytest.mark.parametrize("codec", ["e3m0", "int4/128", "min-max8", "bfloat16"])
@pytest.mark.parametrize("mode", ["synchronous", "streaming"])
def test_with_a_codec_all_peers_hold_the_same_bits_near_the_exact_ones(mode: str, codec: Any) -> None:
    options, terms = MODES[mode]
    peers = trained(3, 2 * EVERY, [1.0, 0.5, 2.0], codec=codec, error_feedback=True, **options)
    assert len({peer.hash for peer in peers}) == 1
    plain, _ = plainly(peers, 2 * EVERY, [1.0, 0.5, 2.0], **terms)
    for name, array in plain.outer.items():
        change = numpy.abs(array - peers[0].start[name]).max()
        assert numpy.abs(peers[0].outer[name] - array).max() < change / 2


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_parameters_of_other_types_are_the_outer_ones_rounded(dtype: str) -> None:
    if dtype == "bfloat16":
        reason = "ml_dtypes is not installed: bfloat16 arrays are NOT tested"
        ml_dtypes = pytest.importorskip("ml_dtypes", reason=reason)
        kind = numpy.dtype(ml_dtypes.bfloat16)
    else:
        kind = numpy.dtype(dtype)

    def peer(index: int, communicator: pccl.Communicator) -> Tuple[str, bool]:
        # One peer trains in float32.
        arrays = {name: array.astype(kind if index else "float32") for name, array in new_arrays(index).items()}
        with DiLoCo(arrays, None, communicator, sync_every=2) as diloco:
            for step in range(1, 7):
                train(arrays, index, step)
                diloco.step()
        outer = diloco.outer_parameters()
        assert all(array.dtype == numpy.float32 for array in outer.values())
        return diloco.parameters_hash(), bits(arrays) == bits({k: v.astype(arrays[k].dtype) for k, v in outer.items()})

    first, second = as_peers(2, peer)
    assert first == second and first[1]


# Restarts


class Part(NamedTuple):
    """A part of a run: what its peers held at its end, and the states that it left."""

    outer: Dict[str, bytes]
    hash: str
    round: int
    states: List[Dict[str, Any]]


def part_of_run(
    steps: range,
    prepare: Callable[[int, DiLoCo], Any] = lambda index, diloco: None,
    leave: Callable[[int, DiLoCo], Any] = lambda index, diloco: None,
    **options: Any,
) -> Part:
    """Two new peers at a new master, which take these steps. ``prepare`` comes before the beginning, ``leave`` last."""

    def peer(index: int, communicator: pccl.Communicator) -> Tuple[Dict[str, bytes], str, int, Dict[str, Any]]:
        # The same at both, since nobody knows whose a run begins with.
        arrays = new_arrays(0)
        diloco = DiLoCo(arrays, None, communicator, sync_every=EVERY, **options)
        prepare(index, diloco)
        diloco.begin()
        for step in steps:
            train(arrays, index, step)
            diloco.step()
        leave(index, diloco)
        state = diloco.state_dict()
        found = bits(diloco.outer_parameters()), diloco.parameters_hash(), diloco.round, state
        # The communicator goes without an end of the DiLoCo, as with a process that dies.
        return found

    first, second = as_peers(2, peer)
    assert first[:3] == second[:3]
    return Part(*first[:3], [first[3], second[3]])


def new_folder(parent: Path, index: int) -> Path:
    folder = parent / str(index)
    folder.mkdir()
    return folder


FIRST, LAST = range(1, 2 * EVERY + 1), range(2 * EVERY + 1, 4 * EVERY + 1)


@pytest.mark.parametrize("loaders", [[0], [1], [0, 1]])
@pytest.mark.parametrize("rule", ["nesterov", "descent"])
def test_a_run_goes_on_from_snapshots_as_if_nothing_had_been(tmp_path: Path, loaders: List[int], rule: str) -> None:
    whole = part_of_run(range(1, 4 * EVERY + 1), outer=rule)

    def save(index: int, diloco: DiLoCo) -> None:
        diloco.save(new_folder(tmp_path, index)).wait()

    def load(index: int, diloco: DiLoCo) -> None:
        if index in loaders:
            diloco.load(tmp_path / str(index))
            assert diloco.round == 2

    part_of_run(FIRST, leave=save, outer=rule)
    rest = part_of_run(LAST, prepare=load, outer=rule)
    assert (rest.round, rest.hash, rest.outer) == (4, whole.hash, whole.outer)


@pytest.mark.parametrize("loaders", [[1], [0, 1]])
def test_a_run_goes_on_from_state_dicts_as_if_nothing_had_been(loaders: List[int]) -> None:
    whole = part_of_run(range(1, 4 * EVERY + 1))
    before = part_of_run(FIRST)

    def load(index: int, diloco: DiLoCo) -> None:
        if index in loaders:
            diloco.load_state_dict(before.states[index])
            assert diloco.parameters_hash() == before.hash
            again = diloco.state_dict()
            assert again["revision"] == before.states[index]["revision"]
            assert bits(again["tensors"]) == bits(before.states[index]["tensors"])

    rest = part_of_run(LAST, prepare=load)
    assert (rest.round, rest.hash) == (4, whole.hash)


def test_the_furthest_of_several_snapshots_prevails() -> None:
    whole = part_of_run(range(1, 4 * EVERY + 1))
    behind, before = part_of_run(range(1, EVERY + 1)), part_of_run(FIRST)

    def load(index: int, diloco: DiLoCo) -> None:
        diloco.load_state_dict((before if index else behind).states[index])

    rest = part_of_run(LAST, prepare=load)
    assert (rest.round, rest.hash) == (4, whole.hash)


@pytest.mark.parametrize("mode", ["delayed", "streaming", "streaming-far"])
def test_what_was_on_its_way_is_all_that_a_restart_loses(tmp_path: Path, mode: str) -> None:
    options, terms = MODES[mode]
    before = part_of_run(FIRST, leave=lambda index, diloco: diloco.save(new_folder(tmp_path, index)).wait(), **options)

    def load(index: int, diloco: DiLoCo) -> None:
        diloco.load(tmp_path / str(index))
        assert diloco.parameters_hash() == before.hash and diloco.round == before.round

    begun = part_of_run(range(0), prepare=load, **options)
    assert (begun.hash, begun.round) == (before.hash, before.round)
    # As a run that begins with this state.
    rest = part_of_run(range(1, 3 * EVERY + 1), prepare=load, **options)
    state = before.states[0]["tensors"]
    plain = Plain({name: state[f"outer/{name}"].reshape(SHAPES[name]) for name in SHAPES}, [1.0, 1.0], EVERY, **terms)
    plain.momentum = {name: state[f"momentum/{name}"].reshape(SHAPES[name]) for name in SHAPES}
    for step in range(1, 3 * EVERY + 1):
        for index, local in enumerate(plain.locals):
            train(local, index, step)
        plain.after_inner_step(step)
    assert rest.outer == bits(plain.outer)


def test_states_of_other_models_are_refused(tmp_path: Path) -> None:
    before = part_of_run(FIRST, leave=lambda index, diloco: diloco.save(new_folder(tmp_path, index)).wait())
    with pccl.Communicator("127.0.0.1:48148") as communicator:
        for model, options in (
            ({"first": numpy.ones(7, numpy.float32)}, {}),
            ({**new_arrays(0), "third": numpy.ones(31, numpy.float32)}, {}),
            (new_arrays(0), {"outer": "descent"}),
        ):
            diloco = DiLoCo(model, None, communicator, **options)
            with pytest.raises(ValueError, match="other tensors"):
                diloco.load_state_dict(before.states[0])
            with pytest.raises(pccl.InvalidArgumentError):
                diloco.load(tmp_path / "0")
        diloco = DiLoCo(new_arrays(0), None, communicator)
        with pytest.raises(pccl.NoSharedStateAvailableError):
            diloco.load(tmp_path / "nowhere")


# What is refused


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "delayed", "outer": "nesterov"},
        {"mode": "streaming", "fragments": 2},
        {"codec": "int4"},
        {"codec": pccl.Codec(pccl.CodecFormat.INT4, block=128)},
        {"outer": "descent"},
        {"outer_learning_rate": 0.5},
        {"outer_momentum": 0.8},
        {"momentum_limit": 1.0},
        {"check_every": 2},
        {"minimum_peers": 3},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_a_newcomer_with_other_options_is_refused_and_harms_nobody(options: Dict[str, Any]) -> None:
    check_refused(new_arrays(2), options)


@pytest.mark.parametrize(
    "change",
    [
        {"third": numpy.ones(31, numpy.float32)},
        {"fourth": numpy.ones(3, numpy.float32)},
    ],
    ids=["size", "name"],
)
def test_a_newcomer_with_other_tensors_is_refused_and_harms_nobody(change: Arrays) -> None:
    check_refused({**new_arrays(2), **change}, {})


def check_refused(model: Arrays, options: Dict[str, Any]) -> None:
    """Two peers train; a third comes that does not fit."""
    refused = threading.Event()
    come = threading.Event()

    def peer(index: int, communicator: pccl.Communicator) -> Any:
        if index == 2:
            come.wait()
            diloco = DiLoCo(model, None, communicator, **{"sync_every": EVERY, **options})
            try:
                with pytest.raises(pccl.InvalidArgumentError):
                    diloco.begin()
            finally:
                refused.set()
            return None
        arrays = new_arrays(index)
        with DiLoCo(arrays, None, communicator, sync_every=EVERY) as diloco:
            come.set()
            done = 0
            # All members count the same rounds, and one of them says to all when it is enough.
            while not communicator_says(communicator, index == 0 and refused.is_set()):
                done += 1
                for step in range(EVERY):
                    train(arrays, index, step)
                    rounds = diloco.step()
                assert rounds[-1].world_size == 2
        assert done
        return diloco.parameters_hash()

    first, second, _ = as_peers(3, peer)
    assert first == second


def communicator_says(communicator: pccl.Communicator, what: bool) -> bool:
    """Whether any of the members says so; between two rounds."""
    said = numpy.array([what], dtype=numpy.uint8)
    communicator.all_reduce(said, op=pccl.ReduceOp.MAX, tag=1, on_loss=pccl.OnLoss.RESUME_WHOLE)
    return bool(said[0])


@pytest.mark.parametrize("options", [{"mode": "delayed"}, {"mode": "streaming", "fragments": 2}, {"codec": "int4"}])
def test_of_two_first_peers_with_different_options_one_is_refused(options: Dict[str, Any]) -> None:
    def peer(index: int, communicator: pccl.Communicator) -> str:
        given = {**(options if index else {}), "patience": 0.3, "sync_every": EVERY}
        try:
            DiLoCo(new_arrays(index), None, communicator, **given).begin()
        except pccl.PCCLError as error:
            return type(error).__name__
        return "begun"

    outcomes = as_peers(2, peer)
    assert outcomes.count("InvalidArgumentError") == 1
    # The other one has begun, or has not since it was alone.
    assert {"begun", "TooFewPeersError"}.intersection(outcomes)


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"mode": "lazy"}, ValueError, "synchronous, delayed, streaming"),
        ({"outer": "adam"}, ValueError, "nesterov, momentum, descent"),
        ({"sync_every": 0}, ValueError, "sync_every"),
        ({"sync_every": 2.5}, TypeError, "sync_every"),
        ({"minimum_peers": 0}, ValueError, "minimum_peers"),
        ({"codec": "int5"}, ValueError, "int5"),
        ({"mode": "streaming", "fragments": 4}, pccl.InvalidArgumentError, None),
        ({"mode": "streaming", "overlap": 101}, pccl.InvalidArgumentError, None),
        ({"mode": "streaming", "mixing": 1.0}, pccl.InvalidArgumentError, None),
        ({"mode": "delayed", "staleness_penalty": -1.0}, pccl.InvalidArgumentError, None),
        ({"outer_learning_rate": float("nan")}, pccl.InvalidArgumentError, None),
        ({"outer_momentum": 1.0}, pccl.InvalidArgumentError, None),
        ({"patience": -1.0}, pccl.InvalidArgumentError, None),
    ],
    ids=lambda value: "-".join(str(item) for item in value.values()) if isinstance(value, dict) else "",
)
def test_options_that_cannot_be_are_refused(options: Dict[str, Any], error: Any, text: str) -> None:
    with pccl.Communicator("127.0.0.1:48148") as communicator, pytest.raises(error, match=text):
        DiLoCo(new_arrays(0), None, communicator, **options)


@pytest.mark.parametrize(
    "model, error",
    [
        ({}, pccl.InvalidArgumentError),
        ({"a": numpy.ones(3, numpy.int32)}, pccl.InvalidArgumentError),
        ({"a": numpy.ones((3, 4), numpy.float32)[:, ::2]}, ValueError),
        ({"a": numpy.ones(0, numpy.float32)}, ValueError),
        ([("a", numpy.ones(3, numpy.float32)), ("a", numpy.ones(3, numpy.float32))], pccl.InvalidArgumentError),
        ({"a": [1.0, 2.0]}, TypeError),
    ],
    ids=["none", "integers", "strided", "empty", "name-twice", "list"],
)
def test_models_that_cannot_be_are_refused(model: Any, error: Any) -> None:
    with pccl.Communicator("127.0.0.1:48148") as communicator, pytest.raises(error):
        DiLoCo(model, None, communicator)


def test_calls_at_the_wrong_moment_are_refused(tmp_path: Path) -> None:
    def peer(index: int, communicator: pccl.Communicator) -> None:
        arrays = new_arrays(index)
        diloco = DiLoCo(arrays, None, communicator, sync_every=2)
        for early in (diloco.step, diloco.end):
            with pytest.raises(pccl.InvalidUsageError):
                early()
        state = diloco.state_dict()
        with diloco:
            with pytest.raises(pccl.InvalidUsageError):
                diloco.begin()
            with pytest.raises(pccl.InvalidUsageError):
                diloco.load(tmp_path)
            with pytest.raises(pccl.InvalidUsageError):
                diloco.load_state_dict(state)
            diloco.weight = -1.0
            with pytest.raises(pccl.InvalidArgumentError):
                diloco.step()
            diloco.weight = 1.0
            diloco.step()
            diloco.step()
            assert diloco.round == 1
        # And it may begin again.
        with diloco:
            diloco.step()
            diloco.step()
            assert diloco.round == 2
        diloco.close()
        diloco.close()
        with pytest.raises(pccl.InvalidUsageError):
            diloco.step()

    as_peers(2, peer)


def test_a_second_thread_is_refused_while_one_waits() -> None:
    others = threading.Barrier(2)

    def peer(index: int, communicator: pccl.Communicator) -> int:
        arrays = new_arrays(index)
        with DiLoCo(arrays, None, communicator, sync_every=1) as diloco:
            if index:
                others.wait()
                diloco.step()
                return diloco.round
            def step() -> None:
                while True:
                    try:
                        diloco.step()
                        return
                    except pccl.InvalidUsageError:
                        # The other thread was just looking.
                        continue

            waiting = threading.Thread(target=step)
            waiting.start()
            with pytest.raises(pccl.InvalidUsageError):
                while True:
                    diloco.parameters_hash()
            for refused in (diloco.step, diloco.end, diloco.parameters_hash, diloco.close):
                with pytest.raises(pccl.InvalidUsageError):
                    refused()
            others.wait()
            waiting.join()
            return diloco.round

    assert as_peers(2, peer) == [1, 1]


def test_an_error_inside_of_the_block_is_the_error_and_others_go_on() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> int:
        arrays = new_arrays(index)
        with DiLoCo(arrays, None, communicator, sync_every=2, minimum_peers=1) as diloco:
            for step in range(1, 9):
                if index and step == 4:
                    raise ZeroDivisionError("of the training loop")
                train(arrays, index, step)
                rounds = diloco.step()
        return rounds[-1].world_size

    def outcome(index: int, communicator: pccl.Communicator) -> Any:
        if not index:
            return peer(index, communicator)
        with pytest.raises(ZeroDivisionError, match="of the training loop"):
            peer(index, communicator)
        return 0

    assert as_peers(2, outcome) == [1, 0]


def test_parameters_that_are_no_numbers_are_not_contributed() -> None:
    def peer(index: int, communicator: pccl.Communicator) -> Tuple[str, bool]:
        arrays = new_arrays(index)
        with DiLoCo(arrays, None, communicator, sync_every=2) as diloco:
            for step in range(1, 5):
                train(arrays, index, step)
                if index and step == 2:
                    arrays["third"][3] = numpy.nan
                diloco.step()
        return diloco.parameters_hash(), all(numpy.isfinite(array).all() for array in arrays.values())

    first, second = as_peers(2, peer)
    assert first == second and first[1]
