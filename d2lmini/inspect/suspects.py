"""Which labels are wrong? Boxes and images that a detector contradicts which has not been trained on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from d2lmini.compare import Comparison, compare
from d2lmini.data.detections import Detections
from d2lmini.data.samples import GroundTruth
from d2lmini.data.sources import as_source
from d2lmini.detect import detect, nms
from d2lmini.engine import devices
from d2lmini.engine.features import (
    HeadOnFeatures,
    freeze_backbone,
    keep_features,
    photograph_model,
    select_images,
)
from d2lmini.engine.validation import predict_batched
from d2lmini.train import Images, TrainConfig, fit
from d2lmini.transfer import PHOTOGRAPH_RECIPE, VIEWS, head_config

FOLDS = 5
SLACK, ODDS = 0.05, 0.2  # of scores that count as equal; that a label is wrong, beside a detection's own odds
FITS, THERE, NEAR = 0.5, 0.3, 0.1  # IoU of a box that is right, that is on the object, that is beside it
KINDS = ("class", "box", "nothing there", "unlabeled")


def out_of_fold(
    images: Images,
    classes: Sequence[str],
    config: TrainConfig | None = None,
    *,
    folds: int = FOLDS,
    views: int = VIEWS,
    progress: bool = True,
) -> list[Detections]:
    """Detections on each image by a head that was trained, on frozen features, on the other folds' images.

    The backbone is that of "everyday", each head as in the first stage of `fit_photographs`. Raises
    ValueError with fewer images than folds, and as `fit_photographs` does.
    """
    config = PHOTOGRAPH_RECIPE.config if config is None else config
    source = as_source(images)
    if not 2 <= folds <= len(source):
        raise ValueError(f"{len(source)} images cannot be divided into {folds} folds: give more images")
    truth, size = source.ground_truth(), source.image_size
    model = photograph_model(truth, size, classes, config.seed, config.prior_prob)
    model.to(devices.pick_device(config.device))
    options = {"precision": config.precision, "progress": progress}
    kept = keep_features(model, source, views, config.augment, config.seed, **options)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(config.seed))
    found: list[Any] = [None] * len(source)
    for held_out in tqdm(order.chunk(folds), desc="folds", unit="", leave=False, disable=not progress):
        rows = order[~torch.isin(order, held_out)]
        head = _fit_head(kept, GroundTruth(*(t[rows] for t in truth)), rows, size, classes, config, views)
        predictions = predict_batched(head, kept.batch.images[held_out], precision=config.precision)
        made = detect(*predictions, head.anchors, score_function=head.score_function)
        for i, one in zip(held_out.tolist(), made, strict=True):
            found[i] = Detections(*(column.cpu() for column in one))
    return found


def _fit_head(
    kept: Any,
    truth: GroundTruth,
    rows: Tensor,
    size: tuple[int, int],
    classes: Sequence[str],
    config: TrainConfig,
    views: int,
) -> HeadOnFeatures:
    """A head trained on the features of some images, its anchors suggested from their boxes."""
    head = HeadOnFeatures(photograph_model(truth, size, classes, config.seed, config.prior_prob))
    freeze_backbone(head)
    part = select_images(kept, rows, views)
    run = replace(head_config(config, len(part)), anchors=head.anchor_spec)
    return fit(part, None, classes, run, model=head, progress=False).model


class Suspect(NamedTuple):
    """A label that may be wrong: of which image, what is wrong with it, how sure that is (0 to 1).

    `object` is its place among those of the image, -1 of an object without a label. `box` (4,) and `label`
    are those given; `found_box` and `found_label` what the detector says, None where it finds nothing.
    """

    image: int
    kind: str
    score: float
    object: int
    box: tuple[float, ...] | None
    label: int | None
    found_box: tuple[float, ...] | None
    found_label: int | None

    def text(self, classes: Sequence[str]) -> str:
        """What is suspected, in words."""
        given, seen = (classes[k] if k is not None else "" for k in (self.label, self.found_label))
        return {
            "unlabeled": f"{seen} without a label?",
            "nothing there": f"no {given} here?",
            "class": f"{given}, or {seen}?",
            "box": f"{given}, but where?",
        }[self.kind]


def rank_suspects(detections: Sequence[Detections], boxes: Tensor, labels: Tensor) -> list[Suspect]:
    """Every label of N images, and what seems to have none, the most suspicious first.

    Shapes as in `evaluate`. `class`: a detection of another class fits (IoU 0.5), none of its own. `box`: one
    of its class is near (IoU 0.1), none fits. `nothing there`: none of any class is there (IoU 0.3).
    `unlabeled`: a detection without an object. Suspicion is the score of the detection that says so, less
    where a detection agrees with the label, and less where nothing is if the class is often missed. Raises
    ValueError as `evaluate` does.
    """
    found = compare(detections, boxes, labels)
    agreed = _score(found, _surest(found, found.own & (found.iou >= FITS)))  # (G,)
    ranked = [*_doubted(found, agreed), *_unlabeled(found, agreed)]
    return sorted(ranked, key=lambda one: -one.score)


def _surest(found: Comparison, chosen: np.ndarray) -> np.ndarray:
    """The detection (G,) that scores most among each object's chosen pairs (P,), or -1."""
    pairs = np.flatnonzero(chosen)
    row, thing = found.pair[pairs].T
    order = np.lexsort((-found.scores[row], thing))
    objects, first = np.unique(thing[order], return_index=True)
    surest = np.full(len(found.true_labels), -1)
    surest[objects] = row[order][first]
    return surest


