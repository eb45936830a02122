"""Draw the README's image: what the detector "everyday" finds in photographs that scikit-image ships.

    python tools/readme_picture.py

They are in the public domain (NASA) or CC0 (Stéfan van der Walt, Rachel Michetti, Lav Varshney).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageOps

from d2lmini import detect, plots, pretrained
from d2lmini.data import Sample

IMAGE = Path(__file__).resolve().parents[1] / "chapters" / "photographs.png"
NAMES = ("astronaut", "chelsea", "coffee", "camera")
SCORE = 0.4  # as the command `detect`


@torch.no_grad()
def main() -> None:
    """Detect in the middle of each photograph and write the sheet."""
    model, info = pretrained("everyday")
    samples = []
    for name in NAMES:
        photograph = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        pixels = np.array(ImageOps.fit(photograph, model.image_size))
        nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        samples.append(Sample(torch.from_numpy(pixels).permute(2, 0, 1), *nothing))
    predictions = model(torch.stack([sample.image for sample in samples]))
    options = {"score_threshold": SCORE, "score_function": model.score_function}
    found = detect(*predictions, model.anchors, **options)
    sheet = plots.contact_sheet(samples, info.classes, columns=len(NAMES), detections=found, cell=200)
    plots.save(sheet, IMAGE)
    print(f"{len(samples)} photographs → {IMAGE}")


if __name__ == "__main__":
    main()
