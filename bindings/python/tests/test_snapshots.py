"""Shared states in files: what is saved is what is loaded, by other programs too."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy
import pytest

import pccl


def new_state(seed: int = 0, revision: int = 0) -> pccl.SharedState:
    random = numpy.random.default_rng(seed)
    return pccl.SharedState.from_mapping(
        {
            "layer.weight": random.standard_normal((300, 1000)).astype(numpy.float32),
            "steps": numpy.array(seed, dtype=numpy.int64),
            "half": random.standard_normal(7).astype(numpy.float16),
            'a "name" of Δ': bytearray(random.bytes(3)),
        },
        revision,
    )


def contents(state: pccl.SharedState) -> Dict[str, bytes]:
    return {tensor.name: bytes(memoryview(tensor.data).cast("B")) for tensor in state.tensors}


def name_of(revision: int) -> str:
    return f"snapshot-{revision:020d}.safetensors"


def parsed(path: Path) -> Tuple[Dict[str, Any], bytes]:
    """What a reader that knows nothing of this library finds."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0 and data[8:9] == b"{"
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("background", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, background: bool) -> None:
    state = new_state(1, revision=42)
    saved = contents(state)
    snapshot = state.save(tmp_path, background=background)
    state.tensors[0].data[...] = 0
    snapshot.wait()
    snapshot.wait()
    assert Path(snapshot.path) == tmp_path / name_of(42) and Path(snapshot.path).is_file()
    assert snapshot.revision == 42 and "written" in repr(snapshot)
    other = new_state(2)
    other.load(str(tmp_path))
    assert other.revision == 42 and contents(other) == saved


def test_the_file_is_what_the_format_says(tmp_path: Path) -> None:
    state = new_state(1, revision=2**64 - 1)
    state.save(tmp_path).wait()
    header, data = parsed(tmp_path / name_of(2**64 - 1))
    metadata = header.pop("__metadata__")
    assert metadata["pccl.revision"] == str(2**64 - 1) and all(type(value) is str for value in metadata.values())
    assert {name: entry["dtype"] for name, entry in header.items()} == {
        "layer.weight": "F32",
        "steps": "I64",
        "half": "F16",
        'a "name" of Δ': "U8",
    }
    assert header["layer.weight"]["shape"] == [300, 1000] and header["steps"]["shape"] == []
    for name, content in contents(state).items():
        start, end = header[name]["data_offsets"]
        assert data[start:end] == content and start % (1 if name.startswith("a ") else 2) == 0
    assert sum(end - start for start, end in (entry["data_offsets"] for entry in header.values())) == len(data)


def test_the_reference_package_reads_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    state = new_state(1, revision=5)
    state.save(tmp_path).wait()
    read = safetensors.load_file(tmp_path / name_of(5))
    assert {name: array.tobytes() for name, array in read.items()} == contents(state)
    assert read["layer.weight"].shape == (300, 1000) and read["steps"].shape == ()
    safetensors.save_file({name: numpy.asarray(value) for name, value in read.items()}, tmp_path / "foreign.safetensors")
    other = new_state(3, revision=9)
    other.load(tmp_path / "foreign.safetensors")
    assert other.revision == 0 and contents(other) == contents(state)


def test_a_file_of_another_program_is_loaded(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2d", 1.5, -2))
    state = pccl.SharedState.from_mapping({"x": numpy.zeros(2)}, revision=3)
    state.load(tmp_path / "model.safetensors")
    assert state.revision == 0 and list(state.tensors[0].data) == [1.5, -2]


def test_bfloat16_is_saved(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = numpy.arange(5).astype(ml_dtypes.bfloat16)
    pccl.SharedState.from_mapping({"x": values}).save(tmp_path).wait()
    assert parsed(tmp_path / name_of(0))[0]["x"]["dtype"] == "BF16"
    other = numpy.zeros(5, dtype=ml_dtypes.bfloat16)
    pccl.SharedState.from_mapping({"x": other}).load(tmp_path)
    assert other.tobytes() == values.tobytes()


def test_torch_tensors_are_saved_those_that_processes_share_too(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    own, shared = torch.arange(6.0).reshape(2, 3), torch.ones(5).share_memory_()
    snapshot = pccl.SharedState.from_mapping({"own": own, "shared": shared}).save(tmp_path)
    own.zero_()
    shared.zero_()
    snapshot.wait()
    pccl.SharedState.from_mapping({"own": own, "shared": shared}).load(tmp_path)
    assert own.tolist() == [[0, 1, 2], [3, 4, 5]] and shared.tolist() == [1] * 5


def test_so_many_are_kept_as_was_asked(tmp_path: Path) -> None:
    state = new_state()
    for state.revision in range(5):
        state.save(tmp_path, keep=2).wait()
    assert sorted(os.listdir(tmp_path)) == [name_of(3), name_of(4)]


def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = new_state(1, revision=1), new_state(2, revision=2)
    first.save(tmp_path).wait()
    second.save(tmp_path).wait()
    path = tmp_path / name_of(2)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    other = new_state(3)
    other.load(tmp_path)
    assert other.revision == 1 and contents(other) == contents(first)
    assert "chunk 0 of the 1" in capfd.readouterr().err
    with pytest.raises(pccl.NoSharedStateAvailableError, match="none that is whole"):
        other.load(path)
    assert other.revision == 1


def test_what_cannot_be_saved_or_loaded_is_refused(tmp_path: Path) -> None:
    state = new_state(1, revision=1)
    with pytest.raises(pccl.NoSharedStateAvailableError):
        state.load(tmp_path)
    with pytest.raises(pccl.InvalidArgumentError, match="no file can be made"):
        state.save(tmp_path / "none")
    with pytest.raises(ValueError, match="keep is 0"):
        state.save(tmp_path, keep=0)
    state.save(tmp_path).wait()
    with pytest.raises(pccl.InvalidArgumentError, match="names, types and counts"):
        pccl.SharedState.from_mapping({"x": numpy.zeros(3)}).load(tmp_path)
    read_only = numpy.zeros(3)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        pccl.SharedState.from_mapping({"x": read_only}).load(tmp_path)
    pccl.SharedState.from_mapping({"x": read_only}, 2).save(tmp_path).wait()
