"""Several ranks: they learn what one learns, agree on everything, and do not wait for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from d2lmini import checkpoint, train
from d2lmini.data.augment import AugmentConfig
from d2lmini.engine import distributed, state
from d2lmini.engine.distributed import Ranks, data_parallel, process_group
from d2lmini.engine.state import Interrupted
from d2lmini.model import fuse_conv_bn, init_class_bias
from d2lmini.train import fit

from . import ranks
from .test_train import CLASSES, config, small_model, squares, weights

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks of these tests are forked"),
]


def together(body):
    """Run `body(ranks)` within `process_group`, on two ranks; returns both answers."""

    def rank():
        with process_group(CPU) as mine:
            return body(mine)

    return ranks.run(rank)


# ------------------------------------------------------------------------------------------------ agreeing


def test_nobody_else_is_the_ordinary_case(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with process_group(CPU) as mine:
        assert mine == Ranks()
        assert mine.is_main
        x = torch.arange(3)
        assert mine.mean(x) is x
        assert mine.any(True)
        assert not mine.any(False)
        assert mine.broadcast_object(lambda: "me") == "me"
        assert mine.gather_objects("me") == ["me"]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_are_disjoint_and_complete(count, world):
    shares = [Ranks(rank, world).share(torch.arange(count)) for rank in range(world)]
    assert sorted(torch.cat(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_means_flags_and_objects_are_those_of_all():
    def body(mine):
        mean = mine.mean(torch.tensor([1.0, mine.rank])).tolist()
        flags = mine.any(mine.rank == 1), mine.any(False)
        told = mine.broadcast_object(lambda: {"who": mine.rank, "π": torch.arange(3) * (mine.rank + 1)})
        return mean, flags, told["who"], told["π"].tolist(), mine.gather_objects(mine.rank * 10)

    expected = ([1.0, 0.5], (True, False), 0, [0, 1, 2], [0, 10])
    assert together(body) == [expected, expected]


def test_an_error_of_the_first_rank_is_everybodys():
    def refuse():
        raise ValueError("folder is taken")

    said = together(lambda mine: mine.broadcast_object(refuse))
    assert said == ["ValueError: folder is taken", "RefusedByMain: folder is taken"]


def test_a_gpu_for_each_rank(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("MASTER_ADDR", "x"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed.local_device("auto") == "cuda:1"
    assert distributed.local_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="--nproc-per-node=2"):
        distributed.local_device("cuda")
    monkeypatch.delenv("RANK")
    assert distributed.local_device("cuda") == "cuda"


def test_synchronized_batch_norm_is_for_gpus():
    def body(mine):
        return data_parallel(small_model(), mine, CPU, sync_batch_norm=True)

    assert all(said.startswith("ValueError: sync_batch_norm needs GPUs") for said in together(body))


# ------------------------------------------------------------------------------------------------ training

VIEWS = AugmentConfig(color=0.5, expand=0.3, crop=0.5)


def trained(out=None, **options):
    """History (without times) and weights of a run on squares."""
    # Plain SGD: Adam divides by the size of the gradient, and so makes rounding large where that is small.
    settings = {"epochs": 2, "augment": VIEWS, "optimizer": "sgd"}
    resume, stop = options.pop("resume", False), options.pop("stop", None)
    if stop is not None:
        _stop_at(stop)
    # Without batch normalization: what each rank normalizes by would be its own part of the batch.
    model = options.pop("model", None) or fuse_conv_bn(small_model())
    data = squares(33), squares(11, seed=1)
    init_class_bias(model, 0.01)  # as `fit` does for its own networks; without it the first steps are wild
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


def test_batch_norm_normalizes_each_ranks_own_part(alone):
    answers = ranks.run(lambda: trained(model=small_model()))
    whole = trained(model=small_model())
    assert answers[0][0][-1]["loss"] == pytest.approx(whole[0][-1]["loss"], rel=0.3)
    assert answers[0][0][-1]["loss"] != pytest.approx(whole[0][-1]["loss"], rel=1e-4)
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
    model, _ = checkpoint.load_model(tmp_path / state.LAST)
    assert torch.isfinite(weights(model)).all()
    assert {p.name for p in tmp_path.iterdir()} == {state.LAST, state.BEST, state.HISTORY, state.LOCK}


def test_all_ranks_hear_of_options_that_do_not_fit(tmp_path):
    trained(tmp_path, epochs=1)
    for options, text in (
        ({"epochs": 1}, "already holds a run"),
        ({"epochs": 1, "lr": 0.5, "resume": True}, "lr=0.01, now it is 0.5"),
        ({"batch_size": 1}, "1 images for 2 ranks"),
    ):
        for said in ranks.run(lambda options=options: trained(tmp_path, **options)):
            assert said.startswith(("ValueError", "RefusedByMain"))
            assert text in said


def test_losses_that_are_no_numbers_stop_every_rank():
    def rank():
        original = train.ssd_loss

        def loss(logits, offsets, targets, options):
            wrong = float("nan") if os.environ["RANK"] == "1" else 1.0
            return original(logits * wrong, offsets, targets, options)

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
    command += ["--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best model (epoch 1)") == 1
    assert done.stderr.count("training on 2 × cpu") == 1
    assert (tmp_path / "curves.png").exists()
