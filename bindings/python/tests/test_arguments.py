"""What is refused before any peer is asked, and in which words."""

from __future__ import annotations

import array
import socket
from typing import Any, Iterator

import numpy
import pytest

import pccl
from pccl._address import describe_address, resolve_address, split_address


@pytest.fixture
def communicator() -> Iterator[pccl.Communicator]:
    with pccl.Communicator("127.0.0.1:48148") as unconnected:
        yield unconnected


@pytest.mark.parametrize(
    "address, expected",
    [
        ("127.0.0.1:48148", ("127.0.0.1", 48148)),
        ("master.example:1", ("master.example", 1)),
        ("[::1]:65535", ("::1", 65535)),
        (("::1", 48148), ("::1", 48148)),
        (("localhost", 48148), ("localhost", 48148)),
    ],
)
def test_an_address_is_split(address: Any, expected: Any) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address, kind, text",
    [
        ("127.0.0.1", ValueError, "host:port"),
        (":48148", ValueError, "host:port"),
        ("host:", ValueError, "host:port"),
        ("::1:48148", ValueError, "brackets"),
        ("host:http", ValueError, "not a number"),
        ("host:+1", ValueError, "not a number"),
        ("host:0", ValueError, "1 to 65535"),
        ("host:65536", ValueError, "1 to 65535"),
        ("[]:1", ValueError, "empty"),
        (("host", "1"), TypeError, "port: int"),
        (("host", True), TypeError, "port: int"),
        (48148, TypeError, "expected"),
        (b"host:1", TypeError, "expected"),
    ],
)
def test_a_malformed_address_is_refused(address: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        split_address(address)
    with pytest.raises(kind, match=text):
        pccl.Communicator(address)
    with pytest.raises(kind, match=text):
        pccl.MasterNode(address)


def test_addresses_reach_the_c_struct_in_network_order() -> None:
    four = resolve_address("127.2.3.4:258")
    assert (four.inet.protocol, list(four.inet.ipv4.data), four.port) == (0, [127, 2, 3, 4], 258)
    six = resolve_address("[2001:db8::1]:1")
    assert six.inet.protocol == 1
    assert bytes(six.inet.ipv6.data) == socket.inet_pton(socket.AF_INET6, "2001:db8::1")


def test_an_ipv4_address_is_preferred_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.9", 1)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.10", 1)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert list(resolve_address("name:1").inet.ipv4.data) == [127, 0, 0, 9]


def test_an_unknown_host_and_a_scoped_address_are_refused() -> None:
    with pytest.raises(OSError, match="no-such-host.invalid"):
        pccl.Communicator("no-such-host.invalid:48148")
    with pytest.raises(ValueError, match="scope"):
        pccl.Communicator("[fe80::1%lo]:48148")
    assert describe_address("::1", 1) == "[::1]:1"


@pytest.mark.parametrize("group", [-1, 2**32])
def test_a_peer_group_out_of_range_is_refused(group: int) -> None:
    with pytest.raises(ValueError, match="peer_group"):
        pccl.Communicator("127.0.0.1:48148", peer_group=group)


def test_attempts_and_interval_are_checked(communicator: pccl.Communicator) -> None:
    with pytest.raises(ValueError, match="attempts"):
        communicator.connect(attempts=0)
    with pytest.raises(TypeError, match="attempts"):
        communicator.connect(attempts=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interval"):
        communicator.connect(interval=-1)
    with pytest.raises(ValueError, match="interval"):
        communicator.connect(interval=float("nan"))


STRIDED = numpy.zeros((4, 4), dtype=numpy.float32)[:, ::2]
READ_ONLY = numpy.zeros(4, dtype=numpy.float32)
READ_ONLY.flags.writeable = False
SWAPPED = numpy.zeros(4, dtype=numpy.dtype(numpy.float32).newbyteorder())
UNALIGNED = numpy.zeros(17, dtype=numpy.uint8)[1:].view(numpy.float32)


@pytest.mark.parametrize(
    "tensor, kind, text",
    [
        (STRIDED, ValueError, "ascontiguousarray"),
        (STRIDED.T, ValueError, "ascontiguousarray"),
        (numpy.zeros((3, 4), order="F"), ValueError, "ascontiguousarray"),
        (memoryview(bytearray(8))[::2], ValueError, "ascontiguousarray"),
        (READ_ONLY, ValueError, "read-only"),
        (b"read-only", ValueError, "read-only"),
        (SWAPPED, ValueError, "byte order"),
        (UNALIGNED, ValueError, "aligned"),
        (numpy.zeros(0), ValueError, "no elements"),
        (bytearray(), ValueError, "no elements"),
        (numpy.zeros(4, dtype=bool), TypeError, "bool"),
        (numpy.zeros(4, dtype=numpy.complex64), TypeError, "complex64"),
        (numpy.array(["text"]), TypeError, "not one of"),
        (numpy.array([object()]), TypeError, "object"),
        ([1.0, 2.0], TypeError, "list"),
        (None, TypeError, "NoneType"),
        (1.0, TypeError, "float"),
    ],
)
def test_memory_that_cannot_be_lent_is_refused(
    communicator: pccl.Communicator, tensor: Any, kind: Any, text: str
) -> None:
    with pytest.raises(kind, match=text):
        communicator.all_reduce(tensor)
    with pytest.raises(kind, match=text):
        communicator.all_reduce_async(tensor)
    with pytest.raises(kind, match=rf"operands\[1\]\.send .*{text}"):
        communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(numpy.zeros(1)), pccl.ReduceOperand(tensor)])
    with pytest.raises(kind, match=text):
        communicator.sync_shared_state(pccl.SharedState.from_mapping({"weights": tensor}))


