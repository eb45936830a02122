"""One row: draw the images, train, score, keep. What is kept says how to get it again."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

import d2lmini
from d2lmini import checkpoint, data, train
from d2lmini.data import Batch
from d2lmini.detect import Detections
from d2lmini.engine import devices, state
from d2lmini.engine.features import HeadOnFeatures, freeze_backbone, photograph_model, select_images
from d2lmini.engine.validation import validate
from d2lmini.evaluate import evaluate
from d2lmini.model import TinyBackbone, TinySSD, init_class_bias
from d2lmini.train import Images, TrainConfig
from d2lmini.transfer import FINETUNE, FROZEN, PHOTOGRAPH_RECIPE
from experiments import photographs
from experiments.resample import draw_images, resampled_ap
from experiments.scales import SCALES
from experiments.setting import Changes, Setting, of_training, resolve, slug

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
WORK = ROOT / "runs" / "experiments"  # images, checkpoints, locks: nothing that is committed
FINAL = "final.safetensors"
SIZES_AT = 256
# Options that say where a row ran and how often it was scored: its result does not follow from them.
FREE = ("device", "precision", "channels_last", "disable_malloc_trim", "graph", "eval_every")


@dataclass(frozen=True)
class Row:
    """Names one training run; equal names are equal runs, whichever question asks for them."""

    scale: str
    preset: str
    changes: Changes
    seed: int

    @property
    def name(self) -> str:
        """Scale, preset, changes and seed, as `small/bananas/loss.sigma=2.0-s0`."""
        return f"{self.scale}/{self.preset}/{slug(self.changes)}-s{self.seed}"

    @property
    def setting(self) -> Setting:
        """What is run. Raises ValueError where the scale has no such setting."""
        setting = resolve(SCALES[self.scale], self.preset, self.changes)
        if setting is None:
            raise ValueError(f"{self.name}: images would be too small at this scale")
        return replace(setting, config=replace(setting.config, seed=self.seed))

    @property
    def trained_as(self) -> Row:
        """The row whose network is scored here: this one without what only detection sees."""
        return replace(self, changes=of_training(self.changes))

    def path(self, results: Path = RESULTS) -> Path:
        """The file that keeps the result."""
        return results / f"{self.name}.json"


def read(row: Row, results: Path = RESULTS) -> dict[str, Any] | None:
    """A kept row, or None. Raises ValueError when the file holds another setting than is asked for."""
    path = row.path(results)
    if not path.exists():
        return None
    kept = json.loads(path.read_text("utf8"))
    differing = _differences(kept["setting"], rounded(row.setting.record()))
    if differing:
        raise ValueError(
            f"{path} was computed with another {', '.join(differing)} than is asked for now: compute it "
            f"again (python -m experiments row {row.name} --again), or restore the setting"
        )
    return kept


def _differences(kept: Any, asked: Any, name: str = "") -> list[str]:
    """Names of what differs; an option that only one side knows came later and does not count."""
    if not (isinstance(kept, dict) and isinstance(asked, dict)):
        return [] if kept == asked else [name]
    return [
        difference
        for key in kept.keys() & asked.keys() - set(FREE)
        for difference in _differences(kept[key], asked[key], f"{name}.{key}".lstrip("."))
    ]


def write(path: Path, row: dict[str, Any]) -> None:
    """Keep a row: one line for each of its parts, five digits, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in rounded(row).items())
    checkpoint.write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def rounded(value: Any, digits: int = 5) -> Any:
    """The same with so many digits in floats, and None for what is not a number."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


# ---------------------------------------------------------------------------------------- computing


def compute(row: Row, device: str = "auto", log: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Train (or go on where an earlier try stopped) and score; `log` gets a line after every epoch."""
    setting = row.setting
    model, history, failure = _trained(row.trained_as, device, log)
    held_out, classes = _held_out(row.preset, setting), _classes(row.preset, setting)
    start = time.perf_counter()
    matching = {"match_iou_threshold": setting.config.iou_threshold}
    _, anchors, found = validate(model, held_out, classes, **matching, **setting.detect)
    scored = time.perf_counter() - start
    # small, medium and large as in images of 256 pixels: the same objects, whatever size they were seen at
    metrics = evaluate(found, *held_out.ground_truth, classes=classes, image_size=SIZES_AT)
    return {
        "row": row.name,
        "changes": dict(row.changes),
        "seed": row.seed,
        "scale": row.scale,
        "preset": row.preset,
        **provenance(model.anchors.device),
        "train_seconds": round(sum(epoch["seconds"] for epoch in history), 1),
        "score_seconds": round(scored, 2),
        "diverged": failure,
        "cost": {"anchors": len(model.anchors), "weights": sum(p.numel() for p in model.parameters())},
        "final": metrics.as_dict() | anchors.as_dict(),
        "draws": _draws(found, held_out, len(classes)),
        "setting": setting.record(),
        "history": history,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """When, by which code and on what."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "versions": {**versions, "d2lmini": d2lmini.__version__},
        "device": str(device.type),
        "precision": str(devices.pick_precision("auto", device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": devices.describe(),
    }


@functools.cache
def _commit() -> str | None:
    """The commit that is checked out, with a + when the code was changed since.

    The environment variable `SOURCE_COMMIT` says it where the code is a copy without that history.
    """
    said = os.environ.get("SOURCE_COMMIT")
    if said:
        return said
    try:
        head, changed = (
            subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "d2lmini", "experiments/*.py"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _draws(found: list[Detections], held_out: Batch, classes: int) -> dict[str, list[float]]:
    """AP50 and AP of the same random draws of held-out images in every row: see `resample`."""
    weights = draw_images(len(held_out.labels))
    ap = resampled_ap(found, held_out.boxes, held_out.labels, classes, weights)
    return {name: np.round(v, 4).tolist() for name, v in (("ap50", ap[:, 0]), ("ap", ap.mean(1)))}


def _trained(
    row: Row, device: str, log: Callable[[str], None]
) -> tuple[TinySSD, list[dict[str, Any]], str | None]:
    """The network of a row, its history, and why it ended early where it did.

    A finished network is read back; an interrupted training goes on after its last whole epoch.
    """
    if SCALES[row.scale].shipped:
        return checkpoint.pretrained(row.preset, devices.pick_device(device))[0], [], None
    folder, setting = WORK / row.name, row.setting
    if (folder / FINAL).exists():
        model, info = checkpoint.load_model(folder / FINAL)
        return model.to(devices.pick_device(device)), info.notes["history"], info.notes["diverged"]
    classes, model, failure = _classes(row.preset, setting), _network(row.preset, setting), None
    history: list[dict[str, Any]] = []
    options = {"resume": True, "progress": False, "on_epoch": lambda _, epoch: log(state.format_row(epoch))}
    try:
        for name, network, training, held_out, config in _stages(row.preset, setting, device, model):
            run = {"out": folder / name, "model": network, **options}
            history += train.fit(training, held_out, classes, config, **run).history
    except state.TrainingDiverged as error:  # a result, too: it finds nothing
        failure = str(error).split(":")[0]
    notes = {"history": history, "diverged": failure}
    checkpoint.save_model(folder / FINAL, model.eval(), checkpoint.ModelInfo(classes, notes))
    for path in (folder, folder / FINETUNE):
        for name in (state.LAST, state.BEST, state.HISTORY):
            (path / name).unlink(missing_ok=True)
    return model, history, failure


Stage = tuple[str, TinySSD, Images, Images | None, TrainConfig]  # its folder, and what `fit` is given


def _stages(preset: str, setting: Setting, device: str, model: TinySSD) -> Iterator[Stage]:
    """The trainings of a row, one after the other: of photographs first a head on frozen features."""
    if not setting.views:
        # On a GPU whole steps are recorded: so small a network waits for Python otherwise.
        config = replace(setting.config, device=device, graph=devices.pick_device(device).type == "cuda")
        training = images(preset, "train", setting.image_size, setting.count)
        yield "", model, training, _held_out(preset, setting), config
        return
    config = replace(setting.config, device=device, anchors=model.anchor_spec)
    known = photographs.features(*_divided(preset, setting), setting.views, config.augment, device)
    freeze_backbone(model)
    some = select_images(known, torch.arange(setting.count), setting.views)
    yield "", HeadOnFeatures(model), some, None, replace(config, augment=None)
    if setting.finetune:
        freeze_backbone(model, FROZEN)
        rate, epochs = PHOTOGRAPH_RECIPE.config.lr, setting.finetune
        whole = _parts(preset, setting).training.select(slice(setting.count))
        yield FINETUNE, model, whole, None, replace(config, lr=rate, epochs=epochs, eval_every=epochs)


def _divided(preset: str, setting: Setting) -> tuple[str, int, int, int]:
    return preset, setting.image_size, setting.held_out, setting.config.seed


def _parts(preset: str, setting: Setting) -> photographs.Parts:
    return photographs.parts(*_divided(preset, setting))


def _classes(preset: str, setting: Setting) -> tuple[str, ...]:
    return _parts(preset, setting).classes if setting.views else data.PRESETS[preset]


def _network(preset: str, setting: Setting) -> TinySSD:
    """A new network; its weights depend on the seed and its shape only."""
    config, classes = setting.config, _classes(preset, setting)
    if setting.views:
        truth = _parts(preset, setting).training.select(slice(setting.count)).ground_truth
        return photograph_model(truth, (setting.image_size,) * 2, classes, config.seed, config.prior_prob)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        backbone = TinyBackbone(setting.channels, setting.width, finer=setting.finer)
        model = TinySSD(len(classes), setting.image_size, config.anchors, backbone)
    if config.prior_prob is not None:
        init_class_bias(model, config.prior_prob)
    return model


def _held_out(preset: str, setting: Setting) -> Batch:
    """The held-out images; with `crowded`, so many of those that hold at least so many objects."""
    if setting.views:
        batch = _parts(preset, setting).held_out
    else:
        count = setting.held_out * (5 if setting.crowded else 1)
        batch = images(preset, "val", setting.image_size, count)
    full = ((batch.labels >= 0).sum(1) >= setting.crowded).nonzero()[:, 0]
    return batch.select(full[: setting.held_out]) if setting.crowded else batch


def lock(path: Path) -> FileLock:
    """A lock on a file, whose folder is made; it ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@functools.lru_cache(maxsize=4)
def images(preset: str, split: str, size: int, count: int) -> Batch:
    """Images drawn once for all rows and processes: kept in a file, of which others read a part.

    While one process draws, others that want the same wait for it.
    """
    folder, name = WORK / "images", f"{preset}-{split}-{size}"
    with lock(folder / f"{name}.lock"):
        for path in sorted(folder.glob(f"{name}-*.safetensors")):
            if int(path.stem.rpartition("-")[2]) >= count:
                return Batch(**checkpoint.load_tensors(path)[0]).select(slice(count))
        batch = data.load(data.open_data(preset, split, size=size, count=count), workers=0)
        checkpoint.save_tensors(folder / f"{name}-{count}.safetensors", batch._asdict(), {})
    return batch


def forget(row: Row) -> None:
    """Remove what an earlier try of a row left, so that it is computed from its beginning."""
    shutil.rmtree(WORK / row.trained_as.name, ignore_errors=True)
