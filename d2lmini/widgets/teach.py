"""Teach it: label images, train a detector on them and use it, all of it in the reader's browser.

The page computes; Python says what it needs to know: the network's plan, its anchors, the names of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d2lmini.anchors import AnchorSpec
from d2lmini.checkpoint import ModelInfo, describe_model, pretrained
from d2lmini.interop.export import browser_model, inference_model
from d2lmini.interop.plan import layer_plan
from d2lmini.mobilenet import TopDownMobileNetV2
from d2lmini.model import TinySSD

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

    `record` is that of `browser_model` without weights, `description` that of `describe_model`, `convs` has the
    name and shape of each convolution in the order of the plan, and whether it has a bias.
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
