"""What is varied: scales, questions and their variants, and the whole setting of one row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec
from d2lmini.data.augment import AugmentConfig
from d2lmini.losses import LossConfig
from d2lmini.train import TrainConfig
from d2lmini.transfer import FINE_ANCHORS, LONG_RATIOS, VIEWS

PRESETS = ("bananas", "scenes")
PHOTOGRAPHS = ("boards", "cards")  # folders: see `experiments.photographs`
EVERY = (*PRESETS, *PHOTOGRAPHS)
CROWD = 3  # objects in a photograph that is crowded: few hold more
SMALLEST = 64  # pixels a side: the smallest image that is drawn, and that TinySSD can halve six times
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """All that decides what a row comes out as, but its seed: images, network, training, detection."""

    image_size: int
    count: int
    held_out: int
    crowded: int  # only held-out images with at least so many objects are scored
    channels: tuple[int, ...]
    width: int
    finer: int
    config: TrainConfig
    detect: dict[str, Any] = field(default_factory=dict)
    views: int = 0  # of photographs: so many of each, whose frozen features the head learns from
    finetune: int = 0  # epochs that all weights learn after that

    def record(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Scale:
    """How large everything is run: `base` is the recipe from which every variant departs.

    For each preset, `sizes` is the side of an image, `counts` how many are trained with and `held_out` how
    many are scored. `anchors` are those that fit the objects *and* the feature maps of that size: the fine
    ones of large images fall between the places of a small image's maps. `shipped`: nothing is trained,
    the detector that comes with the book is scored. `photographs`: a head is trained on the frozen features
    of "everyday", its anchors suggested from the boxes; each of the `seeds` divides the images anew.
    """

    name: str
    says: str
    sizes: Mapping[str, int]
    counts: Mapping[str, int]
    held_out: Mapping[str, int]
    epochs: int | Mapping[str, int]
    batch_size: int
    lr: float
    channels: tuple[int, ...] = (16, 32, 64)
    width: int = 128
    anchors: Mapping[str, AnchorSpec] = field(default_factory=lambda: OURS)
    shipped: bool = False
    photographs: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)

    def base(self, preset: str) -> Setting:
        """What every variant departs from at this scale. All that a package's default could move is stated.

        It is this book's recipe with SSD's hard negatives: what speaks for all of them is one of the rows.
        """
        epochs = self.epochs if isinstance(self.epochs, int) else self.epochs[preset]
        config = TrainConfig(
            epochs=epochs,
            batch_size=self.batch_size,
            optimizer="adamw",
            lr=self.lr,
            weight_decay=5e-4,
            warmup=0.15,
            max_grad_norm=5.0,
            iou_threshold=0.5,
            loss=LossConfig(),  # SSD's: three hard negatives per positive
            prior_prob=None,
            augment=AugmentConfig(flip=0.5, color=0.3, expand=0, crop=0),
            anchors=self.anchors.get(preset, TINY_SSD_ANCHORS),
            eval_every=max(1, epochs // 2),
        )
        size, count, held_out = (part[preset] for part in (self.sizes, self.counts, self.held_out))
        if self.photographs:
            config = replace(config, augment=AugmentConfig(), weight_decay=0.1, eval_every=epochs)
            return Setting(size, count, held_out, 0, (), 0, 0, config, views=VIEWS)
        return Setting(size, count, held_out, 0, self.channels, self.width, 0, config)


def _with_finer(spec: AnchorSpec) -> AnchorSpec:
    """The same with a scale of half the size in front."""
    first = tuple(s / 2 for s in spec.sizes[0])
    return AnchorSpec((first, *spec.sizes), (spec.ratios[0], *spec.ratios))


LONG = AnchorSpec(TINY_SSD_ANCHORS.sizes, LONG_RATIOS)
WIDE = dict.fromkeys(PRESETS, LONG)  # for small images, whose maps are coarse
OURS = {"bananas": LONG, "scenes": FINE_ANCHORS}
ANCHORS = {  # what a change of the anchors makes of the scale's own
    "D2L's": lambda own: TINY_SSD_ANCHORS,
    "of 256 pixels": lambda own: FINE_ANCHORS,
    "smaller": lambda own: own.scaled(0.7),
    "with a finer map": _with_finer,
}


@dataclass(frozen=True)
class Question:
    """One question: what is asked and expected, and the settings that answer it.

    `variants` are named changes to the base recipe; `baseline` names the one that others are compared
    with. `more` are variants that come last when time is short. In a `ladder` each variant that begins with
    a + is also compared with the one before. By the scores of `ranked` the variants are put into order.
    `curves` says which variants a figure joins to a curve: {what varies: {name of the curve: {its value:
    variant}}}. Keys of changes are those of `resolve`.
    """

    name: str
    title: str
    chapter: str
    asks: str
    expected: str
    variants: Mapping[str, Changes]
    baseline: str
    more: Mapping[str, Changes] = field(default_factory=dict)
    presets: tuple[str, ...] = PRESETS
    ladder: bool = False
    ranked: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[str, Mapping[float, str]]] = field(default_factory=dict)

    @property
    def every(self) -> dict[str, Changes]:
        """All variants by name, the urgent ones first."""
        return {**self.variants, **self.more}


def of_training(changes: Changes) -> dict[str, Any]:
    """The changes without what only detection and scoring see."""
    return {k: v for k, v in changes.items() if not k.startswith(("detect.", "crowded"))}


def resolve(scale: Scale, preset: str, changes: Changes) -> Setting | None:
    """The setting that changes make of a scale's base recipe.

    None if its images would be too small, if the anchors it changes to are the scale's own, or if there are
    not so many photographs.

    "times" keys multiply what the base has: `size_times`, `batch_times`, and `count_times`, which keeps the
    number of updates (fewer images, more epochs). `anchors` names one of `ANCHORS`. `finer`, `crowded`
    (of photographs at most `CROWD`), `finetune`, `loss.X`, `augment.X`, `detect.X` and any option of
    TrainConfig are set. Raises ValueError for others.
    """
    base = setting = scale.base(preset)
    for key, value in changes.items():
        setting = _change(setting, key, value)
    same = "anchors" in changes and setting.config.anchors == base.config.anchors
    missing = scale.photographs and setting.count > base.count
    return None if same or missing or setting.image_size < SMALLEST else setting


def _change(setting: Setting, key: str, value: Any) -> Setting:
    config = setting.config
    group, _, name = key.rpartition(".")
    if key == "size_times":
        return replace(setting, image_size=round(setting.image_size * value))
    if key == "count_times":
        every, epochs = (max(1, round(n / value)) for n in (config.eval_every, config.epochs))
        config = replace(config, epochs=epochs, eval_every=every)
        return replace(setting, count=round(setting.count * value), config=config)
    if key == "batch_times":
        return replace(setting, config=replace(config, batch_size=round(config.batch_size * value)))
    if key == "anchors":
        return replace(setting, config=replace(config, anchors=ANCHORS[value](config.anchors)))
    if key in ("finer", "crowded", "finetune"):
        value = min(value, CROWD) if key == "crowded" and setting.views else value
        return replace(setting, **{key: value})
    if group == "detect":
        return replace(setting, detect={**setting.detect, name: value})
    if group in ("loss", "augment"):
        part = replace(getattr(config, group), **{name: value})
        return replace(setting, config=replace(config, **{group: part}))
    if group or not hasattr(config, key):
        raise ValueError(
            f"nothing is called {key!r}: see experiments.setting.resolve for what can be changed"
        )
    return replace(setting, config=replace(config, **{key: value}))


def slug(changes: Changes) -> str:
    """A file name for changes: "base", or readable where that is short; equal changes, equal name.

    >>> slug({"loss.sigma": 2.0}), slug({})
    ('loss.sigma=2.0', 'base')
    """
    if not changes:
        return "base"
    text = "+".join(f"{key}={_word(changes[key])}" for key in sorted(changes))
    if len(text) <= 60:
        return text
    return f"{len(changes)}-changes-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _word(value: Any) -> str:
    text = f"{float(value):.4g}" if isinstance(value, float) else str(value).lower()
    text = f"{text}.0" if isinstance(value, float) and text.isdigit() else text
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text)
