"""Enumerations and plain records. The values are those of the C header and never change."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Tuple, Union

if TYPE_CHECKING:
    from ._snapshots import Snapshot

__all__ = [
    "Attribute",
    "Codec",
    "CodecFormat",
    "DataType",
    "DistributionHint",
    "OnLoss",
    "QuantizationAlgorithm",
    "QuantizationOptions",
    "ReduceInfo",
    "ReduceOp",
    "ReduceOperand",
    "Result",
    "ResultPart",
    "Rounding",
    "SharedState",
    "SharedStateSyncInfo",
    "SharedStateSyncStrategy",
    "TensorInfo",
]


class Result(enum.IntEnum):
    """What a C function answered. Every value but SUCCESS is raised as its own subclass of :class:`PCCLError`."""

    SUCCESS = 0
    NOT_INITIALIZED = 1
    INTERNAL_ERROR = 2
    INVALID_ARGUMENT = 3
    INVALID_USAGE = 4
    TOO_FEW_PEERS = 5
    MASTER_CONNECTION_FAILED = 6
    RANK_CONNECTION_FAILED = 7
    RANK_CONNECTION_LOST = 8
    NO_SHARED_STATE_AVAILABLE = 9
    PENDING_ASYNC_OPS = 10
    UPDATE_TOPOLOGY_FAILED = 11
    TOPOLOGY_OPTIMIZATION_FAILED = 12


class DataType(enum.IntEnum):
    """Type of one element."""

    UINT8 = 0
    INT8 = 1
    INT16 = 2
    UINT16 = 3
    UINT32 = 4
    INT32 = 5
    UINT64 = 6
    INT64 = 7
    FLOAT16 = 8
    BFLOAT16 = 9
    FLOAT32 = 10
    FLOAT64 = 11

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _ITEM_SIZES[self]


_ITEM_SIZES = {
    DataType.UINT8: 1,
    DataType.INT8: 1,
    DataType.INT16: 2,
    DataType.UINT16: 2,
    DataType.UINT32: 4,
    DataType.INT32: 4,
    DataType.UINT64: 8,
    DataType.INT64: 8,
    DataType.FLOAT16: 2,
    DataType.BFLOAT16: 2,
    DataType.FLOAT32: 4,
    DataType.FLOAT64: 8,
}


class DeviceType(enum.IntEnum):
    """Where a tensor's memory is."""

    CPU = 0
    CUDA = 1


class ReduceOp(enum.IntEnum):
    """How contributions are combined, element by element.

    Integer sums and products wrap. AVG of integers truncates towards zero. 16-bit floats are accumulated in 32 bits.
    MAX and MIN are NaN where any contribution is NaN.
    """

    SUM = 0
    AVG = 1
    PROD = 2
    MAX = 3
    MIN = 4


class OnLoss(enum.IntEnum):
    """What becomes of an operation that all survivors had entered when a peer was lost.

    Peers may differ: ABORT at one of them holds for all, else RESUME_WHOLE at one of them. Whatever it is, an operation
    that some survivor had not entered begins again by itself, one whose result all survivors hold is a success, and one
    of whose peers a single one is left ends with :class:`RankConnectionLostError`.
    """

    ABORT = 0
    """All survivors get :class:`RankConnectionLostError`, and their inputs are whole."""
    RESUME = 1
    """The survivors finish it. What is final at any of them is kept, with the lost peer's contribution; the rest is
    reduced from the contributions of those who are left. So elements may have those of more or fewer peers:
    :attr:`ReduceInfo.parts` says which have what."""
    RESUME_WHOLE = 2
    """The survivors finish it, and all elements have the contributions of the same peers. What is final is kept if all
    of the result is final somewhere, or if those who are left made it; otherwise the operation begins again."""


