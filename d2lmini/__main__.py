"""The command line: `python -m d2lmini train | evaluate | detect | data | export`, or just `d2lmini`.

Results go to standard output and files, progress to standard error. Exit codes: 0 done; 1 training gave
up; 2 the command, a file or the data is at fault, said in one line; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from d2lmini import checkpoint, coverage, distributed, export, runtime, show, train
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors
from d2lmini.backbones import timm_backbone
from d2lmini.data import PHOTOGRAPHS, PRESETS, DataWarning, Feed, Held, Streamed, collate, load, open_data
from d2lmini.data import files as on_disk
from d2lmini.data.annotated import AnnotatedPictures
from d2lmini.data.feed import fits_in_memory, picture_bytes
from d2lmini.data.images import FITS, placement, read_image, to_tensor
from d2lmini.data.samples import Sample
from d2lmini.data.voc import SUFFIXES
from d2lmini.detect import SOFT, Detections, detect
from d2lmini.evaluate import AnchorMetrics, Metrics, error_breakdown
from d2lmini.losses import BOX_LOSSES, CLASS_LOSSES
from d2lmini.model import TinyBackbone, map_shapes
from d2lmini.tailor import STARTS, tailor

FOLDER_OPTIONS = ("classes", "val_share", "train_list", "val_list", "difficult", "skip_bad")
DEFAULT_MODEL = "runs/bananas/best.safetensors"
SHOWN = 40  # pictures on a contact sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # `_tell` says it, and all of it
            options.run(options)
    except distributed.RefusedByFirst:
        return 2
    except (ValueError, OSError, distributed.RankLost) as error:  # of one rank, which has to say it
        return _complain(error, 1 if isinstance(error, distributed.RankLost) else 2)
    except train.TrainingDiverged as error:
        return _complain(error, 1, distributed.speaks())
    except train.Interrupted as error:
        return _complain(error, 130, distributed.speaks())
    except KeyboardInterrupt:
        return _complain("stopped", 130)
    return 0


def _complain(what: object, code: int, aloud: bool = True) -> int:
    if aloud:
        print(f"d2lmini: {' '.join(str(what).split())}", file=sys.stderr)
    return code


# ------------------------------------------------------------------------------------------------ commands


def run_train(options: argparse.Namespace) -> None:
    """`train`: a contact sheet, training, then the curve, the answers and the score.

    Started by torchrun, every rank does this, and the first one speaks, writes and draws.
    """
    recipe = train.recipe(options.data)
    config = _config(recipe.config, options)
    out = Path(options.out)
    counts = {"train": options.count or recipe.count, "val": options.validation_count}
    training, validation = (
        _open(options, split, size=options.size or recipe.image_size, count=count, fit=config.fit)
        for split, count in counts.items()
    )
    _tell(training, validation)
    if options.resume and (out / train.LAST).exists():
        _say(f"continuing the run in {out}")
    elif distributed.speaks() and not (out / train.LAST).exists():
        out.mkdir(parents=True, exist_ok=True)
        show.save(show.contact_sheet(_spread(training, SHOWN), training.classes), out / "data.png")
        _say(f"do the boxes sit right? {out / 'data.png'}")
    _say(f"preparing {len(training)} + {len(validation)} pictures of {options.data} ...")
    progress = not options.quiet and distributed.speaks()
    batches, held_out = _feeds(options, training, validation)
    config, model = _tailored(recipe, config, options, batches, training.classes)
    device = runtime.pick_device(config.device)
    precision = str(runtime.pick_precision(config.precision, device)).removeprefix("torch.")
    ranks = f"{distributed.launched_ranks()} × " if distributed.launched_ranks() > 1 else ""
    _say(f"training on {ranks}{device.type} in {precision}: {config.epochs} epochs, Ctrl-C saves and stops")
    result = train.fit(
        batches,
        held_out,
        training.classes,
        config,
        model=model,
        out=out,
        resume=options.resume,
        progress=progress,
    )
    if not distributed.speaks():
        return
    _say(f"waiting for data took {batches.wait_share:.1%} of the time")
    show.save(show.plot_history(result.history), out / "curves.png")
    model, info = checkpoint.load_model(out / train.BEST)
    metrics, anchors, found = train.validate(model, held_out, info.classes)
    first = next(held_out.in_order(SHOWN))
    samples = [first.sample(i) for i in range(len(first.images))]
    confident = [d.at_least(0.4) for d in found[:SHOWN]]
    sheet = show.contact_sheet(samples, info.classes, detections=confident)
    show.save(sheet, out / "detections.png")
    print(report(metrics, anchors))
    print(f"best model (epoch {result.best_epoch}): {out / train.BEST}")
    print(f"pictures: {', '.join(str(out / n) for n in ('data.png', 'curves.png', 'detections.png'))}")


def run_evaluate(options: argparse.Namespace) -> None:
    """`evaluate`: score a checkpoint on annotated pictures."""
    model, info = _model(options)
    if options.skip_bad:
        options.classes = info.classes
    dataset = _open(options, options.split, size=model.image_size[0], count=options.count, fit=info.fit)
    _tell(dataset)
    _use_classes(dataset, info.classes, options)
    (feed,) = _feeds(options, dataset)
    metrics, anchors, found = train.validate(model, feed, info.classes, **_detection(options))
    truth = feed.truth()
    errors = error_breakdown(found, truth.boxes, truth.labels, score_threshold=options.score)
    print(report(metrics, anchors))
    kinds = ", ".join(f"{name} {count}" for name, count in errors.as_dict().items())
    print(f"at scores ≥ {options.score:g}: {kinds}")
    if options.json:
        record = {
            "model": str(options.model),
            "data": options.data,
            "metrics": metrics.as_dict(),
            "anchors": anchors.as_dict(),
            "errors": errors.as_dict(),
            "machine": runtime.describe(),
        }
        _write_json(Path(options.json), record)


def run_detect(options: argparse.Namespace) -> None:
    """`detect`: find objects in the user's own pictures; a PNG with boxes and a JSON file for each."""
    model, info = _model(options)
    if not options.as_trained:
        model = export.inference_model(model)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    faults: list[str] | None = [] if options.skip_bad else None
    for path, name in _output_names(_pictures(options.images), out).items():
        with on_disk.skipping(faults):
            picture = read_image(path)
            found = _find(model, picture, info.fit, options)
            show.save(show.annotate(picture, found, info.classes), out / f"{name}.png")
            record = {"image": str(path), "width": picture.width, "height": picture.height}
            record["detections"] = _in_pixels(found, picture.width, picture.height, info.classes)
            _write_json(out / f"{name}.json", record)
            what = ", ".join(f"{d['class']} {d['score']:.2f}" for d in record["detections"])
            print(f"{path}: {what or 'nothing found'} → {out / name}.png")
    _tell_skipped(faults or [])


