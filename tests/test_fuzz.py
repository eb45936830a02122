"""A short slice of the fuzzer of the loaders, and the proof that it would find something."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from d2lmini.data import images

pytestmark = pytest.mark.filterwarnings("ignore")
SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "fuzz_loaders.py"
spec = importlib.util.spec_from_file_location("fuzz_loaders", SCRIPT)
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


def test_damaged_inputs_are_read_or_refused_by_name(tmp_path):
    counts = fuzz.run(1000, 20_000, tmp_path)
    assert {what.split(": ", 1)[1] for what in counts} == {"read", "refused"}, counts
    assert len(counts) == 18  # both, from every loader


def test_a_loader_that_gives_way_is_a_finding(tmp_path, monkeypatch):
    """As if images of no pixels were not checked, and a decoder's own errors let through."""

    def careless(path):
        raise IndexError("of a decoder")

    monkeypatch.setattr(fuzz, "read_image", careless)
    counts = fuzz.run(30, 0, tmp_path, tmp_path / "kept")
    (finding,) = (what for what in counts if "IndexError" in what)
    assert finding.startswith("image: IndexError in test_fuzz.py")
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_undamaged_inputs_are_read(tmp_path):
    targets = fuzz.prepare(tmp_path)
    for name, target in targets.items():
        for file, data in target.files.items() if name in ("image", "archive") else [("", b"")]:
            if file:
                (tmp_path / name / file).write_bytes(data)
            target.load(tmp_path / name, random.Random(1))
            if name == "image":
                assert images.read_image(tmp_path / name / file).size in ((40, 20), (20, 40))
                (tmp_path / name / file).unlink()
