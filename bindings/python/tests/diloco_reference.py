"""DiLoCo once more, in plain PyTorch: one process that plays all peers. Nothing of the package is used.

Each operation rounds to float32 by itself and in the order written here; no two are fused. So whatever claims to
compute the same can be held against it bit for bit:

    delta    = outer - local                                        at each peer
    average  = (sum of weight * delta, in the order of ranks) / P / (average of the weights)
    momentum = mu * momentum + average
    outer    = outer - lr * (average + mu * momentum)               nesterov; else outer - lr * momentum
    local    = outer                                                streaming: alpha * local + (1 - alpha) * outer

``inner steps`` are counted from 1: step number s is the s-th call of a peer's inner optimizer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch

Tensors = List[torch.Tensor]


def pseudo_gradient(outer: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """What a peer contributes: where it would go from the outer parameters, negated, as gradients are."""
    return torch.sub(outer, local)


def weighted_average(deltas: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The average of the peers' contributions, in the order of their ranks.

    Both averages are all-reduces (AVG) of their own, which is why P is divided by twice.
    """
    peers = len(deltas)
    factors = [scalar(weight) for weight in weights]
    total = torch.mul(deltas[0], factors[0])
    total_of_weights = factors[0]
    for delta, factor in zip(deltas[1:], factors[1:]):
        total = torch.add(total, torch.mul(delta, factor))
        total_of_weights = torch.add(total_of_weights, factor)
    return torch.div(torch.div(total, peers), torch.div(total_of_weights, peers))