def _find(model: Any, picture: Image.Image, fit: str, options: argparse.Namespace) -> Detections:
    """What the model finds in a picture, as a fraction of the picture: read in full, as a web page does."""
    pixels = to_tensor(picture, model.image_size, fit)
    ((_, predictions),) = train.predict(model, pixels.unsqueeze(0), precision=options.precision)
    (found,) = detect(*predictions, model.anchors, **_detection(options))
    found = found.at_least(options.score)
    boxes = placement(picture.size, model.image_size, fit).out_of_square(found.boxes)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # not those in a band beside the picture
    return Detections(boxes[inside], found.scores[inside], found.labels[inside])


def run_export(options: argparse.Namespace) -> None:
    """`export`: a checkpoint as files for use elsewhere."""
    model, info = checkpoint.load_model(options.model)
    name = options.name or _model_name(Path(options.model))
    if options.out or not (options.page or options.onnx):
        folder = Path(options.out or "export")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.safetensors"
        export.save_inference(path, model, info)
        _wrote(path, "for Python")
        _wrote(export.save_weights_script(folder, model, info, name), "for web pages")
    if options.page:
        samples = _samples(options, model.image_size) if options.data else []
        export.save_page(options.page, model, info, samples)
        _wrote(Path(options.page), "a page to open or to send")
    if options.onnx:
        export.save_onnx(options.onnx, model, info)
        _wrote(Path(options.onnx), f"ONNX, opset {export.OPSET}")


