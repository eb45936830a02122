"""The parts of single-shot detection one by one, each beside D2L's function on the same input.

Every case first checks that both give the same result, then they are timed in turn in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Effort, compare
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors
from d2lmini.boxes import box_iou, decode
from d2lmini.detect import detect, nms
from d2lmini.interop import d2l as adapters
from d2lmini.matching import match
from d2lmini.model import Predictions, TinySSD

BATCH = 32
MAPS = ((32, 32), (16, 16), (8, 8), (4, 4), (1, 1))
CLASSES = 20
AGREEMENT = 0.9999  # of the anchors: equal IoUs can be rounded to either side of each other
REALISTIC = (
    "foreground log-odds of an anchor normal(−7, 1.5), so that 5 % pass the threshold of 0.01, and "
    "normal(1, 2) where it overlaps one of 3 objects with IoU ≥ 0.4; offsets normal(0, 0.5)"
)
RANDOM = "logits and offsets normal(0, 1), as from an untrained network"


@dataclass(frozen=True)
class Case:
    """One line of the table: what is done, by whom, and a check that raises if results differ."""

    group: str
    work: str
    peer: Callable[[], object]
    ours: Callable[[], object]
    check: Callable[[], None]
    wanted: float | None = None  # how many times as fast the issue asks for
    note: str = ""


def run(peer: ModuleType, groups: set[str], effort: Effort) -> Iterator[dict[str, Any]]:
    """Check and time the cases of these groups; yields a row for each."""
    for make in MAKERS:
        for case in make(peer):
            if case.group not in groups:
                break
            case.check()
            row = compare(case.peer, case.ours, effort)
            yield {"group": case.group, "work": case.work, **row} | {
                name: value for name in ("wanted", "note") if (value := getattr(case, name))
            }


def anchor_cases(peer: ModuleType) -> Iterator[Case]:
    """All anchors of an image: made, and had in every forward pass after the first."""
    maps = [torch.zeros(1, 1, *shape) for shape in MAPS]
    spec = list(zip(maps, TINY_SSD_ANCHORS.sizes, TINY_SSD_ANCHORS.ratios, strict=True))

    def theirs() -> Tensor:
        return torch.cat([peer.multibox_prior(m, list(s), list(r)) for m, s, r in spec], dim=1)

    model = TinySSD(1)

    def check() -> None:
        torch.testing.assert_close(model.anchors, theirs()[0], rtol=0, atol=1e-6)

    def make() -> Tensor:
        return make_anchors(MAPS, TINY_SSD_ANCHORS)

    yield Case("anchors", "anchors of an image, made", theirs, make, check)
    work = "anchors of an image, each forward pass"
    yield Case("anchors", work, theirs, lambda: model.anchors, check, note="ours: a buffer")


def target_cases(peer: ModuleType) -> Iterator[Case]:
    """Targets of a batch with 1 to 50 objects an image."""
    anchors = make_anchors(MAPS, TINY_SSD_ANCHORS)
    for count, wanted in ((1, 12), (3, 10), (10, 8), (50, 18)):
        boxes, labels = objects(count)
        rows = torch.cat([labels.unsqueeze(-1).float(), boxes], dim=-1)  # (N, G, 5)
        yield Case(
            "targets",
            f"targets, batch {BATCH} × 5,444 anchors, {count} object{'s'[: count > 1]}",
            lambda rows=rows: peer.multibox_target(anchors[None], rows),
            lambda boxes=boxes, labels=labels: match(anchors, boxes, labels),
            lambda rows=rows: check_targets(peer, anchors, rows),
            wanted,
        )


def check_targets(peer: ModuleType, anchors: Tensor, rows: Tensor) -> None:
    """Raise RuntimeError unless both give rows (N, G, 5) the same targets."""
    offsets, mask, classes = peer.multibox_target(anchors[None], rows)
    _need(torch.equal(mask.unflatten(1, (-1, 4))[..., 0] > 0, classes > 0), "what is a positive")
    targets = match(anchors, rows[..., 1:], rows[..., 0].long())
    same = classes == targets.labels  # (N, A)
    _need(same.float().mean().item() >= AGREEMENT, "classes of anchors")
    gap = (offsets.unflatten(1, (-1, 4)) - targets.offsets).abs().amax(-1)[same]
    # D2L adds 1e-6 to the ratio of sides, which is 1e-4 for the smallest box here.
    _need((gap < 1e-3).float().mean().item() >= AGREEMENT, "offsets")


def nms_cases(peer: ModuleType) -> Iterator[Case]:
    """Suppression among as many random boxes as there are anchors."""
    generator = torch.Generator().manual_seed(2)
    boxes = random_boxes((5444,), generator)
    scores = torch.randperm(5444, generator=generator) / 5444  # no two are equal

    def check() -> None:
        _need(torch.equal(peer.nms(boxes, scores, 0.5), nms(boxes, scores, 0.5)), "kept boxes")

    yield Case(
        "nms",
        "suppression of 5,444 random boxes",
        lambda: peer.nms(boxes, scores, 0.5),
        lambda: nms(boxes, scores, 0.5),
        check,
    )


def iou_cases(peer: ModuleType) -> Iterator[Case]:
    """IoU of many boxes with many."""
    boxes = random_boxes((5444,), torch.Generator().manual_seed(3))

    def check() -> None:
        torch.testing.assert_close(box_iou(boxes, boxes), peer.box_iou(boxes, boxes))

    yield Case(
        "iou",
        "IoU of 5,444 × 5,444 boxes",
        lambda: peer.box_iou(boxes, boxes),
        lambda: box_iou(boxes, boxes),
        check,
    )


def detection_cases(peer: ModuleType) -> Iterator[Case]:
    """From scores to boxes, by `detect`, which clips boxes as well, and by D2L's own signature.

    The last one suppresses within each class, which D2L cannot: everything else is decided as D2L does.
    """
    anchors = make_anchors(MAPS, TINY_SSD_ANCHORS)
    for kind, make, wanted in (("realistic", realistic, 110), ("random", untrained, 17)):
        for classes in (1, CLASSES):
            predictions = make(anchors, classes)
            work = f"detection, batch {BATCH}, {kind} scores, {classes} class{'es' * (classes > 1)}"
            yield _detect_case(peer, anchors, predictions, work, wanted)
            yield _adapter_case(peer, anchors, predictions, f"{work}, D2L's signature")
    yield _detect_case(peer, anchors, predictions, f"{work}, class-aware", 8, class_aware=True)


def _detect_case(
    peer: ModuleType,
    anchors: Tensor,
    predictions: Predictions,
    work: str,
    wanted: float,
    class_aware: bool = False,
) -> Case:
    inputs = _d2l_inputs(anchors, predictions)
    options = SAME | {"class_aware": class_aware}
    return Case(
        "detect",
        work,
        lambda: peer.multibox_detection(*inputs),
        lambda: detect(*predictions, anchors, **options),
        lambda: _check_detect(peer, anchors, predictions, options),
        wanted,
        f"`detect`, softmax and clipping included; {_note(work)}",
    )


def _adapter_case(peer: ModuleType, anchors: Tensor, predictions: Predictions, work: str) -> Case:
    inputs = _d2l_inputs(anchors, predictions)

    def theirs() -> Tensor:
        return peer.multibox_detection(*inputs)

    def ours() -> Tensor:
        return adapters.multibox_detection(*inputs, class_aware=False)

    note = f"`d2l.multibox_detection`, which returns all {len(anchors):,} rows; {_note(work)}"
    return Case("detect", work, theirs, ours, lambda: _check_rows(theirs(), ours()), note=note)


def _d2l_inputs(anchors: Tensor, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (N, K + 1, A), offsets (N, 4A) and anchors (1, A, 4), as D2L's function takes them."""
    probabilities = predictions.logits.softmax(-1).transpose(1, 2).contiguous()
    return probabilities, predictions.offsets.flatten(1), anchors.unsqueeze(0)


