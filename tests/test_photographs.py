"""A detector of your own photographs: a head on frozen features, then all weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from benchmarks import photographs
from d2lmini import checkpoint, pretrained, transfer, validate
from d2lmini.checkpoint import load_model
from d2lmini.cli import main
from d2lmini.data import GroundTruth, Synthetic, load
from d2lmini.data.augment import AugmentConfig
from d2lmini.engine import features as kept_features
from d2lmini.engine.features import HeadOnFeatures, features_of, keep_features, photograph_model
from d2lmini.engine.state import BEST, HISTORY, LAST
from d2lmini.inspect import LearningCurve, learning, learning_curve
from d2lmini.interop.export import inference_model
from d2lmini.mobilenet import TopDown
from d2lmini.model import TinyBackbone
from d2lmini.train import TrainConfig
from d2lmini.transfer import HEAD, fit_photographs

SIZE = 96
CONFIG = TrainConfig(batch_size=4, weight_decay=0.1, device="cpu", precision="float32")
SHORT = {"views": 2, "progress": False}


@pytest.fixture(scope="module")
def scenes():
    data = Synthetic("scenes", count=6, size=SIZE, split="train")
    return load(data), data.classes


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(transfer, "HEAD_STEPS", 12)


def backbone_of(model):
    return model.backbone.backbone.state_dict()


@torch.no_grad()
def test_a_head_on_features_predicts_what_the_whole_network_does(scenes):
    batch, classes = scenes
    model = photograph_model(batch.ground_truth, (SIZE, SIZE), classes, seed=0).eval()
    features = features_of(model, batch.images, "float32")
    assert features.dtype == torch.float16
    head = HeadOnFeatures(model).eval()
    for ours, whole in zip(head(features[:, None, None]), model(batch.images), strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=5e-3)


def test_the_head_is_small_and_has_five_maps(scenes):
    batch, classes = scenes
    model = photograph_model(batch.ground_truth, (300, 300), classes, seed=0)
    weights = sum(p.numel() for name, p in model.named_parameters() if "backbone.backbone" not in name)
    assert weights < 350_000
    maps = TopDown((8, 16, 32), 24).eval()([torch.zeros(1, c, s, s) for c, s in ((8, 19), (16, 10), (32, 5))])
    assert [tuple(m.shape[1:]) for m in maps] == [(24, s, s) for s in (19, 10, 5, 3, 1)]
    again = photograph_model(batch.ground_truth, (300, 300), classes, seed=0)
    assert torch.equal(model.class_heads[0].weight, again.class_heads[0].weight)
    assert all(torch.equal(t, backbone_of(again)[k]) for k, t in backbone_of(model).items())


@pytest.mark.usefixtures("few_steps")
def test_both_stages_learn_and_the_better_one_is_kept(scenes, tmp_path):
    batch, classes = scenes
    results = fit_photographs(batch, batch, classes, CONFIG, finetune=2, out=tmp_path, **SHORT)
    losses = [row["loss"] for row in results[HEAD].history]
    assert losses[-1] < 0.7 * losses[0]
    known = backbone_of(pretrained("everyday")[0])
    frozen, _ = load_model(tmp_path / HEAD / LAST)
    assert all(torch.equal(t, known[k]) for k, t in backbone_of(frozen).items()), "it was frozen"
    tuned, _ = load_model(tmp_path / LAST)
    assert not torch.equal(backbone_of(tuned)["last.0.weight"], known["last.0.weight"])
    aps = {k: max(row["ap"] or -1 for row in result.history if "ap" in row) for k, result in results.items()}
    best, info = load_model(tmp_path / BEST)
    assert info.classes == tuple(classes)
    assert validate(best, batch, classes, precision="float32").metrics.ap == pytest.approx(
        max(aps.values()), abs=0.02
    )
    image = batch.images[:1]
    with torch.no_grad():
        for a, b in zip(best(image), inference_model(best)(image), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0.05)


@pytest.mark.usefixtures("few_steps")
def test_without_fine_tuning_the_best_head_is_the_result(scenes, tmp_path):
    batch, classes = scenes
    results = fit_photographs(batch, batch, classes, CONFIG, finetune=0, out=tmp_path, **SHORT)
    assert list(results) == [HEAD]
    assert (tmp_path / BEST).read_bytes() == (tmp_path / HEAD / BEST).read_bytes()
    assert not list((tmp_path / HEAD).glob(".features*"))


@pytest.mark.usefixtures("few_steps")
def test_a_run_goes_on_where_it_stopped(scenes, tmp_path, monkeypatch):
    batch, classes = scenes
    given = (batch, batch, classes, CONFIG)
    whole = fit_photographs(*given, finetune=2, out=tmp_path / "whole", **SHORT)
    fit_photographs(*given, finetune=0, out=tmp_path / "part", **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "keep_features", lambda *a, **k: pytest.fail("features are computed again"))
        part = fit_photographs(*given, finetune=2, out=tmp_path / "part", resume=True, **SHORT)
    rows = [[row["loss"] for row in r["finetune"].history] for r in (whole, part)]
    assert rows[0] == rows[1]
    # A head that was stopped on its way goes on from its own file.
    shutil.copytree(tmp_path / "part" / HEAD, tmp_path / "cut" / HEAD)
    path = tmp_path / "cut" / HEAD / HISTORY
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"epochs": record["epochs"][:1]}))
    cut = fit_photographs(*given, finetune=0, out=tmp_path / "cut", resume=True, **SHORT)
    assert len(cut[HEAD].history) == len(whole[HEAD].history)


@pytest.mark.usefixtures("few_steps")
def test_features_that_do_not_fit_into_memory_live_in_a_file(scenes, tmp_path, monkeypatch):
    batch, classes = scenes
    roomy = fit_photographs(batch, None, classes, CONFIG, finetune=0, out=tmp_path / "a", **SHORT)
    monkeypatch.setattr(kept_features, "free_memory", lambda: 0)
    tight = fit_photographs(batch, None, classes, CONFIG, finetune=0, out=tmp_path / "b", **SHORT)
    assert [row["loss"] for row in roomy[HEAD].history] == [row["loss"] for row in tight[HEAD].history]


def test_views_are_augmented_but_for_the_first(scenes):
    batch, classes = scenes
    model = photograph_model(batch.ground_truth, (SIZE, SIZE), classes, seed=0).eval()
    source = transfer.as_source(batch)
    kept = keep_features(model, source, 3, CONFIG.augment, precision="float32")
    assert len(kept) == 18
    first = features_of(model, batch.images[:4], "float32")
    assert torch.equal(kept.batch.images[:4].flatten(1), first)
    assert torch.equal(kept.batch.boxes[:6][kept.batch.labels[:6] >= 0], batch.boxes[batch.labels >= 0])
    assert not torch.equal(kept.batch.images[6:10].flatten(1), first)
    assert not torch.equal(kept.batch.images[6:12], kept.batch.images[12:])
    assert kept.origin is source


@pytest.mark.usefixtures("few_steps")
def test_one_image_is_enough_and_none_without_an_object_is(scenes):
    batch, classes = scenes
    one = batch.select(slice(0, 1))
    results = fit_photographs(one, None, classes, CONFIG, finetune=1, **SHORT)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for r in results.values() for row in r.history)
    empty = batch._replace(labels=torch.full_like(batch.labels, -1))
    with pytest.raises(ValueError, match="no object"):
        fit_photographs(empty, None, classes, CONFIG, **SHORT)
    truth = GroundTruth(one.boxes, one.labels)
    assert photograph_model(truth, (64, 64), classes, 0).image_size == (64, 64)


def test_what_makes_no_sense_is_refused(scenes, tmp_path):
    batch, classes = scenes
    for option in ({"views": 0}, {"finetune": -1}):
        with pytest.raises(ValueError, match="give at least 1 and 0"):
            fit_photographs(batch, None, classes, CONFIG, progress=False, **option)
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(ValueError, match="already holds a run"):
        fit_photographs(batch, None, classes, CONFIG, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="everyday is for"):
        transfer.configure_for_dataset(CONFIG, batch, SIZE, classes, start="everyday")


@pytest.mark.usefixtures("few_steps")
def test_the_command_trains_scores_and_draws(tmp_path, capsys):
    out = tmp_path / "run"
    line = ["train", "--data", "scenes", "--start", "everyday", "--count", "6", "--validation-count", "4"]
    line += ["--size", "96", "--views", "2", "--finetune", "1", "--device", "cpu", "--quiet"]
    assert main([*line, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "head: AP50" in said.err
    assert "finetune: AP50" in said.err
    for name in ("curves-head.png", "curves-finetune.png", "detections.png", "data.png", BEST):
        assert (out / name).is_file()
    assert checkpoint.load_model(out / BEST)[0].image_size == (96, 96)
    assert main([*line, "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*line, "--out", str(out), "--resume"]) == 0
    assert main([*line, "--out", str(tmp_path / "x"), "--backbone", "resnet18"]) == 2


@pytest.fixture
def folder(tmp_path):
    """Ten drawn images in VOC's form, two of them held out."""
    photographs.write("signs", tmp_path / "signs", 10)
    return tmp_path / "signs"


