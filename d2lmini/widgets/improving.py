"""Live figures on improving a detector: the image's size, which negatives count, the losses' weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import traitlets
from torch import Tensor, nn

from d2lmini import plots
from d2lmini.boxes import box_area, xyxy_to_cxcywh
from d2lmini.data import Synthetic
from d2lmini.inspect.input_size import KINDS, AtSize, SizeStudy
from d2lmini.losses import cross_entropy, hard_negatives
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, steps

# ---- bigger images ----

SMALL, LARGE = 32 / 256, 96 / 256  # COCO's limits, for an image of 256 pixels
CELL = 8  # pixels of the image to a cell of TinySSD's finest map


class InputSize(Figure):
    """`data`: sizes, kinds, bins, counts of objects; rates (S, 2, 3, 2): covered and found; costs, anchors;
    crop0 … images around one object, its box (S, 4) in them, and window (3,): left, top, side."""

    script = "input_size.js"
    size = traitlets.Int(0).tag(sync=True)
    kind = traitlets.Int(0).tag(sync=True)


def size_bins(sides: Tensor) -> dict[str, Tensor]:
    """Which objects are small, medium and large, from their sides (G,) as fractions of the image's."""
    return {
        "small": sides < SMALL,
        "medium": (sides >= SMALL) & (sides < LARGE),
        "large": sides >= LARGE,
    }


def input_size(study: SizeStudy, image_index: int = 15, start: int = 256) -> Live:
    """What a larger or smaller image changes, by size of the object; `study` is from `by_input_size`.

    Beside it, the smallest object of a held-out scene as the network gets it. Raises ValueError when the
    study holds nothing at the size to start with.
    """
    sizes = [row.size for row in study.rows]
    if start not in sizes:
        raise ValueError(f"the study has no size {start}: choose from {sizes}")
    bins = size_bins(study.sides)
    rates = torch.tensor([[_rates(row, kind, bins) for kind in KINDS] for row in study.rows])  # (S, 2, 3, 2)
    crops, boxes, window = _crops(sizes, image_index)
    figure = InputSize(
        data={
            "sizes": sizes,
            "start": sizes.index(start),
            "kinds": list(KINDS),
            "bins": list(bins),
            "counts": [int(mask.sum()) for mask in bins.values()],
            "rates": pack(rates),
            "anchors": [row.anchors for row in study.rows],
            "costs": [row.multiply_adds / 1e9 for row in study.rows],
            "boxes": pack(boxes),
            "window": window,
            "cell": CELL,
            **{f"crop{i}": jpeg(crop, 92) for i, crop in enumerate(crops)},
        },
        alt="A small object as the network gets it at the chosen image size, and which objects it finds.",
    )
    panels = {
        f"found; anchors {kind}": {name: rates[:, k, b, 1] for b, name in enumerate(bins)}
        for k, kind in enumerate(KINDS)
    }
    return Live(
        figure,
        {
            "size": steps("image, pixels", sizes, sizes.index(start)),
            "kind": choice("anchors", KINDS, 1),
        },
        caption=(
            "The same trained detector, the same scenes, drawn larger and smaller. If anchors keep their "
            "pixels, small objects gain and large ones are lost; if anchors grow with the image, the "
            "network no longer knows what it sees."
        ),
        fallback=plots.plot_panels(sizes, panels, xlabel="side of the image, pixels", ylims=((0, 1.02),) * 2),
    )


def _rates(row: AtSize, kind: str, bins: Mapping[str, Tensor]) -> list[list[float]]:
    """The shares of each bin's objects that an anchor covers and that the detector finds."""
    best = (row.covered[kind], row.found[kind])
    return [[float((iou[mask] >= 0.5).float().mean()) for iou in best] for mask in bins.values()]


def _crops(sizes: Sequence[int], index: int) -> tuple[list[Tensor], Tensor, list[float]]:
    """The surroundings of a scene's smallest object at each size, its box in them, and (left, top, side)."""
    samples = [Synthetic("scenes", count=index + 1, size=s, split="val")[index] for s in sizes]
    finest = samples[sizes.index(max(sizes))]
    if not len(finest.boxes):
        raise ValueError(f"scene {index} holds no object: choose another one")
    box = finest.boxes[box_area(finest.boxes).argmin()]
    side = min(1.0, round(2.2 * float((box[2:] - box[:2]).max()) * 16) / 16 + 1 / 16)  # on whole pixels
    left, top = (
        min(max(round((float(c) - side / 2) * 16) / 16, 0.0), 1 - side) for c in (box[:2] + box[2:]) / 2
    )
    crops = [
        s.image[:, round(top * n) : round((top + side) * n), round(left * n) : round((left + side) * n)]
        for s, n in zip(samples, sizes, strict=True)
    ]
    inside = (box - torch.tensor([left, top, left, top])) / side
    return crops, inside.expand(len(sizes), 4), [left, top, side]