class CodecFormat(enum.IntEnum):
    """What a float becomes on its way; the documentation of collectives says how far it may be off then."""

    MIN_MAX_8 = 1
    """Codes of 8 bits from the lowest value of a block to its highest."""
    MIN_MAX_16 = 2
    MIN_MAX_32 = 3
    """For float64."""
    ZERO_POINT_8 = 4
    """The same for a range that contains zero, which stays zero."""
    ZERO_POINT_16 = 5
    ZERO_POINT_32 = 6
    """For float64."""
    INT4 = 7
    """Whole numbers from -7 to 7 times a float32 scale."""
    INT4_E8M0 = 8
    """The same with a scale that is a power of two, in one byte."""
    E3M0 = 9
    """Zero and powers of two from 1/64 to 1, with sign, times a scale; 4 bits."""
    E3M0_E8M0 = 10
    E4M3 = 11
    """Floats of 8 bits, 4 of exponent and 3 of mantissa, times a scale."""
    E4M3_E8M0 = 12
    FLOAT16 = 13
    """Each value by itself."""
    BFLOAT16 = 14
    """Each value by itself."""


class Rounding(enum.IntEnum):
    """Which of the two codes next to a value it gets."""

    NEAREST = 0
    STOCHASTIC = 1
    """Either, as often as the value is nearer to it: the mean of many is the value."""


@dataclass(frozen=True)
class Codec:
    """What travels of floats instead of themselves. The same on every peer; the tensor's type must have more bits."""

    format: CodecFormat
    block: Optional[int] = None
    """How many values share a scale: 32, 64, 128 or 256. None: as many as suit the format."""
    rounding: Rounding = Rounding.NEAREST

    @classmethod
    def parse(cls, text: str) -> Codec:
        """The codec of a text as the command line tool takes it: ``"int4"``, ``"e3m0-e8m0/64"``,
        ``"min-max8+stochastic"``. ValueError, which lists the formats, if there is none."""
        name, plus, how = text.partition("+")
        name, slash, block = name.partition("/")
        formats = {_format_name(format): format for format in CodecFormat}
        if name not in formats or (plus and how != "stochastic") or (slash and block not in ("32", "64", "128", "256")):
            raise ValueError(f"{text!r} is no codec; formats are {', '.join(formats)}, then maybe /64 and +stochastic")
        rounding = Rounding.STOCHASTIC if plus else Rounding.NEAREST
        return cls(formats[name], int(block) if slash else None, rounding)


def _format_name(format: CodecFormat) -> str:
    words = format.name.lower().split("_")
    # As in min-max8.
    return "-".join(words[:-2] + ["".join(words[-2:])]) if words[-1].isdigit() else "-".join(words)


class Attribute(enum.IntEnum):
    """What :meth:`Communicator.get_attribute` can be asked. Only admitted peers count."""

    GLOBAL_WORLD_SIZE = 1
    """Peers of all groups."""
    PEER_GROUP_WORLD_SIZE = 2
    """Peers of this communicator's own group: those that its collectives run among."""
    NUM_DISTINCT_PEER_GROUPS = 3
    """Groups with at least one peer."""
    LARGEST_PEER_GROUP_WORLD_SIZE = 4
    """Peers of the largest group."""


class SharedStateSyncStrategy(enum.IntEnum):
    """What a peer is ready to do in :meth:`Communicator.sync_shared_state`."""

    ENFORCE_POPULAR = 0
    """Send or receive, so that all end with the most popular content."""
    RECEIVE_ONLY = 1
    """Receive what the others hold; own content is not elected."""
    SEND_ONLY = 2
    """Own content must be the one that is elected."""


class DistributionHint(enum.IntEnum):
    """How the values of a tensor are distributed; a hint for quantisation, never needed."""

    NONE = 0
    NORMAL = 1
    UNIFORM = 2


class QuantizationAlgorithm(enum.IntEnum):
    """How elements are made smaller for the way over the network."""

    NONE = 0
    MIN_MAX = 1
    ZERO_POINT_SCALE = 2


@dataclass(frozen=True)
class QuantizationOptions:
    """Send elements as ``datatype`` (a smaller type than the tensor's), made by ``algorithm``. All peers must agree."""

    datatype: DataType
    algorithm: QuantizationAlgorithm = QuantizationAlgorithm.MIN_MAX


@dataclass(frozen=True)
class ResultPart:
    """Elements of a result, one after the other, that the same peers have made."""

    first: int
    """Index of the first one, counted from the start of the tensor, of whatever shape, in C order."""
    count: int
    """Number of elements, 1 or more."""
    world_size: int
    """Peers that contributed to these elements. AVG was divided by it."""