def run_data(options: argparse.Namespace) -> None:
    """`data`: a contact sheet with boxes, to see what a data set holds and whether its boxes sit right."""
    dataset = _open(options, options.split, size=options.size, count=options.count, fit=options.fit)
    _tell(dataset)
    samples = _spread(dataset, options.count)
    count, batch = len(samples), collate(samples)
    sheet = show.contact_sheet(samples, dataset.classes)
    show.save(sheet, options.out)
    per_class = {name: int((batch.labels == i).sum()) for i, name in enumerate(dataset.classes)}
    objects = ", ".join(f"{name} {n}" for name, n in per_class.items())
    print(f"{count} of {len(dataset)} pictures ({options.split}) → {options.out}; objects: {objects}")
    if options.anchors:
        _report_anchors(options, dataset)


def _report_anchors(options: argparse.Namespace, dataset: Any) -> None:
    """`data --anchors`: how the anchors that `train` would take fit the objects, and how others would."""
    maps = [(h, w) for _, h, w in map_shapes(TinyBackbone(), (options.size, options.size))]
    objects = coverage.read_objects(dataset, progress=True)
    suggested = coverage.suggest_anchors(objects.boxes[objects.labels >= 0], maps)
    recipe = train.recipe(options.data)
    sets = {"suggested": suggested, "D2L's (14.7)": TINY_SSD_ANCHORS, "the recipe's": recipe.config.anchors}
    taken = "suggested" if recipe is train.FOLDER_RECIPE else "the recipe's"
    reports = {
        name: coverage.anchor_report(make_anchors(maps, spec), *objects, image_size=options.size)
        for name, spec in sets.items()
    }
    names = [str(entry.image) for entry in getattr(dataset, "entries", ())]
    print(f"\n`train` takes these anchors: {taken}\n{reports[taken].text(dataset.classes, names)}\n")
    for name, fit in reports.items():
        print(f"{name:14}{fit.anchors:7,} anchors fit {fit.recall:6.1%}, mean best IoU {fit.best.mean():.2f}")
    for k, (height, width) in enumerate(maps):
        print(f"suggested for {width} × {height} cells: sizes {_listed(suggested.sizes[k])}")
    print(f"suggested ratios, width : height: {_listed(suggested.ratios[0])}")
    out = Path(options.out)
    out = out.with_name(f"{out.stem}-anchors{out.suffix}")
    show.save(show.plot_coverage(reports[taken], sets[taken]), out)
    print(f"picture: {out}")


# ------------------------------------------------------------------------------------------------- helpers


def report(metrics: Metrics, anchors: AnchorMetrics) -> str:
    """Scores as text: AP first, then D2L's two numbers beside what answering nothing would score."""
    lines = [
        metrics.summary(),
        f"class error {anchors.class_error:.2e} (always background: {anchors.background_class_error:.2e}), "
        f"box MAE {anchors.box_mae:.2e} (always background: {anchors.background_box_mae:.2e})",
        f"anchors holding an object that were classified correctly: {anchors.positive_recall:.1%}",
    ]
    return "\n".join(lines)


def _open(options: argparse.Namespace, split: str, **shape: Any) -> Dataset[Sample]:
    """The data set that was asked for, with the options for folders that were given."""
    chosen = {name: getattr(options, name, None) for name in FOLDER_OPTIONS}
    own = {name: value for name, value in chosen.items() if value not in (None, False)}
    return open_data(options.data, split, seed=options.data_seed, **shape, **own)


def _use_classes(dataset: Any, classes: tuple[str, ...], options: argparse.Namespace) -> None:
    """Let labels mean the model's classes; a folder need not hold all of them, but none beside them."""
    if tuple(dataset.classes) == classes:
        return
    if not isinstance(dataset, AnnotatedPictures) or not {*dataset.classes} <= {*classes}:
        raise ValueError(
            f"{options.model} finds {', '.join(classes)}, but {options.data} holds "
            f"{', '.join(dataset.classes)}: score it on data of its own classes"
        )
    dataset.classes = classes


def _tell(*datasets: Any) -> None:
    """Say what the data sets do not use, each thing once."""
    for note in dict.fromkeys(note for data in datasets for note in getattr(data, "notes", ())):
        _say(note)
    _tell_skipped([fault for data in datasets for fault in getattr(data, "skipped", ())])


def _tell_skipped(faults: Sequence[str]) -> None:
    faults = list(dict.fromkeys(faults))
    if faults:
        _say(f"skipped {len(faults)} faults:")
    for fault in faults:
        _say(f"  {' '.join(fault.split())}")


