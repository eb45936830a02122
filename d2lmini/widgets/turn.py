"""Turn it: loss settings trained for real in the reader's browser, on a small set whose features come along.

The set are windows of one photograph of coins, 96 × 96 pixels each, as in chapter "Your own pictures". What
the backbone of "everyday" knows of them was computed once; a pyramid and heads learn from that, in seconds.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from d2lmini import live, plots
from d2lmini.boxes import MAX_LOG_GROWTH, VARIANCES, box_area
from d2lmini.data import Sample
from d2lmini.engine.features import HeadOnFeatures, features_of
from d2lmini.widgets.base import STYLE, Figure, Live
from d2lmini.widgets.teach import ANCHORS, teaching_model

SIDE, TRAIN, HELD_OUT, STEPS = 96, 24, 16, 100
UNIT = 6 / 255  # features lie between 0 and 6 (ReLU6), and travel as bytes


# Left, top, right and bottom, in pixels, of the coins in scikit-image's photograph.
COINS = """
23 35 67 74, 81 39 120 74, 132 29 179 73, 192 30 239 73, 255 34 297 72, 305 16 364 72,
25 104 66 145, 84 108 122 145, 134 110 173 145, 186 105 226 144, 246 96 296 143, 318 106 356 144,
26 178 62 217, 80 175 124 217, 135 179 174 217, 189 170 236 216, 251 173 296 216, 316 156 379 218,
19 233 74 288, 93 245 136 287, 144 237 201 287, 220 241 269 288, 276 240 326 288, 336 248 382 289
"""
SPLIT = 240  # columns to the left of this are for training, the others held out


@cache
def coin_windows() -> list[Sample]:
    """Windows of the photograph with the coins of which at least half is inside: training ones first."""
    data = importlib.import_module("skimage.data")  # by name: only who builds the book has it
    photograph = Image.fromarray(data.coins()).convert("RGB")
    coins = torch.tensor([[float(v) for v in row.split()] for row in COINS.split(",")])
    dice, samples = random.Random(0), []
    for i in range(TRAIN + HELD_OUT):
        columns = (0, SPLIT) if i < TRAIN else (SPLIT, photograph.width)
        side = dice.randint(90, 140)
        left, top = dice.randint(columns[0], columns[1] - side), dice.randint(0, photograph.height - side)
        image = photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.BILINEAR)
        boxes = coins - torch.tensor([left, top, left, top])
        inside = boxes.clamp(0, side)
        boxes = inside[2 * box_area(inside) >= box_area(boxes)] / side
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        samples.append(Sample(pixels, boxes, torch.zeros(len(boxes), dtype=torch.int64)))
    return samples


@cache
def study_set() -> dict[str, Any]:
    """Features and objects of the set, as JSON for the page: training images first, then held-out ones."""
    samples = coin_windows()
    model = HeadOnFeatures(teaching_model(["coin"], (SIDE, SIDE)).eval())
    features = features_of(model, torch.stack([s.image for s in samples]), "float32").float()
    shapes = [dict(zip(("channels", "height", "width"), shape, strict=True)) for shape in model.shapes]
    # as the plan of a network: the heads' maps, finest first, from which the page makes the anchors
    maps = [[s["height"], s["width"]] for s in shapes]
    maps += [[-(-side // 2) for side in maps[-1]], [1, 1]]
    places = ANCHORS.num_anchors_per_location
    record = {
        "features": shapes,
        "plan": [{"op": "heads", "map": m, "anchors": k} for m, k in zip(maps, places, strict=True)],
        "sizes": ANCHORS.sizes,
        "ratios": ANCHORS.ratios,
        "paired": ANCHORS.paired,
        "decoding": {**VARIANCES._asdict(), "most": MAX_LOG_GROWTH},
    }
    numbers = (features / UNIT).round().clamp(0, 255).to(torch.uint8)
    objects = [
        [
            {"box": [round(v, 5) for v in box], "label": label}
            for box, label in zip(s.boxes.tolist(), s.labels.tolist(), strict=True)
        ]
        for s in samples
    ]
    text = base64.b64encode(numbers.numpy().tobytes()).decode()
    return {
        **{"record": record, "classes": 1, "features": text},
        **{"objects": objects, "train": TRAIN, "steps": STEPS},
    }


def set_script() -> tuple[str, str]:
    """Name and text of the script that holds the set; the name changes when anything in it does."""
    text = json.dumps(study_set())
    name = f"coins-{hashlib.sha256(text.encode()).hexdigest()[:12]}.js"
    return name, f"(globalThis.d2lminiModels ??= {{}})[{json.dumps(name)}] = {text};\n"


class TurnIt(Figure):
    """`data`: `name` of the set's script, `about` it, `study`."""

    _esm = live.widget_module()
    _css = STYLE + live.STYLE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.on_msg(self._answer)

    def _answer(self, _: object, message: Mapping[str, Any], buffers: object) -> None:
        """Code and set, where no page of the book serves them."""
        if message.get("want") == "code":
            self.send({"code": live.teach_script(), "model": study_set()})


def turn_it() -> Live:
    """Loss settings to choose and to train with, beside the book's."""
    about = f"features of {TRAIN} images to train with and {HELD_OUT} held out, 1 MB"
    figure = TurnIt(
        data={"name": set_script()[0], "about": about, "samples": [], "study": True},
        alt="Settings of the losses to choose, and the curves of trainings with them and with the book's.",
    )
    views = [plots.View(s.image, "", [plots.Boxes(s.boxes, "#E69F00")]) for s in coin_windows()[:4]]
    return Live(
        figure,
        {},
        caption=(
            "Choose a setting and train it, in this page, beside the book's. One run says little; three "
            "seeds say more."
        ),
        fallback=plots.plot_views(views, cell=120),
    )
