"""Train the detector that the package ships, on generated scenes, and write it into `d2lmini/weights/`.

    python tools/train_weights.py [--seed 0] [--work runs/weights]

The run is the recipe `scenes`, with nothing added (a quarter of an hour on two CPU cores);
interrupted, it goes on where it was. Weights of convolutions are rounded to float16, which halves the
file; the scores in its header are those of the rounded network on 500 images that it never saw.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from d2lmini import __version__, data, fit, transfer, validate
from d2lmini.checkpoint import ModelInfo, save_model
from d2lmini.model import TinySSD

TARGET = Path(__file__).resolve().parents[1] / "d2lmini" / "weights" / "scenes.safetensors"
HELD_OUT = 500


def rounded(model: TinySSD) -> TinySSD:
    """The network with the weights of its convolutions in float16; statistics keep their digits."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.half()
    return model


def main() -> None:
    """Train, round, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/weights"), help="folder of the run")
    options = parser.parse_args()
    recipe = transfer.recipe("scenes")
    config = dataclasses.replace(recipe.config, seed=options.seed)
    classes = data.PRESETS["scenes"]
    parts = (("train", recipe.count), ("val", HELD_OUT))
    training, held_out = (
        data.load(data.open_data("scenes", part, size=recipe.image_size, count=count))
        for part, count in parts
    )
    result = fit(training, held_out, classes, config, out=options.work, resume=True)
    model = rounded(result.model.float()).float()  # rounded, then computed with as ever
    metrics, _, _ = validate(model, held_out, classes, precision="float32")
    notes = {
        "recipe": "scenes",
        "seed": options.seed,
        "train_images": recipe.count,
        "epochs": config.epochs,
        "held_out_images": HELD_OUT,
        "ap": round(metrics.ap, 4),
        "ap50": round(metrics.ap50, 4),
        "d2lmini": __version__,
        "torch": torch.__version__,
    }
    TARGET.parent.mkdir(exist_ok=True)
    save_model(TARGET, rounded(model), ModelInfo(classes, notes))
    print(f"{TARGET}: {TARGET.stat().st_size / 1e6:.2f} MB, {notes}")


if __name__ == "__main__":
    main()
