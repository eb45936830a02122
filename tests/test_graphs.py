"""Steps that are recorded and replayed, networks that are compiled, and the ways back from both."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from d2lmini import LossConfig, train
from d2lmini.data.augment import AugmentConfig, AugmentParams
from d2lmini.data.samples import Batch
from d2lmini.data.sources import as_source
from d2lmini.engine import graphs
from d2lmini.engine.distributed import Ranks
from d2lmini.engine.graphs import CUDAGraphStep
from d2lmini.engine.network import Network, set_lr
from d2lmini.train import fit

from . import replay
from .pretend import PretendDevice
from .test_train import CLASSES, config, small_model, squares, weights

VIEWS = AugmentConfig(color=0.5, expand=0.3, crop=0.5)


def add(total: torch.Tensor):
    """A step with a memory: adds its input to `total` and gives twice the sum."""

    def step(x):
        total.add_(x)
        return total * 2

    return step


def test_a_recorded_step_gives_what_the_step_gives(monkeypatch):
    monkeypatch.setattr(graphs, "record", replay.record)
    plain, recorded = add(torch.zeros(3)), CUDAGraphStep(add(torch.zeros(3)), warm_up=2)
    for i in range(6):
        x = torch.full((3,), float(i))
        assert torch.equal(recorded(x), plain(x))
    assert recorded.replay is not None


def test_other_shapes_run_unrecorded(monkeypatch):
    monkeypatch.setattr(graphs, "record", replay.record)
    recorded = CUDAGraphStep(lambda x: x.sum() + 1, warm_up=0)
    assert recorded(torch.ones(3)) == 4
    assert recorded(torch.ones(5)) == 6
    assert recorded(2 * torch.ones(3)) == 7


def test_what_cannot_be_recorded_runs_unrecorded_after_one_warning(monkeypatch):
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "record", refuse)
    total = torch.zeros(1)
    recorded = CUDAGraphStep(add(total), warm_up=1)
    with pytest.warns(UserWarning, match="cannot be recorded") as caught:
        assert [int(recorded(torch.ones(1))) for _ in range(4)] == [2, 4, 6, 8]
    assert len(caught) == 1
    assert total == 4


def test_the_stand_in_notices_what_a_graph_would_get_wrong():
    rate = [1.0]
    play, out = replay.record(lambda: torch.ones(2) * rate[0])
    play()
    rate[0] = 2.0
    play()
    assert out.tolist() == [1, 1]  # a number of Python's is recorded for good


# ------------------------------------------------------------------------------------- a whole training step


def start(device="cpu", **options):
    cfg = config(augment=VIEWS, **options)
    run = train.start_run(as_source(squares(24)), CLASSES, cfg, small_model(), torch.device(device))
    run.state.model.train()
    return run


def pairs(run):
    """Batches of two epochs with their augmentation, as `fit` takes them."""
    return [pair for epoch in (0, 1) for pair in run.prefetcher.epoch(epoch, 0, 3, Ranks())]


def losses_of(run, advance, count=5):
    losses = []
    for step, (batch, params) in enumerate(pairs(run)[:count]):
        set_lr(run.state.optimizer, train.one_cycle(step, 9, 1e-2))
        losses.append(advance(batch, params).clone())
    return torch.stack(losses)


LOSSES = [
    LossConfig(),
    LossConfig(cls="focal", negatives=None, box="l1"),
    LossConfig(box="giou", cls_normalizer="anchors"),
]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_replayed_training_step_is_the_training_step(monkeypatch, optimizer, loss):
    """Augmentation, matching, forward, losses, backward, clipping, update: nothing of it is Python's."""
    monkeypatch.setattr(graphs, "record", replay.record)
    with PretendDevice():
        plain, run = (start(optimizer=optimizer, loss=loss) for _ in range(2))
        recorded = CUDAGraphStep(lambda *t: run.step(Batch(*t[:3]), AugmentParams(*t[3:])), warm_up=1)
        expected = losses_of(plain, plain.step)
        got = losses_of(run, lambda batch, params: recorded(*batch, *params))
    assert recorded.replay is not None
    assert torch.equal(got, expected)
    assert torch.equal(weights(run.state.model), weights(plain.state.model))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("loss", [*LOSSES, LossConfig(mining="random")])
