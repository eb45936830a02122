"""Several ranks: they learn what one learns, agree on everything, and do not wait for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from d2lmini import checkpoint, distributed, train
from d2lmini.data.augment import AugmentConfig
from d2lmini.distributed import Ranks, SyncBatchNorm, joined, synchronise_batch_norm
from d2lmini.model import set_prior
from d2lmini.train import Interrupted, fit

from . import ranks
from .test_train import CLASSES, config, small_model, squares, weights

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks of these tests are forked"),
]


def together(body):
    """Run `body(ranks)` within `joined`, on two ranks; returns both answers."""

    def rank():
        with joined(CPU) as mine:
            return body(mine)

    return ranks.run(rank)


# ------------------------------------------------------------------------------------------------ agreeing


def test_nobody_else_is_the_ordinary_case(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined(CPU) as mine:
        assert mine == Ranks()
        assert mine.alone
        assert mine.first
        x = torch.arange(3)
        assert mine.total(x) is x
        assert mine.gather(x) is x
        assert mine.any(True)
        assert not mine.any(False)
        assert mine.agree(lambda: "me") == "me"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_are_disjoint_and_complete(count, world):
    shares = [Ranks(rank, world).share(torch.arange(count)) for rank in range(world)]
    assert sorted(torch.cat(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_sums_flags_and_decisions_are_those_of_all():
    def body(mine):
        total = mine.total(torch.tensor([1.0, mine.rank])).tolist()
        flags = mine.any(mine.rank == 1), mine.any(False)
        told = mine.agree(lambda: {"who": mine.rank, "π": [0.1, None]})
        tensors = {"a": torch.arange(3) * (mine.rank + 1), "b": torch.tensor(True), "c": torch.zeros(0, 4)}
        same = mine.same(tensors if mine.first else {})
        return total, flags, told, {k: (v.tolist(), v.dtype) for k, v in same.items()}

    same = {"a": ([0, 1, 2], torch.int64), "b": (True, torch.bool), "c": ([], torch.float32)}
    expected = ([2.0, 1.0], (True, False), {"who": 0, "π": [0.1, None]}, same)
    assert together(body) == [expected, expected]


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_gathering_undoes_sharing(count):
    whole = torch.arange(count * 2.0).view(count, 2)
    for answer in together(lambda mine: mine.gather(mine.share(whole)).tolist()):
        assert answer == whole.tolist()


def test_an_error_of_the_first_rank_is_everybodys():
    def refuse():
        raise ValueError("folder is taken")

    said = together(lambda mine: mine.agree(refuse))
    assert said == ["ValueError: folder is taken", "RefusedByFirst: folder is taken"]


def test_a_gpu_for_each_rank(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("MASTER_ADDR", "x"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed.device_name("auto") == "cuda:1"
    assert distributed.device_name("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="--nproc-per-node=2"):
        distributed.device_name("cuda")
    monkeypatch.delenv("RANK")
    assert distributed.device_name("cuda") == "cuda"


# ------------------------------------------------------------------------------------ batch normalisation


def test_batch_norm_of_all_ranks_is_that_of_the_whole_batch():
    torch.manual_seed(0)
    x, slope = torch.randn(6, 3, 4, 5) * 3 + 1, torch.randn(6, 3, 4, 5)
    plain = nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.uniform_(), plain.bias.uniform_()
    net = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3)))
    net[0][0].load_state_dict(plain.state_dict())
    whole = x.clone().requires_grad_()
    expected = plain(whole)
    (expected * slope).sum().backward()

    def body(mine):
        parameters = list(net.parameters())
        synchronise_batch_norm(net)
        assert type(net[0][0]) is SyncBatchNorm
        assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
        part = mine.share(x).clone().requires_grad_()
        out = net(part)
        (out * mine.share(slope)).sum().backward()
        own = [mine.total(p.grad) for p in parameters]
        kept = net.state_dict().values()
        net.eval()
        return [t.detach().numpy() for t in (mine.gather(out), mine.gather(part.grad), *own, *kept, net(x))]

    wanted = [expected, whole.grad, plain.weight.grad, plain.bias.grad, *plain.state_dict().values()]
    wanted.append(plain.eval()(x))
    for answer in together(body):
        for a, b in zip(answer, wanted, strict=True):
            torch.testing.assert_close(torch.as_tensor(a), b.detach(), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ training

VIEWS = AugmentConfig(colour=0.5, expand=0.3, crop=0.5)


def trained(out=None, **options):
    """History (without times) and weights of a run on squares."""
    # Plain SGD: Adam divides by the size of the gradient, and so makes rounding large where that is small.
    settings = {"epochs": 2, "augment": VIEWS, "sync_batch_norm": True, "optimiser": "sgd"}
    resume, stop = options.pop("resume", False), options.pop("stop", None)
    if stop is not None:
        _stop_at(stop)
    data, model = (squares(33), squares(11, seed=1)), small_model()
    set_prior(model, 0.01)  # as `fit` does for a network of its own; without it the first steps are wild
    try:
        result = fit(*data, CLASSES, config(**(settings | options)), model=model, progress=False,
                     out=out, resume=resume)  # fmt: skip
    except Interrupted as stopped:
        return str(stopped)
    drop = {"seconds", "images_per_second"}
    rows = [{k: v for k, v in row.items() if k not in drop} for row in result.history]
    return rows, weights(result.model).numpy()


def _stop_at(stop):
    """Ctrl-C on rank 1 alone, in the given step."""
    original, done = train.train_step, [0]

    def step(*args):
        done[0] += 1
        if done[0] == stop and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    train.train_step = step


def alike(one, other, tolerance=1e-3):
    """Two runs gave the same numbers, to rounding."""
    assert len(one[0]) == len(other[0])
    for a, b in zip(one[0], other[0], strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "cls_loss", "box_loss", "lr", "box_mae"):
            assert a[name] == pytest.approx(b[name], rel=tolerance), name
        for name in ("ap50", "class_error"):  # an anchor or a rank between two scores may tip over
            assert a[name] == pytest.approx(b[name], abs=0.01), name
    torch.testing.assert_close(torch.as_tensor(one[1]), torch.as_tensor(other[1]), rtol=tolerance, atol=1e-3)


@pytest.fixture(scope="module")
def alone():
    return trained()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_learn_what_one_learns_from_the_whole_batch(alone, world):
    answers = ranks.run(trained, world=world)
    alike(answers[0], alone)
    for other in answers[1:]:  # to the bit: they are told, or computed it from the same numbers
        assert other[0] == answers[0][0]
        assert (other[1] == answers[0][1]).all()


def test_without_synchronised_batch_norm_each_normalises_its_own(alone):
    answers = ranks.run(lambda: trained(sync_batch_norm=False))
    assert answers[0][0][-1]["loss"] == pytest.approx(alone[0][-1]["loss"], rel=0.3)
    assert answers[0][0][-1]["loss"] != pytest.approx(alone[0][-1]["loss"], rel=1e-4)
    assert (answers[0][1] == answers[1][1]).all()


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, alone, first, then):
    def some(world, **options):
        if world == 1:
            return [trained(tmp_path, **options)]
        return ranks.run(lambda: trained(tmp_path, **options), world=world)

    if first == 2:
        for said in some(2, stop=6):
            assert "stopped on request in epoch 2, step 2" in said
    else:
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setenv("RANK", "1")
            patch.delenv("WORLD_SIZE", raising=False)
            patch.setattr(train, "train_step", train.train_step)
            assert "step 2" in some(1, stop=6)[0]
    for answer in some(then, resume=True):
        alike(answer, alone)
    model, _ = checkpoint.load_model(tmp_path / train.LAST)
    assert torch.isfinite(weights(model)).all()
    assert {p.name for p in tmp_path.iterdir()} == {train.LAST, train.BEST, train.HISTORY, train.LOCK}


def test_all_ranks_hear_of_options_that_do_not_fit(tmp_path):
    trained(tmp_path, epochs=1)
    for options, text in (
        ({"epochs": 1}, "already holds a run"),
        ({"epochs": 1, "lr": 0.5, "resume": True}, "lr=0.01, now it is 0.5"),
        ({"batch_size": 1}, "1 pictures for 2 ranks"),
    ):
        for said in ranks.run(lambda options=options: trained(tmp_path, **options)):
            assert said.startswith(("ValueError", "RefusedByFirst"))
            assert text in said


def test_losses_that_are_no_numbers_stop_every_rank():
    def rank():
        original = train.ssd_loss

        def loss(logits, offsets, targets, options, total):
            wrong = float("nan") if os.environ["RANK"] == "1" else 1.0
            return original(logits * wrong, offsets, targets, options, total)

        train.ssd_loss = loss
        return trained()

    for said in ranks.run(rank):
        assert said.startswith("TrainingDiverged")


def test_a_rank_that_dies_ends_the_others_with_a_message(tmp_path):
    def rank():
        original, done = train.train_step, [0]

        def step(*args):
            done[0] += 1
            if done[0] == 6 and os.environ["RANK"] == "1":
                os._exit(3)
            return original(*args)

        train.train_step = step
        return trained(tmp_path)

    said, nothing = ranks.run(rank)
    assert nothing is None
    assert said.startswith("RankLost: rank 0 of 2")
    assert "--resume" in said
    alike(trained(tmp_path, resume=True), trained())


def test_a_rank_that_is_told_to_end_says_why():
    """torchrun ends the ranks that are left with SIGTERM."""

    def body(mine):
        if mine.rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return "went on"

    said, other = together(body)
    assert said.startswith("RankLost: rank 0 of 2 stops, because another rank ended")
    assert other == "went on"


def test_what_a_network_raises_is_not_taken_for_a_lost_rank():
    def body(mine):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert all(said.startswith("RuntimeError: mat1") for said in together(body))


def test_torchrun_starts_the_command(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [
        "-m",
        "d2lmini",
        "train",
        "--data",
        "bananas",
        "--size",
        "64",
        "--count",
        "8",
        "--device",
        "cpu",
    ]
    command += ["--validation-count", "4", "--epochs", "1", "--batch-size", "4", "--out", str(tmp_path)]
    command += ["--quiet", "--sync-batch-norm"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best model (epoch 1)") == 1
    assert done.stderr.count("training on 2 × cpu") == 1
    assert (tmp_path / "curves.png").exists()