# ---- which negatives count ----

RATIOS = (1, 2, 3, 4, 5, 7, 10, 20, 50, 100)
CHOICES = ("hard: those of the largest loss", "random")


class Negatives(Figure):
    """`data`: ratios, choices, names; table (N, 2, R, 5), rows as in `selection_table`; photo, points (A, 2)
    in 1/10,000 of the image, positives; loss (N, A) and random (A,), by which the image's negatives are
    chosen, largest first; shown (R,): how many of them count."""

    script = "negatives.js"
    ratio = traitlets.Int(2).tag(sync=True)
    kind = traitlets.Int(0).tag(sync=True)
    network = traitlets.Int(0).tag(sync=True)


def logit_gradient_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Length of cross-entropy's gradient by the logits (..., K + 1) of each anchor (...)."""
    wanted = nn.functional.one_hot(labels, logits.shape[-1])
    return (logits.softmax(-1) - wanted).norm(dim=-1)


def selection_table(logits: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """One row for each of `RATIOS` and one for all negatives (R + 1, 5), chosen by the largest `scores`.

    Columns: share of the class loss and of its gradients' lengths that positives hold, class loss,
    negatives (the two for each positive), and the mean probability of background that the chosen
    negatives have.
    """
    loss, gradient = cross_entropy(logits, labels), logit_gradient_norm(logits, labels)
    positive = labels > 0
    background, count = logits.softmax(-1)[..., 0], positive.sum().clamp(min=1)
    rows = []
    for ratio in (*RATIOS, None):
        chosen = ~positive if ratio is None else hard_negatives(scores, labels, ratio, 3)
        own = torch.stack([loss[positive].sum(), gradient[positive].sum()])
        rest = torch.stack([loss[chosen].sum(), gradient[chosen].sum()])
        sums = [(own + rest)[0] / count, chosen.sum() / count, background[chosen].mean()]
        rows.append(torch.cat([own / (own + rest), torch.stack(sums)]))
    return torch.stack(rows)


def negatives(
    networks: Mapping[str, Tensor], labels: Tensor, anchors: Tensor, image: Tensor, at: int, network: int = 0
) -> Live:
    """Hard or random negatives, few or many: which they are, and how much of the class loss they hold.

    `networks` are names and class logits (N, A, K + 1) of the same images, `labels` (N, A) what their
    anchors have to learn; `image` is image `at` of them. Raises ValueError when shapes differ.
    """
    for name, logits in networks.items():
        if logits.shape[:2] != labels.shape:
            raise ValueError(f"{name}: logits {tuple(logits.shape)} for labels {tuple(labels.shape)}")
    random = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    ranks = {name: (cross_entropy(logits, labels), random) for name, logits in networks.items()}
    table = torch.stack(
        [torch.stack([selection_table(networks[name], labels, s) for s in ranks[name]]) for name in networks]
    )  # (N, 2, R, 5)
    mine = labels[at]
    losses_here = torch.stack([loss[at] for loss, _ in ranks.values()])
    positives = int((mine > 0).sum())
    shown = [positives * r if positives else 3 for r in RATIOS] + [int((mine == 0).sum())]
    stops = [f"{r} : 1" for r in RATIOS] + ["all"]
    figure = Negatives(
        data={
            "ratios": stops,
            "choices": list(CHOICES),
            "names": list(networks),
            "table": pack(table),
            "photo": jpeg(image),
            "points": pack((_points(anchors) * 10_000).round().int(), "<i2"),
            "positives": pack((mine > 0).nonzero()[:, 0], "<i2"),
            "loss": pack(losses_here),
            "random": pack(random[at].argsort().argsort(), "<i2"),
            "shown": shown,
        },
        alt="A scene with a dot for each negative that counts, and bars: who holds the class loss.",
    )
    panels = {
        name: {kind.split(":")[0]: table[n, k, : len(RATIOS), 0] for k, kind in enumerate(CHOICES)}
        for n, name in enumerate(networks)
    }
    return Live(
        figure,
        {
            "ratio": steps("negatives", stops, 2),
            "kind": choice("chosen", CHOICES),
            "network": choice("network", list(networks), network),
        },
        caption=(
            "Hard negatives lie where the network is wrong: on and around objects and look-alikes. Random "
            "ones lie anywhere, and once the network is trained they cost it almost nothing."
        ),
        fallback=plots.plot_panels(
            RATIOS,
            {f"{name}: loss share of positives": curves for name, curves in panels.items()},
            xlabel="negatives per positive",
            logx=True,
            ylims=((0, 1.02),) * len(panels),
        ),
    )


def _points(anchors: Tensor) -> Tensor:
    """A place for each anchor (A, 2): its centre, those of one cell set a little apart."""
    centers = xyxy_to_cxcywh(anchors)[:, :2]
    fresh = torch.ones(len(centers), dtype=torch.bool)
    fresh[1:] = ((centers[1:] - centers[:-1]).abs() > 1e-5).any(1)
    first = torch.where(fresh, torch.arange(len(centers)), 0).cummax(0).values
    k = torch.arange(len(centers)) - first  # which of its cell's anchors it is
    return (centers + torch.stack([(k % 3 - 1) * 0.009, (k // 3 - 0.5) * 0.009], dim=1)).clamp(0, 1)


# ---- the weights of the losses ----

WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)


class LossWeights(Figure):
    """`data`: weights, names, losses, stages; shares (N, L, W, T + 1) of the class loss in each stage's
    gradient and in the whole backbone's; arrows (N, L, W, 6): class loss's length, box loss's two
    components beside it, both as parts of their summed lengths; angles of the step to each, in degrees;
    and the step's length."""

    script = "weights.js"
    weight = traitlets.Int(5).tag(sync=True)
    network = traitlets.Int(0).tag(sync=True)
    loss = traitlets.Int(0).tag(sync=True)


def weigh(cls: Tensor, box: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each of `WEIGHTS`: shares (W, T + 1) and arrows (W, 6), as `LossWeights` has them."""
    lengths = torch.tensor(
        [[g.norm() for g in (*vector.split(list(sizes)), vector)] for vector in (cls.double(), box.double())]
    )  # (2, T + 1)
    cosine = float(torch.cosine_similarity(cls.double(), box.double(), dim=0))
    own, other = lengths[:, -1].tolist()
    shares, arrows = [], []
    for w in WEIGHTS:
        shares.append(lengths[0] / (lengths[0] + w * lengths[1]))
        x, y = w * other * cosine, w * other * math.sqrt(1 - cosine**2)
        both = own + w * other
        to_cls = math.degrees(math.atan2(y, own + x))
        to_box = math.degrees(math.atan2(y, x)) - to_cls
        arrows.append([own / both, x / both, y / both, to_cls, to_box, math.hypot(own + x, y)])
    return torch.stack(shares), torch.tensor(arrows)


def loss_weights(
    gradients: Mapping[str, Mapping[str, Tensor]], stages: Mapping[str, int], network: int = 0
) -> Live:
    """Which loss the shared backbone obeys, by weight of the box loss.

    `gradients` are names of networks and what `backbone_gradients` found for each: the class losses that
    all of them have, and "box"; `stages` is `backbone_stages`. Raises ValueError where they do not fit.
    """
    named = [name for name in next(iter(gradients.values())) if name != "box"]
    shares, arrows = [], []
    for name, found in gradients.items():
        if [*found] != [*named, "box"] or any(len(g) != sum(stages.values()) for g in found.values()):
            raise ValueError(f"the gradients of {name} do not fit: take all from backbone_gradients")
        pairs = [weigh(found[loss], found["box"], [*stages.values()]) for loss in named]
        shares.append(torch.stack([s for s, _ in pairs]))
        arrows.append(torch.stack([a for _, a in pairs]))
    stop = WEIGHTS.index(1.0)
    names = [f"{w:g}" for w in WEIGHTS]
    table = torch.stack(shares)
    figure = LossWeights(
        data={
            "weights": names,
            "names": list(gradients),
            "losses": named,
            "stages": [*stages, "whole backbone"],
            "shares": pack(table),
            "arrows": pack(torch.stack(arrows)),
        },
        alt="Bars: how much of the backbone's gradient is the class loss's; arrows: where the step points.",
    )
    short = [loss.replace("cross-entropy, ", "").replace("negatives", "neg.") for loss in named]
    panels = {
        f"{name}: share of the class loss": {loss: table[n, k, :, -1] for k, loss in enumerate(short)}
        for n, name in enumerate(gradients)
    }
    return Live(
        figure,
        {
            "weight": steps("box loss ×", names, stop),
            "network": choice("network", list(gradients), network),
            "loss": choice("class loss", named),
        },
        caption=(
            "The backbone is shared, and its gradient is a sum of two. At the start the class loss decides "
            "where it goes; which weight makes them equal depends on the class loss and on how far "
            "training has come."
        ),
        fallback=plots.plot_panels(
            WEIGHTS,
            panels,
            xlabel="weight of the box loss",
            logx=True,
            ylims=((0, 1.02),) * len(panels),
        ),
    )
