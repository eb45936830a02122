"""The folders that pass for photographs, and the runs on them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import machine, photographs, small
from d2lmini import train
from d2lmini.data import load, open_data

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("kind", photographs.KINDS)
def test_images_follow_their_kind(kind):
    plan = photographs.KINDS[kind]
    for seed in range(3):
        shot = photographs.take(plan, np.random.default_rng(seed))
        height, width = shot.pixels.shape[:2]
        assert (width, height) in photographs.WINDOWS
        assert shot.pixels.dtype == np.uint8
        assert len(shot.objects) <= max(plan.counts)
        for label, (left, top, right, bottom) in shot.objects:
            assert 0 <= label < len(plan.names)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
        again = photographs.take(plan, np.random.default_rng(seed))
        assert np.array_equal(again.pixels, shot.pixels)
        assert again.objects == shot.objects


def test_objects_stand_out_of_their_surroundings():
    """A box without its object would show: the pixels in it differ from those of an empty scene."""
    plan = photographs.KINDS["signs"]._replace(clutter=(0, 1))
    shot = photographs.take(plan, np.random.default_rng(2))
    inside, whole = [], shot.pixels.astype(float).std()
    for _, (left, top, right, bottom) in shot.objects:
        inside.append(shot.pixels[top:bottom, left:right].astype(float).std())
    assert shot.objects
    assert max(inside) > whole


def test_a_folder_opens_with_the_boxes_that_were_drawn(tmp_path):
    photographs.main(["tools", str(tmp_path), "--count", "6"])
    lists = {s: (tmp_path / "ImageSets" / "Main" / f"{s}.txt").read_text().split() for s in ("train", "val")}
    assert lists["val"] == ["tools-0004"]
    assert len(lists["train"]) == 5
    data = open_data(str(tmp_path), "train", size=64)
    assert tuple(data.classes) == ("bottle", "hammer", "wheel")
    names = photographs.KINDS["tools"].names
    for i, sample in enumerate(data):
        number = int(lists["train"][i].split("-")[1])
        key = (list(photographs.KINDS).index("tools"), number)
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=key))
        shot = photographs.take(photographs.KINDS["tools"], rng)
        height, width = shot.pixels.shape[:2]
        expected = torch.tensor([box for _, box in shot.objects]) / torch.tensor([width, height] * 2)
        torch.testing.assert_close(sample.boxes, expected.float().reshape(-1, 4))
        assert [data.classes[k] for k in sample.labels] == [names[k] for k, _ in shot.objects]


def test_a_row_is_kept_and_not_computed_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    calls = []

    def run(kind, recipe, seed, folder):
        calls.append((kind, recipe, seed))
        return {"kind": kind, "recipe": recipe, "seed": seed, "final": {"ap50": 0.5 + seed / 10, "ap": 0.25}}

    monkeypatch.setattr(small, "run", run)
    options = ["--kinds", "signs", "--recipes", "folder", "d2l", "--seeds", "0", "1"]
    small.main(options)
    small.main(options)
    assert calls == [("signs", recipe, seed) for seed in (0, 1) for recipe in ("folder", "d2l")]
    assert json.loads((tmp_path / "small-signs-d2l-seed1.json").read_text())["final"]["ap50"] == 0.6
    assert "| signs | folder | 2 | 0.50 0.60 | 0.25 0.25 |" in capsys.readouterr().out


def test_a_run_is_what_the_command_does(tmp_path, monkeypatch):
    photographs.write("signs", tmp_path / "signs", 5)
    parts = [
        load(open_data(str(tmp_path / "signs"), split, size=64), workers=0) for split in ("train", "val")
    ]
    monkeypatch.setattr(small, "open_kind", lambda *_: (*parts, ("sign",)))
    recipe = small.transfer.FOLDER_RECIPE
    monkeypatch.setattr(small.transfer, "FOLDER_RECIPE", recipe._replace(config=short()))
    monkeypatch.setattr("d2lmini.transfer.epochs_for", lambda _: 2)
    row = small.run("signs", "folder", 0, tmp_path)
    assert row["train_images"] == 4
    assert row["config"]["epochs"] == 2
    assert 0 <= row["final"]["ap50"] <= 1
    assert len(row["history"]) == 2


def short() -> train.TrainConfig:
    return train.TrainConfig(precision="float32")


def test_the_page_shows_the_kept_rows():
    """The table of chapter 12 is the benchmark's own, and so is what it says of time."""
    notebook = json.loads((ROOT / "chapters" / "own_pictures.ipynb").read_text("utf8"))
    tagged = [c for c in notebook["cells"] if "results-of-small-folders" in c["metadata"].get("tags", [])]
    (text,) = ("".join(cell["source"]) for cell in tagged)
    assert small.table() in text
    times = []
    for kind in photographs.KINDS:  # those of seed 1 were trained one after the other on a quiet core
        rows = [json.loads(small.path_of(kind, r, 1).read_text()) for r in ("folder", "d2l")]
        times.append(rows[0]["train_seconds"] / rows[1]["train_seconds"])
    assert f"{statistics.median(times):.1f} times as long" in text
