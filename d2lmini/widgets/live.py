"""The detector itself, live: the reader's own images, every anchor's answer, every threshold.

In a page of the book the network runs in the reader's browser, from the scripts that the book serves. In
JupyterLab and Colab the same widget sends its pixels to the kernel, and this module answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2lmini import live, plots
from d2lmini.checkpoint import ModelInfo
from d2lmini.data import Sample
from d2lmini.detect import detect
from d2lmini.interop.export import about, browser_model, describe_sample, inference_model, png, script_name
from d2lmini.model import TinySSD
from d2lmini.widgets.base import STYLE, Figure, Live
from d2lmini.widgets.front import LETTERS, sample_titles

SCORE = 0.5  # where the page's slider stands at first
BITS = {"scenes": 16, "everyday": 9}  # of the detectors that the book serves


class LiveDetector(Figure):
    """`data`: `name` of the weights script, `about` the network, `samples` with their titles and true boxes,
    image0, image1, …. What the page needs besides, it loads when an image is chosen: from beside itself
    in the book, or by asking this object."""

    _esm = live.widget_module()
    _css = STYLE + live.STYLE

    def __init__(self, model: TinySSD, record: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._model = inference_model(model, record["bits"])
        self._record = {key: value for key, value in record.items() if key not in ("weights", "high", "low")}
        self.on_msg(self._answer)

    def _answer(self, _: object, message: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        """The page's code, or what the network says of an image: float32 logits, then offsets."""
        if message.get("want") == "code":
            self.send({"code": live.live_script(), "model": self._record})
        elif "id" in message:
            try:
                arrays, ms = self._look(buffers)
                self.send({"id": message["id"], "ms": ms}, arrays)
            except Exception as error:  # it belongs in the page: nobody looks for it in the kernel's log
                self.send({"id": message["id"], "error": str(error) or type(error).__name__})

    def _look(self, buffers: Sequence[memoryview]) -> tuple[list[bytes], float]:
        """Bytes of logits and offsets for RGBA pixels, and how many milliseconds that took."""
        height, width = self._model.image_size
        pixels = torch.frombuffer(bytearray(buffers[0]), dtype=torch.uint8).view(height, width, 4)
        start = time.perf_counter()
        with torch.inference_mode():
            answers = self._model(pixels[..., :3].permute(2, 0, 1).unsqueeze(0))
        ms = 1000 * (time.perf_counter() - start)
        return [part.squeeze(0).float().numpy().tobytes() for part in answers], ms


def live_detector(model: TinySSD, info: ModelInfo, samples: Sequence[Sample], name: str = "scenes") -> Live:
    """The detector for the reader to use, with some images to begin with.

    `name` is that of the weights script; the book serves those of `BITS`, which is how many bits a weight
    has: it computes with `inference_model(model, bits)`. Raises ExportError for a network that the browser
    cannot run, and ValueError without samples.
    """
    if not samples:
        raise ValueError("give at least one sample, so that there is something to begin with")
    bits = BITS.get(name, 16)
    record = browser_model(model, info, bits)
    known = any(len(sample.labels) for sample in samples)
    titles = sample_titles(samples) if known else [*LETTERS]
    figure = LiveDetector(
        model,
        record,
        data={
            "name": script_name(record, name),
            "about": about(model, bits),
            "samples": [
                {**describe_sample(sample, 0), "title": f"image {title}"}
                for title, sample in zip(titles, samples, strict=False)
            ],
            **{f"image{i}": _lossless(s.image) for i, s in enumerate(samples[: len(LETTERS)])},
        },
        alt="The detector, live: an image with its boxes, every scale's scores, thresholds to move.",
    )
    return Live(
        figure,
        {},
        caption=(
            "The network runs in this page, on these images or on your own. Move the thresholds, look at "
            "all candidates, choose a box to see its anchor and what it removed, or mark the true boxes."
        ),
        fallback=_fallback(model, samples[0]),
    )


def _lossless(image: Tensor) -> dict[str, Any]:
    """An image for the browser, like `base.jpeg`, but without its loss: scores would differ."""
    return {"mime": "image/png", "width": image.shape[2], "height": image.shape[1], "bytes": png(image)}


def _fallback(model: TinySSD, sample: Sample) -> plots.Drawing:
    """An image, all candidates in it, and what suppression leaves."""
    with torch.inference_mode():
        answers = inference_model(model)(sample.image.unsqueeze(0))
    views = [plots.View(sample.image, "an image")]
    for title, options in (("candidates", {"iou_threshold": 1.0}), ("after NMS", {})):
        options |= {"score_threshold": SCORE, "score_function": model.score_function}
        (found,) = detect(*answers, model.anchors.cpu(), **options)
        colors = [plots.class_color(k) for k in found.labels.tolist()]
        boxes = plots.Boxes(found.boxes, colors, linewidth=1.25)
        views.append(plots.View(sample.image, f"{len(found.scores)} {title}", [boxes]))
    return plots.plot_views(views, cell=220)