def _feeds(options: argparse.Namespace, *datasets: Dataset[Sample]) -> list[Feed]:
    """The data sets in memory if all fit there, otherwise as they are read."""
    sizes = [picture_bytes(data) for data in datasets]
    if options.stream or not fits_in_memory(datasets[0], others=sum(sizes[1:])):
        _say(f"{sum(sizes) / 2**20:,.0f} MB of pictures are read while they are used")
        return [Streamed(data, options.workers) for data in datasets]
    progress = not options.quiet and distributed.speaks()
    return [Held(load(data, options.workers, progress=progress)) for data in datasets]


def _spread(dataset: Dataset[Sample], count: int) -> list[Sample]:
    """Some samples from the first to the last: folders are often sorted by class."""
    chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().int()
    return [dataset[i] for i in chosen.tolist()]


def _pictures(names: Sequence[str]) -> list[Path]:
    """The picture files, and those in the folders, or below where a folder holds none itself."""
    paths: list[Path] = []
    for path in map(Path, names):
        if not path.is_dir():
            paths.append(path)
            continue
        found = on_disk.files(path, SUFFIXES)
        found = found or [p for folder in on_disk.folders(path) for p in on_disk.files(folder, SUFFIXES)]
        if not found:
            raise ValueError(f"the folder {path} holds no pictures: name another, or picture files")
        paths += found
    return paths


def _config(config: train.TrainConfig, options: argparse.Namespace) -> train.TrainConfig:
    """A recipe's configuration with what the command line changes."""
    chosen = {k: v for k, v in vars(options).items() if v is not None}
    own = {k: chosen[k] for k in asdict(config) if k in chosen}
    loss = {k: chosen[k] for k in asdict(config.loss) if k in chosen}
    if options.all_negatives:
        loss["negatives"] = None
    if options.no_augment:
        own["augment"] = None
    return replace(config, **own, loss=replace(config.loss, **loss))


def _tailored(
    recipe: train.Recipe, config: train.TrainConfig, options: argparse.Namespace, feed: Feed, classes: Any
) -> tuple[train.TrainConfig, Any]:
    """The configuration for a folder and the network to begin with; a preset's stays as it is."""
    size = options.size or recipe.image_size
    own = options.backbone and timm_backbone(
        options.backbone, weights=options.backbone_weights, image_size=size
    )
    folder = recipe is train.FOLDER_RECIPE
    if not folder and own is None and options.start is None:
        return config, None
    config, model = tailor(
        config,
        feed.truth(),
        size,
        classes,
        start=options.start or (STARTS[0] if folder else "none"),
        backbone=own,
        suggest=folder and not options.fixed_anchors,
        scale_epochs=folder and "epochs" not in options,
    )
    return replace(config, eval_every=getattr(options, "eval_every", config.eval_every)), model


def _model(options: argparse.Namespace) -> tuple[Any, checkpoint.ModelInfo]:
    return checkpoint.load_model(options.model, runtime.pick_device(options.device))


def _detection(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `detect.detect` that were given."""
    chosen = {"iou_threshold": options.iou, "soft": options.soft}
    return {k: v for k, v in chosen.items() if v is not None} | {"class_aware": not options.class_agnostic}


def _model_name(path: Path) -> str:
    """What to call a model: "bananas" for runs/bananas/best.safetensors."""
    return path.resolve().parent.name if path.name in (train.BEST, train.LAST) else path.stem


def _samples(options: argparse.Namespace, size: tuple[int, int]) -> list[Sample]:
    """The first validation pictures of --data, for a page to begin with."""
    dataset = open_data(options.data, "val", size=size[0], count=options.count)
    return [dataset[i] for i in range(min(options.count, len(dataset)))]


def _wrote(path: Path, what: str) -> None:
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {what}")


def _in_pixels(found: Detections, width: int, height: int, classes: Sequence[str]) -> list[dict[str, Any]]:
    scale = torch.tensor([width, height, width, height], dtype=torch.float64)
    boxes = (found.boxes.cpu().double() * scale).tolist()
    rows = zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        {"class": classes[c], "score": round(s, 4), "box": [round(v, 1) for v in box]} for box, s, c in rows
    ]


def _output_names(paths: Sequence[Path], folder: Path) -> dict[Path, str]:
    """A file name for every picture's results; pictures of one name in different folders get numbers.

    Raises ValueError when a result in `folder` would replace one of the pictures.
    """
    names: dict[Path, str] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in names.values():
            name, number = f"{path.stem}-{number}", number + 1
        names.setdefault(path, name)
    results = {(folder / f"{name}.png").resolve() for name in names.values()}
    for path in paths:
        if path.resolve() in results:
            raise ValueError(f"{path} would be replaced by a result: choose another folder with --out")
    return names


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    checkpoint.write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())


def _say(text: str) -> None:
    if distributed.speaks():
        print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------- options


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help text, line breaks as written."""


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="d2lmini",
        description="Train, score and use a single-shot detector.",
        epilog="d2lmini COMMAND --help tells the options of a command.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_detect(commands)
    _add_data(commands)
    _add_export(commands)
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, formatter_class=_Formatter)
    parser.set_defaults(run=run)
    return parser


