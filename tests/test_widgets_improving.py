"""Live figures on improving a detector, and what they are made of: sizes, negatives, gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from d2lmini import LossConfig, TinySSD, box_iou, inspect, match, ssd_loss, widgets
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors
from d2lmini.data import Synthetic, load
from d2lmini.engine.validation import predict_batched
from d2lmini.inspect import input_size
from d2lmini.losses import cross_entropy, hard_negatives
from d2lmini.model import Predictions
from d2lmini.widgets.improving import RATIOS, WEIGHTS, logit_gradient_norm, selection_table, size_bins, weigh


def table(packed: dict) -> np.ndarray:
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


@pytest.fixture(scope="module")
def model() -> TinySSD:
    torch.manual_seed(0)
    return TinySSD(6, 64)


@pytest.fixture(scope="module")
def batch():
    return load(Synthetic("scenes", count=3, size=64, split="val"))


# ---------------------------------------------------------------- sizes and costs


def test_multiply_adds_by_hand(model):
    """Every 3 × 3 convolution: height × width × channels in × channels out × 9."""
    channels = [(64, 3, 16), (64, 16, 16), (32, 16, 32), (32, 32, 32), (16, 32, 64), (16, 64, 64)]
    channels += [(8, 64, 128), (8, 128, 128), (4, 128, 128), (4, 128, 128), (2, 128, 128), (2, 128, 128)]
    maps = [(8, 64), (4, 128), (2, 128), (1, 128), (1, 128)]
    counts = inspect.multiply_adds(model)
    assert counts["backbone"] == sum(side**2 * i * o * 9 for side, i, o in channels)
    assert counts["class_heads"] == sum(side**2 * c * 4 * 7 * 9 for side, c in maps)
    assert counts["box_heads"] == sum(side**2 * c * 4 * 4 * 9 for side, c in maps)


def test_counting_leaves_the_model_alone(model):
    inspect.multiply_adds(model)
    assert model.anchors.device.type == "cpu"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture(scope="module")
def study(model):
    return inspect.by_input_size(model, sizes=(64, 128), count=3, score_threshold=0.2)


def test_anchors_at_other_sizes(model, study):
    truth = load(Synthetic("scenes", count=3, size=128, split="val"))
    boxes = truth.boxes[truth.labels >= 0]
    row = study.rows[1]
    assert row.size == 128
    shapes = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    grown = box_iou(boxes, make_anchors(shapes, TINY_SSD_ANCHORS))
    kept = box_iou(boxes, make_anchors(shapes, TINY_SSD_ANCHORS.scaled(0.5)))
    for kind, iou in zip(input_size.KINDS, (grown, kept), strict=True):
        torch.testing.assert_close(row.covered[kind], iou.amax(1))
        assert torch.equal(row.positives[kind], (iou >= 0.5).sum(1))
    assert row.anchors == grown.shape[1]
    assert model.image_size == (64, 64)


def test_at_its_own_size_both_kinds_are_one(study):
    grow, keep = input_size.KINDS
    for values in (study.rows[0].covered, study.rows[0].found):
        torch.testing.assert_close(values[grow], values[keep])


def test_found_wants_the_right_class(batch):
    sample = batch.sample(2)
    logits = torch.full((1, len(sample.boxes), 7), -9.0)
    logits[0, torch.arange(len(sample.boxes)), sample.labels + 1] = 9.0
    logits[0, 0] = logits[0, 0].roll(1)  # the first object gets another class
    one = batch.select(slice(2, 3))
    answers = Predictions(logits, torch.zeros(1, len(sample.boxes), 4))
    found = input_size._found(answers, sample.boxes, one, 0.5)
    assert found[0] < 0.5
    assert (found[1:] > 0.99).all()


def test_a_study_needs_sizes(model):
    with pytest.raises(ValueError, match="no sizes"):
        inspect.by_input_size(model, sizes=())


def test_answers_are_the_models(model, batch):
    before = copy.deepcopy(model.state_dict())
    whole = model.train()(batch.images)
    model.load_state_dict(before)
    torch.testing.assert_close(
        predict_batched(model, batch.images, precision="float32", training=True).logits, whole.logits.detach()
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_input_size_figure(study):
    live = widgets.input_size(study, image_index=2, start=64)
    data = live.figure.data
    small, _, large = size_bins(study.sides).values()
    rates = table(data["rates"])
    row, kind = study.rows[1], input_size.KINDS[1]
    assert rates.shape == (2, 2, 3, 2)
    for b, mask in ((0, small), (2, large)):
        expected = (row.covered[kind][mask] >= 0.5).float().mean().numpy()
        np.testing.assert_allclose(rates[1, 1, b, 0], expected, equal_nan=True)
    assert (live.figure.size, live.figure.kind) == (0, 1)
    live.controls["size"].index = 1
    assert live.figure.size == 1
    assert ((table(data["boxes"]) >= 0) & (table(data["boxes"]) <= 1)).all()
    with pytest.raises(ValueError, match="no size 256"):
        widgets.input_size(study)
    with pytest.raises(ValueError, match="no object"):
        widgets.input_size(study, image_index=4, start=64)


# ---------------------------------------------------------------- negatives


def bills() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(1, 7, (3, 340), generator=generator)
    labels *= torch.rand(3, 340, generator=generator) < 0.02
    return torch.randn(3, 340, 7, generator=generator), labels


def test_pull_is_the_length_of_the_gradient():
    logits, labels = bills()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), logits)
    torch.testing.assert_close(logit_gradient_norm(logits.detach(), labels), gradient.norm(dim=-1))


def test_selection_at_some_ratios():
    logits, labels = bills()
    loss, positive = cross_entropy(logits, labels), labels > 0
    rows = selection_table(logits, labels, loss)
    assert rows.shape == (len(RATIOS) + 1, 5)
    kept = positive | hard_negatives(loss, labels, 3, 3)
    torch.testing.assert_close(rows[2, 0], loss[positive].sum() / loss[kept].sum())
    torch.testing.assert_close(rows[2, 2], ssd_loss(logits, torch.zeros(3, 340, 4), _targets(labels)).cls)
    torch.testing.assert_close(rows[-1, 0], loss[positive].sum() / loss.sum())
    torch.testing.assert_close(rows[-1, 3], (~positive).sum() / positive.sum())


def _targets(labels: Tensor):
    from d2lmini import Targets

    return Targets(labels, torch.zeros(*labels.shape, 4))


def test_negatives_figure(model, batch):
    logits, labels = bills()
    live = widgets.negatives({"one": logits, "two": 2 * logits}, labels, model.anchors, batch.images[0], at=0)
    data = live.figure.data
    assert table(data["table"]).shape == (2, 2, len(RATIOS) + 1, 5)
    assert table(data["points"]).shape == (len(model.anchors), 2)
    positives = int((labels[0] > 0).sum())
    assert data["shown"][2] == 3 * positives
    assert data["shown"][-1] == labels.shape[1] - positives
    assert table(data["positives"]).tolist() == (labels[0] > 0).nonzero()[:, 0].tolist()
    assert sorted(table(data["random"]).tolist()) == list(range(labels.shape[1]))
    live.controls["ratio"].index = 5
    live.controls["kind"].index = 1
    live.controls["network"].index = 1
    assert (live.figure.ratio, live.figure.kind, live.figure.network) == (5, 1, 1)
    with pytest.raises(ValueError, match="one"):
        widgets.negatives({"one": logits[:2]}, labels, model.anchors, batch.images[0], at=0)


# ---------------------------------------------------------------- gradients


CONFIGS = {"hard": LossConfig(), "focal": LossConfig(cls="focal", negatives=None)}


@pytest.fixture(scope="module")
def gradients(model, batch):
    return inspect.backbone_gradients(model, batch, CONFIGS)


def test_backbone_gradients_are_autograds(model, batch, gradients):
    twin = copy.deepcopy(model).train()
    targets = match(twin.anchors, batch.boxes, batch.labels)
    ssd_loss(*twin(batch.images), targets).box.backward()
    expected = torch.cat([p.grad.flatten() for p in twin.backbone.parameters()])
    torch.testing.assert_close(gradients["box"], expected, rtol=1e-3, atol=1e-4 * float(expected.norm()))
    assert [*gradients] == ["hard", "focal", "box"]
    assert all(p.grad is None for p in model.parameters())


def test_stages_cover_the_backbone(model, gradients):
    assert sum(inspect.backbone_stages(model).values()) == len(gradients["box"])


def test_what_does_not_depend_has_no_gradient(model):
    layer = torch.nn.Linear(2, 1)
    value = layer.bias.sum()
    torch.testing.assert_close(
        inspect.flat_gradients({"b": value}, layer)["b"], torch.tensor([0.0, 0.0, 1.0])
    )


def test_weighing_two_vectors():
    """Lengths 3 and 4 at a right angle: with weight 1 the step is 5 long."""
    cls, box = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    shares, arrows = weigh(cls, box, [1, 1])
    stop = WEIGHTS.index(1.0)
    np.testing.assert_allclose(shares[stop], [1, 0, 3 / 7], rtol=1e-6)
    angle = np.degrees(np.arctan2(4, 3))
    np.testing.assert_allclose(arrows[stop], [3 / 7, 0, 4 / 7, angle, 90 - angle, 5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shares[WEIGHTS.index(3.0), -1], 3 / 15, rtol=1e-6)


def test_loss_weights_figure(model, gradients):
    stages = inspect.backbone_stages(model)
    live = widgets.loss_weights({"fresh": gradients}, stages)
    shares = table(live.figure.data["shares"])
    assert shares.shape == (1, 2, len(WEIGHTS), 5)
    own, other = gradients["focal"].norm(), gradients["box"].norm()
    for w, weight in enumerate(WEIGHTS):
        assert shares[0, 1, w, -1] == pytest.approx(float(own / (own + weight * other)), rel=1e-4)
    assert live.figure.weight == WEIGHTS.index(1.0)
    live.controls["loss"].index = 1
    assert live.figure.loss == 1
    with pytest.raises(ValueError, match="fresh"):
        widgets.loss_weights({"fresh": gradients}, {"base network": 7})
