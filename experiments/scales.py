"""The named scales: the same questions, small on a CPU or large on a GPU.

Rows keep the name of their scale, and no table mixes two.
"""

from __future__ import annotations

from experiments.setting import WIDE, Scale

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="tiny",
            says="seconds a row, to try the runner itself; its scores mean nothing",
            sizes={"bananas": 64, "scenes": 64},
            held_out={"bananas": 16, "scenes": 16},
            counts={"bananas": 32, "scenes": 32},
            epochs=2,
            batch_size=8,
            lr=2e-3,
            channels=(4, 8, 16),
            width=16,
            anchors=WIDE,
        ),
        Scale(
            name="small",
            says="TinySSD on small images: 20 (bananas) or 50 (scenes) seconds of one core a row",
            sizes={"bananas": 64, "scenes": 96},
            held_out={"bananas": 300, "scenes": 200},
            counts={"bananas": 800, "scenes": 1000},
            epochs=8,
            batch_size=16,
            lr=2e-3,
            anchors=WIDE,
        ),
        Scale(
            name="shipped",
            says="the detector of scenes that comes with the book, on images of 256 pixels",
            sizes={"bananas": 256, "scenes": 256},
            counts={"bananas": 0, "scenes": 0},
            held_out={"bananas": 200, "scenes": 200},
            epochs=1,
            batch_size=16,
            lr=2e-3,
            shipped=True,
        ),
        Scale(
            name="photos",
            says="photographs of 300 pixels, heads on frozen features: some 15 seconds of one core a row",
            sizes={"boards": 300, "cards": 300},
            counts={"boards": 119, "cards": 290},
            held_out={"boards": 30, "cards": 73},
            epochs={"boards": 2, "cards": 1},  # of ten views: 148 and 181 updates
            batch_size=16,
            lr=3e-3,
            photographs=True,
            seeds=(0, 1, 2, 3, 4),
        ),
        Scale(
            name="full",
            says="the network, images and recipe that this book's detectors are trained with",
            sizes={"bananas": 128, "scenes": 256},
            held_out={"bananas": 500, "scenes": 500},
            counts={"bananas": 3000, "scenes": 3000},
            epochs=8,
            batch_size=16,
            lr=2e-3,
        ),
    )
}