def _note(work: str) -> str:
    return REALISTIC if "realistic" in work else RANDOM


# What makes `detect` decide as D2L does: one class an anchor, and suppression across classes.
SAME: dict[str, Any] = {
    "score_threshold": 0.009999999,
    "iou_threshold": 0.5,
    "top_k": None,
    "max_detections": 5444,
    "class_aware": False,
    "best_class_only": True,
}


def _check_rows(theirs: Tensor, ours: Tensor) -> None:
    """The rows that are detections; the others differ by intention (see `d2lmini.interop.d2l`)."""
    for a, b in zip(theirs, ours, strict=True):
        _same_rows(a[a[:, 0] >= 0], b[b[:, 0] >= 0])


def _check_detect(
    peer: ModuleType, anchors: Tensor, predictions: Predictions, options: dict[str, Any]
) -> None:
    """`detect` against D2L's suppression of the same clipped boxes, all together or class by class."""
    boxes = decode(anchors, predictions.offsets).clamp(0, 1)
    conf, classes = predictions.logits.softmax(-1)[..., 1:].max(-1)
    for i, found in enumerate(detect(*predictions, anchors, **options)):
        solid = (boxes[i, :, 2:] > boxes[i, :, :2]).all(-1) & (conf[i] >= options["score_threshold"])
        group = classes[i] if options["class_aware"] else torch.zeros_like(classes[i])
        competing = [(solid & (group == k)).nonzero().squeeze(1) for k in group[solid].unique()]
        iou_threshold = options["iou_threshold"]
        kept = torch.cat([own[peer.nms(boxes[i][own], conf[i][own], iou_threshold)] for own in competing])
        rows = torch.cat([classes[i][kept, None], conf[i][kept, None], boxes[i][kept]], dim=1)
        _same_rows(rows, torch.cat([found.labels[:, None], found.scores[:, None], found.boxes], dim=1))


