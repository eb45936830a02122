"""Detections as other tools have them: COCO's results, supervision, torchvision, and as a table."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2lmini import checkpoint
from d2lmini.cli import main
from d2lmini.data.detections import Detections
from d2lmini.data.files import DataError

FOUND = Detections(
    torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.4, 0.9]]),
    torch.tensor([0.9, 0.5, 0.2]),
    torch.tensor([1, 0, 1]),
)
SIZE = (100, 200)  # height, width


def same(one: Detections, other: Detections) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rows_are_chosen_by_mask_slice_list_and_number():
    boxes, scores, labels = FOUND
    assert len(FOUND) == 3
    for index, rows in (
        (FOUND.labels == 1, [0, 2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([1]), [1]),
        (-1, [2]),
        (0, [0]),
    ):
        assert same(FOUND[index], Detections(boxes[rows], scores[rows], labels[rows]))
    assert same(FOUND.at_least(0.5), FOUND[:2])
    with pytest.raises(IndexError):
        FOUND[3]


def test_merged_they_are_best_first():
    both = FOUND[1:] + FOUND[0]
    assert same(both, FOUND)
    assert len(FOUND + FOUND[:0]) == 3


def test_there_and_back_through_supervision_and_torchvision():
    arguments = FOUND.to_supervision(SIZE)
    np.testing.assert_allclose(arguments["xyxy"][0], [20, 20, 100, 60])
    assert arguments["class_id"].dtype == np.int64
    back = Detections.from_supervision(SimpleNamespace(**arguments), SIZE)
    for a, b in zip(back, FOUND, strict=True):
        torch.testing.assert_close(a, b)
    answer = FOUND.to_torchvision(SIZE)
    assert answer["labels"].tolist() == [2, 1, 2]  # 0 is background there
    shuffled = {name: column[[2, 0, 1]] for name, column in answer.items()}
    for a, b in zip(Detections.from_torchvision(shuffled, SIZE), FOUND, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="no confidence"):
        Detections.from_supervision(SimpleNamespace(**arguments | {"confidence": None}), SIZE)


@pytest.fixture
def folder(tmp_path):
    """Six images in COCO's form, ids and categories with gaps; and detections near their objects."""
    rng = np.random.default_rng(0)
    images, objects, found = [], [], []
    for i in range(6):
        key, size = 7 * i + 3, (int(rng.integers(60, 90)), int(rng.integers(40, 70)))
        Image.new("RGB", size).save(tmp_path / f"{'abcdef'[i]}.png")
        images.append({"id": key, "file_name": f"{'abcdef'[i]}.png", "width": size[0], "height": size[1]})
        for _ in range(3):
            box = [float(v) for v in (*rng.integers(0, 30, 2), *rng.integers(8, 30, 2))]
            box[2:] = min(box[2], size[0] - box[0]), min(box[3], size[1] - box[1])
            category = int(rng.choice([18, 5]))
            record = {"image_id": key, "category_id": category, "bbox": box}
            objects.append(record | {"id": len(objects) + 1, "area": box[2] * box[3], "iscrowd": 0})
            moved = [v + float(rng.normal(0, 1.5)) for v in box]
            found.append(record | {"bbox": moved, "score": float(rng.random())})
            found.append(record | {"bbox": [2.0, 2.0, 9.0, 7.0], "score": float(rng.random())})
    categories = [{"id": 18, "name": "dog"}, {"id": 5, "name": "cat"}]
    truth = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    results = tmp_path.parent / f"{tmp_path.name}-results.json"
    results.write_text(json.dumps(found))
    return tmp_path, results


def scores_of(root, results, *more) -> dict:
    out = results.with_suffix(".scores.json")
    arguments = ["evaluate", "--data", str(root), "--split", "all", "--predictions", str(results), *more]
    assert main([*arguments, "--json", str(out)]) == 0
    return json.loads(out.read_text())["metrics"]


