"""Devices, precision and memory settings: the right choice here, a clear word where there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from d2lmini import runtime


def test_auto_prefers_an_accelerator_and_takes_the_cpu_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.pick_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.pick_device().type == "cuda"
    assert runtime.pick_device("cuda:1") == torch.device("cuda:1")


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda'.*this machine has none"):
        runtime.pick_device("cuda")
    with pytest.raises(ValueError, match="'abacus'"):
        runtime.pick_device("abacus")


@pytest.mark.parametrize("flags", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, flags):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    expected = torch.bfloat16 if flags else torch.float32
    assert runtime.pick_precision("auto", torch.device("cpu")) is expected


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert runtime.pick_precision("auto", torch.device("cpu")) is torch.float32
    assert runtime.pick_precision("bfloat16", torch.device("cpu")) is torch.bfloat16
    with pytest.raises(ValueError, match="float8"):
        runtime.pick_precision("float8", torch.device("cpu"))


PROBE = """
import sys, torch
from d2lmini import runtime
kept = runtime.keep_allocations() if sys.argv[1] == "keep" else None
def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):  # the heap grows for the first few
    torch.empty(2**24).fill_(1)
before = faults()
for _ in range(10):
    torch.empty(2**24).fill_(1)
import json
print(json.dumps([kept, faults() - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_kept_allocations_are_not_faulted_in_again():
    def probe(mode: str) -> list:
        done = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, check=True, text=True)
        return json.loads(done.stdout)

    kept, again = probe("keep")
    _, fresh = probe("leave")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert again < 0.5 * fresh  # at first the heap still grows


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert runtime.keep_allocations() is False


def test_determinism_is_a_setting_of_the_block():
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with runtime.deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    with runtime.deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_the_machine_is_described_in_plain_values():
    assert json.loads(json.dumps(runtime.describe()))["torch"] == torch.__version__


def test_free_memory_is_what_the_container_leaves(tmp_path, monkeypatch):
    assert runtime._container_memory(str(tmp_path)) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("900\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("200\n")
    assert runtime._container_memory(str(tmp_path)) == 700
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert runtime._container_memory(str(tmp_path)) == 700  # no limit of its own
    (tmp_path / "memory.max").write_text("600\n")
    assert runtime._container_memory(str(tmp_path)) == 100
    for system, container, expected in ((5, 3, 3), (5, None, 5), (None, None, None)):
        monkeypatch.setattr(runtime, "_system_memory", lambda value=system: value)
        monkeypatch.setattr(runtime, "_container_memory", lambda value=container: value)
        assert runtime.free_memory() == expected
