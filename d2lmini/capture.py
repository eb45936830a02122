"""Whole steps ordered at once: CUDA graphs and `torch.compile`, each with a way back.

A small network on a fast card waits for Python: a training step is some hundred kernels of a few
microseconds, and ordering one from Python takes as long as running it. A CUDA graph records the orders
of a whole step (forward, targets, losses, backward, update) and gives them again in one call. What it
asks for: the same shapes every time, the same places in memory, and no look at a number on the way.

Floor 1: imports nothing of the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 3  # steps before recording: libraries choose their algorithms, the optimiser makes its state
Step = Callable[..., Tensor]
Replay = Callable[[], object]


class Recorded:
    """A step (tensors in, a tensor out) that is recorded once and then replayed.

    The first `warm_up` calls run as they are; the next is recorded with places in memory for its inputs,
    into which all further calls copy theirs. The result lies in one place too: use it before the next
    call. A call with other shapes runs unrecorded, and so do all when recording fails, after one warning.
    """

    def __init__(self, step: Step, warm_up: int = WARM_UP) -> None:
        self.step, self.warm_up = step, warm_up
        self.inputs: tuple[Tensor, ...] = ()
        self.replay: Replay | None = None
        self.output: Tensor | None = None
        self.given_up = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result of the step."""
        if self.given_up:
            return self.step(*inputs)
        if self.warm_up > 0:
            self.warm_up -= 1
            return aside(self.step, *inputs)
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


def record(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """Record what a step orders from the device, without doing it; how to do it, and where the result is."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return graph.replay, output


def aside(step: Step, *inputs: Tensor) -> Tensor:
    """Run a step on a stream of its own, as recording will: nothing may be tied to the usual one."""
    if not inputs[0].is_cuda:
        return step(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        output = step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return output


class Compiled(nn.Module):
    """A network through `torch.compile`, or as it is from the moment that compiling fails."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.compiled: Callable[..., Any] | None = torch.compile(network)

    def forward(self, *inputs: Tensor) -> Any:
        """What the network gives."""
        if self.compiled is not None:
            try:
                return self.compiled(*inputs)
            except Exception as error:
                if not _of_the_compiler(error):
                    raise
                text = str(error).strip().splitlines()
                why = f"{type(error).__name__}: {text[0] if text else ''}"
                warnings.warn(f"torch.compile failed ({why}): going on without it", stacklevel=2)
                self.compiled = None
        return self.network(*inputs)


def _of_the_compiler(error: Exception) -> bool:
    """Whether an error is the compiler's own, and not one that the network would raise anyway."""
    module = type(error).__module__
    return module.startswith(("torch._dynamo", "torch._inductor", "triton"))