def test_a_training_step_never_waits_for_the_device(optimizer, loss):
    with PretendDevice() as device:
        run = start(optimizer=optimizer, loss=loss)
        batch, params = pairs(run)[0]
        device.waits.clear()
        run.step(batch, params)
        set_lr(run.state.optimizer, 1e-3)
        assert not device.waits, device.waits
        assert all(group["fused"] for group in run.state.optimizer.param_groups)
        assert all(isinstance(group["lr"], torch.Tensor) for group in run.state.optimizer.param_groups)


def test_the_pretended_device_notices_what_is_sent_to_it():
    with PretendDevice() as device:
        x = torch.zeros(2, 3)
        x[:, 1:], x[0] = x[:, 1:] + 1, 2.0
        assert not device.waits
        x[:, [2, 0]]
        x[np.array([1])] = 1.0
    assert device.waits == {"__getitem__": 1, "__setitem__": 1}


def test_a_training_step_on_tensors_without_numbers():
    """On the `meta` device there is nothing to look at: every look is an error."""
    run = start("meta", optimizer="sgd")
    batch, params = pairs(run)[0]
    assert {t.device.type for t in (*batch, *params)} == {"meta"}
    losses = run.step(batch, params)
    assert losses.shape == (2,)
    assert losses.device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):
        float(losses[0])


def test_without_a_card_the_graph_is_left_out_with_a_warning():
    data = squares(16)
    with pytest.warns(UserWarning, match="one CUDA device"):
        graph = fit(data, None, CLASSES, config(epochs=1, graph=True), model=small_model(), progress=False)
    plain = fit(data, None, CLASSES, config(epochs=1), model=small_model(), progress=False)
    assert torch.equal(weights(graph.model), weights(plain.model))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_graph_learns_what_the_steps_learn(optimizer):
    def learn(**options):
        cfg = config(device="cuda", augment=VIEWS, optimizer=optimizer, deterministic=True, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return fit(squares(40), None, CLASSES, cfg, model=small_model(), progress=False)

    plain, graph = learn(), learn(graph=True)
    assert [row["loss"] for row in graph.history] == pytest.approx([row["loss"] for row in plain.history])
    torch.testing.assert_close(weights(graph.model), weights(plain.model), rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------- compiling


class BackendFailed(Exception):
    """Stands for an error of the compiler's own."""


BackendFailed.__module__ = "torch._dynamo.exc"


def test_when_compiling_fails_the_network_runs_as_it_is(monkeypatch):
    def compiler(network):
        def compiled(x):
            raise BackendFailed("no C++ compiler\nand a long trace")

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    model, images = small_model().eval(), squares(2).images
    net = Network(model, compile=True)
    expected = model(images)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler\)") as caught:
        assert all(torch.equal(net(images).logits, expected.logits) for _ in range(2))
    assert len(caught) == 1


def test_errors_of_the_network_are_not_swallowed(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    with pytest.raises(ValueError, match="images have shape"):
        Network(small_model(), compile=True)(torch.ones(1, 3, 5, 5))


def test_compiled_training_gives_the_same_and_the_model_keeps_its_names(monkeypatch):
    seen = []

    def compiler(network):
        seen.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compiler)
    data = squares(16)
    one, other = (
        fit(data, None, CLASSES, config(epochs=1, compile=c), model=small_model(), progress=False)
        for c in (True, False)
    )
    assert seen == [one.model]
    assert one.model.state_dict().keys() == other.model.state_dict().keys()
    assert torch.equal(weights(one.model), weights(other.model))
