"""The command line: `d2lmini train | evaluate | detect | data | export`, or `python -m d2lmini …`.

Results go to standard output and files, progress to standard error. Exit codes: 0 done; 1 training gave up;
2 the command, a file or the data is at fault, said in one line; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from d2lmini import inspect, plots, transfer
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors, suggest_anchors
from d2lmini.cli.options import make_parser
from d2lmini.cli.scoring import run_evaluate
from d2lmini.cli.shared import (
    chosen,
    is_folder,
    load_model,
    open_as_trained,
    open_sets,
    save_sheet,
    say,
    write_json,
)
from d2lmini.cli.training import run_train
from d2lmini.data import collate, files, images
from d2lmini.data.detections import Detections
from d2lmini.data.results import coco_results
from d2lmini.detect import DetectConfig, detect
from d2lmini.engine import devices, distributed, state
from d2lmini.engine.validation import predict_batched
from d2lmini.interop import export
from d2lmini.mobilenet import TopDownMobileNetV2
from d2lmini.model import TinyBackbone, TinySSD, map_shapes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = make_parser(COMMANDS).parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", files.DataWarning)  # `_open` says it, and all of it
            options.run(options)
        return 0
    except distributed.RefusedByMain:  # the main process says it
        return 2
    except (state.TrainingDiverged, state.Interrupted) as error:  # of all ranks
        say(f"d2lmini: {error}")
        return 130 if isinstance(error, state.Interrupted) else 1
    except (ValueError, OSError, distributed.RankLost, KeyboardInterrupt) as error:  # of this one
        print(f"d2lmini: {' '.join(str(error).split()) or 'stopped'}", file=sys.stderr)
        return {distributed.RankLost: 1, KeyboardInterrupt: 130}.get(type(error), 2)


def run_detect(options: Namespace) -> None:
    """Find objects in images of your own; a PNG with boxes and a JSON file for each."""
    model, info = load_model(options.model, devices.pick_device(options.device))
    model, out = export.inference_model(model), Path(options.out)
    files.mark_as_results(out)
    faults: list[str] | None = [] if options.skip_bad else None
    results: list[dict[str, Any]] = []
    for name, path in _image_files(options.images, out).items():
        with files.skipping(faults):
            image = images.read_image(path)
            found = _find(model, image, info.resize_mode, options)
            plots.save(plots.annotate(image, found, info.classes), out / f"{name}.png")
            rows = _rows(found, image.size, info.classes)
            record = {"image": str(path), "width": image.width, "height": image.height, "detections": rows}
            write_json(out / f"{name}.json", record)
            results += coco_results(found, (image.height, image.width), name, info.classes)
            what = ", ".join(f"{row['class']} {row['score']:.2f}" for row in rows)
            print(f"{path}: {what or 'nothing found'} → {out / name}.png")
    if options.coco:
        write_json(Path(options.coco), results)
    for fault in faults or ():
        say(f"skipped: {fault}")


def _image_files(arguments: Sequence[str], out: Path) -> dict[str, Path]:
    """Image files, and those in folders (or below, where a folder has none itself), by their results' names.

    Images of one name get numbers. Raises ValueError when a result in `out` would replace an image.
    """
    found: dict[str, Path] = {}
    for argument in map(Path, arguments):
        paths = [argument]
        if argument.is_dir():
            suffixes = files.IMAGE_SUFFIXES
            paths = files.files(argument, suffixes) or files.files_below(argument, suffixes)
        if not paths:
            raise ValueError(f"the folder {argument} holds no images: name another, or image files")
        for path in paths:
            names = itertools.chain([path.stem], (f"{path.stem}-{i}" for i in itertools.count(2)))
            found[next(name for name in names if found.get(name, path) == path)] = path
    results = {(out / f"{name}.png").resolve() for name in found}
    for path in found.values():
        if path.resolve() in results:
            raise ValueError(f"{path} would be replaced by a result: choose another folder with --out")
    return found


def _find(model: TinySSD, image: Image.Image, resize_mode: str, options: Namespace) -> Detections:
    """What the model finds in an image, as a fraction of the image: read in full, as a web page does."""
    pixels = images.to_tensor(image, model.image_size, resize_mode)
    predictions = predict_batched(model, pixels.unsqueeze(0), precision=options.precision)
    thresholds = {"score_threshold": options.score, **chosen(DetectConfig, options)}
    thresholds["score_function"] = model.score_function
    (found,) = detect(*predictions, model.anchors, **thresholds)
    boxes = images.placement(image.size, model.image_size, resize_mode).out_of_square(found.boxes)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # not those in a band beside the image
    return replace(found, boxes=boxes)[inside]


def _rows(found: Detections, size: tuple[int, int], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Detections for JSON, in pixels of an image of `size` (width, height)."""
    pixels = replace(found, boxes=found.boxes.cpu().double() * torch.tensor(size * 2))
    return [
        {"class": classes[label], "score": round(score, 4), "box": [round(edge, 1) for edge in box]}
        for box, score, label in zip(*(t.tolist() for t in pixels), strict=True)
    ]


