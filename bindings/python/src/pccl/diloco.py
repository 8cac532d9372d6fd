"""DiLoCo: peers that train by themselves for many steps, and average what they have learnt now and then.

Two lines in a training loop that is there already::

    diloco = pccl.diloco.DiLoCo(model, optimizer, communicator, sync_every=100)
    with diloco:
        for batch in batches:
            model(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

Peers may join, leave and die at any moment; those who train go on. docs/diloco.md tells how to choose a mode, a round and
a codec. Works with torch modules, and with NumPy arrays where torch is not installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple, Type, Union

import numpy

from ._arguments import UINT32_MAX, checked_integer
from ._buffers import Loans, Region, region_of, wait_for_writers
from ._errors import InvalidUsageError, check
from ._lifetime import Lifetime
from ._native import ffi, require_extension
from ._snapshots import Snapshot
from ._types import Codec, CodecFormat, DeviceType, Rounding, SharedState, TensorInfo
from .communicator import Communicator

__all__ = ["DiLoCo", "RoundInfo"]

_MODES = {"synchronous": 0, "delayed": 1, "streaming": 2}
_RULES = {"nesterov": 0, "momentum": 1, "descent": 2}


@dataclass(frozen=True)
class RoundInfo:
    """An outer step that was done."""

    round: int
    """How many rounds are done with it, from the beginning of the run: outer steps of all parameters."""
    fragment: int
    """Which part of the parameters it was of; 0 unless the mode is streaming."""
    world_size: int
    """How many peers took part."""
    tx_bytes: int
    """Payload bytes that this peer sent for it."""
    rx_bytes: int
    """Payload bytes that this peer received for it."""
    seconds_waited: float
    """How long this peer has stood still for it."""


class DiLoCo:
    """Trains a model together with the other peers of a communicator.

    Between :meth:`begin` and :meth:`end` membership is its business: make no other joint call on the communicator, and
    no other use of its tags (as many as there are fragments and one, from ``first_tag`` on).

    Args:
        model: a ``torch.nn.Module``, of which all parameters that require a gradient take part, or a mapping or an
            iterable of pairs of names and tensors (torch, or NumPy arrays that are written in place). The same names
            and sizes at all peers, in the same order; types and devices may differ. Arrays of CUDA devices (torch, or
            what has ``__cuda_array_interface__`` or DLPack) stay there, and the outer state is beside them; those of a
            fragment are all on one device, or all on the host. Buffers that are no parameters (statistics of batch
            norms) stay each peer's own. Of DTensors, as FSDP makes them, this process' part takes part: give each rank
            a communicator with its rank as ``peer_group``.
        inner_optimizer: a ``torch.optim.Optimizer``: each of its steps is an inner step, whatever gradient
            accumulation or a scaler does around it. None: call :meth:`step` after each inner step.
        communicator: this process as a peer; connected by :meth:`begin` if it is not.
        mode: ``"synchronous"``: at the end of a round all wait for the average. ``"delayed"``: what is found in a round
            travels during the next. ``"streaming"``: parameters travel in fragments, one after the other.
        sync_every: inner steps of a round. It may differ from peer to peer, where some are slower.
        codec: what travels, as :class:`pccl.Codec` or as a text such as ``"e3m0"``, ``"int4"`` or ``"min-max8"``; the same
            at all peers. None: float32.
        error_feedback: whether what coding loses is added to the next round's; 8 bytes for a parameter.
        outer: ``"nesterov"``, ``"momentum"``, or ``"descent"``, with which a learning rate of 1 gives the average. None:
            ``"nesterov"``, but in delayed mode ``"descent"`` with a learning rate of 0.7, since momentum on top of the
            delay swings.
        outer_learning_rate: None: 0.7, or 1 with ``"descent"``.
        outer_momentum: the factor.
        momentum_limit: the momentum of a fragment is made no longer than this, as a vector. 0: as long as it is.
        staleness_penalty: delayed: a step is made smaller by 1 + penalty * (how far the outer parameters have moved since
            it was found / its length).
        fragments: streaming: how many. None: 8, or as many as there are tensors or steps.
        overlap: streaming: after how many steps a result is taken in. None: half of the steps between two launches.
        mixing: streaming: local parameters become mixing * local + (1 - mixing) * outer.
        minimum_peers: with fewer the others wait for more at the end of a round. 1: one goes on alone, as those that come
            in ensembles do in any case.
        patience: seconds that they wait at most. None: for ever.
        check_every: every so many rounds peers compare hashes of what they hold, and who has drifted away gets what most
            have. 0: only when somebody joins.
        first_tag: None: tags that nobody else uses.
        returns: how often in a row, without an outer step, a peer that was cut off comes back before it gives up.
            One of an ensemble does not.
        offload: whether the outer state of torch tensors on a CUDA device is on the host instead; they are copied there
            and back in steps that touch them. For devices with little memory, or below compute capability 7.0.

    Raises:
        InvalidArgumentError: what is asked for cannot be; the log says why.
        ValueError, TypeError: a tensor cannot be used; the text says what to do.
        NotImplementedError: the library that ``PCCL_LIBRARY`` names does not have it.
        InternalError: there is no memory for the outer state, or the driver of a device says so; the log has its words.

    Not to be called by two threads at once. Tensors must stay where they are in memory until it is closed, which happens
    with the last reference; those on devices other than CUDA's, or of a form that cannot be lent, are copied to the host
    and back in steps that touch them. Outer state takes 16 bytes for a parameter, 12 without momentum.

    Of tensors on a CUDA device what is on torch's current stream, or on the stream that their
    ``__cuda_array_interface__`` names, is waited for in each call that touches them; of other streams, and with DLPack,
    only the default stream. When a call has raised InternalError because of a device, close this and make another one,
    which gets what the other peers have; parameters may be undefined until then.
    """

    def __init__(
        self,
        model: Any,
        inner_optimizer: Any,
        communicator: Communicator,
        *,
        mode: str = "synchronous",
        sync_every: int = 100,
        codec: Union[Codec, str, None] = None,
        error_feedback: bool = False,
        outer: Optional[str] = None,
        outer_learning_rate: Optional[float] = None,
        outer_momentum: float = 0.9,
        momentum_limit: float = 0.0,
        staleness_penalty: float = 0.0,
        fragments: Optional[int] = None,
        overlap: Optional[int] = None,
        mixing: float = 0.5,
        minimum_peers: int = 2,
        patience: Optional[float] = None,
        check_every: int = 1,
        first_tag: Optional[int] = None,
        returns: int = 5,
        offload: bool = False,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(_MODES)}")
        if outer is None:
            outer = "descent" if mode == "delayed" else "nesterov"
            if outer == "descent" and outer_learning_rate is None:
                outer_learning_rate = 0.7
        if outer not in _RULES:
            raise ValueError(f"outer is {outer!r}; expected one of {', '.join(_RULES)}")
        if not outer_momentum > 0 or outer_learning_rate == 0:
            raise ValueError("a momentum or a learning rate of 0; without momentum, outer is 'descent'")
        self._communicator = communicator
        self._library = communicator._library
        require_extension(self._library, "DiLoCo", ("pcclDiLoCoCreate",))
        with Loans() as loans:
            self._tensors = [_Tensor(name, tensor, loans, offload) for name, tensor in _named(model)]
            options = ffi.new("pcclDiLoCoOptions_t *")
            options.struct_size = ffi.sizeof("pcclDiLoCoOptions_t")
            options.mode = _MODES[mode]
            options.sync_every = checked_integer(sync_every, "sync_every", 1, UINT32_MAX)
            if mode == "streaming":
                most = max(1, min(8, len(self._tensors), sync_every))
                options.fragments = most if fragments is None else checked_integer(fragments, "fragments", 1, UINT32_MAX)
                usual = max(1, sync_every // (2 * max(options.fragments, 1)))
                options.overlap = usual if overlap is None else checked_integer(overlap, "overlap", 0, UINT32_MAX)
                options.mixing = mixing
            options.staleness_penalty = staleness_penalty
            options.rule = _RULES[outer]
            options.learning_rate = 0.0 if outer_learning_rate is None else outer_learning_rate
            options.momentum = outer_momentum
            options.momentum_limit = momentum_limit
            chosen = Codec.parse(codec) if isinstance(codec, str) else codec
            if chosen is not None:
                options.codec = CodecFormat(chosen.format)
                options.block_elements = 0 if chosen.block is None else checked_integer(chosen.block, "codec.block", 32, 256)
                options.rounding = Rounding(chosen.rounding)
            options.error_feedback = bool(error_feedback)
            options.minimum_peers = checked_integer(minimum_peers, "minimum_peers", 1, UINT32_MAX)
            options.check_every = checked_integer(check_every, "check_every", 0, UINT32_MAX - 1) or UINT32_MAX
            options.patience_seconds = 0.0 if patience is None else patience
            options.first_tag = 0 if first_tag is None else first_tag
            options.returns = checked_integer(returns, "returns", 0, UINT32_MAX - 1) or UINT32_MAX
            self._lifetime = self._create(options)
            self._loans = loans.kept()
        for tensor in self._tensors:
            tensor.fragment = self._fragment_of(tensor.name)
        self._fragment_count = 1 + max(tensor.fragment for tensor in self._tensors)
        self._staged = sorted({tensor.fragment for tensor in self._tensors if tensor.is_staged})
        self._is_on_device = any(tensor.is_on_device for tensor in self._tensors)
        self._hook: Any = None
        self._optimizer = inner_optimizer
        self._is_begun = False
        self.weight = 1.0
        """What this peer's next contribution counts, relative to that of others and near 1: tokens seen, divided by the
        tokens that peers usually see."""
        self.on_round: Optional[Callable[[RoundInfo], Any]] = None
        """Called after each outer step, in the thread that trains."""

    def _create(self, options: Any) -> Lifetime:
        names = [ffi.new("char[]", tensor.name.encode()) for tensor in self._tensors]
        natives = ffi.new("pcclDiLoCoTensor_t[]", max(len(self._tensors), 1))
        for native, tensor, name in zip(natives, self._tensors, names):
            tensor.take_in()
            tensor.wait()
            native.name = name
            native.data = ffi.cast("void *", tensor.region.address)
            native.count = tensor.region.count
            native.datatype = tensor.region.datatype
        created = ffi.new("pcclDiLoCo_t **")
        with self._communicator._lifetime.inside() as pointer:
            code = self._library.pcclDiLoCoCreate(pointer, natives, len(self._tensors), options, created)
        check(code, "pcclDiLoCoCreate", self._communicator._subject)
        return Lifetime(created[0], "the DiLoCo")

    # The training loop

    def begin(self) -> None:
        """Connects, waits until there are enough peers, and gets what they hold: the model has the outer parameters then.

        A peer that joins a run waits here for the end of the others' round. The first peers of a run agree on the
        parameters of one of them.

        Raises:
            TooFewPeersError: the patience is over.
            MasterConnectionFailedError: the master cannot be reached.
            InvalidUsageError: begun already.
            InvalidArgumentError: other peers have other tensors or options.
        """
        self._require_place()
        self._wait()
        self._call("pcclDiLoCoBegin")
        for tensor in self._tensors:
            tensor.give_back()
        self._is_begun = True
        if self._optimizer is not None:
            self._hook = self._optimizer.register_step_post_hook(lambda *_: self.step())

    def step(self) -> List[RoundInfo]:
        """Counts an inner step, and does what is due after it. The optimizer's hook calls it, if there is an optimizer.

        Returns:
            The outer steps that were done; :attr:`on_round` has been called for each.

        Raises:
            MasterConnectionFailedError: this peer is out of the run and could not come back.
            TooFewPeersError, InvalidUsageError, InvalidArgumentError: as with :meth:`begin`.
        """
        touched = [fragment for fragment in self._staged if self._touches_next(fragment)]
        self._require_place()
        for tensor in self._tensors:
            if tensor.fragment in touched:
                tensor.take_in()
        # Whatever is touched, all parameters may be replaced.
        if self._is_on_device and any(self._touches_next(fragment) for fragment in range(self._fragment_count)):
            self._wait()
        before = self._native_state()[0] if self._staged else 0
        rounds = self._rounds("pcclDiLoCoStep", float(self.weight))
        # Who was cut off and is back has all parameters replaced, at any step.
        all_are_new = bool(self._staged) and self._native_state()[0] != before
        for tensor in self._tensors:
            if all_are_new or tensor.fragment in touched:
                tensor.give_back()
        return self._tell(rounds)

    def end(self) -> List[RoundInfo]:
        """Takes in what is on its way: the model has the outer parameters then.

        What was found since the last launch is dropped: end after a whole number of rounds. Others wait for this peer
        until its communicator is destroyed, or they end too.

        Raises:
            InvalidUsageError: not begun, or a tensor was moved.
        """
        self._require_place()
        self._wait()
        self._remove_hook()
        self._is_begun = False
        rounds = self._rounds("pcclDiLoCoEnd")
        for tensor in self._tensors:
            tensor.give_back()
        return self._tell(rounds)

    def __enter__(self) -> DiLoCo:
        self.begin()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        # After an error nobody waits for anything: whoever catches it decides.
        if value is None:
            self.end()
        else:
            self._remove_hook()

    # What is known

    @property
    def round(self) -> int:
        """How many rounds are done, from the beginning of the run."""
        return int(self._info().round)

    @property
    def fragment_count(self) -> int:
        """How many fragments there are."""
        return self._fragment_count

    def parameters_hash(self) -> str:
        """A hash of the outer parameters: the same at all peers that have done the same rounds."""
        # An array in a struct does not keep the struct alive.
        info = self._info()
        return str(ffi.string(info.parameters_hash).decode())

    def outer_parameters(self) -> Dict[str, Any]:
        """Copies of the outer parameters in float32, by name: torch tensors on the CPU where the model has such."""
        _, held = self._native_state()
        return {
            tensor.name: tensor.like(held[f"outer/{tensor.name}"].copy().reshape(tensor.shape))
            for tensor in self._tensors
        }

    @property
    def shared_state(self) -> SharedState:
        """What all peers hold alike: outer parameters, momentum, and counts. Its memory is the library's: NumPy arrays, or
        of a CUDA device what has ``__cuda_array_interface__``.

        Save it at any moment between two steps; :meth:`load` is the way back.
        """
        revision, held = self._native_state()
        shapes = {f"{kind}/{tensor.name}": tensor.shape for tensor in self._tensors for kind in ("outer", "momentum")}
        return SharedState(
            revision, [TensorInfo(name, each.lent(shapes.get(name, (each.count,)))) for name, each in held.items()]
        )

    def save(self, directory: Union[str, "os.PathLike[str]"], keep: Optional[int] = None) -> Snapshot:
        """:meth:`pccl.SharedState.save` of :attr:`shared_state`."""
        return self.shared_state.save(directory, keep)

    def load(self, directory: Union[str, "os.PathLike[str]"]) -> None:
        """Reads the newest whole snapshot, before :meth:`begin`: the peers then go on from what that one has that is the
        furthest. Raises what :meth:`pccl.SharedState.load` raises, and InvalidUsageError once begun."""
        self._wait()
        self._call("pcclDiLoCoLoad", os.fsencode(os.fspath(directory)))
        for tensor in self._tensors:
            tensor.give_back()

    def state_dict(self) -> Dict[str, Any]:
        """Copies, on the host, of all that is needed to go on from here, as torch's optimizers have them: revision and
        tensors."""
        revision, held = self._native_state()
        make = self._tensors[0].like
        return {"revision": revision, "tensors": {name: make(each.copy()) for name, each in held.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave, before :meth:`begin`. ValueError if it is of another model."""
        if self._is_begun:
            raise InvalidUsageError("a DiLoCo that has begun gets its state from the other peers; load it before")
        _, held = self._native_state()
        given = {name: numpy.asarray(value) for name, value in state["tensors"].items()}
        if given.keys() != held.keys() or any(given[name].size != each.count for name, each in held.items()):
            raise ValueError("the state is of other tensors than this model has, or of another outer optimizer")
        for name, each in held.items():
            each.fill(given[name])
        self._wait()
        self._call("pcclDiLoCoRestore", int(state["revision"]))
        for tensor in self._tensors:
            tensor.give_back()

    def close(self) -> None:
        """Frees the outer state. InvalidUsageError while another thread is inside a call."""
        self._remove_hook()
        pointer = self._lifetime.end()
        if pointer is not None:
            self._library.pcclDiLoCoDestroy(pointer)
            self._loans.give_back()

    def __del__(self) -> None:
        lifetime: Optional[Lifetime] = getattr(self, "_lifetime", None)
        if lifetime is not None and lifetime.is_alive:
            self.close()

    # Details

    def _call(self, function: str, *arguments: Any) -> None:
        with self._lifetime.inside() as pointer, self._communicator._lifetime.inside():
            code = getattr(self._library, function)(pointer, *arguments)
        check(code, function, self._communicator._subject)

    def _rounds(self, function: str, *arguments: Any) -> List[RoundInfo]:
        # At a boundary what is on its way is taken in as well.
        capacity = 2 * self._fragment_count
        rounds, count = ffi.new("pcclDiLoCoRound_t[]", capacity), ffi.new("size_t *")
        self._call(function, *arguments, rounds, capacity, count)
        return [
            RoundInfo(
                int(info.round),
                int(info.fragment),
                int(info.world_size),
                int(info.tx_bytes),
                int(info.rx_bytes),
                float(info.seconds_waited),
            )
            for info in rounds[0 : int(count[0])]
        ]

    def _tell(self, rounds: List[RoundInfo]) -> List[RoundInfo]:
        if self.on_round is not None:
            for info in rounds:
                self.on_round(info)
        return rounds

    def _info(self) -> Any:
        info = ffi.new("pcclDiLoCoInfo_t *")
        self._call("pcclDiLoCoGetInfo", info)
        return info

    def _touches_next(self, fragment: int) -> bool:
        touches = ffi.new("bool *")
        self._call("pcclDiLoCoTouchesNext", fragment, touches)
        return bool(touches[0])

    def _fragment_of(self, name: str) -> int:
        fragment = ffi.new("uint32_t *")
        self._call("pcclDiLoCoFragmentOf", name.encode(), fragment)
        return int(fragment[0])

    def _native_state(self) -> Tuple[int, Dict[str, _Held]]:
        native = ffi.new("pcclSharedState_t *")
        self._call("pcclDiLoCoGetSharedState", native)
        held = [_Held(self, native.infos + index) for index in range(native.count)]
        return int(native.revision), {each.name: each for each in held}

    def _wait(self) -> None:
        """For what writes tensors on devices."""
        for tensor in self._tensors:
            tensor.wait()

    def _require_place(self) -> None:
        for tensor in self._tensors:
            if not tensor.is_in_place:
                raise InvalidUsageError(
                    f"{tensor.name} was moved in memory since the DiLoCo was made (by .to(), or an assignment to .data). "
                    "Move the model first, then make the DiLoCo."
                )

    def _remove_hook(self) -> None:
        hook, self._hook = getattr(self, "_hook", None), None
        if hook is not None:
            hook.remove()


