"""What the browser has to do for a detector, step by step: read off the network's own graph.

`torch.fx` traces the backbone; each of its operations becomes a step that `live/network.js` knows, in the
same order. So any backbone of convolutions (3 × 3, 1 × 1, one for each channel), ReLU, pooling and sums does.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from d2lmini.mobilenet import Conv
from d2lmini.model import TinySSD

BITS = 9  # of coarse filters
INSTEAD = "export to ONNX instead"


class ExportError(ValueError):
    """A detector that cannot be exported as it is; the message names the reason and the remedy."""


class Plan(NamedTuple):
    """The steps as JSON, and the convolutions in the order in which steps take their weights."""

    steps: list[dict[str, Any]]
    convs: list[nn.Conv2d]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def layer_plan(model: TinySSD) -> Plan:
    """The plan of a fused model (`inference_model`). Raises ExportError for a layer that no step can be.

    Each step but `heads` makes a map; maps are numbered from 0, the image, and a step reads the newest one
    unless it says `from`. `conv`: `inputs`, `outputs`, and what is not usual of `kernel` (3), `stride` (1),
    `before` (zeros above and to the left: [1, 1]), `each` (a filter for each channel), `most` (of ReLU: none)
    and `relu` (true). `pool` halves, `global` takes the largest value of each channel, `enlarge` repeats
    pixels, `add` is a sum with the map `and`. `heads`: classes and boxes of `anchors` anchors at each place
    of a `map` of height and width.
    """
    try:
        graph = _Tracer().trace(model.backbone)
        traced = fx.GraphModule(model.backbone, graph)
        ShapeProp(traced).propagate(torch.zeros(1, 3, *model.image_size))
    except Exception as error:  # whatever a foreign backbone does that cannot be traced
        raise ExportError(f"the browser cannot run {type(model.backbone).__name__}: {INSTEAD}") from error
    return _Builder(model, graph).plan


class _Builder:
    """Goes through a graph once; `places` says in which map the value of a node is."""

    def __init__(self, model: TinySSD, graph: fx.Graph) -> None:
        self.model, self.modules = model, dict(model.backbone.named_modules())
        self.plan, self.places, self.maps = Plan([], []), {}, 0
        self.makers: dict[int, dict[str, Any]] = {}  # the step that made a map
        self.heads = zip(
            model.class_heads, model.box_heads, model.anchor_spec.num_anchors_per_location, strict=True
        )
        ends = next(node.args[0] for node in graph.nodes if node.op == "output")
        for node in graph.nodes:
            if node.op == "placeholder":
                self.places[node] = 0
            elif node.op != "output":
                self._node(node)
            if node in ends:
                self._heads(node)

    def _node(self, node: fx.Node) -> None:
        what = self.modules[node.target] if node.op == "call_module" else node.target
        source = node.args[0] if node.args else None
        if isinstance(what, nn.Conv2d):
            self._step(node, {"op": "conv", **conv_step(what, _shape(source)[2:])}, what)
        elif isinstance(what, nn.Identity):
            self.places[node] = self.places[source]
        elif isinstance(what, (nn.ReLU, nn.ReLU6)):
            self._relu(node, isinstance(what, nn.ReLU6))
        elif isinstance(what, nn.MaxPool2d) and (what.kernel_size, what.stride) == (2, 2):
            self._step(node, {"op": "pool"})
        elif what == "amax" and (2, 3) in (*node.args[1:], node.kwargs.get("dim")):
            self._step(node, {"op": "global"})
        elif what is F.interpolate and node.kwargs.get("mode", "nearest") == "nearest":
            height, width = _shape(node)[2:]
            self._step(node, {"op": "enlarge", "height": height, "width": width})
        elif what is operator.add and _shape(source) == _shape(node.args[1]):
            self._step(node, {"op": "add", "and": self.places[node.args[1]]})
        elif not (
            what in (getattr, operator.getitem) or "tensor_meta" not in node.meta
        ):  # sizes need no step
            raise ExportError(f"the browser cannot run the layer {what}: {INSTEAD}")

    def _step(self, node: fx.Node, step: dict[str, Any], *convs: nn.Conv2d) -> None:
        source = self.places[node.args[0]]
        if source != self.maps:
            step["from"] = source
        self.plan.steps.append(step)
        self.plan.convs.extend(convs)
        self.maps += 1
        self.places[node], self.makers[self.maps] = self.maps, step

    def _relu(self, node: fx.Node, six: bool) -> None:
        """ReLU goes with the convolution before it, also across a pooling: a maximum and ReLU commute."""
        source = node.args[0]
        place = maker = self.places[source]
        while self.makers.get(maker, {}).get("op") == "pool":
            maker -= 1
        step = self.makers.get(maker, {})
        if step.get("op") != "conv" or step.get("relu", True) or len(source.users) > 1:
            raise ExportError(f"the browser runs ReLU right behind a convolution only: {INSTEAD}")
        del step["relu"]
        if six and not (step.keys() & {"kernel", "each", "stride"}):
            raise ExportError(f"the browser has no ReLU6 behind a 3 × 3 convolution at stride 1: {INSTEAD}")
        if six:
            step["most"] = 6
        self.places[node] = place

    def _heads(self, node: fx.Node) -> None:
        class_head, box_head, anchors = next(self.heads)
        step = {"op": "heads", "anchors": anchors, "map": list(_shape(node)[2:])}
        one, two = (conv_step(head, step["map"]) for head in (class_head, box_head))
        if one["inputs"] != two["inputs"] or one.get("kernel") != two.get("kernel"):
            raise ExportError(f"the browser needs heads of one kind: {INSTEAD}")
        step |= {key: one[key] for key in ("inputs", "kernel") if key in one}
        if self.places[node] != self.maps:
            step["from"] = self.places[node]
        self.plan.steps.append(step)
        self.plan.convs.extend((class_head, box_head))


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def conv_step(conv: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """What is to be said of a convolution of maps of this size, as in `layer_plan`; ReLU comes later."""
    if not isinstance(conv, nn.Conv2d):
        raise ExportError(f"the browser needs a convolution where this is {conv}: {INSTEAD}")
    kernel, stride, around = conv.kernel_size, conv.stride, conv.padding
    before = [1, 1]
    if isinstance(conv, Conv) and conv.right_and_below:
        before, around = [side % 2 for side in size], (kernel[0] // 2,) * 2
    each = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
    known = (
        kernel in ((1, 1), (3, 3))
        and stride in ((1, 1), (2, 2))
        and (stride == (1, 1) or kernel == (3, 3))
        and around == (kernel[0] // 2,) * 2
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and (conv.groups == 1 or (each and kernel == (3, 3)))
    )
    if not known:
        need = (
            "3 × 3 (also one filter a channel, also at stride 2) or 1 × 1, with padding that keeps the size"
        )
        raise ExportError(f"the browser cannot run {conv}: it convolves {need}; {INSTEAD}")
    step: dict[str, Any] = {"inputs": conv.in_channels, "outputs": conv.out_channels, "relu": False}
    step |= {"kernel": 1} if kernel == (1, 1) else {}
    step |= {"stride": 2} if stride == (2, 2) else {}
    step |= {"before": before} if before != [1, 1] else {}
    return step | ({"each": True} if each else {})


def coarse(conv: nn.Conv2d) -> bool:
    """Whether nine bits are enough for its filters: where each sums over many channels, errors cancel."""
    return conv.groups == 1 and conv.in_channels > 3


def whole_numbers(filters: Tensor) -> tuple[Tensor, Tensor]:
    """Filters (outputs, …) as whole numbers (outputs, F) of nine bits, and scales (outputs,) of float16."""
    filters = filters.flatten(1).float()
    most = 2 ** (BITS - 1) - 1
    scales = (filters.abs().amax(1) / most).half().float().clamp_min(torch.finfo(torch.float16).tiny)
    return (filters / scales[:, None]).round().clamp(-most, most), scales


def flat_weights(plan: Plan, bits: int = 16) -> dict[str, bytes]:
    """All weights one behind the other as bytes: `weights` in float16, in the order of the plan.

    Filters (outputs, inputs, k, k) come before their bias, zeros where there is none, the class head of a
    map before its box head. With `bits` 9, `coarse` convolutions have their scales there instead of filters;
    those are in `high`, whole numbers from the second bit on, int8, and `low`, the first bit of each, eight
    in a byte.
    """
    halves, numbers = [], []
    for conv in plan.convs:
        filters = conv.weight.detach().cpu()
        if bits == BITS and coarse(conv):
            whole, filters = whole_numbers(filters)
            numbers.append(whole.flatten().to(torch.int16))
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().cpu()
        halves += [filters.flatten().half(), bias.half()]
    parts = {"weights": torch.cat(halves).numpy().astype("<f2").tobytes()}
    if numbers:
        whole = torch.cat(numbers).numpy()
        parts["high"] = (whole >> 1).astype("i1").tobytes()
        parts["low"] = np.packbits((whole & 1).astype(np.uint8), bitorder="little").tobytes()
    return parts


def bytes_of_maps(plan: Plan, size: tuple[int, int]) -> int:
    """The memory that the image and all feature maps take in the browser: float32, with a rim for padding."""
    shapes = [(3, *size)]
    floats = _floats(shapes[0])
    for step in plan.steps:
        channels, height, width = shapes[step.get("from", len(shapes) - 1)]
        if step["op"] == "heads":
            continue
        if step["op"] == "conv":
            stride = step.get("stride", 1)
            height, width = -(-height // stride), -(-width // stride)
            if stride == 2 and not step.get("each"):  # the taps of every pixel, one map for each
                floats += _floats((9 * channels, height, width))
            channels = step["outputs"]
        elif step["op"] == "pool":
            height, width = height // 2, width // 2
        elif step["op"] == "global":
            height = width = 1
        elif step["op"] == "enlarge":
            height, width = step["height"], step["width"]
        shapes.append((channels, height, width))
        floats += _floats(shapes[-1])
    return 4 * floats


def _floats(shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    return channels * ((height + 2) * (width + 2) + 8)
