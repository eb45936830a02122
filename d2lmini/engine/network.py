"""A detector as a training run calls it: memory layout, precision, compilation, gradients of all ranks."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from d2lmini.engine import devices, distributed
from d2lmini.engine.distributed import Ranks
from d2lmini.model import Predictions, TinySSD


class Network(nn.Module):
    """`model` with what surrounds its forward pass, called like it: images (N, 3, H, W) to `Predictions`.

    Images come into `channels_last` layout if asked for, convolutions are computed in `dtype` (autocast),
    gradients are averaged over `ranks`, and with `compile` the model goes through torch.compile; where that
    fails, a warning says so and it runs as it is.
    """

    def __init__(
        self,
        model: TinySSD,
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = True,
        compile: bool = False,
        ranks: Ranks | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.device, self.dtype = model.anchors.device, dtype
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)
        self.called = distributed.data_parallel(model, ranks or Ranks(), self.device, sync_batch_norm)
        self.compiled = torch.compile(self.called) if compile else None

    @property
    def anchors(self) -> Tensor:
        """The model's anchors (A, 4)."""
        return self.model.anchors

    def forward(self, images: Tensor) -> Predictions:
        """Predictions for images (N, 3, H, W) on the model's device."""
        images = images.contiguous(memory_format=self.layout)
        with devices.autocast(self.device, self.dtype):
            if self.compiled is not None:
                try:
                    return self.compiled(images)
                except Exception as error:
                    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton")):
                        raise  # not the compiler's: the network would raise it anyway
                    why = (str(error).strip().splitlines() or [""])[0]
                    why = f"torch.compile failed ({type(error).__name__}: {why})"
                    warnings.warn(f"{why}: going on without it", stacklevel=3)
                    self.compiled = None
            return self.called(images)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; on a GPU it is a tensor there, overwritten without a wait."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