def _named(model: Any) -> List[Tuple[str, Any]]:
    if hasattr(model, "named_parameters"):
        return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    pairs: Iterable[Any] = model.items() if isinstance(model, Mapping) else model
    return [(str(name), tensor) for name, tensor in pairs]


class _Held:
    """One tensor of what all peers hold alike: the library's memory, of the host or of a CUDA device."""

    def __init__(self, owner: DiLoCo, info: Any) -> None:
        self._owner = owner
        self._info = info
        self.name = str(ffi.string(info.name).decode())
        self.count = int(info.count)
        self._dtype = numpy.dtype(numpy.uint64 if self.name == "diloco/progress" else numpy.float32)
        self._is_on_device = info.device_type == DeviceType.CUDA

    def _view(self) -> Any:
        return numpy.frombuffer(
            ffi.buffer(self._info.data, self.count * self._dtype.itemsize), dtype=self._dtype, count=self.count
        )

    def copy(self) -> Any:
        if not self._is_on_device:
            return self._view().copy()
        array = numpy.empty(self.count, self._dtype)
        code = self._owner._library.pcclReadTensor(self._info, ffi.from_buffer(array))
        check(code, "pcclReadTensor", self.name)
        return array

    def fill(self, values: Any) -> None:
        if not self._is_on_device:
            self._view()[:] = values.reshape(-1)
            return
        array = numpy.ascontiguousarray(values.reshape(-1), self._dtype)
        code = self._owner._library.pcclWriteTensor(self._info, ffi.from_buffer(array))
        check(code, "pcclWriteTensor", self.name)

    def lent(self, shape: Tuple[int, ...]) -> Any:
        if not self._is_on_device:
            return self._view().reshape(shape)
        return _DeviceView(self._owner, int(ffi.cast("uintptr_t", self._info.data)), shape, self._dtype)


