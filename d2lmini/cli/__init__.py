"""The command line: `d2lmini train | evaluate | detect | data | export | doctor`, or `python -m d2lmini …`.

Results go to standard output and files, progress to standard error. Exit codes: 0 done; 1 training gave up,
or `doctor` found what must be mended; 2 the command, a file or the data is at fault, said in one line;
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import itertools
import re
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from d2lmini import inspect, plots, transfer
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors, suggest_anchors
from d2lmini.cli.console import any_terminal, complain, say, tell
from d2lmini.cli.doctor import run_doctor
from d2lmini.cli.options import make_parser
from d2lmini.cli.scoring import run_evaluate
from d2lmini.cli.shared import (
    chosen,
    is_folder,
    load_model,
    open_as_trained,
    open_sets,
    require_objects,
    save_sheet,
    write_json,
)
from d2lmini.cli.training import run_train
from d2lmini.data import collate, convert, entries, files, images, sources
from d2lmini.data.detections import Detections
from d2lmini.data.output import check_file, results_folder
from d2lmini.data.results import coco_results
from d2lmini.detect import DetectConfig, detect
from d2lmini.engine import devices, distributed, interrupts, state
from d2lmini.engine.validation import predict_batched
from d2lmini.interop import export
from d2lmini.mobilenet import TopDownMobileNetV2
from d2lmini.model import TinyBackbone, TinySSD, map_shapes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    interrupts.as_usual()
    with any_terminal():
        return _run(make_parser(COMMANDS).parse_args(arguments))


def _run(options: Namespace) -> int:
    try:
        torch.set_num_threads(min(torch.get_num_threads(), sources.usable_cores()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", files.DataWarning)  # `open_sets` says it, and all of it
            return options.run(options) or 0
    except BrokenPipeError:  # of a progress bar: nobody looks any more
        return 0
    except distributed.RefusedByMain:  # the main process says it
        return 2
    except (state.TrainingDiverged, state.Interrupted) as error:  # of all ranks
        say(f"d2lmini: {error}")
        return 130 if isinstance(error, state.Interrupted) else 1
    except (ValueError, OSError, distributed.RankLost, KeyboardInterrupt) as error:  # of this one
        complain(f"d2lmini: {str(error) or 'stopped'}")
        return {distributed.RankLost: 1, KeyboardInterrupt: 130}.get(type(error), 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|n't allocate memory", str(error)):
            raise
        remedy = "a smaller --batch-size or --size, fewer --workers, or --stream"
        complain(f"d2lmini: the memory is not enough: try {remedy}")
        return 2


def run_detect(options: Namespace) -> None:
    """Find objects in images of your own; a PNG with boxes and a JSON file for each."""
    model, info = load_model(options.model, devices.pick_device(options.device))
    model, out = export.inference_model(model), results_folder(options.out)
    if options.coco:
        check_file(options.coco)
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
            tell(f"{path}: {what or 'nothing found'} → {out / name}.png")
    if options.coco:
        write_json(Path(options.coco), results)
    for fault in faults or ():
        say(f"skipped: {fault}")


def _image_files(arguments: Sequence[str], out: Path) -> dict[str, Path]:
    """Image files, and those in folders and below, by their results' names.

    Images of one name get numbers. What is skipped in folders is said. Raises ValueError when a result in
    `out` would replace an image.
    """
    found: dict[str, Path] = {}
    for argument in map(Path, arguments):
        paths = [argument]
        if argument.is_dir():
            there = files.files_below(argument, None)
            paths = [path for path in there if path.suffix.lower() in files.IMAGE_SUFFIXES]
            if others := Counter(path.suffix.lower() or path.name for path in {*there} - {*paths}):
                what = ", ".join(f"{count} {ending}" for ending, count in others.most_common(6))
                say(f"{argument}: skipped, as they are no images: {what}")
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
    if options.convert:
        return _convert(options, *options.convert)
    if options.size is None:
        options.size = transfer.recipe("", "everyday" if is_folder(options) else None).image_size
    shape = {"size": options.size, "resize_mode": options.resize_mode}
    check_file(options.out)
    (dataset,) = open_sets(options, {options.split: options.count}, **shape)
    samples = save_sheet(dataset, options.count, options.out)
    labels = collate(samples).labels
    objects = ", ".join(f"{name} {int((labels == i).sum())}" for i, name in enumerate(dataset.classes))
    tell(f"{len(samples)} of {len(dataset)} images ({options.split}) → {options.out}; objects: {objects}")
    if options.anchors:
        _report_anchors(options, dataset)


def _convert(options: Namespace, form: str, out: str) -> None:
    """Write a folder in another form, and say what it leaves out."""
    if not is_folder(options):
        raise ValueError(f"--convert writes folders anew, but {options.data} is not one: give a folder")
    how = entries.LoadOptions(options.difficult, [] if options.skip_bad else None)
    counts = convert.convert(options.data, form, out, options.classes, how)
    for note in dict.fromkeys([*how.notes, *(f"skipped: {fault}" for fault in how.faults or ())]):
        say(note)
    print(f"{', '.join(f'{part} {count} images' for part, count in counts.items())} → {out}")


def _report_anchors(options: Namespace, dataset: Any) -> None:
    """How the anchors that `train` would take fit the objects, and how others would."""
    require_objects(dataset, options)
    backbone = TopDownMobileNetV2() if is_folder(options) else TinyBackbone()
    maps = [(h, w) for _, h, w in map_shapes(backbone, (options.size, options.size))]
    objects, recipe = inspect.read_objects(dataset, progress=True), transfer.recipe(options.data)
    suggested = suggest_anchors(objects.boxes[objects.labels >= 0], maps)
    specs = {"suggested": suggested, "D2L's (14.7)": TINY_SSD_ANCHORS, "the recipe's": recipe.config.anchors}
    anchors = {name: make_anchors(maps, spec) for name, spec in specs.items()}
    taken = "suggested" if is_folder(options) else "the recipe's"
    names = [str(entry.image) for entry in getattr(dataset, "entries", ())]
    report = inspect.anchor_report(anchors[taken], *objects, image_size=options.size)
    tell(f"\n`train` takes these anchors: {taken}\n{report.text(dataset.classes, names)}\n")
    for name, laid in anchors.items():
        best = report.best if name == taken else inspect.best_iou(laid, report.boxes)
        fitted = float((best >= report.iou_threshold).float().mean())
        tell(f"{name:14}{len(laid):7,} anchors fit {fitted:6.1%}, mean best IoU {best.mean():.2f}")
    out = Path(options.out).with_stem(f"{Path(options.out).stem}-anchors")
    plots.save(plots.plot_coverage(report, specs[taken]), out)
    tell(f"suggested: {suggested}\nimage: {out}")


def run_export(options: Namespace) -> None:
    """Write a checkpoint as files for use elsewhere: Python, web pages, ONNX."""
    model, info = load_model(options.model)
    path, written = Path(options.model), {}
    for file in filter(None, (options.page, options.onnx)):
        check_file(file)
    if options.out or not (options.page or options.onnx):
        folder = results_folder(options.out or "export")
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
        tell(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {what}")


COMMANDS = {"train": run_train, "evaluate": run_evaluate, "detect": run_detect, "data": run_data}
COMMANDS |= {"export": run_export, "doctor": run_doctor}
