"""The experiments: equal settings are one row, no row is computed twice, and tables say what rows hold."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import photographs as photographs_of_signs
from d2lmini import evaluate, train, transfer
from d2lmini.detect import Detections
from d2lmini.engine import validation
from d2lmini.engine.features import select_images
from d2lmini.losses import LossConfig
from experiments import __main__ as command
from experiments import photographs, rows, sweep, tables
from experiments.questions import QUESTIONS
from experiments.recipes import D2L
from experiments.resample import draw_images, resampled_ap
from experiments.rows import Row
from experiments.scales import SCALES
from experiments.setting import PRESETS, resolve, slug

TINY = Row("tiny", "bananas", {}, 0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Everything is written below a folder of the test; returns where the results go."""
    monkeypatch.setattr(rows, "WORK", tmp_path / "work")
    rows.images.cache_clear()
    yield tmp_path / "results"
    rows.images.cache_clear()


# ---------------------------------------------------------------------------------------- questions


def test_every_row_of_every_scale_can_be_named_and_found():
    for scale in SCALES:
        every = sweep.rows_of(QUESTIONS.values(), scale)
        assert len({row.name for row in every}) == len(every)
        settings = [(row.preset, json.dumps(row.setting.record(), sort_keys=True)) for row in every]
        assert len(set(settings)) == len(every), "two names for one setting: it would be trained twice"
    row = next(r for r in every if r.changes == {"loss.sigma": 3.0} and r.seed == 1)
    assert row.name == "full/bananas/loss.sigma=3.0-s1"
    assert sweep.find(row.name) == row
    for name in ("full/bananas/loss.sigma=4.0-s1", "huge/bananas/base-s0", "base"):
        with pytest.raises(ValueError, match="no question"):
            sweep.find(name)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda q: q.name)
def test_a_question_is_whole(question):
    assert question.baseline in question.variants
    assert question.asks.endswith("?")
    assert not question.variants.keys() & question.more.keys()


def test_d2ls_recipe_is_what_d2l_publishes():
    """D2L 14.7.2: SGD(lr=0.2, weight_decay=5e-4), batch 32 where ours is 16, means over all anchors."""
    config = resolve(SCALES["full"], "bananas", D2L).config
    stated = (
        "optimizer",
        "lr",
        "weight_decay",
        "momentum",
        "schedule",
        "batch_size",
        "augment",
        "max_grad_norm",
    )
    assert [getattr(config, name) for name in stated] == ["sgd", 0.2, 5e-4, 0.0, "constant", 32, None, None]
    means = {"cls_normalizer": "anchors", "box_normalizer": "anchors"}
    assert config.loss == LossConfig(box="l1", negatives=None, **means)
    assert config.anchors.sizes[0] == (0.2, 0.272)


def test_the_ladder_takes_one_thing_back_at_each_step_and_ends_at_the_recipe_that_fit_uses():
    ladder = QUESTIONS["ladder"].variants
    *climb, ours = [changes for name, changes in ladder.items() if name.startswith(("D2L as", "+"))]
    assert climb[-1] == {}
    for before, after in itertools.pairwise(climb):
        assert after.items() < before.items()
    for preset in ("bananas", "scenes"):
        config, used = resolve(SCALES["full"], preset, ours).config, transfer.recipe(preset).config
        assert (config.loss, config.prior_prob) == (used.loss, used.prior_prob)
        assert used.loss == train.TrainConfig().loss
        assert used.prior_prob == train.TrainConfig().prior_prob
        names = (
            "optimizer",
            "lr",
            "weight_decay",
            "warmup",
            "schedule",
            "max_grad_norm",
            "iou_threshold",
            "augment",
        )
        for name in (*names, "anchors", "batch_size"):
            assert getattr(config, name) == getattr(used, name), name


def test_changes_do_what_they_say():
    scale = SCALES["small"]
    base = scale.base("scenes")
    assert resolve(scale, "scenes", {}) == base
    quarter = resolve(scale, "scenes", {"count_times": 0.25})
    assert quarter.count * quarter.config.epochs == base.count * base.config.epochs  # as many updates
    larger = resolve(scale, "scenes", {"size_times": 4 / 3, "finer": 1, "anchors": "with a finer map"})
    assert (larger.image_size, larger.finer, len(larger.config.anchors.sizes)) == (128, 1, 6)
    assert resolve(scale, "bananas", {"size_times": 0.5}) is None
    soft = resolve(scale, "scenes", {"detect.soft": "linear", "crowded": 5})
    assert (soft.detect, soft.crowded) == ({"soft": "linear"}, 5)
    assert Row("small", "scenes", {"detect.soft": "linear", "crowded": 5}, 0).trained_as.changes == {}
    for wrong in ({"sigma": 3.0}, {"loss.tau": 1.0}, {"detect.speed": 1, "momentun": 0.9}):
        with pytest.raises((ValueError, TypeError)):
            resolve(scale, "scenes", wrong)