def _add_train(commands: Any) -> None:
    p = _command(commands, "train", run_train, "train a detector and keep its best checkpoint")
    _data_options(p)
    p.add_argument("--out", required=True, metavar="FOLDER", help="where checkpoints and pictures go")
    p.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    p.add_argument("--size", type=_positive, help="side of the pictures in pixels (by the recipe)")
    p.add_argument("--fit", choices=FITS, default="stretch", help=_FIT_HELP)
    p.add_argument("--count", type=_positive, help="generated training pictures (by the recipe)")
    p.add_argument("--validation-count", type=_positive, help="generated validation pictures (200)")
    g = p.add_argument_group("recipe (what is left out follows the data's recipe)")
    default = argparse.SUPPRESS
    for name, kind, text in (
        ("epochs", int, "passes over the training pictures"),
        ("batch-size", int, "pictures a step"),
        ("lr", float, "peak learning rate"),
        ("weight-decay", float, "of convolutions"),
        ("eval-every", int, "score after every so many epochs"),
        ("patience", int, "stop after so many scores without a better AP"),
        ("seed", int, "of weights, order and augmentation"),
        ("sigma", float, "σ of smooth L1"),
        ("gamma", float, "γ of focal loss"),
        ("alpha", float, "α of focal loss: weight of the foreground"),
        ("negatives", float, "hard negatives per positive (of a folder: 3)"),
        ("cls-weight", float, "weight of the class loss"),
        ("box-weight", float, "weight of the box loss"),
    ):
        g.add_argument(f"--{name}", type=kind, help=text, default=default)
    g.add_argument("--optimiser", choices=train.OPTIMISERS, default=default)
    g.add_argument("--cls", choices=CLASS_LOSSES, help="class loss", default=default)
    g.add_argument("--box", choices=BOX_LOSSES, help="box loss", default=default)
    g.add_argument("--fixed-anchors", action="store_true", help="of a folder: not those of its boxes")
    g.add_argument(
        "--all-negatives", action="store_true", help="no mining: every anchor counts (generated sets)"
    )
    g.add_argument("--no-augment", action="store_true", help="pictures as they are")
    g = p.add_argument_group("network")
    g.add_argument("--start", choices=STARTS, help=f"whose trunk to begin with (folders: {STARTS[0]})")
    g.add_argument("--backbone", metavar="NAME", help="a network of timm in the trunk's place")
    g.add_argument("--backbone-weights", metavar="FILE", help="its weights, safetensors (random)")
    _speed_options(p)
    _machine_options(p)


def _add_evaluate(commands: Any) -> None:
    p = _command(commands, "evaluate", run_evaluate, "score a checkpoint on annotated pictures")
    _model_option(p)
    _data_options(p)
    p.add_argument("--split", choices=_SPLITS, default="val")
    p.add_argument("--count", type=_positive, help="generated pictures (200)")
    p.add_argument("--json", metavar="FILE", help="write every number there too")
    _detection_options(p, score=0.4)
    _machine_options(p)


def _add_detect(commands: Any) -> None:
    p = _command(commands, "detect", run_detect, "find objects in your own pictures")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="picture files of any size, or folders of them")
    p.add_argument("--skip-bad", action="store_true", help="go on where a picture cannot be read")
    _model_option(p)
    p.add_argument("--out", default="detections", metavar="FOLDER", help="where PNG and JSON files go")
    p.add_argument(
        "--as-trained", action="store_true", help="weights as trained, not as `export` rounds them for use"
    )
    _detection_options(p, score=0.4)
    _machine_options(p)
    p.set_defaults(precision="float32")  # so that a web page of this detector finds the same boxes


