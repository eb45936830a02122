"""How many images do I need? Trainings on more and more of them, and what twice as many would bring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from d2lmini.data.output import write_bytes
from d2lmini.data.samples import GroundTruth
from d2lmini.data.sources import as_source
from d2lmini.engine import devices
from d2lmini.engine.features import (
    HeadOnFeatures,
    freeze_backbone,
    keep_features,
    photograph_model,
    select_images,
)
from d2lmini.engine.validation import validate
from d2lmini.train import Images, TrainConfig, fit
from d2lmini.transfer import PHOTOGRAPH_RECIPE, VIEWS, head_config

SIZES, REPEATS = (10, 20, 50, 100), 3
DRAWS = 2000  # of repeats, for the band of the forecast


class Forecast(NamedTuple):
    """What so many images would bring: the expected AP, and where 90 % of trainings would end."""

    images: int
    ap: float
    low: float
    high: float


class LearningCurve(NamedTuple):
    """COCO AP on held-out images of each repeat, by the number of training images."""

    scores: dict[int, list[float]]

    def forecast(self, images: int | None = None) -> Forecast:
        """AP for so many images (None: twice the most), from a power law: 1 − AP = c · n^−d.

        It is a straight line between the logarithms. It is fitted to the means of repeats that are drawn with
        repetition, many times; each time the spread of one training is added. Raises ValueError with fewer
        than two numbers of images.
        """
        counts = np.array(sorted(self.scores), dtype=float)
        if len(counts) < 2:
            raise ValueError(f"a forecast needs two numbers of training images or more, not {len(counts)}")
        images = int(2 * counts[-1]) if images is None else images
        random = np.random.default_rng(0)
        rows = [np.clip(self.scores[int(n)], 0, 0.999) for n in counts]
        means = np.array([[random.choice(row, len(row)).mean() for row in rows] for _ in range(DRAWS)])
        x, y = np.log(counts), np.log(1 - means)
        weights = np.sqrt(counts)  # a score of few images depends on which, and says less of many
        slope, start = np.polyfit(x, y.T, 1, w=weights)
        fitted = 1 - np.exp(start + slope * np.log(images))
        spread = np.concatenate([row - row.mean() for row in rows[-2:]])
        spread *= np.sqrt(len(spread) / max(1, len(spread) - 2))  # two means were taken off
        ap = np.clip(fitted + random.choice(spread, DRAWS), 0, 1)
        return Forecast(images, float(fitted.mean()), *(float(v) for v in np.quantile(ap, (0.05, 0.95))))

    def text(self) -> str:
        """A line for each number of images, and what twice as many would bring."""
        lines = [
            f"{n:6,} images: AP {np.mean(row):.3f} ({min(row):.3f} to {max(row):.3f}, {len(row)} trainings)"
            for n, row in sorted(self.scores.items())
        ]
        if len(self.scores) > 1:
            more = self.forecast()
            gain = more.ap - float(np.mean(self.scores[max(self.scores)]))
            lines.append(
                f"{more.images:6,} images would bring AP {more.ap:.2f} ({more.low:.2f} to {more.high:.2f}), "
                f"{gain:+.2f}: a forecast"
            )
        return "\n".join(lines)


def learning_curve(
    train: Images,
    validation: Images,
    classes: Sequence[str],
    config: TrainConfig | None = None,
    *,
    views: int = VIEWS,
    sizes: Sequence[int] = SIZES,
    repeats: int = REPEATS,
    out: str | Path | None = None,
    progress: bool = True,
) -> LearningCurve:
    """Train heads on frozen features of some images, then of more, up to all; score each on `validation`.

    The backbone is that of "everyday", each head as in the first stage of `fit_photographs`, its anchors
    suggested from its own images. Every repeat puts the images into another order and adds to the ones it
    has. `out` is a file (JSON) that keeps the scores: a call that finds it goes on with what is missing.
    Raises ValueError as `fit_photographs` does, and for a file of other images or options.
    """
    config = PHOTOGRAPH_RECIPE.config if config is None else config
    source, held_out = as_source(train), as_source(validation)
    truth, path = source.ground_truth(), None if out is None else Path(out)
    counts = sorted({min(n, len(source)) for n in (*sizes, len(source))})
    asked = {"images": [len(source), len(held_out)], "views": views, "config": config.record()}
    scores = _kept_scores(path, asked)
    todo = [(repeat, n) for repeat in range(repeats) for n in counts if f"{repeat}/{n}" not in scores]
    if todo:
        model = photograph_model(truth, source.image_size, classes, config.seed, config.prior_prob)
        model.to(devices.pick_device(config.device))
        options = {"precision": config.precision, "progress": progress}
        folder = None if path is None else path.parent
        kept = keep_features(model, source, views, config.augment, config.seed, folder=folder, **options)
        seen = keep_features(model, held_out, **options)
    for repeat, n in tqdm(todo, desc="trainings", unit="", leave=False, disable=not progress):
        seed = config.seed + repeat
        rows = _order(truth.labels, seed)[:n]
        part = select_images(kept, rows, views)
        objects = GroundTruth(truth.boxes[rows], truth.labels[rows])
        head = HeadOnFeatures(photograph_model(objects, source.image_size, classes, seed, config.prior_prob))
        freeze_backbone(head)
        run = replace(head_config(config, len(part)), anchors=head.anchor_spec, seed=seed)
        result = fit(part, None, classes, run, model=head, progress=False)
        metrics = validate(result.model, seen, classes, precision=config.precision).metrics
        scores[f"{repeat}/{n}"] = round(metrics.ap, 5)
        if path is not None:
            write_bytes(path, (json.dumps(asked | {"scores": scores}, indent=1) + "\n").encode())
    return LearningCurve({n: [scores[f"{repeat}/{n}"] for repeat in range(repeats)] for n in counts})


def _kept_scores(path: Path | None, asked: dict[str, Any]) -> dict[str, float]:
    """The scores that an earlier call kept in a file, if it asked for the same."""
    if path is None or not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text("utf8"))
        scores = kept.pop("scores")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no learning curve: choose another file") from error
    if kept != asked:
        raise ValueError(f"{path} is the learning curve of other images or options: choose another file")
    return scores


def _order(labels: Tensor, seed: int) -> Tensor:
    """All images in an order of the seed's, the first of them one with an object."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first = int((labels[order] >= 0).any(1).int().argmax())
    return torch.cat([order[first : first + 1], order[:first], order[first + 1 :]])