def _same_rows(theirs: Tensor, ours: Tensor) -> None:
    """Equal but for the order among equal scores, which D2L leaves open."""
    _need(len(theirs) == len(ours), f"number of detections ({len(theirs)}, {len(ours)})")
    a, b = (rows[_by_score_then_place(rows)] for rows in (theirs, ours))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def _by_score_then_place(rows: Tensor) -> Tensor:
    order = rows[:, 2].argsort(stable=True)
    return order[rows[order, 1].argsort(descending=True, stable=True)]


def _need(same: bool, what: str) -> None:
    if not same:
        raise RuntimeError(f"d2l and d2lmini disagree on {what}: nothing is timed")


# --- inputs ---------------------------------------------------------------------------------------


def random_boxes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Corner boxes (*shape, 4) within the image, sides from 5 % to 45 % before they are cut."""
    center = torch.rand(*shape, 2, generator=generator) * 0.8 + 0.1
    half = (torch.rand(*shape, 2, generator=generator) * 0.4 + 0.05) / 2
    return torch.cat([center - half, center + half], dim=-1).clamp(0, 1)


def objects(count: int) -> tuple[Tensor, Tensor]:
    """Boxes (N, G, 4) and classes (N, G) of a batch."""
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes((BATCH, count), generator)
    return boxes, torch.randint(0, CLASSES, (BATCH, count), generator=generator)


def realistic(anchors: Tensor, classes: int) -> Predictions:
    """Predictions as of a trained network: see `REALISTIC`."""
    generator = torch.Generator().manual_seed(4)
    boxes, labels = objects(3)
    overlap, nearest = box_iou(anchors, boxes).max(-1)  # (N, A), (N, A)
    odds = torch.randn(overlap.shape, generator=generator)
    odds = torch.where(overlap >= 0.4, 1 + 2 * odds, -7 + 1.5 * odds)
    logits = torch.full((*odds.shape, classes + 1), -20.0)
    logits[..., 0] = 0
    best = labels.gather(1, nearest) % classes + 1  # (N, A)
    logits.scatter_(2, best.unsqueeze(-1), odds.unsqueeze(-1))
    return Predictions(logits, 0.5 * torch.randn(*odds.shape, 4, generator=generator))


def untrained(anchors: Tensor, classes: int) -> Predictions:
    """Predictions as of an untrained network: see `RANDOM`."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(BATCH, len(anchors), classes + 1, generator=generator)
    return Predictions(logits, torch.randn(BATCH, len(anchors), 4, generator=generator))


MAKERS = (anchor_cases, target_cases, detection_cases, nms_cases, iou_cases)
GROUPS = ("anchors", "targets", "detect", "nms", "iou")