def test_only_what_is_written_must_be_writable(communicator: pccl.Communicator) -> None:
    with pytest.raises(ValueError, match="recv is read-only"):
        communicator.all_reduce(numpy.zeros(4, dtype=numpy.float32), READ_ONLY)
    # All arguments are accepted; what is wrong is only that the communicator is not connected.
    with pytest.raises(pccl.InvalidUsageError):
        communicator.all_reduce(READ_ONLY, numpy.zeros(4, dtype=numpy.float32))


def test_send_and_recv_must_match(communicator: pccl.Communicator) -> None:
    with pytest.raises(ValueError, match="4 elements.* 5"):
        communicator.all_reduce(numpy.zeros(4), numpy.zeros(5))
    with pytest.raises(TypeError, match="FLOAT64.* FLOAT32"):
        communicator.all_reduce(numpy.zeros(4), numpy.zeros(4, dtype=numpy.float32))


@pytest.mark.parametrize("tag, kind", [(-1, ValueError), (2**64, ValueError), ("a", TypeError), (True, TypeError)])
def test_a_tag_out_of_range_is_refused(communicator: pccl.Communicator, tag: Any, kind: Any) -> None:
    with pytest.raises(kind, match="tag"):
        communicator.all_reduce(numpy.zeros(1), tag=tag)


def test_an_unknown_operation_attribute_or_strategy_is_refused(communicator: pccl.Communicator) -> None:
    with pytest.raises(ValueError, match="ReduceOp"):
        communicator.all_reduce(numpy.zeros(1), op=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Attribute"):
        communicator.get_attribute(0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Strategy"):
        communicator.sync_shared_state(pccl.SharedState(), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="QuantizationOptions"):
        communicator.all_reduce(numpy.zeros(1), quantization="uint8")  # type: ignore[arg-type]


@pytest.mark.parametrize("on_loss", [-1, 3, "RESUME"])
def test_an_unknown_policy_for_a_loss_is_refused(communicator: pccl.Communicator, on_loss: Any) -> None:
    with pytest.raises(ValueError, match="OnLoss"):
        communicator.all_reduce(numpy.zeros(1), on_loss=on_loss)
    with pytest.raises(ValueError, match="OnLoss"):
        communicator.all_reduce_async(numpy.zeros(1), on_loss=on_loss)
    with pytest.raises(ValueError, match="OnLoss"):
        communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(numpy.zeros(1))], on_loss=on_loss)


def test_only_several_tensors_have_a_policy_of_their_own(communicator: pccl.Communicator) -> None:
    with pytest.raises(ValueError, match="OnLoss"):
        communicator.all_reduce(numpy.zeros(1), on_loss=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="OnLoss"):
        communicator.all_reduce_async(numpy.zeros(1), on_loss=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("on_loss", [*pccl.OnLoss, 1])
def test_every_policy_for_a_loss_reaches_the_library(communicator: pccl.Communicator, on_loss: Any) -> None:
    # All arguments are accepted; what is wrong is only that the communicator is not connected.
    with pytest.raises(pccl.InvalidUsageError, match="^pcclAllReduce.*connected"):
        communicator.all_reduce(numpy.zeros(1), on_loss=on_loss)
    with pytest.raises(pccl.InvalidUsageError, match="^pcclAllReduceAsync.*connected"):
        communicator.all_reduce_async(numpy.zeros(1), on_loss=on_loss)
    with pytest.raises(pccl.InvalidUsageError, match="^pcclAllReduceMultipleWithOptions.*connected"):
        communicator.all_reduce_multiple_with_retry([pccl.ReduceOperand(numpy.zeros(1))], on_loss=on_loss)


def test_operands_are_checked_together(communicator: pccl.Communicator) -> None:
    operand = pccl.ReduceOperand(numpy.zeros(1), tag=3)
    with pytest.raises(ValueError, match="empty"):
        communicator.all_reduce_multiple_with_retry([])
    with pytest.raises(ValueError, match=r"tags \[3\]"):
        communicator.all_reduce_multiple_with_retry([operand, operand])
    with pytest.raises(ValueError, match="max_in_flight"):
        communicator.all_reduce_multiple_with_retry([operand], max_in_flight=0)


@pytest.mark.parametrize(
    "tensor",
    [
        bytearray(8),
        memoryview(bytearray(8)),
        array.array("d", [1.0]),
        numpy.zeros((2, 3, 4)),
        numpy.array(1.0),
        numpy.zeros((8, 8))[2:4],
    ],
)
def test_an_unconnected_communicator_says_so(communicator: pccl.Communicator, tensor: Any) -> None:
    with pytest.raises(pccl.InvalidUsageError, match=r"connected.*"):
        communicator.all_reduce(tensor)


def test_before_connect_only_connect_is_allowed(communicator: pccl.Communicator) -> None:
    for call in (
        communicator.update_topology,
        communicator.are_peers_pending,
        communicator.optimize_topology,
        lambda: communicator.world_size,
    ):
        with pytest.raises(pccl.InvalidUsageError):
            call()


def test_a_destroyed_communicator_says_so() -> None:
    communicator = pccl.Communicator("127.0.0.1:48148")
    communicator.destroy()
    communicator.destroy()
    for call in (communicator.connect, communicator.update_topology, lambda: communicator.all_reduce(numpy.zeros(1))):
        with pytest.raises(pccl.InvalidUsageError, match="destroyed"):
            call()
    assert "destroyed" in repr(communicator)


def test_a_communicator_that_was_not_destroyed_warns() -> None:
    with pytest.warns(ResourceWarning, match="never destroyed"):
        pccl.Communicator("127.0.0.1:48148").__del__()