def run_data(options: Namespace) -> None:
    """Draw a contact sheet with boxes, to see what a data set holds and whether its boxes sit right."""
    if options.size is None:
        options.size = transfer.recipe("", "everyday" if is_folder(options) else None).image_size
    shape = {"size": options.size, "resize_mode": options.resize_mode}
    (dataset,) = open_sets(options, {options.split: options.count}, **shape)
    samples = save_sheet(dataset, options.count, options.out)
    labels = collate(samples).labels
    objects = ", ".join(f"{name} {int((labels == i).sum())}" for i, name in enumerate(dataset.classes))
    print(f"{len(samples)} of {len(dataset)} images ({options.split}) → {options.out}; objects: {objects}")
    if options.anchors:
        _report_anchors(options, dataset)


def _report_anchors(options: Namespace, dataset: Any) -> None:
    """How the anchors that `train` would take fit the objects, and how others would."""
    backbone = TopDownMobileNetV2() if is_folder(options) else TinyBackbone()
    maps = [(h, w) for _, h, w in map_shapes(backbone, (options.size, options.size))]
    objects, recipe = inspect.read_objects(dataset, progress=True), transfer.recipe(options.data)
    suggested = suggest_anchors(objects.boxes[objects.labels >= 0], maps)
    specs = {"suggested": suggested, "D2L's (14.7)": TINY_SSD_ANCHORS, "the recipe's": recipe.config.anchors}
    reports = {
        name: inspect.anchor_report(make_anchors(maps, spec), *objects, image_size=options.size)
        for name, spec in specs.items()
    }
    taken = "suggested" if is_folder(options) else "the recipe's"
    names = [str(entry.image) for entry in getattr(dataset, "entries", ())]
    print(f"\n`train` takes these anchors: {taken}\n{reports[taken].text(dataset.classes, names)}\n")
    for name, fit in reports.items():
        print(f"{name:14}{fit.anchors:7,} anchors fit {fit.recall:6.1%}, mean best IoU {fit.best.mean():.2f}")
    out = Path(options.out).with_stem(f"{Path(options.out).stem}-anchors")
    plots.save(plots.plot_coverage(reports[taken], specs[taken]), out)
    print(f"suggested: {suggested}\nimage: {out}")


def run_export(options: Namespace) -> None:
    """Write a checkpoint as files for use elsewhere: Python, web pages, ONNX."""
    model, info = load_model(options.model)
    path, written = Path(options.model), {}
    if options.out or not (options.page or options.onnx):
        folder = Path(options.out or "export")
        folder.mkdir(parents=True, exist_ok=True)
        name = path.resolve().parent.name if path.name in (state.BEST, state.LAST) else path.stem
        export.save_inference(folder / f"{name}.safetensors", model, info)
        written[folder / f"{name}.safetensors"] = "for Python"
        try:
            written[export.save_weights_script(folder, model, info, name)] = "for web pages"
        except export.ExportError as error:
            say(f"not for web pages: {error}")
    if options.page:
        samples = []
        if options.data:
            dataset = open_as_trained(options, model, info)
            samples = [dataset[i] for i in range(min(options.count, len(dataset)))]
        export.save_page(options.page, model, info, samples)
        written[Path(options.page)] = "a page to open or to send"
    if options.onnx:
        export.save_onnx(options.onnx, model, info)
        written[Path(options.onnx)] = f"ONNX, opset {export.OPSET}"
    for path, what in written.items():
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {what}")


COMMANDS = {"train": run_train, "evaluate": run_evaluate, "detect": run_detect, "data": run_data}
COMMANDS["export"] = run_export
