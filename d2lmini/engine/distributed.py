"""Several processes that train one model: who does which part, and how they share what they know.

`torchrun --nproc-per-node=2 -m d2lmini train …` starts a process (a *rank*) for each device. Each takes every
n-th image of a batch; the loss is divided by the number of positives of all ranks, so that the gradients are
those of the whole batch. Rank 0 writes and decides. Without torchrun everything here returns at once.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = datetime.timedelta(minutes=10)  # for a rank that is late, before it counts as lost
# Groups that this process has left. Freed at once, one may wait for its own thread, which waits for Python.
_left: list[Any] = []


class RankLost(RuntimeError):
    """Another process of the run ended or no longer answers; the message says how to go on."""


class RefusedByMain(ValueError):
    """What rank 0 refused, on the others: it has said so already."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run: number `rank` of `world_size`.

    >>> Ranks().share(torch.arange(3)), Ranks(1, 2).share(torch.arange(3))
    (tensor([0, 1, 2]), tensor([1]))
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes, prints and decides."""
        return self.rank == 0

    def share(self, whole: Tensor) -> Tensor:
        """The entries of a batch that this rank works on: every `world_size`-th."""
        return whole if self.world_size == 1 else whole[self.rank :: self.world_size]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all ranks; no gradient goes through it."""
        if self.world_size == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value / self.world_size

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether the flag is up on some rank."""
        return flag if self.world_size == 1 else bool(self.mean(torch.tensor(float(flag), device=device)) > 0)

    def broadcast_object(self, decide: Callable[[], Any]) -> Any:
        """What `decide` returns on rank 0, on all ranks.

        A ValueError on rank 0 is raised on all (on the others as RefusedByMain), so that none waits for a
        rank that gave up.
        """
        if self.world_size == 1:
            return decide()
        answer, error = [None, None], None
        if self.is_main:
            try:
                answer = [decide(), None]
            except ValueError as failed:
                error, answer = failed, [None, str(failed)]
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise error or RefusedByMain(answer[1])
        return answer[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_shares(self, part: list[Any]) -> list[Any]:
        """The lists of all ranks as one, in the order that `share` took apart."""
        parts = self.gather_objects(part)
        whole = [None] * sum(map(len, parts))
        for rank, one in enumerate(parts):
            whole[rank :: self.world_size] = one
        return whole


def launched_ranks() -> Ranks:
    """This process among those that torchrun started; the only one where it started none."""
    if dist.is_available() and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return Ranks()


def is_main_process() -> bool:
    """Whether this process is the one of its run that prints and draws."""
    return launched_ranks().is_main


def local_device(name: str) -> str:
    """The name of this rank's device: on a machine with several GPUs, one for each.

    Raises ValueError where more ranks than GPUs were started on a machine.
    """
    if os.environ.get("RANK") is None or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= there:
        raise ValueError(
            f"rank {local} of this machine has no GPU of its own (there are {there}): start torchrun with "
            f"--nproc-per-node={there}, or use --device cpu"
        )
    return f"cuda:{local}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """The ranks of the run, this process among them, for as long as the block lasts.

    Uses NCCL between GPUs and Gloo between CPUs. Within, whatever the loss of another rank raises becomes
    RankLost.
    """
    ranks = launched_ranks()
    if ranks.world_size == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    owner = not dist.is_initialized()
    if owner:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)

    def terminate(number: int, frame: Any) -> None:  # what torchrun does when another rank is gone
        raise _lost(ranks)

    try:
        with handle_signal(signal.SIGTERM, terminate):
            yield ranks
    except RuntimeError as error:
        known = ("gloo", "NCCL", "ProcessGroup", "Connection", "connection", "timed out", "Timed out")
        lost = isinstance(error, dist.DistError) or any(word in str(error) for word in known)
        if lost and not isinstance(error, RankLost):
            raise _lost(ranks) from error
        raise
    finally:
        if owner:
            _left.append(dist.group.WORLD)
            dist.destroy_process_group()


@contextlib.contextmanager
def handle_signal(number: int, handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let `handler` receive a signal within the block; outside the main thread, whoever owns it keeps it."""
    try:
        previous = signal.signal(number, handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, previous)


def _lost(ranks: Ranks) -> RankLost:
    return RankLost(
        f"rank {ranks.rank} of {ranks.world_size} stops, because another rank ended or does not answer: its "
        "own message says why. Checkpoints of earlier epochs are as they were; --resume goes on from them, "
        "with any number of ranks"
    )


def data_parallel(model: nn.Module, ranks: Ranks, device: torch.device, sync_batch_norm: bool) -> nn.Module:
    """The model with gradients averaged over all ranks (DistributedDataParallel); alone, the model.

    Raises ValueError for `sync_batch_norm` on a CPU: torch has it for GPUs only.
    """
    if ranks.world_size == 1:
        return model
    if sync_batch_norm and device.type == "cpu":
        raise ValueError("sync_batch_norm needs GPUs: leave it out, or train in one process")
    if sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False
    )


def broadcast_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give rank 0's buffers (running statistics) to all; parameters are the same on all anyway.

    Once an epoch: within it nothing depends on them.
    """
    if ranks.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
