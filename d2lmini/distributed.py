"""Several processes that train one model: who does which part, and how they agree.

`torchrun --nproc-per-node=2 -m d2lmini train …` starts a process (a *rank*) for each device and tells each
its number in the environment; `joined` reads it there. Each rank takes every n-th picture of a batch.
What the losses divide by is counted over all ranks, so that the gradients are those of the whole batch
on one device. Rank 0 scores, writes and decides; the others are told.

A process that nobody started this way is the only rank, and everything here then returns at once.

Floor 1: imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn import functional as across

# Groups that this process has left. Freed at once, one may wait for its own thread, which waits for Python.
_left: list[Any] = []
WAIT = datetime.timedelta(minutes=10)  # for a rank that is late, before it counts as lost


class RankLost(RuntimeError):
    """Another process of the run ended or no longer answers; the message says how to go on."""


class RefusedByFirst(ValueError):
    """What rank 0 refused, on the others: it has said so already."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run: number `rank` of `world`, and number `local` on its machine.

    >>> Ranks().share(torch.arange(3)), Ranks(1, 2).share(torch.arange(3))
    (tensor([0, 1, 2]), tensor([1]))
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that scores, writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1

    def share(self, whole: Tensor) -> Tensor:
        """The entries of a batch that this rank works on: every `world`-th."""
        return whole if self.alone else whole[self.rank :: self.world]

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks; no gradient goes through it."""
        if self.alone:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether the flag is up on some rank."""
        return flag if self.alone else bool(self.total(torch.tensor(int(flag), device=device)) > 0)

    def agree(self, decide: Callable[[], Any], device: torch.device | str = "cpu") -> Any:
        """What rank 0 decides, on all ranks: any value that JSON can tell.

        A ValueError on rank 0 is raised on all (on the others as RefusedByFirst), so that none waits for a
        rank that gave up.
        """
        if self.alone:
            return decide()
        answer, error = None, None
        if self.first:
            try:
                answer = {"value": decide()}
            except ValueError as failed:
                error, answer = failed, {"error": str(failed)}
        answer = _tell(answer, device)
        if "error" in answer:
            raise error or RefusedByFirst(answer["error"])
        return answer["value"]

    def same(self, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Rank 0's tensors on all ranks (on the CPU); what the others pass is not looked at."""
        if self.alone:
            return dict(tensors)
        kinds = {name: (str(t.dtype), list(t.shape)) for name, t in tensors.items()}
        told = self.agree(lambda: kinds, device)
        return {name: self._sent(tensors.get(name), *kind, device) for name, kind in told.items()}

    def _sent(self, tensor: Tensor | None, dtype: str, shape: list[int], device: Any) -> Tensor:
        kind = getattr(torch, dtype.removeprefix("torch."))
        value = tensor.to(device) if self.first else torch.empty(shape, dtype=kind, device=device)
        value = value.contiguous()
        dist.broadcast(value, 0)
        return value.cpu()

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all ranks, rows of any number, put together as `share` took them apart."""
        if self.alone:
            return part
        counts = [int(n) for n in self._all(torch.tensor([len(part)], device=part.device))]
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part
        whole = part.new_zeros(sum(counts), *part.shape[1:])
        for rank, (rows, count) in enumerate(zip(self._all(padded), counts, strict=True)):
            whole[rank :: self.world] = rows[:count]
        return whole

    def _all(self, tensor: Tensor) -> list[Tensor]:
        every = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(every, tensor)
        return every


def _tell(answer: Any, device: torch.device | str) -> Any:
    """Rank 0's answer on every rank, as JSON."""
    text = b"" if answer is None else json.dumps(answer).encode()
    size = torch.tensor(len(text), device=device)
    dist.broadcast(size, 0)
    data = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if text:
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return json.loads(bytes(data.cpu().tolist()))


# ------------------------------------------------------------------------------------- joining and leaving


def launched() -> bool:
    """Whether torchrun (or something that sets the same variables) started this process."""
    return dist.is_available() and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def launched_ranks() -> int:
    """How many ranks torchrun started; 1 where it started nobody."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def speaks() -> bool:
    """Whether this process is the one of its run that prints and draws."""
    return not launched() or os.environ["RANK"] == "0"


def device_name(name: str) -> str:
    """The device of this rank: on a machine with several GPUs, one for each.

    Raises ValueError where more ranks than GPUs were started on a machine.
    """
    if not launched() or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= there:
        raise ValueError(
            f"rank {local} of this machine has no GPU of its own (there are {there}): start torchrun with "
            f"--nproc-per-node={there}, or use --device cpu"
        )
    return f"cuda:{local}"


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of the run, this process among them, for as long as the block lasts.

    Speaks NCCL between GPUs and Gloo between processors. Within, whatever the loss of another rank
    raises becomes RankLost.
    """
    if not launched():
        yield Ranks()
        return
    ranks = Ranks(*(int(os.environ.get(n, 0)) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if ranks.alone:
        yield ranks
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
    try:
        with _lost_when_told(ranks), _lost_when_alone(ranks):
            yield ranks
    finally:
        if mine:
            _left.append(dist.group.WORLD)
            dist.destroy_process_group()


@contextlib.contextmanager
def _lost_when_alone(ranks: Ranks) -> Iterator[None]:
    """Turn what torch says when another rank is gone into RankLost."""
    try:
        yield
    except RankLost:
        raise
    except RuntimeError as error:
        known = ("gloo", "NCCL", "ProcessGroup", "Connection", "connection", "timed out", "Timed out")
        if isinstance(error, dist.DistError) or any(word in str(error) for word in known):
            raise _lost(ranks) from error
        raise


@contextlib.contextmanager
def _lost_when_told(ranks: Ranks) -> Iterator[None]:
    """torchrun ends the others with SIGTERM when a rank is gone; say so instead of dying silently."""

    def handler(number: int, frame: Any) -> None:
        raise _lost(ranks)

    try:
        previous = signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _lost(ranks: Ranks) -> RankLost:
    return RankLost(
        f"rank {ranks.rank} of {ranks.world} stops, because another rank ended or does not answer: its own "
        "message says why. Checkpoints of earlier epochs are as they were; --resume goes on from them, with "
        "any number of ranks"
    )


# --------------------------------------------------------------------------------------------- the network


def wrap(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The model with gradients averaged over all ranks (DistributedDataParallel); alone, the model."""
    if ranks.alone:
        return model
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False
    )


def same_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give rank 0's buffers (running statistics) to all; parameters are the same on all anyway.

    Once an epoch, before the model is used: within an epoch nothing depends on them.
    """
    if not ranks.alone:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the mean and variance of the batches of all ranks, on any device.

    The same parameters and buffers as nn.BatchNorm2d, and the same numbers where one rank has the whole
    batch. torch.nn.SyncBatchNorm does this for GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x (N, C, H, W)."""
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        wide = x.float()
        count = wide.new_full((), x.numel() // x.shape[1])
        dist.all_reduce(count)
        mean = across.all_reduce(wide.sum((0, 2, 3))) / count  # (C,)
        centred = wide - mean[:, None, None]
        variance = across.all_reduce(centred.square().sum((0, 2, 3))) / count  # (C,)
        self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Replace every nn.BatchNorm2d of a model by a SyncBatchNorm with the same parameters and buffers."""
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            options = {k: getattr(child, k) for k in ("eps", "momentum", "affine", "track_running_stats")}
            new = SyncBatchNorm(child.num_features, **options).train(child.training)
            for kind in ("_parameters", "_buffers"):
                getattr(new, kind).update(getattr(child, kind))
            setattr(model, name, new)
        else:
            synchronise_batch_norm(child)