def outer_step(
    outer: torch.Tensor,
    momentum: torch.Tensor,
    average: torch.Tensor,
    learning_rate: float = 0.7,
    mu: float = 0.9,
    nesterov: bool = True,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The outer parameters and the momentum after a step. The arguments stay as they are.

    The same as ``torch.optim.SGD(lr=learning_rate, momentum=mu, nesterov=nesterov)`` with momentum zero at first,
    but for fused multiply-adds, which torch may use there.
    """
    momentum = torch.add(torch.mul(momentum, scalar(mu)), average)
    direction = torch.add(average, torch.mul(momentum, scalar(mu))) if nesterov else momentum
    return torch.sub(outer, torch.mul(direction, scalar(learning_rate))), momentum


def mixed(local: torch.Tensor, outer: torch.Tensor, alpha: float) -> torch.Tensor:
    """The local parameters of a fragment after its outer step, in streaming: a part of what was learnt meanwhile."""
    if alpha == 0:
        return outer
    # The rest is rounded to float32 by itself, too.
    return torch.add(torch.mul(local, scalar(alpha)), torch.mul(outer, scalar(1) - scalar(alpha)))


def scalar(value: float) -> torch.Tensor:
    """A factor as float32, as all else."""
    return torch.tensor(value, dtype=torch.float32)


def fragments_of(sizes: Sequence[int], count: int) -> List[range]:
    """Deals parameters with so many elements out to ``count`` groups, contiguous and of whole parameters.

    A parameter belongs to the group that its middle lies in if all elements are cut evenly, and no group is empty.
    """
    if not 1 <= count <= len(sizes):
        raise ValueError(f"{count} fragments of {len(sizes)} parameters")
    total = sum(sizes)
    group_of: List[int] = []
    before = 0
    for index, size in enumerate(sizes):
        wanted = (before + size // 2) * count // total
        next_group = group_of[-1] + 1 if group_of else 0
        # As many parameters must be left as there are groups to come.
        needed = count - (len(sizes) - index)
        group_of.append(max(min(wanted, next_group), needed))
        before += size
    return [range(group_of.index(group), len(group_of) - group_of[::-1].index(group)) for group in range(count)]


class Event(NamedTuple):
    """What happens to a fragment right after an inner step."""

    kind: str
    """``launch`` or ``apply``."""
    fragment: int


@dataclass(frozen=True)
class Timetable:
    """Which fragments are launched and applied after which inner step. The same at all peers."""

    mode: str = "synchronous"
    sync_every: int = 32
    fragments: int = 1
    overlap: int = 0

    def events(self, step: int) -> List[Event]:
        """After inner step number ``step``, in this order."""
        every = self.sync_every
        if self.mode == "synchronous":
            return [Event("launch", 0), Event("apply", 0)] if step % every == 0 else []
        if self.mode == "delayed":
            # The contribution is measured from the parameters that the round began with: before these are replaced.
            if step % every != 0:
                return []
            return [Event("launch", 0)] + ([Event("apply", 0)] if step > every else [])
        fragments = range(self.fragments)
        # What is applied and launched at once is measured before it is replaced, as in delayed mode. Without overlap a
        # fragment is applied where it is launched.
        found = [Event("launch", fragment) for fragment in fragments if self.launches(fragment, step)]
        return found + [Event("apply", f) for f in fragments if self.launches(f, step - self.overlap)]

    def launches(self, fragment: int, step: int) -> bool:
        """Streaming: whether ``fragment`` is launched after ``step``."""
        offset = fragment * self.sync_every // self.fragments
        return step > 0 and step % self.sync_every == offset % self.sync_every


class Reference:
    """Outer parameters and momentum of a run with a fixed number of peers, and what the peers' parameters become.

    Call :meth:`after_inner_step` after each inner step with the local parameters of all peers, in the order of ranks;
    they are changed in place where the mode wants it. :meth:`finish` does what the end of training does.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        timetable: Timetable,
        learning_rate: float = 0.7,
        mu: float = 0.9,
        nesterov: bool = True,
        mixing: float = 0.5,
        outer_is_average: bool = False,
    ) -> None:
        self.outer: Tensors = [parameter.detach().to(torch.float32).clone() for parameter in parameters]
        self.momentum: Tensors = [torch.zeros_like(parameter) for parameter in self.outer]
        self.timetable = timetable
        self.learning_rate = learning_rate
        self.mu = mu
        self.nesterov = nesterov
        self.mixing = mixing
        self.outer_is_average = outer_is_average
        self.groups = fragments_of([parameter.numel() for parameter in self.outer], timetable.fragments)
        self.outer_steps = [0] * timetable.fragments
        """Outer steps that each fragment has had."""
        self._in_flight: Dict[int, List[Tensors]] = {}

    def after_inner_step(
        self, step: int, locals_of_peers: Sequence[Sequence[torch.Tensor]], weights: Optional[Sequence[float]] = None
    ) -> List[Event]:
        """What is due after inner step number ``step``; ``weights`` are those of contributions launched now."""
        due = self.timetable.events(step)
        for event in due:
            if event.kind == "launch":
                self.launch(event.fragment, locals_of_peers, weights)
            else:
                self.apply(event.fragment, locals_of_peers)
        return due

    def launch(
        self,
        fragment: int,
        locals_of_peers: Sequence[Sequence[torch.Tensor]],
        weights: Optional[Sequence[float]] = None,
    ) -> None:
        """All peers contribute to ``fragment``."""
        given = [1.0] * len(locals_of_peers) if weights is None else list(weights)
        averages: Tensors = []
        for index in self.groups[fragment]:
            deltas = [pseudo_gradient(self.outer[index], local[index].detach()) for local in locals_of_peers]
            averages.append(weighted_average(deltas, given))
        self._in_flight.setdefault(fragment, []).append(averages)

    def apply(self, fragment: int, locals_of_peers: Sequence[Sequence[torch.Tensor]]) -> None:
        """The outer step with the oldest average of ``fragment`` that is in flight, and the local parameters after."""
        averages = self._in_flight[fragment].pop(0)
        for index, average in zip(self.groups[fragment], averages):
            if self.outer_is_average:
                rate = scalar(self.learning_rate)
                self.outer[index] = torch.sub(self.outer[index], torch.mul(average, rate))
            else:
                self.outer[index], self.momentum[index] = outer_step(
                    self.outer[index], self.momentum[index], average, self.learning_rate, self.mu, self.nesterov
                )
            for local in locals_of_peers:
                replaced = self.outer[index]
                if self.timetable.mode == "streaming":
                    replaced = mixed(local[index].detach(), replaced, self.mixing)
                with torch.no_grad():
                    local[index].copy_(replaced)
        self.outer_steps[fragment] += 1

    def finish(self, locals_of_peers: Sequence[Sequence[torch.Tensor]]) -> None:
        """Applies what is in flight, in the order of fragments; all peers then hold the outer parameters."""
        for fragment in range(self.timetable.fragments):
            while self._in_flight.get(fragment):
                self.apply(fragment, locals_of_peers)
        with torch.no_grad():
            for local in locals_of_peers:
                for parameter, outer in zip(local, self.outer):
                    parameter.copy_(outer)


def digest(parameters: Iterable[torch.Tensor]) -> str:
    """Of the bytes of all parameters, in order."""
    state = hashlib.sha256()
    for parameter in parameters:
        state.update(parameter.detach().contiguous().numpy().tobytes())
    return state.hexdigest()
