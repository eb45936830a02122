"""The command line, as a user meets it: what it writes, and how it says that something is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import photographs
from d2lmini import checkpoint, detect, train, transfer
from d2lmini.cli import main, scoring, training
from d2lmini.data import open_data
from d2lmini.data.images import read_image, to_tensor
from d2lmini.detect import DetectConfig
from d2lmini.engine import devices
from d2lmini.engine.validation import predict_batched, validate
from d2lmini.model import TinySSD

TINY = ["--data", "bananas", "--size", "64", "--count", "8", "--validation-count", "4"]
FAST = ["--epochs", "2", "--batch-size", "4", "--precision", "float32", "--quiet"]
SMALL = [*FAST, "--start", "scenes"]  # of folders


def command(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    """`python -m d2lmini …` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "d2lmini", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a small finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", *TINY, *FAST, "--out", str(out)]) == 0
    return out


def photograph(path: Path, size: tuple[int, int] = (300, 170), mode: str = "RGB") -> Path:
    """An image that no generator of ours made: smooth colours with a bright bar."""
    image = Image.radial_gradient("L").resize(size).convert(mode)
    image.paste(Image.new(mode, (size[0] // 3, size[1] // 4)), (5, 5))
    image.save(path)
    return path


def test_train_leaves_everything_it_announces(trained):
    names = {p.name for p in trained.iterdir()}
    assert {"best.safetensors", "last.safetensors", "history.json", "curves.png"} <= names
    assert "detections.png" in names
    for name in ("curves.png", "detections.png"):
        with Image.open(trained / name) as image:
            assert image.width > 300
    rows = json.loads((trained / "history.json").read_text())["epochs"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["background_class_error"] > 0


def test_train_evaluate_detect_and_data_as_separate_programs(tmp_path):
    done = command("train", *TINY, *FAST, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "always background" in done.stdout
    done = command(
        "evaluate", "--model", "run/best.safetensors", "--count", "4", "--json", "e.json",
        "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["metrics"]["images"] == 4
    photograph(tmp_path / "my photo ü.jpg")
    done = command(
        "detect", "my photo ü.jpg", "--model", "run/best.safetensors", "--score", "0.01", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "detections" / "my photo ü.json").read_text())
    assert (found["width"], found["height"]) == (300, 170)
    for row in found["detections"]:
        left, top, right, bottom = row["box"]
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 170
    with Image.open(tmp_path / "detections" / "my photo ü.png") as image:
        assert image.size == (300, 170)
    done = command("data", "scenes", "--count", "6", "--size", "64", "--out", "sheet.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_every_mode_are_read(trained, tmp_path, mode):
    path = tmp_path / ("p.tif" if mode in ("CMYK", "I;16") else "p.png")
    if mode == "I;16":
        Image.new("I;16", (90, 40), 40000).save(path)
    else:
        photograph(path, (90, 40), "L" if mode in ("P", "1") else mode)
        if mode in ("P", "1"):
            Image.open(path).convert(mode).save(path)
    model = str(trained / "best.safetensors")
    assert main(["detect", str(path), "--model", model, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "p.json").exists()


def test_images_of_one_name_do_not_overwrite_each_other(trained, tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(str(photograph(tmp_path / folder / "x.png")))
    model = str(trained / "best.safetensors")
    assert main(["detect", *paths, "--model", model, "--out", str(tmp_path / "out")]) == 0
    names = sorted(p.name for p in (tmp_path / "out").glob("x*"))
    assert names == ["x-2.json", "x-2.png", "x.json", "x.png"]


def bad_inputs(tmp_path: Path, trained: Path) -> dict[str, tuple[list[str], str]]:
    model = str(trained / "best.safetensors")
    good = str(photograph(tmp_path / "good.png"))
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = Path(good).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(Path(model).read_bytes()[:1000])
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    new, hollow = str(tmp_path / "new"), tmp_path / "hollow"
    hollow.mkdir()
    return {
        "no such image": (["detect", "nowhere.jpg", "--model", model], "nowhere.jpg"),
        "text": (["detect", str(tmp_path / "text.jpg"), "--model", model], "text.jpg"),
        "empty": (["detect", str(tmp_path / "empty.png"), "--model", model], "empty.png"),
        "cut": (["detect", str(tmp_path / "cut.png"), "--model", model], "cut.png"),
        "folder": (["detect", str(hollow), "--model", model], "holds no images"),
        "no model": (["detect", good, "--model", "none.safetensors"], "none.safetensors"),
        "cut model": (["detect", good, "--model", str(tmp_path / "cut.safetensors")], "cut.safe"),
        "iou": (["detect", good, "--model", model, "--nms-iou", "7"], "iou_threshold"),
        "out": (["detect", good, "--model", model, "--out", str(blocked)], "blocked"),
        "itself": (
            ["detect", good, "--model", model, "--out", str(Path(good).parent)],
            "choose another folder",
        ),
        "data": (["train", "--data", "apples", "--out", new], "apples"),
        "lr": (["train", *TINY, "--out", new, "--lr", "-1"], "lr"),
        "sigma": (["train", *TINY, "--out", new, "--sigma", "0"], "sigma"),
        "size": (["train", "--data", "bananas", "--out", new, "--size", "7"], "size"),
        "device": (["train", *TINY, "--out", new, "--device", "abacus"], "abacus"),
        "weights": (["train", *TINY, "--out", new, "--backbone-weights", "x.safetensors"], "--backbone"),
        "held": (["train", *TINY, *FAST, "--out", str(trained)], "--resume"),
        "classes": (["evaluate", "--data", "scenes", "--count", "2", "--model", model], "banana"),
        "sheet": (["data", "bananas", "--count", "1", "--out", str(blocked / "x.png")], "blocked"),
    }


def test_every_mistake_is_one_line_that_names_it_and_exit_code_2(trained, tmp_path, capsys):
    for name, (arguments, text) in bad_inputs(tmp_path, trained).items():
        code = main(arguments)
        said = capsys.readouterr().err.strip().splitlines()
        assert code == 2, f"{name}: exit code {code}"
        assert said[-1].startswith("d2lmini: "), f"{name}: {said}"
        assert text in said[-1], f"{name}: {said}"
        assert "Traceback" not in "".join(said)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["detect"],
        ["train"],
        ["train", "--out", "x", "--epochs", "many"],
        ["train", "--out", "x", "--count", "0"],
        ["train", "--out", "x", "--cls", "hinge"],
        ["train", "--out", "x", "--nms-iou", "0.5"],
        ["evaluate", "--split", "best"],
        ["evaluate", "--classes", "cat"],
    ],
)
def test_a_wrong_command_line_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "train", "evaluate", "detect", "data", "export"])
def test_help_has_a_line_for_each_option_and_defaults_where_there_are_some(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert len(text) > 300
    assert not re.search(r"SUPPRESS|None|False|^ {15,}", text, re.M), text  # the last: a second line
    if name in ("evaluate", "detect"):
        assert f"(default: {DetectConfig.iou_threshold})" in text
        assert "linear, gaussian\n" in text  # there is no Soft-NMS by default


def test_a_users_mistake_shows_no_traceback_in_a_real_process(tmp_path):
    done = command("detect", "nowhere.jpg", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("d2lmini: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_options_reach_the_configuration(tmp_path, monkeypatch):
    seen = {}

    def fit(batch, held_out, classes, config, **options):
        seen["config"] = config
        raise ValueError("enough")

    monkeypatch.setattr(train, "fit", fit)
    arguments = "--sigma 3 --gamma 1.5 --alpha 0.25 --cls focal --all-negatives --box-weight 2 --lr 0.1"
    arguments += " --optimizer sgd --compile --resize-mode letterbox"
    main(["train", *TINY, "--out", str(tmp_path), *arguments.split(), "--no-augment", "--seed", "9"])
    config = seen["config"]
    assert (config.lr, config.seed, config.augment) == (0.1, 9, None)
    assert (config.optimizer, config.compile, config.graph) == ("sgd", True, False)
    assert config.resize_mode == "letterbox"
    loss = config.loss
    assert (loss.sigma, loss.gamma, loss.alpha, loss.box_weight) == (3, 1.5, 0.25, 2)
    assert (loss.cls, loss.negatives) == ("focal", None)
    assert config.epochs == transfer.RECIPES["bananas"].config.epochs


# ---- every option takes effect ----

SCENES = ["--model", str(checkpoint.WEIGHTS / "scenes.safetensors")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A generated image with several objects, as a file."""
    path = tmp_path_factory.mktemp("images") / "scene.png"
    pixels = open_data("scenes", "val", size=256, count=8)[7].image
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return path


def evaluated(out: Path, *options: str) -> dict:
    """The record that `evaluate` writes on a few scenes."""
    arguments = ["evaluate", "--data", "scenes", "--count", "6", *SCENES, "--precision", "float32", "--quiet"]
    assert main([*arguments, "--json", str(out / "e.json"), *options]) == 0
    return json.loads((out / "e.json").read_text())


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict:
    return evaluated(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--nms-iou", "0.8"], {"metrics", "errors"}),
        (["--soft", "gaussian"], {"metrics", "errors"}),
        (["--class-agnostic"], {"metrics"}),
        (["--match-iou", "0.8"], {"anchors"}),
        (["--score", "0.05"], {"errors"}),
        (["--precision", "bfloat16"], {"metrics", "anchors"}),
        (["--data-seed", "1"], {"metrics", "anchors", "errors"}),
    ],
)
def test_options_of_evaluate_change_what_they_name_and_nothing_else(plain, tmp_path, options, changed):
    record = evaluated(tmp_path, *options)
    assert {name for name in ("metrics", "anchors", "errors") if record[name] != plain[name]} == changed


def test_evaluate_tells_how_far_scores_can_be_trusted(tmp_path, capsys):
    record = evaluated(tmp_path, "--out", str(tmp_path / "plots"))
    ap = record["intervals"]["overall"]["ap"]
    assert ap[0] == pytest.approx(record["metrics"]["ap"])
    assert ap[1] < ap[0] < ap[2]
    said = capsys.readouterr().out
    assert f"AP           {ap[0]:.3f}  {ap[1]:.3f} to {ap[2]:.3f}\n" in said
    for words in ("6 images", "best F1", "(ECE)", "errors cost AP50: localization", "found as"):
        assert words in said
    assert len(record["confusion"]) == len(record["metrics"]["per_class"]) + 1
    assert set(record["costs"]) >= {"localization", "missed"}
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} == {"confusion.png", "calibration.png"}


def test_two_models_are_compared_on_the_same_images(tmp_path, capsys):
    weak = tmp_path / "weak.safetensors"
    model, info = checkpoint.load_model(SCENES[1])
    torch.nn.init.zeros_(model.box_heads[1].weight)
    checkpoint.save_model(weak, model, info)
    options = ["--data", "scenes", "--count", "6", "--quiet", "--out", str(tmp_path / "plots")]
    both = ["--compare", str(weak), SCENES[1], "--json", str(tmp_path / "c.json")]
    assert main(["evaluate", *options, *both]) == 0
    record = json.loads((tmp_path / "c.json").read_text())
    aps = [evaluated(tmp_path, "--model", name)["metrics"]["ap"] for name in (str(weak), SCENES[1])]
    assert record["overall"]["ap"][0] == pytest.approx(aps[1] - aps[0], abs=0.02)  # another precision
    assert record["overall"]["ap"][0] > 0
    assert len(record["by_image"]) == 6
    said = capsys.readouterr().out
    assert "it gains most in: " in said
    assert (tmp_path / "plots" / "compare.png").stat().st_size > 1000
    assert main(["evaluate", *options, "--compare", SCENES[1]]) == 2
    assert "--compare takes two checkpoints, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--nms-iou", "0.8"],
        ["--soft", "gaussian"],
        ["--class-agnostic"],
        ["--score", "0.4"],
        ["--score", "0.001"],
        ["--precision", "bfloat16"],
    ],
)
def test_options_of_detect_change_what_is_found(scene, tmp_path, options):
    found = []
    for more in ([], options):
        assert main(["detect", str(scene), *SCENES, "--score", "0.01", "--out", str(tmp_path), *more]) == 0
        found.append(json.loads((tmp_path / "scene.json").read_text())["detections"])
    assert found[0] != found[1]
    if "--score" in options:
        assert min(row["score"] for row in found[1]) >= float(options[1])
        few, many = sorted(found, key=len)
        assert many[: len(few)] == few


@pytest.mark.parametrize("command", ["evaluate", "detect"])
def test_the_device_that_was_asked_for_is_used(command, scene, monkeypatch):
    asked, given = [], []
    monkeypatch.setattr(devices, "pick_device", lambda name: asked.append(name) or torch.device("cpu", 0))
    monkeypatch.setattr(checkpoint, "load_model", lambda path, device: given.append(device) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([command, *([str(scene)] if command == "detect" else []), *SCENES, "--device", "cuda:1"])
    assert (asked, given) == (["cuda:1"], [torch.device("cpu", 0)])


def test_the_best_model_is_scored_as_training_did(tmp_path, monkeypatch):
    """On the device of the training and in its precision, so that the scores are those of the best epoch."""
    used, results = [], []
    load = checkpoint.load_model

    def load_model(path, device="cpu"):
        used.append(device)
        return load(path, device)

    def scored(*given, **options):
        used.append(options)
        results.append(validate(*given, **options))
        return results[-1]

    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cpu", 0))
    monkeypatch.setattr(checkpoint, "load_model", load_model)
    monkeypatch.setattr(training, "validate", scored)
    fast = ["--epochs", "3", "--batch-size", "2", "--precision", "bfloat16", "--quiet"]
    assert main(["train", *TINY, *fast, "--out", str(tmp_path)]) == 0
    assert used == [torch.device("cpu", 0), {"match_iou_threshold": 0.5, "precision": "bfloat16"}]
    rows = json.loads((tmp_path / "history.json").read_text())["epochs"]
    best, metrics = results[0].anchors.as_dict(), results[0].metrics.as_dict()
    names = ("class_error", "box_mae", "positive_recall")
    assert (metrics["ap"], *(best[n] for n in names)) in [(r["ap"], *(r[n] for n in names)) for r in rows]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_saves_and_resume_finishes(tmp_path):
    arguments = ["train", *TINY, "--batch-size", "4", "--epochs", "400", "--eval-every", "400"]
    arguments += ["--precision", "float32", "--quiet", "--out", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "d2lmini", *arguments],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 100
    while not (tmp_path / "run" / "last.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    _, record = checkpoint.load_tensors(tmp_path / "run" / "last.safetensors")
    assert 1 <= record["position"][0] < 400


def test_the_image_of_a_model_does_not_depend_on_the_path_taken(trained, tmp_path):
    """Detecting in a file gives what predicting its pixels gives."""
    path = photograph(tmp_path / "p.png", (64, 64))
    model, _ = checkpoint.load_model(trained / "best.safetensors")
    pixels = torch.from_numpy(__import__("numpy").array(Image.open(path).convert("RGB")))
    images = pixels.permute(2, 0, 1)[None].contiguous()
    predictions = predict_batched(model, images, precision="float32")
    (expected,) = detect(*predictions, model.anchors)
    main(["detect", str(path), "--model", str(trained / "best.safetensors"), "--score", "0.01",
          "--precision", "float32", "--out", str(tmp_path / "out")])  # fmt: skip
    found = json.loads((tmp_path / "out" / "p.json").read_text())["detections"]
    expected = expected.at_least(0.01)
    assert [row["score"] for row in found] == pytest.approx(expected.scores.tolist(), abs=1e-4)


# ------------------------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in VOC's form, its name in words: twice as wide as high, one bright square in each."""
    root = tmp_path_factory.mktemp("images") / "meine schönen Bilder"
    (root / "Annotations").mkdir(parents=True)
    (root / "photos").mkdir()
    for i in range(10):
        image = Image.new("RGB", (80, 40), (40, 50, 60))
        image.paste((240, 250, 230), (8 * i, 10, 8 * i + 8, 18))
        image.save(root / "photos" / f"{i}.png")
        name = ("cat", "dog")[i % 2]
        box = f"<xmin>{8 * i + 1}</xmin><ymin>11</ymin><xmax>{8 * i + 8}</xmax><ymax>18</ymax>"
        text = f"<annotation><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(text)
    return root


def test_a_page_begins_with_images_of_a_folder_in_the_models_order_of_classes(folder, tmp_path):
    """The model's labels, also where the folder's own classes are in another order, or fewer."""
    path, page = tmp_path / "m.safetensors", tmp_path / "page.html"
    info = checkpoint.ModelInfo(("dog", "bird", "cat"), resize_mode="letterbox")
    checkpoint.save_model(path, TinySSD(3, 64), info)
    arguments = ["--model", str(path), "--page", str(page), "--data", str(folder), "--split", "all"]
    assert main(["export", *arguments, "--count", "2"]) == 0
    told = json.loads(re.search(r"globalThis\.d2lminiPage = (.*);\n", page.read_text("utf8"))[1])
    labels = [[one["label"] for one in sample["truth"]] for sample in told["samples"]]
    assert labels == [[2], [0]]  # a cat, a dog
    _, top, _, bottom = told["samples"][0]["truth"][0]["box"]
    assert (top, bottom) == (0.375, 0.475)  # in the square: 40 rows in the middle of 80
    checkpoint.save_model(path, TinySSD(1, 64), checkpoint.ModelInfo(("bird",)))
    assert main(["export", *arguments]) == 2


def test_training_begins_with_a_sheet_of_its_data(folder, tmp_path, capsys):
    assert main(["train", "--data", str(folder), "--size", "64", *SMALL, "--out", str(tmp_path)]) == 0
    assert "are the boxes right?" in capsys.readouterr().err
    assert Image.open(tmp_path / "data.png").width > 300


def test_all_four_commands_work_on_a_folder(folder, tmp_path, capsys):
    out, model = tmp_path / "run", str(tmp_path / "run" / "best.safetensors")
    shape = ["--data", str(folder), "--size", "64", "--resize-mode", "letterbox", "--stream"]
    shape += ["--workers", "0"]
    assert main(["train", *shape, *SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "0 MB of images are read while they are used" in said.err
    assert re.search(r"data loading: \d+\.\d% of the time", said.err)
    assert checkpoint.load_model(model)[1].resize_mode == "letterbox"
    assert main(["evaluate", "--data", str(folder), "--model", model, "--split", "all", "--quiet"]) == 0
    assert "10 images" in capsys.readouterr().out
    assert (
        main(["detect", str(folder), "--model", model, "--score", "0.0", "--out", str(tmp_path / "d")]) == 0
    )
    assert len(list((tmp_path / "d").glob("*.png"))) == 10
    for path in (tmp_path / "d").glob("*.json"):
        for row in json.loads(path.read_text())["detections"]:
            left, top, right, bottom = row["box"]
            assert 0 <= left <= right <= 80
            assert 0 <= top <= bottom <= 40
    assert main(["data", str(folder), "--count", "3", "--out", str(tmp_path / "sheet.png")]) == 0
    assert "3 of 8 images (train)" in capsys.readouterr().out


def test_memory_and_stream_give_the_same_model(folder, tmp_path):
    shape = ["--data", str(folder), "--size", "64", *SMALL]
    assert main(["train", *shape, "--out", str(tmp_path / "a")]) == 0
    assert main(["train", *shape, "--stream", "--out", str(tmp_path / "b")]) == 0
    one, two = (checkpoint.load_tensors(tmp_path / name / "last.safetensors")[0] for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_boxes_of_a_letterboxed_image_are_those_of_the_image(trained, tmp_path):
    """One model, told both ways: an image that was letterboxed by hand gives the same boxes, moved."""
    model, info = checkpoint.load_model(trained / "best.safetensors")
    path = tmp_path / "letterbox.safetensors"
    checkpoint.save_model(path, model, dataclasses.replace(info, resize_mode="letterbox"))
    photograph(tmp_path / "wide.png", (128, 64))
    square = to_tensor(read_image(tmp_path / "wide.png"), (64, 64), "letterbox")
    Image.fromarray(square.permute(1, 2, 0).numpy()).save(tmp_path / "square.png")
    out = tmp_path / "found"
    options = ["--score", "0.01", "--precision", "float32", "--out", str(out)]
    main(["detect", str(tmp_path / "wide.png"), "--model", str(path), *options])
    main(["detect", str(tmp_path / "square.png"), "--model", str(trained / "best.safetensors"), *options])
    wide, square = (json.loads((out / f"{n}.json").read_text())["detections"] for n in ("wide", "square"))
    expected = []
    for row in square:
        left, top, right, bottom = (2 * edge for edge in row["box"])  # 64 pixels are 128 of the image
        box = [left, min(max(top - 32, 0), 64), right, min(max(bottom - 32, 0), 64)]
        if box[3] > box[1]:
            expected.append((row["score"], box))
    assert len(expected) > 0
    assert [row["score"] for row in wide] == [score for score, _ in expected]
    for row, (_, box) in zip(wide, expected, strict=True):
        assert row["box"] == pytest.approx(box, abs=0.25)


def test_faults_are_told_and_skipped_where_that_was_asked_for(folder, trained, tmp_path, capsys):
    root = shutil.copytree(folder, tmp_path / "spoilt")
    (root / "Annotations" / "3.xml").write_text("<html/>")
    (root / "photos" / "4.png").write_bytes(b"")
    sheet = ["data", str(root), "--split", "all", "--out", str(tmp_path / "s.png")]
    assert main(sheet) == 2
    assert "3.xml is <html>" in capsys.readouterr().err
    assert main([*sheet, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "8 of 8 images" in said.out
    assert said.err.count("skipped: ") == 2
    assert [name in said.err for name in ("3.xml is <html>", "4.png is empty")] == [True, True]
    out, model = str(tmp_path / "found"), str(trained / "best.safetensors")
    assert main(["detect", str(root / "photos"), "--model", model, "--out", out]) == 2
    assert main(["detect", str(root / "photos"), "--model", model, "--out", out, "--skip-bad"]) == 0
    assert "4.png is empty" in capsys.readouterr().err
    assert len(list((tmp_path / "found").glob("*.json"))) == 9


def test_a_folder_of_some_of_the_models_classes_is_scored(folder, tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["train", "--data", str(folder), "--size", "64", *SMALL]
    assert main([*arguments, "--out", out, "--classes", "cow", "dog", "cat"]) == 0
    model = str(tmp_path / "run" / "best.safetensors")
    capsys.readouterr()
    assert main(["evaluate", "--data", str(folder), "--model", model, "--quiet"]) == 0
    assert "2 images" in capsys.readouterr().out
    out = str(tmp_path / "cats")
    assert main([*arguments, "--out", out, "--classes", "cat", "--skip-bad"]) == 0
    model = str(tmp_path / "cats" / "best.safetensors")
    assert main(["evaluate", "--data", str(folder), "--model", model, "--split", "all"]) == 0
    assert "5 objects of other classes are left out: dog 5" in capsys.readouterr().err


def test_a_split_of_ones_own(folder, tmp_path, capsys):
    (tmp_path / "val.txt").write_text("7\n8.png\nphotos/9.png\n")
    options = ["--val-list", str(tmp_path / "val.txt"), "--out", str(tmp_path / "s.png")]
    assert main(["data", str(folder), "--split", "val", *options]) == 0
    assert "3 of 3 images" in capsys.readouterr().out
    assert main(["data", str(folder), "--split", "train", "--val-fraction", "0.5", *options[2:]]) == 0
    assert "5 of 5 images" in capsys.readouterr().out
    assert main(["data", str(folder), "--val-fraction", "0", *options[2:]]) == 2
    assert "val_fraction is 0.0" in capsys.readouterr().err
    assert main(["data", "bananas", "--val-fraction", "0.5", *options[2:]]) == 2
    assert "val_fraction cannot be chosen for bananas" in capsys.readouterr().err


# ---- the split of the training ----


@pytest.fixture
def scored(monkeypatch) -> list[torch.Tensor]:
    """The images of each data set that a command scores, in order."""
    sets: list[torch.Tensor] = []

    def spy(model, source, *given, **options):
        sets.append(torch.cat([batch.images for batch in source.in_order()]))
        return validate(model, source, *given, **options)

    for module in (scoring, training):
        monkeypatch.setattr(module, "validate", spy)
    return sets


ANEW = "is divided anew at random: images that the model was trained on may be among them"


def test_a_folder_is_scored_on_the_split_of_the_training(folder, tmp_path, capsys, scored):
    root, model = shutil.copytree(folder, tmp_path / "images"), str(tmp_path / "run" / "best.safetensors")
    own = ["--data-seed", "3", "--val-fraction", "0.4"]
    arguments = ["train", "--data", str(root), "--size", "64", *SMALL, "--out", str(tmp_path / "run")]
    assert main([*arguments, *own]) == 0
    again = ["evaluate", "--data", str(root), "--model", model, "--quiet"]
    assert main(again) == main([*again, *own]) == 0
    assert len(scored[0]) == 4
    assert torch.equal(scored[0], scored[1])
    assert torch.equal(scored[0], scored[2])
    assert "divided" not in capsys.readouterr().err
    assert main([*again, "--data-seed", "0"]) == 0  # what is asked for is done, and said
    assert len(scored[3]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith(ANEW)
    assert "\n" not in said
    shutil.copy(root / "photos" / "3.png", root / "photos" / "new.png")
    shutil.copy(root / "Annotations" / "3.xml", root / "Annotations" / "new.xml")
    assert main(again) == 0
    assert f"{root} does not hold the training images of {model}, and {ANEW}" in capsys.readouterr().err
    assert main([*again, "--split", "all"]) == 0  # where images of the training are no surprise
    assert "divided" not in capsys.readouterr().err


def test_a_split_by_lists_is_not_guessed(folder, tmp_path, capsys, scored):
    (tmp_path / "val.txt").write_text("7\n8\n9\n")
    lists, model = ["--val-list", str(tmp_path / "val.txt")], str(tmp_path / "run" / "best.safetensors")
    arguments = ["train", "--data", str(folder), "--size", "64", *SMALL, "--out", str(tmp_path / "run")]
    assert main([*arguments, *lists]) == 0
    again = ["evaluate", "--data", str(folder), "--model", model, "--quiet"]
    assert main([*again, *lists]) == 0
    assert torch.equal(scored[0], scored[1])
    assert "divided" not in capsys.readouterr().err
    assert main(again) == 0
    assert ANEW in capsys.readouterr().err


# ---------------------------------------------------------------- folders of one's own


@pytest.fixture(scope="module")
def signs(tmp_path_factory) -> Path:
    """A folder of ten images in VOC's form, two of them for validation."""
    folder = tmp_path_factory.mktemp("folders") / "signs"
    photographs.write("signs", folder, 10)
    return folder


def test_a_folder_is_trained_with_anchors_of_its_own(signs, tmp_path, capsys):
    out = tmp_path / "run"
    fast = ["--epochs", "1", "--size", "64", "--precision", "float32", "--quiet"]
    assert main(["train", "--data", str(signs), *fast, "--start", "scenes", "--out", str(out)]) == 0
    model, info = checkpoint.load_model(out / "last.safetensors")
    assert info.classes == ("sign",)
    assert model.anchor_spec != transfer.FOLDER_RECIPE.config.anchors
    assert info.notes["config"]["batch_size"] == 8  # no more than there are images
    fixed = ["--fixed-anchors", "--start", "none", "--patience", "3"]
    assert main(["train", "--data", str(signs), *fast, *fixed, "--out", str(tmp_path / "fixed")]) == 0
    model, info = checkpoint.load_model(tmp_path / "fixed" / "last.safetensors")
    assert model.anchor_spec == transfer.FOLDER_RECIPE.config.anchors
    assert info.notes["config"]["patience"] == 3
    missing = ["--backbone", "resnet18", "--backbone-weights", "nowhere.safetensors"]
    assert main(["train", "--data", str(signs), *fast, *missing, "--out", str(tmp_path / "none")]) == 2
    assert "d2lmini: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], (150, 8)),  # eight images are seen often, and scored about twenty times
        (["--eval-every", "1"], (150, 1)),
        (["--epochs", "7"], (7, 1)),
    ],
)
def test_what_was_asked_for_does_not_follow_from_the_folder(signs, monkeypatch, asked, expected):
    seen = []
    monkeypatch.setattr(train, "fit", lambda *given, **options: seen.append(given[3]) or 1 / 0)
    shape = ["--data", str(signs), "--size", "64", "--start", "none", "--quiet"]
    with pytest.raises(ZeroDivisionError):
        main(["train", *shape, "--out", "run", *asked])
    assert (seen[0].epochs, seen[0].eval_every) == expected


def test_the_anchor_report_names_files_and_draws(signs, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["data", str(signs), "--anchors", "--size", "64", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "images of 64 × 64" in said
    assert "`train` takes these anchors: suggested" in said
    assert "D2L's (14.7)" in said
    assert "suggested: AnchorSpec(sizes=(" in said
    with Image.open(tmp_path / "sheet-anchors.png") as image:
        assert image.width > 1000
    assert main(["data", "scenes", "--anchors", "--count", "4", "--out", str(out)]) == 0
    assert "takes these anchors: the recipe's" in capsys.readouterr().out
