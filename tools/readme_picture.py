"""Draw the README's image: what a trained detector finds in the first held-out images.

    python tools/readme_picture.py runs/bananas/best.safetensors --data bananas

The detector sees the images at its own size; they are shown at 256 pixels. Nothing is chosen by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from d2lmini import detect, load_model, plots, predict_batched
from d2lmini.data import open_data

IMAGE = Path(__file__).resolve().parents[1] / "chapters" / "detections.png"


def main() -> None:
    """Detect in the first images of the validation set and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--data", default="bananas")
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    model, info = load_model(options.model)
    dataset = open_data(options.data, "val", size=256)
    samples = [dataset[i] for i in range(options.count)]
    images = torch.stack([s.image for s in samples]).float().div(255)
    images = F.interpolate(images, model.image_size, mode="area")
    predictions = predict_batched(model, images)
    found = [d.at_least(0.5) for d in detect(*predictions, model.anchors)]
    sheet = plots.contact_sheet(samples, info.classes, columns=8, detections=found, cell=150)
    plots.save(sheet, IMAGE)
    print(f"{options.count} images → {IMAGE}")


if __name__ == "__main__":
    main()