def of_folder(folder, out, *more):
    shape = ["--size", "96", "--views", "2", "--precision", "float32", "--device", "cpu", "--quiet"]
    return main(["train", "--data", str(folder), "--out", str(out), *shape, *more])


@pytest.mark.usefixtures("few_steps")
def test_a_folder_starts_from_everyday_unless_something_speaks_against_it(folder, tmp_path, capsys):
    assert of_folder(folder, tmp_path / "a", "--epochs", "1", "--lr", "1e-4") == 0
    model, info = checkpoint.load_model(tmp_path / "a" / LAST)
    assert model.backbone.options["name"] == "top_down_mobilenet_v2"
    assert (info.notes["config"]["epochs"], info.notes["config"]["lr"]) == (1, 1e-4)
    assert "curves-finetune.png" in capsys.readouterr().out
    for option in ("--fixed-anchors", "--start=scenes"):
        assert of_folder(folder, tmp_path / option, "--epochs", "1", option) == 0
        assert isinstance(checkpoint.load_model(tmp_path / option / LAST)[0].backbone, TinyBackbone)
    # A run that began with the small network goes on with it.
    assert of_folder(folder, tmp_path / "--start=scenes", "--epochs", "1", "--resume") == 0
    assert of_folder(folder, tmp_path / "b", "--fixed-anchors", "--start", "everyday") == 2
    assert "--fixed-anchors needs --start scenes or none" in capsys.readouterr().err