def _add_data(commands: Any) -> None:
    p = _command(commands, "data", run_data, "draw a contact sheet of a data set with its boxes")
    p.add_argument("data", nargs="?", default="bananas", help=_DATA_HELP)
    _folder_options(p)
    p.add_argument("--fit", choices=FITS, default="stretch", help=_FIT_HELP)
    p.add_argument("--out", default="data.png", metavar="FILE", help="the contact sheet")
    p.add_argument("--split", choices=_SPLITS, default="train")
    p.add_argument("--count", type=_positive, default=SHOWN, help="pictures on the sheet")
    p.add_argument("--size", type=_positive, default=256, help="side of the pictures in pixels")
    p.add_argument(
        "--anchors", action="store_true", help="report which anchors fit the objects, and how well"
    )


def _add_export(commands: Any) -> None:
    p = _command(
        commands, "export", run_export, "write a checkpoint for use elsewhere: web page, ONNX, Python"
    )
    _model_option(p)
    p.add_argument("--out", metavar="FOLDER", help="inference checkpoint and weights script (export)")
    p.add_argument("--page", metavar="FILE", help="one HTML file that holds the detector, ready to use")
    p.add_argument("--onnx", metavar="FILE", help="an ONNX file, boxes decoded, without NMS")
    p.add_argument("--name", help="what the files are called (by the model)")
    p.add_argument("--data", help=f"for --page, where its first pictures come from: {_DATA_HELP}")
    p.add_argument("--count", type=_positive, default=4, help="how many of them")


_DATA_HELP = f"{', '.join(PRESETS)} (generated), {PHOTOGRAPHS} (downloaded), or a folder, VOC or COCO"
_FIT_HELP = "how photographs get into the square: sides on their own, or in shape with bands beside them"
_SPLITS = ("train", "val", "test", "all")


def _positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a whole number from 1")
    return number


def _count(text: str) -> int:
    """A whole number from 0, for argparse."""
    return _positive(text) if int(text) else 0


def _data_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", default="bananas", help=_DATA_HELP)
    _folder_options(p)
    p.add_argument("--stream", action="store_true", help="do not hold the pictures in memory (if they fit)")
    p.add_argument("--workers", type=_count, help="processes that read pictures (one per core)")


def _folder_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data-seed", type=int, default=0, help="of the generated pictures or the split")
    g = p.add_argument_group("folders")
    g.add_argument("--classes", nargs="+", metavar="NAME", help="in the order of their labels (all, sorted)")
    g.add_argument("--val-share", type=float, help="of an undivided folder, for validation (0.2)")
    for split in ("train", "val"):
        g.add_argument(f"--{split}-list", metavar="FILE", help=f"the pictures for {split}, one a line")
    g.add_argument("--difficult", action="store_true", help="keep objects marked as difficult or crowd")
    g.add_argument("--skip-bad", action="store_true", help="leave out what is faulty, and say so")


def _model_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", default=DEFAULT_MODEL, metavar="FILE", help="a checkpoint of `train`")


def _detection_options(p: argparse.ArgumentParser, score: float) -> None:
    p.add_argument("--score", type=float, default=score, help="least score of a detection")
    p.add_argument("--iou", type=float, help="NMS removes boxes that overlap a better one more (0.45)")
    p.add_argument("--soft", choices=SOFT, help="Soft-NMS instead of hard NMS")
    p.add_argument("--class-agnostic", action="store_true", help="boxes of all classes compete in NMS")


def _speed_options(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("how it runs (torchrun --nproc-per-node=N -m d2lmini train … uses N devices)")
    for name, text in (
        ("compile", "the network through torch.compile"),
        ("graph", "record a step as a CUDA graph and replay it"),
        ("deterministic", "equal bits in every run on one device; slower on a GPU"),
        ("sync-batch-norm", "normalise by the batches of all ranks, not by each rank's own"),
    ):
        g.add_argument(f"--{name}", action="store_true", help=text, default=argparse.SUPPRESS)


def _machine_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--precision", choices=runtime.PRECISIONS, default="auto")
    p.add_argument("--quiet", action="store_true", help="no progress bars")


if __name__ == "__main__":
    sys.exit(main())
