"""Live figure of the data: random views of one image, and what becomes of its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import traitlets
from PIL import Image
from torch import Tensor

from d2lmini import plots
from d2lmini.data.augment import NONE, AugmentConfig, augment, sample_windows, view_objects
from d2lmini.data.samples import Sample
from d2lmini.transfer import MILD
from d2lmini.widgets.base import Figure, Live, jpeg, pack, steps, whole

STRENGTHS = {
    "none": NONE,
    "mild": MILD,
    "usual": AugmentConfig(),
    "strong": AugmentConfig(color=1, expand=0.5, crop=1),
}
LOST, WHOLE, CUT = range(3)


class Augmentation(Figure):
    """`data`: image, its mean colour; boxes (G, 4), labels, classes, strengths (S names); of the view of
    strength s, seed n its window (S, N, 4), views (S, N, G, 4), states (S, N, G) and which image (S, N)."""

    script = "augmentation.js"
    seed = traitlets.Int(0).tag(sync=True)
    strength = traitlets.Int(0).tag(sync=True)


def random_view(sample: Sample, config: AugmentConfig, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One view: its image (3, H, W), window (4,), boxes (G, 4) and states (G,): LOST, WHOLE or CUT.

    Row g is object g of the sample, also where it is lost (box 0).
    """
    image = augment(sample, config, torch.Generator().manual_seed(seed)).image
    boxes, labels = sample.boxes[None], sample.labels[None]
    # The window is the first thing that `augment` draws, so an equal generator gives the same one.
    window = sample_windows(boxes, labels, config, torch.Generator().manual_seed(seed))
    seen, kept = view_objects(boxes, labels, window, config.min_visible)
    low, high = window[0].view(2, 2).sort(dim=0).values  # of a mirrored window too
    inside = ((sample.boxes[:, :2] >= low) & (sample.boxes[:, 2:] <= high)).all(-1)
    states = torch.where(kept[0] < 0, LOST, torch.where(inside, WHOLE, CUT))
    return image, window[0], seen[0], states


def augmentation(
    sample: Sample,
    classes: Sequence[str],
    strengths: Mapping[str, AugmentConfig] = STRENGTHS,
    *,
    seeds: int = 8,
    start: tuple[int, int] = (2, 0),
    side: int = 176,
) -> Live:
    """Random views of one sample with their boxes, by seed and by strength.

    `strengths` are named configurations, the weakest first; `start` is the strength and the seed shown
    first; views travel as images of `side` pixels. Raises ValueError for a sample without objects.
    """
    if len(sample.boxes) == 0:
        raise ValueError("the sample has no object: choose an image with boxes to watch")
    rows = [[random_view(sample, config, n) for n in range(seeds)] for config in strengths.values()]
    windows, boxes, states = (torch.stack([torch.stack([v[k] for v in r]) for r in rows]) for k in (1, 2, 3))
    images: dict[bytes, int] = {}  # equal views, as at strength "none", travel once
    data = {}
    which = torch.zeros(states.shape[:2], dtype=torch.int64)
    for s, row in enumerate(rows):
        for n, view in enumerate(row):
            number = images.setdefault(view[0].numpy().tobytes(), len(images))
            which[s, n] = number
            if f"view{number}" not in data:
                small = Image.fromarray(view[0].permute(1, 2, 0).numpy())
                data[f"view{number}"] = jpeg(small.resize((side, side), Image.Resampling.LANCZOS), 80)
    figure = Augmentation(
        data={
            "image": jpeg(sample.image),
            "ground": "rgb({:.0f}, {:.0f}, {:.0f})".format(*sample.image.float().mean((1, 2)).tolist()),
            "boxes": pack(sample.boxes),
            "labels": sample.labels.tolist(),
            "classes": list(classes),
            "strengths": list(strengths),
            "windows": pack(windows),
            "views": pack(boxes),
            "states": pack(states, "|u1"),
            "which": pack(which, "|u1"),
            **data,
        },
        alt="An image with the part of it that a random view takes, and that view with its boxes.",
    )
    return Live(
        figure,
        {
            "strength": steps("strength", list(strengths), start[0]),
            "seed": whole("seed", 0, seeds - 1, start[1]),
        },
        caption=(
            "The same image is never the same twice: mirrored, recoloured, zoomed out of, cropped. Its "
            "boxes go along; they are cut where the view ends, and an object whose centre it misses is lost."
        ),
        fallback=_fallback(sample, rows[-1]),
    )


def _fallback(sample: Sample, row: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> plots.Drawing:
    """The image itself and five views of one strength."""
    colors = [plots.class_color(label) for label in sample.labels.tolist()]
    views = [plots.View(sample.image, "the image", [plots.Boxes(sample.boxes, colors, True)])]
    for n, (image, _, boxes, states) in enumerate(row[:5]):
        kept = states != LOST
        title = f"seed {n}: {int(kept.sum())} of {len(kept)} objects, {int((states == CUT).sum())} cut"
        inks = [color for color, k in zip(colors, kept.tolist(), strict=True) if k]
        views.append(plots.View(image, title, [plots.Boxes(boxes[kept], inks, True)]))
    return plots.plot_views(views, cell=228)
