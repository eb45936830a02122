"""Devices, precision and memory settings: the right choice here, a clear word where there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from d2lmini.engine import devices


def test_auto_prefers_an_accelerator_and_takes_the_cpu_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.pick_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.pick_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick_device().type == "cuda"
    assert devices.pick_device("cuda:1") == torch.device("cuda:1")


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda'.*this machine has none"):
        devices.pick_device("cuda")
    with pytest.raises(ValueError, match="'abacus'"):
        devices.pick_device("abacus")


@pytest.mark.parametrize("flags", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, flags):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    expected = torch.bfloat16 if flags else torch.float32
    assert devices.pick_precision("auto", torch.device("cpu")) is expected


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert devices.pick_precision("auto", torch.device("cpu")) is torch.float32
    assert devices.pick_precision("bfloat16", torch.device("cpu")) is torch.bfloat16
    with pytest.raises(ValueError, match="float8"):
        devices.pick_precision("float8", torch.device("cpu"))


PROBE = """
import sys, torch
from d2lmini.engine import devices
kept = devices.disable_malloc_trim() if sys.argv[1] == "keep" else None
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
    monkeypatch.setattr(devices.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert devices.disable_malloc_trim() is False


def test_determinism_is_a_setting_of_the_block():
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with devices.deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    with devices.deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_the_machine_is_described_in_plain_values():
    assert json.loads(json.dumps(devices.describe()))["torch"] == torch.__version__