def test_slugs_are_file_names():
    assert slug({"b": None, "a": 0.01}) == slug({"a": 0.01, "b": None}) == "a=0.01+b=none"
    assert slug({"anchors": "D2L's"}) == "anchors=d2l_s"
    long = slug({f"option{i}": i for i in range(9)})
    assert long.startswith("9-changes-")
    assert long != slug({f"option{i}": i + 1 for i in range(9)})


# ---------------------------------------------------------------------------------------- rows


def test_a_row_has_all_that_is_needed_to_get_it_again(place):
    assert sweep.Sweep([TINY], place).run() == 1
    kept = json.loads(TINY.path(place).read_text("utf8"))
    assert kept["setting"] == rows.rounded(TINY.setting.record())
    assert [row["epoch"] for row in kept["history"]] == [1, 2]
    assert kept["history"][-1]["ap50"] == pytest.approx(kept["final"]["ap50"], rel=1e-4)
    assert {"commit", "date", "versions", "device", "precision", "machine", "train_seconds"} <= kept.keys()
    assert kept["seed"] == 0
    assert len(kept["draws"]["ap50"]) == 100


def test_finished_rows_are_skipped_and_one_computed_again_is_the_same(place, monkeypatch):
    sweep.Sweep([TINY], place).run()
    first = json.loads(TINY.path(place).read_text("utf8"))
    with monkeypatch.context() as patch:
        patch.setattr(rows, "compute", lambda *a, **k: pytest.fail("it is there"))
        assert sweep.Sweep([TINY], place).run() == 0
    command.main(["row", TINY.name, "--again", "--results", str(place)])
    second = json.loads(TINY.path(place).read_text("utf8"))
    assert second["final"] == first["final"]
    assert second["draws"] == first["draws"]


