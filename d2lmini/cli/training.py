"""The command `train`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from d2lmini import checkpoint, inspect, plots, train, transfer
from d2lmini.cli.console import say, tell
from d2lmini.cli.shared import (
    CONFIDENT,
    SHOWN,
    chosen,
    is_folder,
    open_sets,
    report,
    require_objects,
    save_sheet,
    sources_of,
)
from d2lmini.data import sources
from d2lmini.data.output import results_folder
from d2lmini.engine import devices, distributed, state
from d2lmini.engine.validation import validate
from d2lmini.interop import timm
from d2lmini.losses import LossConfig
from d2lmini.model import TinySSD
from d2lmini.train import TrainConfig

FAR = 0.7  # a frozen head with less than so much of the AP after fine-tuning is worth a word


def run_train(options: Namespace) -> None:
    """Train, then write learning curves, detections and scores.

    Started by torchrun, every rank does this; the first one prints, writes and draws.
    """
    out, options.start = Path(options.out), _start(options)
    recipe = transfer.recipe(options.data, options.start)
    options.quiet |= not distributed.is_main_process()
    loss = replace(recipe.config.loss, **chosen(LossConfig, options))
    config = replace(recipe.config, **chosen(TrainConfig, options), loss=loss)
    counts = {"train": options.count or recipe.count, "val": options.validation_count}
    size = options.size or recipe.image_size
    begun = not distributed.is_main_process() or (out / state.LAST).exists()
    if not begun:
        results_folder(out)
    training, validation = open_sets(options, counts, size=size, resize_mode=config.resize_mode)
    require_objects(training, options)
    if not begun:
        save_sheet(training, SHOWN, out / "data.png")
        say(f"are the boxes right? {out / 'data.png'}")
    source, held_out = sources_of(options, training, validation)
    source.split_record = training.split_record
    if options.learning_curve and options.start != "everyday":
        raise ValueError("--learning-curve trains heads on frozen features: it needs --start everyday")
    if options.start == "everyday":
        return _train_photographs(options, config, source, held_out, training.classes)
    config, model = _configure(options, config, source, training.classes)
    device = devices.pick_device(distributed.local_device(config.device))
    precision = str(devices.pick_precision(config.precision, device)).removeprefix("torch.")
    ranks = distributed.launched_ranks().world_size
    where = f"{ranks} × {device.type}" if ranks > 1 else device.type
    amount = f"{len(source)} + {len(held_out)} images, {config.epochs} epochs"
    say(f"training on {where} in {precision}: {amount}; Ctrl-C saves and stops")
    run = {"model": model, "out": out, "resume": options.resume, "progress": not options.quiet}
    result = train.fit(source, held_out, training.classes, config, **run)
    if distributed.is_main_process():
        say(f"data loading: {source.loading_fraction:.1%} of the time")
        plots.save(plots.plot_history(result.history), out / "curves.png")
        _report_best(held_out, config, device, out)
        tell(f"best model (epoch {result.best_epoch}): {out / state.BEST}")
        tell(f"images: {out / 'data.png'}, {out / 'curves.png'}, {out / 'detections.png'}")


def _start(options: Namespace) -> str | None:
    """What to start from: for a folder "everyday", unless an option or an old run speaks against it."""
    if options.start or not is_folder(options):
        return options.start
    out = Path(options.out)
    begun = options.resume and (out / state.LAST).exists() and not (out / transfer.HEAD).exists()
    other = options.backbone or options.backbone_weights or options.fixed_anchors or begun
    return "scenes" if other or distributed.launched_ranks().world_size > 1 else "everyday"


def _train_photographs(
    options: Namespace,
    config: TrainConfig,
    source: sources.BatchSource,
    held_out: sources.BatchSource,
    classes: Sequence[str],
) -> None:
    """Train from "everyday": a head on frozen features, then all weights; say which of them is better."""
    if distributed.launched_ranks().world_size > 1:
        raise ValueError("--start everyday trains in one process: leave torchrun out")
    for option in ("backbone", "backbone_weights", "fixed_anchors"):
        if getattr(options, option):
            raise ValueError(f"--{option.replace('_', '-')} needs --start scenes or none, not everyday")
    out, device = Path(options.out), devices.pick_device(config.device)
    epochs = vars(options).get("epochs") if options.finetune is None else options.finetune
    stages = {"views": options.views, "finetune": epochs, "resume": options.resume}
    say(f"training on {device.type}: {len(source)} + {len(held_out)} images; Ctrl-C saves and stops")
    run = {"out": out, "progress": not options.quiet}
    if options.learning_curve:
        run |= {"out": out / "learning-curve.json", "views": options.views}
        curve = inspect.learning_curve(source, held_out, classes, config, **run)
        plots.save(plots.plot_learning_curve(curve), out / "learning-curve.png")
        tell(f"{curve.text()}\nimage: {out / 'learning-curve.png'}")
        return
    results = transfer.fit_photographs(source, held_out, classes, config, **stages, **run)
    for stage, result in results.items():
        best = result.history[(result.best_epoch or 0) - 1]  # without a score the last
        scores = f"AP50 {best['ap50']:.3f}, AP {best['ap']:.3f}" if result.best_epoch else "no score"
        seconds = sum(row["seconds"] for row in result.history)
        say(f"{stage}: {scores}, {seconds:.0f} s of training")
        plots.save(plots.plot_history(result.history), out / f"curves-{stage}.png")
    aps = [transfer.best_ap(result) for result in results.values()]
    if 0 <= aps[0] < FAR * aps[-1]:
        say("the frozen backbone alone does not tell these objects apart: fine-tuning is needed")
    _report_best(held_out, config, device, out)
    tell(f"best model ({transfer.best_stage(results)}): {out / state.BEST}")
    drawn = ("data", *(f"curves-{stage}" for stage in results), "detections")
    tell(f"images: {', '.join(str(out / f'{name}.png') for name in drawn)}")


def _configure(
    options: Namespace, config: TrainConfig, source: sources.BatchSource, classes: Sequence[str]
) -> tuple[TrainConfig, TinySSD | None]:
    """The configuration and the network to begin with, fitted to a folder; a preset's stay as they are."""
    folder, backbone = is_folder(options), None
    if options.backbone:
        more = {"weights": options.backbone_weights, "image_size": source.image_size[0]}
        backbone = timm.timm_backbone(options.backbone, **more)
    elif options.backbone_weights:
        raise ValueError("--backbone-weights are those of a network of timm: name it with --backbone")
    elif not folder and options.start is None:
        return config, None
    fitted, model = transfer.configure_for_dataset(
        config,
        source.ground_truth(),
        source.image_size,
        classes,
        start=options.start or "none",
        backbone=backbone,
        suggest=folder and not options.fixed_anchors,
        scale_epochs=folder and "epochs" not in options,
    )
    return replace(fitted, eval_every=getattr(options, "eval_every", fitted.eval_every)), model


def _report_best(source: sources.BatchSource, config: TrainConfig, device: torch.device, out: Path) -> None:
    """Score the best model as training did, and draw what it finds."""
    model, info = checkpoint.load_model(out / state.BEST, device)
    thresholds = {"match_iou_threshold": config.iou_threshold, "precision": config.precision}
    result = validate(model, source, info.classes, **thresholds)
    first = next(source.in_order(SHOWN))
    samples = [first.sample(i) for i in range(len(first.images))]
    found = [one.at_least(CONFIDENT) for one in result.detections[:SHOWN]]
    plots.save(plots.contact_sheet(samples, info.classes, detections=found), out / "detections.png")
    tell(report(result))
