"""The command `evaluate`: scores, how far they can be trusted, and which of two models is better."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from d2lmini import errors, inspect, plots, transfer
from d2lmini.cli.console import say, tell
from d2lmini.cli.shared import (
    anchor_text,
    chosen,
    is_folder,
    load_model,
    open_as_trained,
    open_sets,
    sources_of,
    write_json,
)
from d2lmini.data import results
from d2lmini.data.output import check_file, results_folder
from d2lmini.data.samples import GroundTruth
from d2lmini.data.sources import BatchSource
from d2lmini.detect import DetectConfig, Detections
from d2lmini.engine import devices
from d2lmini.engine.validation import Validation, validate
from d2lmini.evaluate import Judged, Metrics, evaluate, judge, nan_to_none
from d2lmini.inspect.intervals import NUMBERS, Interval
from d2lmini.inspect.thresholds import confusion_text

LISTED = 20  # suspects that are printed and drawn
SHOWN = 5  # images at each end of a comparison
READ_SIZE = 32  # pixels: only the boxes of these images are needed
MOST_CLASSES = 10  # of a confusion matrix that is printed


class Scored(NamedTuple):
    """Detections beside the objects of their images; of a model also the images."""

    classes: Sequence[str]
    detections: list[Detections]
    truth: GroundTruth
    image_size: Any
    source: BatchSource | None = None
    validation: Validation | None = None
    names: Sequence[str] = ()

    def judge(self) -> Judged:
        return judge(self.detections, *self.truth, classes=self.classes, image_size=self.image_size)


def run_evaluate(options: Namespace) -> None:
    """Score a checkpoint on annotated images."""
    if options.json:
        check_file(options.json)
    if options.compare:
        return _compare(options)
    if options.suspects:
        return _suspects(options)
    scored = _read(options) if options.predictions else _score(options, options.model)
    judged = scored.judge()
    result, parts = _measure(scored, judged, options.score)
    tell(_text(result, parts, options.score))
    if scored.validation:
        tell(anchor_text(scored.validation))
        parts["anchors"] = scored.validation.anchors.as_dict()
    if options.out:
        results_folder(options.out)
        found = {"confusion": plots.plot_confusion(np.array(parts["confusion"]), scored.classes)}
        found["calibration"] = plots.plot_calibration(inspect.calibration(judged))
        for name, figure in found.items():
            plots.save(figure, Path(options.out) / f"{name}.png")
        tell(f"images: {', '.join(str(Path(options.out) / f'{name}.png') for name in found)}")
    if options.json:
        record = {"model": options.predictions or options.model, "data": options.data}
        record |= {"machine": devices.describe()}
        write_json(Path(options.json), nan_to_none(record | {"metrics": result.as_dict()} | parts))


def _score(options: Namespace, file: str) -> Scored:
    """What a checkpoint finds in the images."""
    options = Namespace(**vars(options) | {"model": file})
    model, info = load_model(file, devices.pick_device(options.device))
    dataset = open_as_trained(options, model, info)
    (source,) = sources_of(options, dataset)
    thresholds = {"match_iou_threshold": options.match_iou, **chosen(DetectConfig, options)}
    result = validate(model, source, info.classes, precision=options.precision, **thresholds)
    names = [entry.image.name for entry in getattr(dataset, "entries", ())]
    found = result.detections, source.ground_truth(), source.image_size
    return Scored(info.classes, *found, source, result, names)


def _read(options: Namespace) -> Scored:
    """The detections of a results file, beside the objects of a folder; sizes are those of the images."""
    if not is_folder(options):
        raise ValueError(
            f"--predictions are scored on a folder, and {options.data} is none: name it with --data"
        )
    (data,) = open_sets(options, {options.split: None}, size=READ_SIZE)
    sizes = results.image_sizes(data)
    found, notes = results.read_results(Path(options.predictions), data, Path(options.data), sizes)
    for note in notes:
        say(note)
    return Scored(data.classes, found, inspect.read_objects(data), torch.tensor(sizes))


def _measure(scored: Scored, judged: Judged, score: float) -> tuple[Metrics, dict[str, Any]]:
    """The scores, and all else that is said of them, for JSON."""
    given = scored.detections, *scored.truth
    metrics = scored.validation.metrics if scored.validation else None
    metrics = metrics or evaluate(*given, classes=scored.classes, image_size=scored.image_size)
    scale = inspect.calibration(judged)
    parts = {
        "intervals": inspect.bootstrap(judged)._asdict() if metrics.images > 1 else None,
        "best_f1": inspect.best_f1(judged)._asdict(),
        "calibration": {"ece": scale.ece} | {n: tuple(v.tolist()) for n, v in scale._asdict().items()},
        "costs": inspect.error_costs(*given),
        "confusion": inspect.confusion_matrix(judged, score).tolist(),
        "errors": errors.error_breakdown(*given, score_threshold=score).as_dict(),
    }
    return metrics, parts


def _text(result: Metrics, parts: dict[str, Any], score: float) -> str:
    """A table of scores and intervals, then a line each of the rest."""
    best, errors_ = parts["best_f1"], parts["errors"]
    rows = {_word(name): Interval(getattr(result, name), np.nan, np.nan) for name in NUMBERS}
    rows |= {f"AP {n}": Interval(one.ap, np.nan, np.nan) for n, one in result.per_class.items()}
    if made := parts["intervals"]:
        rows = _rows(made["overall"], made["per_class"])
    lines = [f"{result.images} images, {result.objects} objects, {result.detections} detections"]
    lines += _table(rows, "score")
    lines.append(
        f"best F1 {_number(best['f1'])} at scores ≥ {_number(best['threshold'])}: precision "
        f"{_number(best['precision'])}, recall {_number(best['recall'])}"
    )
    lines.append(
        f"a score is off by {_number(parts['calibration']['ece'])} from the share that is right (ECE)"
    )
    costs = ", ".join(f"{name} {_number(cost)}" for name, cost in parts["costs"].items())
    lines.append(f"errors cost AP50: {costs}")
    lines.append(f"at scores ≥ {score:g}: {', '.join(f'{k} {n}' for k, n in errors_.items())}")
    if 1 < len(result.per_class) <= MOST_CLASSES:
        lines.append(confusion_text(np.array(parts["confusion"]), list(result.per_class)))
    return "\n".join(lines)


def _rows(overall: dict[str, Interval], per_class: dict[str, dict[str, Interval]]) -> dict[str, Interval]:
    """What stands in a table: all scores, then the AP of each class."""
    rows = {_word(name): made for name, made in overall.items()}
    return rows | {f"AP {name}": made["ap"] for name, made in per_class.items()}


def _word(name: str) -> str:
    return name.upper() if "_" not in name else f"AP, {name.removeprefix('ap_')}"


def _table(rows: dict[str, Interval], head: str, sign: str = "") -> list[str]:
    width = max(map(len, rows))
    lines = [f"{'':<{width}}  {head:>6}  95 % interval"]
    for name, (value, low, high) in rows.items():
        span = "–" if np.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"
        lines.append(f"{name:<{width}}  {_number(value, sign):>6}  {span}")
    return lines


def _number(value: float, sign: str = "") -> str:
    return "–" if np.isnan(value) else f"{value:{sign}.3f}"


def _compare(options: Namespace) -> None:
    """Which of two checkpoints is better on the same images, and which images say so."""
    if len(options.compare) != 2:
        raise ValueError(f"--compare takes two checkpoints, not {len(options.compare)}: name both")
    both = [_score(options, file) for file in options.compare]
    first, second = options.compare
    found = inspect.compare_models(*(scored.judge() for scored in both))
    tell(f"{first} → {second}, {len(found.by_image)} images")
    tell("\n".join(_table(_rows(*found.differences), "gain", "+")))
    tell(found.verdict(first, second))
    order = np.argsort(-found.by_image, kind="stable")
    ends = [ends for ends in (order[:SHOWN], order[::-1][:SHOWN]) if len(ends)]
    names = both[0].names or [str(i) for i in range(len(order))]
    for word, some in zip(("gains most in", "loses most in"), ends, strict=True):
        tell(f"it {word}: {', '.join(f'{names[i]} ({found.by_image[i]:+.4f})' for i in some)}")
    if options.out:
        results_folder(options.out)
        path = Path(options.out) / "compare.png"
        plots.save(_sheet(both, ends, options.score), path)
        tell(f"image: {path}; rows: the first and the second model where it gains, then where it loses")
    if options.json:
        record = {"models": options.compare, "data": options.data, **found.differences._asdict()}
        write_json(Path(options.json), nan_to_none(record | {"by_image": found.by_image.tolist()}))


def _sheet(both: Sequence[Scored], ends: Sequence[np.ndarray], score: float) -> plots.Drawing:
    """Rows of images, each row twice: as the first model and as the second finds it."""
    samples, detections = [], []
    for some in ends:
        for scored in both:
            (batch,) = scored.source.batches([torch.from_numpy(some.copy())])
            samples += [batch.sample(i) for i in range(len(some))]
            detections += [scored.detections[i].at_least(score) for i in some]
    columns = len(ends[0])
    return plots.contact_sheet(samples, both[0].classes, columns=columns, detections=detections, cell=220)


def _suspects(options: Namespace) -> None:
    """Train on parts of the images, look at the others, and name the labels that this contradicts."""
    split, out = "all" if is_folder(options) else options.split, Path(options.out or "suspects")
    size = transfer.recipe("", "everyday").image_size
    (data,) = open_sets(options, {split: options.count}, size=size)
    (source,) = sources_of(options, data)
    found = inspect.out_of_fold(source, data.classes, progress=not options.quiet)
    ranked = inspect.rank_suspects(found, *source.ground_truth())
    names = [entry.image.name for entry in getattr(data, "entries", ())] or list(map(str, range(len(data))))
    for one in ranked[:LISTED]:
        tell(f"{one.score:.2f}  {names[one.image]}: {one.text(data.classes)}")
    results_folder(out)
    (batch,) = source.batches([torch.tensor([one.image for one in ranked[:LISTED]])])
    plots.save(plots.plot_suspects(batch, ranked[:LISTED], data.classes), out / "suspects.png")
    rows = [one._asdict() | {"image": names[one.image], "text": one.text(data.classes)} for one in ranked]
    write_json(Path(options.json or out / "suspects.json"), {"classes": data.classes, "suspects": rows})
    tell(f"image: {out / 'suspects.png'}; all {len(ranked)}: {options.json or out / 'suspects.json'}")