def test_anybodys_detections_score_as_with_pycocotools(folder):
    root, results = folder
    truth = COCO(str(root / "instances.json"))
    judge = COCOeval(truth, truth.loadRes(str(results)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    metrics = scores_of(root, results)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
    expected = [None if v == -1 else pytest.approx(v, abs=1e-6) for v in judge.stats[: len(names)]]
    assert [metrics[name] for name in names] == expected
    assert 0.05 < metrics["ap"] < 0.9


@pytest.mark.parametrize("name", ["file", "stem", "class"])
def test_images_and_categories_are_known_by_other_names_too(folder, name, capsys):
    root, results = folder
    expected, rows = scores_of(root, results), json.loads(results.read_text())
    for row in rows:
        letter = "abcdef"[(row["image_id"] - 3) // 7]
        if name == "class":
            row["category"] = {18: "dog", 5: "cat"}[row["category_id"]]
            row["category_id"] = 1
        else:
            row["image_id"] = f"{letter}.png" if name == "file" else letter
    results.write_text(json.dumps(rows))
    assert scores_of(root, results) == expected


def test_what_detect_writes_evaluate_scores(folder, tmp_path, capsys):
    """Through a file, the boxes of a model score as they do directly, but for what rounding does."""
    root, _ = folder
    model = str(checkpoint.WEIGHTS / "everyday.safetensors")
    out = root.parent / f"{root.name}-found.json"
    options = ["--model", model, "--score", "0.05", "--out", str(root.parent / "pictures")]
    assert main(["detect", str(root), *options, "--coco", str(out)]) == 0
    rows = json.loads(out.read_text())
    shown = [json.loads((root.parent / "pictures" / f"{n}.json").read_text()) for n in "abcdef"]
    assert len(rows) == sum(len(one["detections"]) for one in shown)
    for row, found in zip(rows, [d for one in shown for d in one["detections"]], strict=True):
        left, top, width, height = row["bbox"]
        assert [left, top, left + width, top + height] == pytest.approx(found["box"], abs=0.1)
        assert (row["category"], row["score"]) == (found["class"], pytest.approx(found["score"], abs=1e-4))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{}", "holds no list of detections"),
        ("[", "cannot be read as JSON"),
        ('[{"image_id": 99, "category_id": 5, "bbox": [1, 1, 2, 2], "score": 1}]', "no detection on these"),
        ('[{"image_id": 3, "category_id": 6, "bbox": [1, 1, 2, 2], "score": 1}]', r"\[0\]: the category 6"),
        ('[{"image_id": 3, "category_id": 5, "bbox": [1, 1, 2], "score": 1}]', r"\[0\] has no bbox"),
        ('[{"image_id": 3, "category_id": 5, "bbox": [1, 1, -2, 2], "score": 1}]', r"\[0\]: bbox or score"),
        ('[{"image_id": 3, "category_id": 5, "bbox": [1, 1, 2, NaN], "score": 1}]', r"\[0\]: bbox or score"),
        ('[{"category_id": 5, "bbox": [1, 1, 2, 2], "score": 1}]', r"\[0\]: 'image_id' is None"),
    ],
)
def test_a_faulty_row_is_named(folder, rows, message, capsys):
    root, results = folder
    results.write_text(rows)
    assert main(["evaluate", "--data", str(root), "--split", "all", "--predictions", str(results)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    with pytest.raises(DataError, match=message):
        raise DataError(said[0])


def test_generated_images_have_no_names_to_score_by(folder, capsys):
    assert main(["evaluate", "--data", "scenes", "--predictions", str(folder[1])]) == 2
    assert "name it with --data" in capsys.readouterr().err


def test_detections_on_other_images_are_told(folder, capsys):
    root, results = folder
    rows = json.loads(results.read_text())
    other = rows[0] | {"image_id": 999}
    results.write_text(json.dumps([*rows, other]))
    scores_of(root, results)
    assert "1 of 37 detections are on other images" in capsys.readouterr().err