def test_a_row_that_another_process_computes_is_left_alone_and_taken_over_when_that_dies(place):
    script = (
        "import sys; from pathlib import Path; from experiments import rows, sweep\n"
        "rows.WORK = Path(sys.argv[1])\n"
        "with sweep.claim(rows.Row('tiny', 'bananas', {}, 0)) as mine:\n"
        "    print(mine, flush=True); sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", script, str(rows.WORK)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": rows.ROOT}
    with subprocess.Popen(arguments, **pipes) as other:
        assert other.stdout.readline() == "True\n"
        assert sweep.Sweep([TINY], place).run() == 0
        with pytest.raises(SystemExit, match="another process"):
            command.main(["row", TINY.name, "--results", str(place)])
        other.kill()
    assert sweep.Sweep([TINY], place).run() == 1


def test_an_interrupted_row_goes_on_and_ends_the_same(place):
    whole = rows.compute(TINY)
    rows.forget(TINY)

    def stop(text: str) -> None:
        raise KeyboardInterrupt  # after the first epoch, which is saved by then

    with pytest.raises(KeyboardInterrupt):
        rows.compute(TINY, log=stop)
    seen = []
    again = rows.compute(TINY, log=seen.append)
    assert len(seen) == 1  # the second epoch only
    assert again["final"] == whole["final"]
    assert [row["loss"] for row in again["history"]] == [row["loss"] for row in whole["history"]]


def test_a_training_that_diverges_is_a_result(place, monkeypatch):
    row = Row("tiny", "bananas", {"lr": 1e30, "optimizer": "sgd", "max_grad_norm": None}, 0)
    result = rows.compute(row)
    assert "no longer a finite number" in result["diverged"]
    assert result["final"]["ap50"] == 0


def test_a_network_is_trained_once_for_all_ways_to_detect(place, monkeypatch):
    crowd, soft = {"crowded": 3}, {"detect.soft": "linear"}
    hard, soft = (Row("tiny", "scenes", crowd | more, 0) for more in ({}, soft))
    first = rows.compute(hard)
    monkeypatch.setattr(rows.train, "fit", lambda *a, **k: pytest.fail("it is trained"))
    second = rows.compute(soft)
    assert second["history"] == first["history"]
    assert second["setting"]["detect"] == {"soft": "linear"}
    real, asked = validation.detect, []
    spy = lambda *a, **options: asked.append(options) or real(*a, **options)  # noqa: E731
    monkeypatch.setattr(validation, "detect", spy)
    rows.compute(Row("tiny", "scenes", crowd | {"detect.iou_threshold": 0.3}, 0))
    assert asked == [
        {"iou_threshold": 0.3, "score_function": "softmax"}
    ]  # and not that of matching, which has the same name


@pytest.fixture
def boards(tmp_path, monkeypatch):
    """A small folder in the place of the photographs."""
    folder = tmp_path / "boards"
    photographs_of_signs.write("signs", folder, 10)
    (folder / "ImageSets" / "Main" / "val.txt").rename(folder / "ImageSets" / "Main" / "test.txt")
    monkeypatch.setattr(photographs, "FOLDER", tmp_path)
    small = {"sizes": {"boards": 64}, "counts": {"boards": 7}, "held_out": {"boards": 3}}
    scale = dataclasses.replace(
        SCALES["photos"], epochs={"boards": 1}, batch_size=4, seeds=(0, 1, 2), **small
    )
    monkeypatch.setitem(SCALES, "photos", scale)
    for cache in (photographs.read, photographs.parts, photographs.features):
        cache.cache_clear()
    yield
    for cache in (photographs.read, photographs.parts, photographs.features):
        cache.cache_clear()


@pytest.mark.usefixtures("boards")
def test_heads_on_photographs_share_their_features(place, monkeypatch):
    todo = [Row("photos", "boards", changes, 1) for changes in ({}, {"loss.sigma": 3.0}, {"finetune": 1})]
    known, computed = photographs.keep_features, []
    monkeypatch.setattr(photographs, "keep_features", lambda *a: computed.append(a) or known(*a))
    assert sweep.Sweep(todo, place).run() == 3
    assert len(computed) == 1
    base, other, tuned = (json.loads(row.path(place).read_text("utf8")) for row in todo)
    assert base["final"]["objects"] == other["final"]["objects"] > 0
    assert [row["loss"] for row in base["history"]] == [row["loss"] for row in tuned["history"]][:1]
    assert base["history"][0]["box_loss"] != other["history"][0]["box_loss"]
    assert len(tuned["history"]) == 2
    assert rows.compute(todo[0])["final"]["ap50"] == pytest.approx(
        base["final"]["ap50"], rel=1e-4
    )  # read back


@pytest.mark.usefixtures("boards")
def test_each_seed_divides_the_photographs_anew():
    one, two = (photographs.parts("boards", 64, 3, seed) for seed in (0, 1))
    assert [len(part.training.images) for part in (one, two)] == [7, 7]
    assert not torch.equal(one.held_out.images, two.held_out.images)
    every = [torch.cat([p.training.images, p.held_out.images]).double().sum() for p in (one, two)]
    assert every[0] == every[1]
    few = select_images(transfer.as_source(one.training), torch.arange(2), 1)
    assert len(few) == 2


def test_photographs_are_asked_what_they_can_answer():
    asked = sweep.rows_of(QUESTIONS.values(), "photos")
    assert {row.preset for row in asked} == {"boards", "cards"}
    assert all(resolve(SCALES["photos"], row.preset, row.changes) is not None for row in asked)
    assert not any("anchors" in row.changes or row.changes.get("count_times", 0) > 1 for row in asked)
    order = [(row.preset, row.seed) for row in asked]
    assert order == sorted(order), "features are computed once for a seed"


def test_a_row_of_another_setting_is_refused(place):
    sweep.Sweep([TINY], place).run()
    kept = json.loads(TINY.path(place).read_text("utf8"))
    kept["setting"]["config"]["lr"] = 0.5
    rows.write(TINY.path(place), kept)
    with pytest.raises(ValueError, match=r"config\.lr"):
        rows.read(TINY, place)
    kept["setting"]["config"]["lr"] = TINY.setting.config.lr
    del kept["setting"]["config"]["prior_prob"]  # written before there was such an option
    rows.write(TINY.path(place), kept)
    assert rows.read(TINY, place)["seed"] == 0


@pytest.mark.parametrize("scale", SCALES)
def test_kept_rows_are_those_that_questions_ask_for(scale):
    """A row that nobody asks for any more, or that was computed otherwise, may not stay unnoticed."""
    asked = {row.path(): row for row in sweep.rows_of(QUESTIONS.values(), scale)}
    for path in sorted((rows.RESULTS / scale).rglob("*.json")):
        assert path in asked, f"{path} answers no question: remove it"
        kept = rows.read(asked[path])
        assert kept["row"] == asked[path].name
        assert kept["scale"] == scale


# ---------------------------------------------------------------------------------------- resampling


def random_detections(images: int = 12, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int):
        low = 0.6 * torch.rand(*shape, 2, generator=generator)
        return torch.cat([low, low + 0.15 + 0.2 * torch.rand(*shape, 2, generator=generator)], -1)

    truth = boxes(images, 4)
    labels = torch.randint(-1, classes, (images, 4), generator=generator)
    found = []
    for i in range(images):
        near = truth[i] + 0.03 * torch.rand(4, 4, generator=generator)
        scores = torch.rand(10, generator=generator).sort(descending=True).values
        classes_found = torch.randint(classes, (10,), generator=generator)
        found.append(Detections(torch.cat([near, boxes(6)]), scores, classes_found))
    return found, truth, labels


def test_a_draw_is_worth_what_evaluating_the_drawn_images_gives():
    found, boxes, labels = random_detections()
    weights = draw_images(len(found), draws=20)
    ours = resampled_ap(found, boxes, labels, 3, weights)
    for row, value in zip(weights, ours, strict=True):
        chosen = np.repeat(np.arange(len(found)), row)
        again = evaluate([found[i] for i in chosen], boxes[chosen], labels[chosen], classes=3)
        assert value[0] == pytest.approx(again.ap50)
        assert value.mean() == pytest.approx(again.ap)


def test_draws_are_the_same_for_all_rows_and_as_many_images_as_there_are():
    weights = draw_images(30)
    np.testing.assert_array_equal(weights, draw_images(30))
    assert (weights.sum(1) == 30).all()
    assert len(np.unique(weights, axis=0)) == len(weights)


# ---------------------------------------------------------------------------------------- tables


def pretend(seed: int, ap50: float, noise: float, generator: np.random.Generator) -> dict:
    """A row of which only the scores matter."""
    shared = 0.05 * np.random.default_rng(7).standard_normal(100)  # luck of the images, common to all
    draws = (ap50 + shared + noise * generator.standard_normal(100)).tolist()
    return {"seed": seed, "final": {"ap50": ap50, "ap": ap50}, "draws": {"ap50": draws, "ap": draws}}


def pairs(difference: float, spread: float, seeds: int = 3):
    generator = np.random.default_rng(0)
    moved = difference + spread * np.array([-1.0, 0.2, 0.8, -0.5, 0.5])
    base = [pretend(s, 0.5, 0.01, generator) for s in range(seeds)]
    return [(pretend(s, 0.5 + moved[s], 0.01, generator), base[s]) for s in range(seeds)]


def test_a_difference_is_real_where_images_and_seeds_agree():
    clear = tables.compare(pairs(0.1, 0.02), "ap50")
    assert clear["real"]
    assert clear["difference"] == pytest.approx(0.1)
    assert clear["low"] < 0.1 < clear["high"]
    assert tables.compare(pairs(-0.1, 0.02), "ap")["real"]


@pytest.mark.parametrize(("difference", "spread", "seeds"), [(0.02, 0.1, 3), (0.0, 0.0, 3), (0.1, 0.02, 2)])
def test_a_difference_is_not_real_within_the_spread_or_with_two_seeds(difference, spread, seeds):
    assert not tables.compare(pairs(difference, spread, seeds), "ap50")["real"]


def test_the_same_rows_do_not_differ():
    (one, _), *_ = pairs(0.1, 0.0)
    same = tables.compare([(one, one)] * 3, "ap50")
    assert (same["difference"], same["low"], same["high"], same["real"]) == (0, 0, 0, False)


def test_luck_of_the_images_that_both_share_cancels():
    wide = np.ptp(np.quantile(pairs(0.1, 0.0)[0][0]["draws"]["ap50"], (0.025, 0.975)))
    paired = tables.compare(pairs(0.1, 0.0), "ap50")
    assert paired["high"] - paired["low"] < 0.5 * wide


def test_a_ladder_takes_no_step_over_a_missing_rung(place):
    ladder = QUESTIONS["ladder"]
    first, second, third, *_ = ladder.variants.values()

    def keep(*rungs):
        for row in sweep.rows_of([ladder], "small", presets=["bananas"]):
            if row.changes in rungs:
                rows.write(row.path(place), rows.read(row))

    keep(first, third)
    lines = tables.build("small", place)["questions"]["ladder"]["presets"]["bananas"]
    names = list(ladder.variants)
    assert [line["variant"] for line in lines] == [names[0], names[2]]
    assert lines[1]["against"]
    assert not lines[1]["step"]
    keep(second)
    lines = tables.build("small", place)["questions"]["ladder"]["presets"]["bananas"]
    assert lines[2]["step"]


def test_tables_hold_the_mean_and_spread_of_the_rows(place, monkeypatch):
    todo = [dataclasses.replace(TINY, seed=s, changes=c) for c in ({}, {"loss.box": "l1"}) for s in (0, 1)]
    sweep.Sweep(todo, place).run()
    table = tables.build("tiny", place)
    base, other = table["questions"]["box_loss"]["presets"]["bananas"]
    kept = [json.loads(row.path(place).read_text("utf8"))["final"]["ap50"] for row in todo]
    assert base["ap50"]["values"] == kept[:2]
    assert base["ap50"]["mean"] == pytest.approx(np.mean(kept[:2]))
    assert base["ap50"]["sd"] == pytest.approx(np.std(kept[:2], ddof=1))
    assert other["against"]["ap50"]["difference"] == pytest.approx(np.mean(kept[2:]) - np.mean(kept[:2]))
    assert not other["against"]["ap50"]["real"]  # two seeds
    assert table["rows"]["done"] == 4
    assert table["questions"]["box_loss"]["presets"]["scenes"] == []
    text = tables.as_text(table)
    assert "| L1 | 2 |" in text


def test_tables_that_chapters_read_are_those_of_the_kept_rows():
    """`python -m experiments tables` was run after the last row came."""
    for path in tables.FOR_PAGES.glob("experiments-*.json"):
        stored = json.loads(path.read_text("utf8"))
        fresh = json.loads(json.dumps(tables.rounded(tables.build(stored["scale"]), 4)))
        assert fresh == stored, f"python -m experiments tables --scale {stored['scale']}"


def test_ranks_put_the_best_first_whatever_best_means():
    scores = {"ap": (0.1, 0.3, 0.2), "class_error": (0.3, 0.1, 0.2), "box_mae": (0.1, 0.3, 0.2)}
    lines = [{name: {"mean": values[i]} for name, values in scores.items()} for i in range(3)]
    found = tables.ranks(lines, ("class_error", "box_mae", "ap"))
    assert found["ap"] == {"places": [3, 1, 2], "correlation": pytest.approx(1)}
    assert found["class_error"] == {"places": [3, 1, 2], "correlation": pytest.approx(1)}
    assert found["box_mae"] == {"places": [1, 3, 2], "correlation": pytest.approx(-1)}


# ---------------------------------------------------------------------------------------- command line


def test_several_processes_share_a_sweep(tmp_path):
    """Three processes, four rows: each row is computed by one of them."""
    script = (
        "import sys; from pathlib import Path; from experiments import rows, sweep\n"
        "rows.WORK = Path(sys.argv[1]) / 'work'\n"
        "draw = rows.data.load\n"
        "rows.data.load = lambda *a, **k: print('drawn', flush=True) or draw(*a, **k)\n"
        "todo = [rows.Row('tiny', 'bananas', {}, s) for s in range(4)]\n"
        "sweep.Sweep(todo, Path(sys.argv[1])).run()\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    options = {"stdout": subprocess.PIPE, "text": True, "cwd": rows.ROOT}
    processes = [subprocess.Popen(arguments, **options) for _ in range(3)]
    out = "".join(process.communicate()[0] for process in processes)
    assert all(process.returncode == 0 for process in processes)
    assert out.count("AP50") - out.count("epoch") == 4
    assert out.count("drawn") == 2  # training and held-out images: one process draws, the others read
    assert len(list(tmp_path.glob("tiny/bananas/*.json"))) == 4


def test_list_and_mistakes(place, capsys):
    command.main(["list", "ladder", "--scale", "tiny", "--presets", "bananas", "--results", str(place)])
    assert capsys.readouterr().out.endswith("0 of 27 rows are there\n")
    with pytest.raises(SystemExit):
        command.main(["run", "riddle"])
    assert "no question is called riddle" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no question has a row"):
        command.main(["row", "tiny/bananas/nothing-s0"])
    assert set(PRESETS) == set(SCALES["tiny"].sizes)
