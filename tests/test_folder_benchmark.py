"""The benchmark on folders of real photographs, on drawn ones."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import ConcatDataset

from benchmarks import folders, machine
from d2lmini import data, transfer
from d2lmini.data import Synthetic, load

ROOT = Path(__file__).resolve().parents[1]


def drawn(split: str) -> ConcatDataset:
    """Five images to train with, five of the test, or all."""
    parts = ("train", "val") if split == "all" else (split.replace("test", "val"),)
    both = ConcatDataset([Synthetic("scenes", count=5, size=96, split=part) for part in parts])
    both.classes = both.datasets[0].classes
    return both


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Results go to a folder of their own; few views, steps and epochs."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(transfer, "HEAD_STEPS", 4)
    short = functools.partial(transfer.fit_photographs, views=2, finetune=1)
    monkeypatch.setattr(transfer, "fit_photographs", short)
    monkeypatch.setattr(data, "open_data", lambda path, split, size: drawn(split))
    return tmp_path


def test_folds_divide_all_images_and_hold_each_out_once(quick):
    parts = list(folders.parts_of(Path("x"), 3, None, 96))
    assert [len(held.images) for _, held, _ in parts] == [4, 3, 3]
    assert all(len(training.images) + len(held.images) == 10 for training, held, _ in parts)
    held = torch.cat([held.images for _, held, _ in parts])
    every = [load(drawn(split)).images for split in ("train", "test")]
    assert held.double().sum() == torch.cat(every).double().sum()
    ((training, _, _),) = folders.parts_of(Path("x"), 0, 2, 96)
    assert len(training.images) == 2


def test_a_row_has_scores_and_seconds_of_both_stages(quick, capsys):
    folders.main(["drawn", "x", "--folds", "2"])
    row = json.loads((quick / "photos-drawn-everyday.json").read_text())
    assert [list(run["stages"]) for run in row["runs"]] == [["head", "fine-tuned"]] * 2
    assert [run["fold"] for run in row["runs"]] == [0, 1]
    for run in row["runs"]:
        for stage in run["stages"].values():
            assert 0 <= stage["ap"] <= stage["ap50"] <= 1
            assert stage["seconds"] > 0
    assert "| drawn, 2 folds | 5 | fine-tuned | 2 | " in capsys.readouterr().out


def test_a_learning_curve_is_held_against_what_came_of_it(quick, capsys):
    folders.main(["drawn", "x", "--recipes", "curve"])
    kept = json.loads((quick / "photos-drawn-curve.json").read_text())["curve"]
    assert {len(row) for row in kept["scores"].values()} == {folders.REPEATS}
    assert [(one["from"], one["images"]) for one in kept["forecasts"]] == [(2, 5)]
    assert "| drawn | 2 | 5 | " in capsys.readouterr().out


def test_the_page_shows_the_kept_rows():
    text = (ROOT / "chapters" / "own_pictures.ipynb").read_text("utf8")
    sources = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    for table in (folders.table(), folders.curve_table()):
        assert any(table in source for source in sources)