class _DeviceView:
    """Memory of a CUDA device for those who know the interface: torch.as_tensor, cupy.asarray, and this package."""

    def __init__(self, owner: DiLoCo, address: int, shape: Tuple[int, ...], dtype: Any) -> None:
        self._owner = owner
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (address, False),
            "strides": None,
            # Whatever was done there is done.
            "stream": None,
        }


class _Tensor:
    """One tensor of the model, and the memory where the library sees it."""

    def __init__(self, name: str, tensor: Any, loans: Loans, offload: bool) -> None:
        self.name = name
        self.fragment = 0
        self._is_torch = hasattr(tensor, "detach")
        self._source = tensor
        local = self._local()
        self._stage: Any = None
        if self._is_torch:
            import torch

            # torch calls devices of ROCm cuda as well.
            is_cuda = local.device.type == "cuda" and getattr(torch.version, "hip", None) is None and not offload
            if not (local.is_contiguous() and (is_cuda or local.device.type == "cpu")):
                self._stage = torch.empty(local.shape, dtype=local.dtype, device=local.device if is_cuda else "cpu")
        lent = local if self._stage is None else self._stage
        self.region: Region = region_of(lent, name, True, loans, device=not offload)
        self.shape = self.region.shape
        self._lent = lent
        self._address = self._place(local)

    @property
    def is_on_device(self) -> bool:
        """Whether the library sees it on a device, as far as anybody says so."""
        if self._is_torch:
            return bool(self._lent.device.type == "cuda")
        return hasattr(self._lent, "__cuda_array_interface__")

    def wait(self) -> None:
        """For what writes it."""
        if self.is_on_device:
            wait_for_writers(self._lent, self.name)

    @property
    def is_staged(self) -> bool:
        return self._stage is not None

    @property
    def is_in_place(self) -> bool:
        return self.is_staged or self._place(self._local()) == self._address

    def take_in(self) -> None:
        if self._stage is not None:
            self._stage.copy_(self._local())

    def give_back(self) -> None:
        if self._stage is not None:
            self._local().copy_(self._stage)

    def like(self, array: Any) -> Any:
        """An array as the model's tensors are."""
        if not self._is_torch:
            return array
        import torch

        return torch.from_numpy(array)

    def _local(self) -> Any:
        if not self._is_torch:
            return self._source
        tensor = self._source.detach()
        return tensor.to_local() if hasattr(tensor, "to_local") else tensor

    def _place(self, local: Any) -> int:
        if self._is_torch:
            return int(local.data_ptr())
        if hasattr(local, "ctypes"):
            return int(local.ctypes.data)
        interface = getattr(local, "__cuda_array_interface__", None)
        return 0 if interface is None else int(interface["data"][0])