@dataclass(frozen=True)
class ReduceInfo:
    """About a collective that succeeded."""

    world_size: int
    """Peers that contributed to the result; AVG was divided by it. If parts differ, it is that of those made last."""
    tx_bytes: int
    """Payload bytes that this peer sent, for attempts that a loss undid too."""
    rx_bytes: int
    """Payload bytes that this peer received, for attempts that a loss undid too."""
    parts: Tuple[ResultPart, ...] = ()
    """Which elements have how many peers' contributions: in order, each element in one of them, alike on every peer.
    Empty when all elements have those of ``world_size`` peers, as always unless :attr:`OnLoss.RESUME` met a loss."""


@dataclass
class ReduceOperand:
    """One tensor of :meth:`Communicator.all_reduce_multiple_with_retry`."""

    send: Any
    """Contribution: what :meth:`Communicator.all_reduce` takes. Never written, unless in place."""
    recv: Any = None
    """Where the result goes: same type and count as ``send``. None: into ``send``, in place."""
    op: ReduceOp = ReduceOp.SUM
    tag: Optional[int] = None
    """Name of this reduction among all that run at once, the same on every peer. None: its place in the list."""
    quantization: Optional[QuantizationOptions] = None
    distribution_hint: DistributionHint = DistributionHint.NONE


@dataclass
class TensorInfo:
    """One entry of a :class:`SharedState`."""

    name: str
    """Key of the entry, the same on every peer."""
    data: Any
    """What :meth:`Communicator.all_reduce` takes, writable. Lent to the library during the call only."""
    allow_content_inequality: bool = False
    """True: the content may differ between peers; it is not compared and not sent on its own."""
    unchanged: bool = False
    """True: nobody has written it since this communicator last synchronised an entry of this name and size, so it is
    not read. Your word is believed."""


@dataclass
class SharedState:
    """Named tensors that all peers of a group hold alike, and their revision.

    The revision grows by exactly one with each synchronisation; a peer that was behind finds it updated in place.
    """

    revision: int = 0
    tensors: List[TensorInfo] = field(default_factory=list)

    @classmethod
    def from_mapping(cls, tensors: Mapping[str, Any], revision: int = 0) -> SharedState:
        """The state that holds each value of ``tensors`` under its key. The values are referenced, not copied."""
        return cls(revision, [TensorInfo(name, data) for name, data in tensors.items()])

    def save(
        self, directory: Union[str, "os.PathLike[str]"], keep: Optional[int] = None, background: bool = True
    ) -> Snapshot:
        """Begins to write the tensors and the revision to a safetensors file in ``directory``. Not joint.

        A child of this process writes what the tensors hold now; they may be changed at once. After a crash the older
        snapshots are as they were. Needs no communicator.

        Args:
            directory: where snapshots are; it must be there.
            keep: when it is written, all but so many snapshots of the highest revisions are removed. None: all stay.
            background: False: it is written when this returns.

        Raises:
            InvalidArgumentError: no file can be made there, or a name cannot be (see the log).
            InternalError: it was written before the return, which failed.
            ValueError, TypeError: a tensor cannot be used; the text says what to do.
        """
        from ._snapshots import save

        return save(self, directory, keep, background)

    def load(self, directory: Union[str, "os.PathLike[str]"]) -> None:
        """Reads the newest whole snapshot of ``directory``, or one file, into the tensors; takes over its revision.

        A damaged snapshot is passed over, with a warning in the log. A file may be one that another program has
        written: then the revision is 0. Needs no communicator.

        Raises:
            NoSharedStateAvailableError: there is none, or none that is whole; the tensors may be partly written then.
            InvalidArgumentError: names, types or counts are not those of the file; nothing is written.
            ValueError, TypeError: a tensor cannot be used; the text says what to do.
        """
        from ._snapshots import load

        load(self, directory)


@dataclass(frozen=True)
class SharedStateSyncInfo:
    """About a synchronisation that succeeded."""

    tx_bytes: int
    """Payload bytes that this peer sent."""
    rx_bytes: int
    """Payload bytes that this peer received: 0 when it already held the elected content."""
