"""Draw the image that chat programs and social sites show beside a link to the book (1200 × 630).

    python tools/social_picture.py

On it is what the detector that ships with the package finds in the scene that the book follows.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from d2lmini import Detections, detect, pretrained
from d2lmini.data import Synthetic

IMAGE = Path(__file__).resolve().parents[1] / "_ext" / "page" / "social.jpg"
COLORS = ("#0072b2", "#c24e00", "#007d5b", "#a8447f", "#8a6d00", "#4b4b4b")
DPI = 100


def main() -> None:
    """Detect, draw and store."""
    dataset = Synthetic("scenes", count=24, size=256, split="val")
    sample = dataset[2]
    model, _ = pretrained("scenes")
    with torch.inference_mode():
        (found,) = detect(*model(sample.image.unsqueeze(0)), model.anchors)
    figure = Figure(figsize=(12, 6.3), dpi=DPI, facecolor="#f3f6fb")
    panel = figure.add_axes((570 / 1200, 30 / 630, 570 / 1200, 570 / 630))
    panel.imshow(sample.image.permute(1, 2, 0), extent=(0, 1, 1, 0))
    panel.axis("off")
    draw_boxes(panel, found.at_least(0.5), dataset.classes)
    figure.text(0.05, 0.74, "d2lmini", fontsize=58, fontweight="bold", color="#15406f")
    lines = "Single-shot detection,\nin your hands: a book\nwhose figures are live"
    figure.text(0.05, 0.36, lines, fontsize=27, color="#1c1c1c", linespacing=1.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    Image.open(buffer).convert("RGB").save(IMAGE, quality=88, optimize=True)
    print(f"{IMAGE}: {IMAGE.stat().st_size / 1000:.0f} kB")


def draw_boxes(panel: Axes, found: Detections, classes: tuple[str, ...]) -> None:
    """Draw detections with their names and scores, each class in its colour."""
    for box, score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        x0, y0, x1, y1 = box
        color = COLORS[label % len(COLORS)]
        panel.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=3.5))
        panel.text(
            x0,
            max(y0, 0.045),
            f" {classes[label]} {score:.0%} ",
            fontsize=13,
            color="white",
            va="bottom",
            backgroundcolor=color,
        )


if __name__ == "__main__":
    main()
