"""The package as such: what it exports, how it finds the library, and what the C structs look like."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

import pccl
from pccl import _errors, _native


def run_python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_every_exported_name_exists() -> None:
    assert [name for name in pccl.__all__ if not hasattr(pccl, name)] == []


def test_the_import_needs_neither_torch_nor_the_library() -> None:
    done = run_python("import sys, pccl; assert 'torch' not in sys.modules", PCCL_LIBRARY="/nonexistent/libpccl.so")
    assert done.returncode == 0, done.stderr


def test_the_torch_backend_says_that_it_needs_torch() -> None:
    done = run_python("import sys; sys.modules['torch'] = None; import pccl; import pccl.distributed")
    assert "ImportError: pccl.distributed needs torch" in done.stderr


def test_a_missing_library_is_an_import_error_that_names_it() -> None:
    done = run_python("import pccl; pccl.Communicator('127.0.0.1:1')", PCCL_LIBRARY="/nonexistent/libpccl.so")
    assert "ImportError" in done.stderr and "/nonexistent/libpccl.so" in done.stderr


def test_some_other_library_is_refused(tmp_path: Path) -> None:
    no_library = tmp_path / "libpccl.so"
    no_library.write_text("not a library")
    done = run_python("import pccl; pccl.Communicator('127.0.0.1:1')", PCCL_LIBRARY=str(no_library))
    assert "ImportError" in done.stderr and str(no_library) in done.stderr
    import _ctypes

    done = run_python("import pccl; pccl.Communicator('127.0.0.1:1')", PCCL_LIBRARY=_ctypes.__file__)
    assert "ImportError" in done.stderr and "has no function pccl" in done.stderr


def run_master_module(path: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pccl.master", "--some", "option"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_master_module_becomes_the_program_with_its_options(tmp_path: Path) -> None:
    program = tmp_path / "pccl-master"
    program.write_text('#!/bin/sh\necho "$@" $$\nexit 7\n')
    program.chmod(0o755)
    done = run_master_module(f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 7 and done.stdout.startswith("--some option "), done.stderr


def test_the_master_module_says_where_to_get_the_program(tmp_path: Path) -> None:
    done = run_master_module(str(tmp_path))
    assert done.returncode == 1 and "make wheel" in done.stderr and "pccl-tools" in done.stderr, done.stderr


def test_build_info_comes_from_the_loaded_library() -> None:
    info = pccl.build_info()
    assert info.library == pccl.library_path()
    assert isinstance(info.has_cuda_support, bool)


SIZES = {
    "ccoip_ipv4_address_t": 4,
    "ccoip_ipv6_address_t": 16,
    "ccoip_inet_address_t": 24,
    "ccoip_socket_address_t": 28,
    "pcclCommCreateParams_t": 36,
    "pcclReduceInfo_t": 24,
    "pcclReduceOperandDescriptor_t": 8,
    "pcclQuantizationOptions_t": 8,
    "pcclReduceDescriptor_t": 40,
    "pcclReduceOpDescriptor_t": 56,
    "pcclAsyncReduceOp_t": 16,
    "pcclTensorInfo_t": 40,
    "pcclSharedState_t": 24,
    "pcclSharedStateSyncInfo_t": 16,
    "pcclBuildInfo_t": 1,
    "pcclReducePart_t": 24,
    "pcclReduceOptions_t": 40,
    "pcclShape_t": 16,
    "pcclSaveOptions_t": 24,
}


@pytest.mark.parametrize("name", SIZES)
def test_a_struct_has_the_size_of_the_c_header(name: str) -> None:
    assert _native.ffi.sizeof(name) == SIZES[name]


OFFSETS: Dict[str, Dict[str, int]] = {
    "ccoip_inet_address_t": {"protocol": 0, "ipv4": 4, "ipv6": 8},
    "ccoip_socket_address_t": {"inet": 0, "port": 24},
    "pcclCommCreateParams_t": {"master_address": 0, "peer_group": 28, "p2p_connection_pool_size": 32},
    "pcclReduceInfo_t": {"local_world_size": 0, "tx_bytes": 8, "rx_bytes": 16},
    "pcclReduceDescriptor_t": {"count": 0, "op": 8, "tag": 16, "src_descriptor": 24, "quantization_options": 32},
    "pcclReduceOpDescriptor_t": {"sendbuf": 0, "recvbuf": 8, "descriptor": 16},
    "pcclTensorInfo_t": {
        "name": 0,
        "data": 8,
        "count": 16,
        "datatype": 24,
        "device_type": 28,
        "allow_content_inequality": 32,
    },
    "pcclReducePart_t": {"first_element": 0, "element_count": 8, "world_size": 16},
    "pcclReduceOptions_t": {
        "struct_size": 0,
        "on_loss": 8,
        "codec": 12,
        "block_elements": 16,
        "rounding": 20,
        "error_feedback": 24,
        "reserved": 28,
    },
    "pcclShape_t": {"extents": 0, "rank": 8},
    "pcclSaveOptions_t": {"struct_size": 0, "keep": 8, "foreground": 12, "shapes": 16},
}


@pytest.mark.parametrize("name", OFFSETS)
def test_a_struct_has_its_members_where_the_c_header_has_them(name: str) -> None:
    assert {member: _native.ffi.offsetof(name, member) for member in OFFSETS[name]} == OFFSETS[name]


ENUMERATIONS = {
    "pcclResult_t": pccl.Result,
    "pcclDataType_t": pccl.DataType,
    "pcclRedOp_t": pccl.ReduceOp,
    "pcclAttribute_t": pccl.Attribute,
    "pcclSharedStateSyncStrategy_t": pccl.SharedStateSyncStrategy,
    "pcclDistributionHint_t": pccl.DistributionHint,
    "pcclQuantizationAlgorithm_t": pccl.QuantizationAlgorithm,
    "pcclRounding_t": pccl.Rounding,
}


def test_policies_have_the_numbers_of_the_c_header() -> None:
    native = {name.removeprefix("pcclOnLoss"): number for number, name in _elements("pcclOnLoss_t").items()}
    assert native == {"Abort": 0, "Resume": 1, "ResumeWhole": 2, "Usual": 3}
    assert [int(policy) for policy in pccl.OnLoss] == [0, 1, 2]


def test_codecs_have_the_numbers_of_the_c_header() -> None:
    native = {number: name.removeprefix("pcclCodec").lower() for number, name in _elements("pcclCodec_t").items() if number > 0}
    assert native == {int(codec): codec.name.replace("_", "").lower() for codec in pccl.CodecFormat}


def _elements(name: str) -> Dict[int, str]:
    return dict(_native.ffi.typeof(name).elements)


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_an_enumeration_has_the_values_of_the_c_header(name: str) -> None:
    def plain(word: str) -> str:
        return word.replace("_", "").lower()

    # C says "float" and "double" where Python says how many bits.
    renamed = {"FLOAT32": "float", "FLOAT64": "double"}
    native = _native.ffi.typeof(name).elements
    members = {int(member): plain(renamed.get(member.name, member.name)) for member in ENUMERATIONS[name]}
    assert set(native) == set(members)
    assert [value for value, word in native.items() if not plain(word).endswith(members[value])] == []


@pytest.mark.parametrize("code", [code for code in pccl.Result if code != pccl.Result.SUCCESS])
def test_every_result_has_its_own_error_that_says_more_than_its_name(code: pccl.Result) -> None:
    error = _errors.error(code, "pcclSomething", "tag 7")
    assert type(error) is not pccl.PCCLError and error.code == code
    assert str(error).startswith("pcclSomething (tag 7): ") and len(str(error)) > 60
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error) and str(copied) == str(error) and copied.code == code


def test_a_result_that_the_package_does_not_know_is_an_error_too() -> None:
    error = _errors.error(99, "pcclSomething")
    assert type(error) is pccl.PCCLError and error.code == 99 and "99" in str(error)
    assert pickle.loads(pickle.dumps(error)).code == 99
