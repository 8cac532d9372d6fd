"""What the tests of DiLoCo share: peers that are threads of this process, and their arithmetic in plain NumPy."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy
from cluster import in_threads, start_master

import pccl

Arrays = Dict[str, numpy.ndarray]
SHAPES: Dict[str, Tuple[int, ...]] = {"first": (7,), "second": (50, 20), "third": (30,)}


def as_peers(count: int, task: Callable[[int, pccl.Communicator], Any]) -> List[Any]:
    """Runs ``task(index, communicator)`` for so many peers of one new run. Who raises is gone for the others."""
    master, address = start_master()

    def run(index: int) -> Any:
        with pccl.Communicator(address) as communicator:
            return task(index, communicator)

    with master:
        return in_threads([lambda index=index: run(index) for index in range(count)])


def new_arrays(seed: int) -> Arrays:
    random = numpy.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(numpy.float32) for name, shape in SHAPES.items()}


def train(arrays: Arrays, index: int, step: int) -> None:
    """An inner step of the peer ``index``: another one each time, but always the same."""
    random = numpy.random.default_rng((index, step))
    for array in arrays.values():
        array -= (0.01 * (array + random.standard_normal(array.shape))).astype(array.dtype)


def bits(arrays: Arrays) -> Dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


class Flight(NamedTuple):
    """What is on its way: a fragment's average, and the outer parameters that it was measured from."""

    due: int
    fragment: int
    average: Arrays
    base: Arrays


class Plain:
    """All peers of a run, in plain arithmetic: each operation is rounded to float32 by itself.

    ``fragments`` has the names of the tensors of each; ``drains``: whether what is on its way is taken in where a round
    ends.
    """

    def __init__(
        self,
        start: Arrays,
        weights: Sequence[float],
        sync_every: int,
        *,
        fragments: Optional[List[List[str]]] = None,
        overlap: int = 0,
        mixing: float = 0.0,
        rule: str = "nesterov",
        rate: float = 0.7,
        factor: float = 0.9,
        limit: float = 0.0,
        penalty: float = 0.0,
        drains: bool = True,
    ) -> None:
        self.outer = {name: array.copy() for name, array in start.items()}
        self.momentum = {name: numpy.zeros_like(array) for name, array in start.items()}
        self.locals = [{name: array.copy() for name, array in start.items()} for _ in weights]
        self.weights = [numpy.float32(weight) for weight in weights]
        self.fragments = fragments or [list(start)]
        self.sync_every, self.overlap, self.mixing = sync_every, overlap, numpy.float32(mixing)
        self.rule, self.rate, self.factor = rule, numpy.float32(rate), numpy.float32(factor)
        self.limit, self.penalty, self.drains = limit, penalty, drains
        self.flying: List[Flight] = []

    def after_inner_step(self, step: int) -> None:
        count = len(self.fragments)
        launched = [f for f in range(count) if step % self.sync_every == f * self.sync_every // count]
        # Measured from what the round began with, which is replaced next.
        found = [self._launch(fragment, step + self.overlap) for fragment in launched]
        for flight in [flight for flight in self.flying if flight.due <= step]:
            self._apply(flight)
        self.flying = [flight for flight in self.flying if flight.due > step]
        if step % self.sync_every == 0 and self.drains:
            self.finish()
        if self.overlap:
            self.flying += found
        else:
            for flight in found:
                self._apply(flight)

    def finish(self) -> None:
        for flight in self.flying:
            self._apply(flight)
        self.flying = []

    def _launch(self, fragment: int, due: int) -> Flight:
        peers = numpy.float32(len(self.weights))
        weight = self.weights[0]
        for other in self.weights[1:]:
            weight = weight + other
        average = {}
        for name in self.fragments[fragment]:
            total = (self.outer[name] - self.locals[0][name]) * self.weights[0]
            for local, factor in zip(self.locals[1:], self.weights[1:]):
                total = total + (self.outer[name] - local[name]) * factor
            average[name] = total / peers / (weight / peers)
        return Flight(due, fragment, average, {name: self.outer[name] for name in average})

    def _apply(self, flight: Flight) -> None:
        average = flight.average
        if self.penalty:
            moved = _length({name: self.outer[name] - flight.base[name] for name in average})
            if moved > 0:
                divisor = numpy.float32(1 + self.penalty * moved / _length(average))
                average = {name: array / divisor for name, array in average.items()}
        momentum = average
        if self.rule != "descent":
            momentum = {name: self.momentum[name] * self.factor + array for name, array in average.items()}
            length = _length(momentum)
            if 0 < self.limit < length:
                divisor = numpy.float32(length / self.limit)
                momentum = {name: array / divisor for name, array in momentum.items()}
            self.momentum.update(momentum)
        for name, array in average.items():
            direction = array + momentum[name] * self.factor if self.rule == "nesterov" else momentum[name]
            self.outer[name] = self.outer[name] - direction * self.rate
            for local in self.locals:
                kept = local[name] * self.mixing + self.outer[name] * (numpy.float32(1) - self.mixing)
                local[name][...] = kept if self.mixing else self.outer[name]


def _length(arrays: Arrays) -> float:
    return float(sum((array.astype(numpy.float64) ** 2).sum() for array in arrays.values())) ** 0.5
