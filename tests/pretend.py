"""A processor that says it is a GPU, so that paths for other devices are tested on any machine."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

WAITS = {
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "item",
    "tolist",
    "nonzero",
    "cpu",
    "numpy",
}
WAITS |= {
    "masked_select",
    "unique",
    "equal",
    "tensor",
    "as_tensor",
    "from_numpy",
    "repeat_interleave",
}


class PretendDevice(TorchFunctionMode):
    """A context in which every tensor says it lives on a GPU, and stays where it is.

    `waits` counts the calls at which one would have to wait for a real device, or send it data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(func, "__self__", None) is torch.Tensor.device:
            return torch.device("cuda")
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        args = tuple(torch.device("cpu") if _is_cuda(a) else a for a in args)
        name = getattr(func, "__name__", "")
        if name in WAITS or (name in ("__getitem__", "__setitem__") and _asks_the_processor(args[1])):
            self.waits[name] += 1
        return func(*args, **kwargs)


def _is_cuda(argument: object) -> bool:
    return isinstance(argument, torch.device) and argument.type == "cuda"


def _asks_the_processor(index: object) -> bool:
    """A mask has to be counted, and a list of places is sent to the device (which breaks a graph)."""
    parts = index if isinstance(index, tuple) else (index,)
    masks = (isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)
    return any(masks) or any(isinstance(part, (list, np.ndarray)) for part in parts)
