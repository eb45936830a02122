"""Suspicious labels: each kind alone, their order, and predictions by those who have not seen the image."""

from __future__ import annotations

import json

import pytest
import torch

from d2lmini.cli import main
from d2lmini.data import Synthetic, load
from d2lmini.data.detections import Detections
from d2lmini.inspect import out_of_fold, rank_suspects, suspects

CAT, DOG = 0, 1
HERE, MOVED, AWAY = [0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4], [0.6, 0.6, 0.9, 0.9]
NAMES = ("cat", "dog")


def found(*rows) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels).long())


def ranked(*rows, boxes=(HERE,), labels=(CAT,)):
    return rank_suspects([found(*rows)], torch.tensor([boxes]), torch.tensor([labels]))


@pytest.mark.parametrize(
    ("rows", "kind", "score", "text"),
    [
        ([(HERE, 0.9, DOG)], "class", 0.9, "cat, or dog?"),
        ([(HERE, 0.9, DOG), (HERE, 0.5, CAT)], "class", 0.45, "cat, or dog?"),
        ([(MOVED, 0.8, CAT)], "box", 0.8, "cat, but where?"),
        ([], "nothing there", 1 / 6, "no cat here?"),
        ([(HERE, 0.7, CAT)], "nothing there", 0.3 / 6, "no cat here?"),
    ],
)
def test_what_is_wrong_with_an_object(rows, kind, score, text):
    first = ranked(*rows)[0]
    assert (first.kind, first.score, first.object) == (kind, pytest.approx(score), 0)
    assert first.text(NAMES) == text
    assert first.box == pytest.approx(HERE)


def test_that_nothing_is_there_counts_more_in_a_class_that_is_always_found():
    boxes = torch.tensor([[HERE]]).expand(20, 1, 4)
    always, never = [found((HERE, 0.95, CAT))] * 19, [found()] * 19
    lonely = [rank_suspects([*some, found()], boxes, torch.zeros(20, 1))[0] for some in (always, never)]
    assert lonely[0].image == 19
    assert lonely[0].score == pytest.approx(0.2 / (0.2 + 1 / 20))
    assert lonely[1].score == pytest.approx(0.2 / (0.2 + 1))


def test_an_object_without_a_label_is_named_once_and_a_moved_label_is_not_one():
    both = ranked((HERE, 0.9, CAT), (AWAY, 0.8, DOG), ([0.6, 0.6, 0.9, 0.85], 0.7, CAT))
    assert [one.kind for one in both] == ["unlabeled", "nothing there"]
    assert both[0].text(NAMES) == "dog without a label?"
    assert (both[0].object, both[0].found_box) == (-1, pytest.approx(AWAY))
    moved = ranked((MOVED, 0.8, CAT))
    assert [one.kind for one in moved] == ["box"]


def test_a_detection_that_fits_one_object_says_nothing_of_its_neighbour():
    both = ranked((MOVED, 0.9, CAT), boxes=(HERE, MOVED), labels=(CAT, CAT))
    assert [(one.kind, one.object) for one in both] == [("nothing there", 0), ("nothing there", 1)]


def test_the_most_suspicious_come_first_and_padding_never():
    boxes, labels = torch.tensor([[HERE, AWAY], [HERE, AWAY]]), torch.tensor([[CAT, DOG], [CAT, -1]])
    sure, unsure = found((HERE, 0.95, CAT), (AWAY, 0.6, DOG)), found((HERE, 0.5, DOG))
    all_of_them = rank_suspects([sure, unsure], boxes, labels)
    assert len(all_of_them) == 3
    assert [(one.image, one.object) for one in all_of_them] == [(1, 0), (0, 1), (0, 0)]


@pytest.fixture(scope="module")
def few():
    return load(Synthetic("bananas", count=7, size=64), workers=0)


def test_each_image_is_seen_by_a_head_that_was_not_trained_on_it(few, monkeypatch):
    seen, predict, fit_head = [], suspects.predict_batched, suspects._fit_head

    def spy(kept, truth, rows, *more):
        seen.append([kept, set(rows.tolist()), None])
        return fit_head(kept, truth, rows, *more)

    def watch(head, features, **options):
        kept = seen[-1][0].batch.images
        seen[-1][2] = {i for i in range(len(few.images)) if any(torch.equal(kept[i], x) for x in features)}
        return predict(head, features, **options)

    monkeypatch.setattr(suspects, "_fit_head", spy)
    monkeypatch.setattr(suspects, "predict_batched", watch)
    made = out_of_fold(few, ("banana",), folds=3, views=1, progress=False)
    assert len(made) == len(few.images)
    assert set.union(*(held_out for *_, held_out in seen)) == set(range(7))
    assert all(not trained & held_out for _, trained, held_out in seen)
    assert all(len(trained) + len(held_out) == 7 for _, trained, held_out in seen)


def test_too_few_images_for_so_many_folds_are_refused(few):
    with pytest.raises(ValueError, match="7 images cannot be divided into 8 folds"):
        out_of_fold(few, ("banana",), folds=8)


def test_the_command_writes_a_list_and_a_sheet(few, tmp_path, monkeypatch, capsys):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    monkeypatch.setattr("d2lmini.inspect.out_of_fold", lambda source, *_, **__: [nothing] * len(source))
    arguments = ["evaluate", "--suspects", "--count", "4", "--quiet", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "no banana here?" in said
    record = json.loads((tmp_path / "out" / "suspects.json").read_text())
    assert {row["kind"] for row in record["suspects"]} == {"nothing there"}
    assert (tmp_path / "out" / "suspects.png").stat().st_size > 1000