@pytest.mark.usefixtures("few_steps")
def test_the_first_layers_stay_as_they_are_in_fine_tuning(scenes):
    batch, classes = scenes
    tuned = fit_photographs(batch, None, classes, CONFIG, finetune=1, **SHORT)["finetune"].model
    known, now = backbone_of(pretrained("everyday")[0]), backbone_of(tuned)
    same = {name.split(".")[0:2][-1] if "blocks" in name else name.split(".")[0]
            for name in known if torch.equal(known[name], now[name])}  # fmt: skip
    assert same >= {"stem", "0", "1", "2"}
    assert not same & {"4", "16", "last"}
    assert all(p.requires_grad for p in tuned.parameters())


def test_thousands_of_images_are_seen_less_often(scenes, monkeypatch):
    seen = []
    monkeypatch.setattr(transfer, "_fit_head", lambda *given: None)
    monkeypatch.setattr(transfer, "fit", lambda *given, **options: seen.append(given[3]))
    batch, classes = scenes
    for images in (batch, batch.select(torch.arange(6).repeat(1000))):
        fit_photographs(images, None, classes, CONFIG, **SHORT)
    assert [config.epochs for config in seen] == [30, 20]
    assert {config.lr for config in seen} == {CONFIG.lr}


# ---------------------------------------------------------------- learning curves


@pytest.mark.usefixtures("few_steps")
def test_a_learning_curve_is_kept_and_goes_on(scenes, tmp_path, monkeypatch):
    batch, classes = scenes
    path, asked = tmp_path / "curve.json", {"views": 2, "sizes": (2, 4), "repeats": 2, "progress": False}
    curve = learning_curve(batch, batch, classes, CONFIG, out=path, **asked)
    assert {n: len(row) for n, row in curve.scores.items()} == {2: 2, 4: 2, 6: 2}
    kept = json.loads(path.read_text())
    del kept["scores"]["1/6"]
    path.write_text(json.dumps(kept))
    again = learning_curve(batch, batch, classes, CONFIG, out=path, **asked)
    assert again.scores[2] == curve.scores[2]
    assert again.scores[6] == pytest.approx(curve.scores[6], abs=1e-4)
    monkeypatch.setattr(learning, "keep_features", lambda *a, **k: pytest.fail("nothing is missing"))
    assert learning_curve(batch, batch, classes, CONFIG, out=path, **asked) == again
    with pytest.raises(ValueError, match="of other images or options"):
        learning_curve(batch, batch, classes, CONFIG, out=path, **asked | {"views": 1})
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no learning curve"):
        learning_curve(batch, batch, classes, CONFIG, out=path, **asked)


def test_a_forecast_follows_a_power_law_and_says_how_sure_it_is():
    law = {n: [1 - 2 * n**-0.4] * 3 for n in (10, 20, 50, 100)}
    sure = LearningCurve(law).forecast()
    assert sure.images == 200
    assert sure.ap == pytest.approx(1 - 2 * 200**-0.4, abs=1e-6)
    assert sure.high - sure.low < 1e-6
    noisy = LearningCurve({n: [row[0] - 0.05, row[0], row[0] + 0.05] for n, row in law.items()})
    wide = noisy.forecast(400)
    assert wide.low < 1 - 2 * 400**-0.4 < wide.high
    assert wide.high - wide.low > 0.05
    assert noisy.text().count("\n") == 4
    perfect = LearningCurve({10: [1.0, 1.0], 20: [1.0, 1.0]}).forecast()
    assert 0.99 < perfect.ap <= 1
    with pytest.raises(ValueError, match="two numbers"):
        LearningCurve({10: [0.5]}).forecast()


@pytest.mark.usefixtures("few_steps")
def test_the_command_draws_a_learning_curve(folder, tmp_path, capsys):
    assert of_folder(folder, tmp_path, "--learning-curve") == 0
    assert " 8 images: AP " in capsys.readouterr().out
    assert (tmp_path / "learning-curve.png").is_file()
    assert of_folder(folder, tmp_path / "x", "--learning-curve", "--start", "none") == 2
    assert "needs --start everyday" in capsys.readouterr().err


def test_augmentation_can_be_turned_off(scenes):
    batch, classes = scenes
    model = photograph_model(batch.ground_truth, (SIZE, SIZE), classes, seed=0).eval()
    source = transfer.as_source(batch)
    kept = keep_features(model, source, 2, precision="float32").batch.images
    assert torch.equal(kept[:6], kept[6:])
    assert isinstance(CONFIG.augment, AugmentConfig)
