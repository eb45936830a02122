"""A function run by several processes at once, as torchrun would start them: for tests of distribution."""

from __future__ import annotations

import faulthandler
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

import torch

LIMIT = 30  # seconds after which ranks that still wait are ended, and the test fails


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(function: Callable[..., Any], arguments: Sequence[Any] = (), world: int = 2) -> list[Any]:
    """What `function(*arguments)` returned on each rank, or the exception it raised, as text.

    None stands for a rank that died without a word.
    """
    context, port = get_context("fork"), free_port()  # forked: none has to import torch again
    ends = [context.Pipe(duplex=False) for _ in range(world)]
    ranks = [
        context.Process(target=_rank, args=(function, arguments, rank, world, port, ends[rank][1]))
        for rank in range(world)
    ]
    for one, (_, sender) in zip(ranks, ends, strict=True):
        one.start()
        sender.close()
    try:
        return [_answer(receiver) for receiver, _ in ends]
    finally:
        for one in ranks:
            one.kill()
            one.join()


def _answer(receiver: Any) -> Any:
    try:
        return receiver.recv() if receiver.poll(LIMIT) else "TimeoutError: still waiting"
    except EOFError:
        return None


def _rank(function: Any, arguments: Any, rank: int, world: int, port: int, answer: Any) -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(LIMIT - 10)  # says where a rank waits, if it does
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        result = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        result = f"{type(error).__name__}: {error}"
    answer.send(result)
    answer.close()
