"""Teach it: label images, train a detector on them and use it, all of it in the reader's browser.

The page computes; Python says what it needs to know: the network's plan, anchors, the names of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from d2lmini import live, plots
from d2lmini.anchors import AnchorSpec
from d2lmini.checkpoint import ModelInfo, describe_model, pretrained
from d2lmini.interop.export import browser_model, inference_model, script_name
from d2lmini.interop.plan import layer_plan
from d2lmini.mobilenet import TopDownMobileNetV2
from d2lmini.model import TinySSD
from d2lmini.widgets.base import STYLE, Figure, Live, jpeg
from d2lmini.widgets.live import BITS

SIZE = (300, 300)
# Made for objects 3.5 cells wide, and half as large again: with twenty images these do better than anchors
# suggested from their boxes.
ANCHORS = AnchorSpec(
    sizes=((0.092, 0.13), (0.184, 0.26), (0.35, 0.49), (0.6, 0.7), (0.85, 0.95)), ratios=((1, 2, 0.5),) * 5
)


def teaching_model(classes: Sequence[str], size: tuple[int, int] = SIZE) -> TinySSD:
    """A pyramid and heads that know nothing yet, on the backbone of "everyday"."""
    model = TinySSD(len(classes), size, ANCHORS, TopDownMobileNetV2("tensorflow"))
    model.backbone.backbone.load_state_dict(pretrained("everyday")[0].backbone.backbone.state_dict())
    return model


def template() -> dict[str, Any]:
    """What the page has to know of the detector that is learned in it, for a single class, as JSON.

    `record` is that of `browser_model` without weights, `description` that of `describe_model`, `convs` has
    the name and shape of each convolution in the order of the plan, and whether it has a bias.
    """
    model, info = inference_model(teaching_model(["object"])), ModelInfo(("object",))
    record = browser_model(model, info)
    names = {module: name for name, module in model.named_modules()}
    convs = [
        {"name": names[conv], "shape": list(conv.weight.shape), "bias": conv.bias is not None}
        for conv in layer_plan(model).convs
    ]
    del record["weights"], record["sha256"]
    return {"record": record, "description": describe_model(model, info), "convs": convs}


class TeachPage(Figure):
    """`data`: `name` of the weights script of "everyday", `about` it, `template` (see above), `samples` with
    their titles, image0, image1, …."""

    _esm = live.widget_module()
    _css = STYLE + live.STYLE

    def __init__(self, record: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._record = dict(record)
        self.on_msg(self._answer)

    def _answer(self, _: object, message: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        """Code and network, where no page of the book serves them."""
        if message.get("want") == "code":
            self.send({"code": live.teach_script(), "model": self._record})


def teach_page(samples: Mapping[str, Tensor] | None = None) -> Live:
    """The page that teaches; `samples` are images (3, H, W), uint8, by their titles, to begin with."""
    model, info = pretrained("everyday")
    record = browser_model(model, info, BITS["everyday"])
    samples = samples or {}
    weights = sum(p.numel() for p in model.parameters())
    figure = TeachPage(
        record,
        data={
            "name": script_name(record, "everyday"),
            "about": f"{weights / 1e6:.1f} million weights, {weights * BITS['everyday'] / 8e6:.0f} MB",
            "template": template(),
            "samples": [{"title": title} for title in samples],
            **{f"image{i}": jpeg(image) for i, image in enumerate(samples.values())},
        },
        alt="The page that teaches: images and boxes of your own, a training, the detector that comes of it.",
    )
    return Live(
        figure,
        {},
        caption=(
            "Add images, draw boxes, train, and let the network suggest the boxes of the next images. "
            "All of it runs in this page: nothing is sent anywhere."
        ),
        fallback=plots.plot_views(
            [plots.View(image, title) for title, image in list(samples.items())[:6]], cell=120
        ),
    )