def _score(found: Comparison, rows: np.ndarray) -> np.ndarray:
    """The scores of detections, 0 for -1."""
    return np.append(found.scores, 0.0)[rows]


def _doubted(found: Comparison, agreed: np.ndarray) -> Iterator[Suspect]:
    """What is most likely wrong with each object, if anything is."""
    fits, near = found.iou >= FITS, found.iou >= NEAR
    free = (found.best(found.own)[1] < FITS)[found.pair[:, 0]]  # detections that fit no object of their class
    rows = np.stack(
        [
            _surest(found, ~found.own & fits & free),
            _surest(found, found.own & near & ~fits & free),
            np.full(len(agreed), -1),
        ]
    )  # (3, G), of class, box, nothing there
    values = _score(found, rows) * (1 - agreed)
    values[2] = _absence(found)
    place = np.arange(len(agreed)) - np.searchsorted(found.true_image, found.true_image)
    for g, kind in enumerate(values.argmax(0)):
        given = int(place[g]), tuple(found.true_boxes[g].tolist()), int(found.true_labels[g])
        seen = _seen(found, rows[kind, g])
        yield Suspect(int(found.true_image[g]), KINDS[kind], float(values[kind, g]), *given, *seen)


def _absence(found: Comparison) -> np.ndarray:
    """How sure it is (G,) that nothing is there: certain of classes that are always found, little of others.

    By Bayes' rule, from the share of the class's objects of which no more is seen.
    """
    seen, absence = _score(found, _surest(found, found.iou >= THERE)), np.zeros(len(found.true_labels))
    for k in np.unique(found.true_labels):
        own = seen[found.true_labels == k]
        as_little = np.searchsorted(np.sort(own), own + SLACK, side="right") / len(own)
        absence[found.true_labels == k] = (1 - own) * ODDS / (ODDS + as_little)
    return absence


def _unlabeled(found: Comparison, agreed: np.ndarray) -> Iterator[Suspect]:
    """Detections with no object of their class beside them, nor a doubtful one; one of those that overlap."""
    row, thing = found.pair[found.iou >= NEAR].T
    share = np.ones(len(found.scores))
    np.minimum.at(share, row, agreed[thing])
    values = found.scores * share * (found.best(found.iou > 0)[1] < FITS) * (found.best(found.own)[1] < NEAR)
    for rows in found.rows_by_image():
        boxes, scores = (torch.from_numpy(values_[rows]) for values_ in (found.boxes, values))
        for i in nms(boxes, scores, THERE).tolist():
            if scores[i] > 0:
                seen, at = _seen(found, rows.start + i), int(found.image[rows.start + i])
                yield Suspect(at, KINDS[3], float(scores[i]), -1, None, None, *seen)


def _seen(found: Comparison, row: int) -> tuple[tuple[float, ...] | None, int | None]:
    if row < 0:
        return None, None
    return tuple(found.boxes[row].tolist()), int(found.labels[row])
