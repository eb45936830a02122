"""A whole training step recorded as a CUDA graph, with a way back where that cannot be done.

A training step is some hundred kernels of a few microseconds, and launching one from Python takes as long
as running it. A CUDA graph records the launches of a whole step and repeats them in one call. It needs the
same shapes every time, the same places in memory, and no synchronization on the way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from d2lmini.data.augment import AugmentParams
from d2lmini.data.samples import Batch
from d2lmini.engine.distributed import Ranks

WARM_UP = 3  # steps before recording: libraries choose their algorithms, the optimizer makes its state


class CUDAGraphStep:
    """A step (tensors in, a tensor out) that is recorded once and then replayed.

    The first `warm_up` calls run as they are; the next is recorded with places in memory for its inputs,
    into which all further calls copy theirs. The result lies in one place too: use it before the next
    call. A call with other shapes runs unrecorded, and so do all when recording fails, after one warning.
    """

    def __init__(self, step: Callable[..., Tensor], warm_up: int = WARM_UP) -> None:
        self.step, self.warm_up = step, warm_up
        self.inputs: tuple[Tensor, ...] = ()
        self.replay: Callable[[], object] | None = None
        self.output: Tensor | None = None
        self.given_up = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result of the step."""
        if self.given_up:
            return self.step(*inputs)
        if self.warm_up > 0:
            self.warm_up -= 1
            return run_on_side_stream(self.step, *inputs)
        if self.replay is None and not self._record(inputs):
            return self.step(*inputs)
        if [t.shape for t in inputs] != [t.shape for t in self.inputs]:
            return self.step(*inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        self.replay()
        return self.output

    def _record(self, inputs: tuple[Tensor, ...]) -> bool:
        self.inputs = tuple(t.clone() for t in inputs)
        try:
            self.replay, self.output = record(lambda: self.step(*self.inputs))
        except RuntimeError as error:
            self.given_up = True
            warnings.warn(f"the step cannot be recorded ({error}): it runs unrecorded", stacklevel=3)
        return not self.given_up


def record(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Record what a step launches, without running it: how to run it, and where its result will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return graph.replay, output


def run_on_side_stream(step: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Run a step on a stream of its own, as recording will: nothing may be tied to the usual one."""
    if not inputs[0].is_cuda:
        return step(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        output = step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return output


def record_steps(
    step: Callable[[Batch, AugmentParams | None], Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    ranks: Ranks,
) -> Callable[[Batch, AugmentParams | None], Tensor]:
    """A training step, recorded and replayed where that can be done; a warning says where it cannot."""
    if device.type != "cuda" or ranks.world_size > 1:
        warnings.warn("graph needs one CUDA device: the steps run unrecorded", stacklevel=4)
        return step

    def captured(*tensors: Tensor) -> Tensor:
        for group in optimizer.param_groups:
            if "capturable" in group:  # AdamW wants to be told when it is recorded, and only then
                group["capturable"] = torch.cuda.is_current_stream_capturing()
        return step(Batch(*tensors[:3]), AugmentParams(*tensors[3:]) if tensors[3:] else None)

    recorded = CUDAGraphStep(captured)
    return lambda batch, params: recorded(*batch, *(params or ()))
