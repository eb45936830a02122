"""Losses against one number at a time, their gradients, and values at the edge of what fits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from d2lmini.boxes import decode
from d2lmini.losses import (
    LossConfig,
    Losses,
    cross_entropy,
    focal_loss,
    focal_loss_with_logits,
    giou_loss,
    hard_negatives,
    smooth_l1,
    ssd_loss,
)
from d2lmini.matching import Targets

from . import references
from .pretend import PretendDevice

EXACT = {"rtol": 0, "atol": 0}
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]
SIGMAS = [0.3, 1.0, 2.0, 10.0]
KINDS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(
    n: int = 3, a: int = 40, k: int = 2, positives: float = 0.15, seed: int = 0, dtype=torch.float64
) -> tuple[Tensor, Tensor, Targets]:
    """Random logits, offsets and targets; about `positives` of the anchors hold an object."""
    generator = seeded(seed)
    logits = torch.randn(n, a, k + 1, generator=generator, dtype=dtype)
    offsets = torch.randn(n, a, 4, generator=generator, dtype=dtype)
    labels = torch.randint(1, k + 1, (n, a), generator=generator)
    labels = labels * (torch.rand(n, a, generator=generator) < positives)
    wanted = 2 * torch.randn(n, a, 4, generator=generator, dtype=dtype)
    return logits, offsets, Targets(labels, wanted * (labels > 0).unsqueeze(-1))


# --------------------------------------------------------------------------------- smooth L1


@given(x=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), sigma=st.sampled_from(SIGMAS))
def test_smooth_l1_equals_the_formula(x, sigma):
    expected = torch.tensor([references.smooth_l1(v, sigma) for v in x], dtype=torch.float64)
    torch.testing.assert_close(smooth_l1(torch.tensor(x, dtype=torch.float64), sigma), expected)


def test_smooth_l1_with_sigma_1_is_pytorchs():
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(smooth_l1(x), F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none"))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_value_and_slope_agree_where_the_pieces_meet(sigma, sign):
    meeting, step = sign / sigma**2, 1e-9 / sigma**2
    x = torch.tensor([meeting - step, meeting, meeting + step], dtype=torch.float64).requires_grad_()
    y = smooth_l1(x, sigma)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y.detach(), torch.full((3,), 0.5 / sigma**2, dtype=torch.float64))
    torch.testing.assert_close(slope, torch.full((3,), sign, dtype=torch.float64))


def test_smooth_l1_approaches_its_limits():
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    torch.testing.assert_close(smooth_l1(x, sigma=1e4), x.abs(), rtol=0, atol=1e-8)
    torch.testing.assert_close(smooth_l1(x, sigma=0.1), 0.005 * x**2)  # all of it a parabola


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smooth_l1_never_pulls_harder_than_1(sigma):
    x = torch.tensor([-1e30, -1e4, -1.0, 0.0, 1e-30, 1.0, 80.0, 1e30]).requires_grad_()
    y = smooth_l1(x, sigma)
    y.sum().backward()
    assert y.isfinite().all()
    assert (x.grad.abs() <= 1).all()
    assert x.grad[3] == 0


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="sigma"):
        smooth_l1(torch.ones(1), sigma)


# -------------------------------------------------------------------------------------- GIoU


@given(
    numbers=st.lists(st.floats(-8, 8), min_size=8, max_size=8),
    place=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.05, 2), st.floats(0.05, 2)),
)
def test_giou_is_that_of_the_boxes_whatever_the_anchor(numbers, place):
    offsets = torch.tensor(numbers, dtype=torch.float64).view(2, 4)
    x, y, width, height = place
    anchor = torch.tensor([x, y, x + width, y + height], dtype=torch.float64)
    a, b = decode(anchor, offsets).tolist()
    assert giou_loss(*offsets).item() == pytest.approx(1 - references.giou(a, b), abs=1e-9)


def test_giou_loss_is_0_for_the_same_box_and_at_most_2():
    offsets = 3 * torch.randn(50, 4, generator=seeded())
    torch.testing.assert_close(giou_loss(offsets, offsets), torch.zeros(50), rtol=0, atol=1e-6)
    far = torch.tensor([1e4, 1e4, 0.0, 0.0])
    assert giou_loss(torch.zeros(4), far).item() == pytest.approx(2, abs=1e-3)


def test_gradient_of_giou_also_where_boxes_do_not_meet():
    offsets = 4 * torch.randn(30, 4, generator=seeded(), dtype=torch.float64)
    wanted = torch.zeros(30, 4, dtype=torch.float64)
    assert (giou_loss(offsets, wanted) > 1).any()  # some share nothing, and are pulled all the same
    assert gradcheck(lambda x: giou_loss(x, wanted), (offsets.requires_grad_(),))


# -------------------------------------------------------------------------------- focal loss


@given(p=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1), gamma=st.sampled_from(GAMMAS))
def test_focal_loss_equals_the_formula(p, gamma):
    expected = torch.tensor([references.focal(v, gamma) for v in p], dtype=torch.float64)
    torch.testing.assert_close(focal_loss(torch.tensor(p, dtype=torch.float64), gamma), expected)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_from_logits_as_from_probabilities(gamma):
    logits = 3 * torch.randn(50, 4, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(4, (50,), generator=seeded(1))
    p = torch.tensor([references.softmax(row)[y] for row, y in zip(logits.tolist(), labels, strict=True)])
    expected = [references.focal(v, gamma) for v in p.double().tolist()]
    ours = focal_loss_with_logits(logits, labels, gamma)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)
    chosen = logits.softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(ours, focal_loss(chosen, gamma))


def test_gamma_0_is_cross_entropy():
    logits, labels = 5 * torch.randn(3, 9, 4, generator=seeded()), torch.randint(4, (3, 9))
    torch.testing.assert_close(focal_loss_with_logits(logits, labels, gamma=0), cross_entropy(logits, labels))


def test_more_gamma_is_less_loss_most_of_all_for_the_easy():
    p = torch.tensor([0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    shrunk = focal_loss(p, 2.0) / focal_loss(p, 0.0)
    torch.testing.assert_close(shrunk, (1 - p) ** 2)


def test_alpha_of_one_probability_is_a_factor():
    p = torch.rand(9)
    torch.testing.assert_close(focal_loss(p, 2.0, alpha=0.25), 0.25 * focal_loss(p, 2.0))
    torch.testing.assert_close(focal_loss(p, 0.0, alpha=0.25), 0.25 * focal_loss(p, 0.0))
    torch.testing.assert_close(focal_loss(p, 2.0, alpha=0.0), torch.zeros(9))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_alpha_weighs_foreground_and_1_minus_alpha_background(gamma):
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    plain, weighed = (focal_loss_with_logits(logits, labels, gamma, alpha) for alpha in (None, 0.25))
    factor = torch.tensor([0.75, 0.25, 0.25, 0.75, 0.25, 0.25])
    torch.testing.assert_close(weighed, factor * plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_alpha_keeps_the_kind_of_numbers(dtype):
    logits, labels = (
        torch.randn(6, 3, generator=seeded(), dtype=torch.float64),
        torch.tensor([1] * 6),
    )
    plain, weighed = (focal_loss_with_logits(logits.to(dtype), labels, 2, a) for a in (None, 0.1))
    torch.testing.assert_close(weighed, 0.1 * plain, rtol=1e-12 if dtype == torch.float64 else 0.01, atol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("size", [1e-3, 80.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_logits_have_finite_losses_and_gradients(gamma, size, dtype):
    rows = [[size, -size], [-size, size], [size, size], [0, size], [0, 0]]
    logits = torch.tensor(rows, dtype=dtype).repeat(2, 1).requires_grad_()
    labels = torch.tensor([0] * 5 + [1] * 5)
    loss = focal_loss_with_logits(logits, labels, gamma, alpha=0.25)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_confident_hit_costs_next_to_nothing_but_the_right_next_to_nothing(gamma):
    """1 − p is about e^-10, and so is −log p."""
    loss = focal_loss_with_logits(torch.tensor([[10.0, 0.0]], dtype=torch.float64), torch.tensor([0]), gamma)
    p = 1 / (1 + math.exp(-10))
    assert loss.item() == pytest.approx((1 - p) ** gamma * math.log1p(math.exp(-10)), rel=1e-9, abs=0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", KINDS)
def test_certain_probabilities_are_finite_and_so_are_their_gradients(gamma, dtype):
    p = torch.tensor([0.0, 1.0, 0.5], dtype=dtype).requires_grad_()
    loss = focal_loss(p, gamma)
    loss.sum().backward()
    assert loss.dtype == dtype
    assert loss.isfinite().all()
    assert p.grad.isfinite().all()
    assert loss[0] > 5 * loss[2]
    assert loss[1] == 0


@pytest.mark.parametrize("gamma", [-0.1, math.nan])
def test_gamma_must_not_be_negative(gamma):
    with pytest.raises(ValueError, match="gamma"):
        focal_loss(torch.ones(1), gamma)
    with pytest.raises(ValueError, match="gamma"):
        focal_loss_with_logits(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), gamma)


# ------------------------------------------------------------------------------ cross-entropy


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.1, 5.0, 300.0]))
def test_cross_entropy_equals_the_loop(seed, scale):
    logits = scale * torch.randn(2, 5, 4, generator=seeded(seed), dtype=torch.float64)
    labels = torch.randint(4, (2, 5), generator=seeded(seed))
    expected = [
        [references.cross_entropy(row, y) for row, y in zip(*pair, strict=True)]
        for pair in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_cross_entropy_of_two_dimensions_and_of_none():
    logits = torch.randn(7, 3)
    labels = torch.randint(3, (7,))
    torch.testing.assert_close(cross_entropy(logits, labels), cross_entropy(logits[None], labels[None])[0])
    empty = cross_entropy(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.int64))
    assert empty.shape == (2, 0)


# --------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("sigma", SIGMAS)
def test_gradient_of_smooth_l1(sigma):
    x = torch.randn(20, generator=seeded(), dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda v: smooth_l1(v, sigma), (x,))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients_of_the_class_losses(gamma):
    logits = torch.randn(6, 3, generator=seeded(), dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    p = (0.05 + 0.9 * torch.rand(9, generator=seeded(), dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda v: focal_loss(v, gamma, 0.3), (p,))
    assert gradcheck(lambda v: focal_loss_with_logits(v, labels, gamma, 0.3), (logits,))
    assert gradcheck(lambda v: cross_entropy(v, labels), (logits,))


CONFIGS = [
    LossConfig(),
    LossConfig(sigma=3.0, negatives=1.5, cls_weight=2.0, box_weight=0.5),
    LossConfig(cls="focal", negatives=None, alpha=0.25),
    LossConfig(cls="focal", gamma=0.5, box="l1", minimum_negatives=0),
    LossConfig(box="l2", negatives=None),
    LossConfig(box="giou", box_weight=2.0),
    LossConfig(box="l1", negatives=None, cls_normalizer="anchors", box_normalizer="anchors"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_of_the_whole(config):
    logits, offsets, targets = problem(n=2, a=9, positives=0.3)
    logits, offsets = logits.requires_grad_(), offsets.requires_grad_()
    assert gradcheck(lambda x, y: tuple(ssd_loss(x, y, targets, config)), (logits, offsets))


# ---------------------------------------------------------------------------- hard negatives


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, 7.0]), st.sampled_from([0, 0, 0, 1, 2])),
        max_size=14,
    ),
    ratio=st.sampled_from([0.5, 1.0, 3.0, 100.0]),
)
def test_hard_negatives_equal_the_loop_ties_and_all(rows, ratio):
    loss = torch.tensor([[value for value, _ in rows]]).reshape(1, len(rows))
    labels = torch.tensor([[label for _, label in rows]], dtype=torch.int64).reshape(1, len(rows))
    minimum = 2 if not (labels > 0).any() else 0
    expected = references.hard_negatives(loss[0].tolist(), labels[0].tolist(), ratio, minimum)
    assert hard_negatives(loss, labels, ratio, minimum)[0].tolist() == expected


def test_every_image_is_counted_for_itself():
    labels = torch.zeros(4, 30, dtype=torch.int64)
    labels[0, 3] = labels[1, [0, 5]] = labels[3, :20] = 1
    chosen = hard_negatives(torch.rand(4, 30), labels, ratio=3.0, minimum=2)
    assert chosen.sum(1).tolist() == [3, 6, 2, 10]  # the last has no more than 10 negatives
    assert not (chosen & (labels > 0)).any()


def test_hard_negatives_are_the_largest_and_a_positive_is_never_one():
    loss = torch.tensor([[9.0, 1.0, 5.0, 4.0, 6.0, 2.0]])
    labels = torch.tensor([[1, 0, 0, 0, 0, 0]])
    assert hard_negatives(loss, labels).tolist() == [[False, False, True, True, True, False]]


def test_equal_losses_go_to_the_lower_index():
    labels = torch.zeros(1, 1000, dtype=torch.int64)
    labels[0, 500] = 1
    assert hard_negatives(torch.ones(1, 1000), labels)[0].nonzero().flatten().tolist() == [0, 1, 2]


def test_without_a_positive_and_without_a_minimum_nothing_counts():
    assert not hard_negatives(torch.rand(2, 9), torch.zeros(2, 9, dtype=torch.int64)).any()


def test_the_minimum_is_for_images_without_a_positive():
    labels = torch.zeros(2, 30, dtype=torch.int64)
    labels[0, 3] = 1
    assert hard_negatives(torch.rand(2, 30), labels, ratio=1.0, minimum=5).sum(1).tolist() == [1, 5]


def test_choosing_negatives_leaves_loss_and_gradient_alone():
    loss = torch.rand(1, 8, requires_grad=True)
    before = loss.detach().clone()
    chosen = hard_negatives(loss, torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]]))
    assert not chosen.requires_grad
    torch.testing.assert_close(loss.detach(), before, **EXACT)


# ------------------------------------------------------------------------------ the whole loss


def loop(logits: Tensor, offsets: Tensor, targets: Targets, config: LossConfig) -> Losses:
    """`ssd_loss` for smooth L1 and cross-entropy or focal loss, by the references."""
    cls = box = 0.0
    for n, labels in enumerate(targets.labels.tolist()):
        rows = logits[n].tolist()
        entropy = [references.cross_entropy(row, y) for row, y in zip(rows, labels, strict=True)]
        loss = entropy
        if config.cls == "focal":
            loss = [references.focal(math.exp(-value), config.gamma) for value in entropy]
        kept = [True] * len(labels)
        if config.negatives is not None:
            least = 0 if any(labels) else config.minimum_negatives
            kept = references.hard_negatives(loss, labels, config.negatives, least)
        cls += sum(v for v, k, y in zip(loss, kept, labels, strict=True) if k or y > 0)
        moved = (offsets[n] - targets.offsets[n]).tolist()
        box += sum(
            references.smooth_l1(d, config.sigma)
            for row, y in zip(moved, labels, strict=True)
            if y > 0
            for d in row
        )
    count = max(1, int((targets.labels > 0).sum()))
    return Losses(torch.tensor(cls / count), torch.tensor(box / count))


@pytest.mark.parametrize("positives", [0.0, 0.02, 0.15, 0.6])
@pytest.mark.parametrize(
    "config",
    [
        LossConfig(),
        LossConfig(sigma=3.0, negatives=1.5),
        LossConfig(negatives=None),
        LossConfig(cls="focal"),
        LossConfig(cls="focal", gamma=0.5, negatives=None),
    ],
)
def test_the_whole_loss_equals_the_loop(config, positives):
    given = problem(positives=positives)
    ours, expected = ssd_loss(*given, config), loop(*given, config)
    torch.testing.assert_close(ours.cls.float(), expected.cls, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.box.float(), expected.box, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.total, ours.cls + ours.box, **EXACT)


@pytest.mark.parametrize(("box", "expected"), [("smooth_l1", 1.5 + 0.125), ("l1", 2.5), ("l2", 2.125)])
def test_one_positive_by_hand(box, expected):
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]])
    offsets = torch.tensor([[[1.0, 0.5, 3.0, 0.0], [7.0] * 4, [7.0] * 4]])
    targets = Targets(torch.tensor([[1, 0, 0]]), torch.zeros(1, 3, 4))
    targets.offsets[0, 0] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    losses = ssd_loss(logits, offsets, targets, LossConfig(box=box, negatives=1.0, minimum_negatives=0))
    assert losses.cls.item() == pytest.approx(2 * math.log(2))
    assert losses.box.item() == pytest.approx(expected)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_same_batch_twice_costs_the_same(config):
    logits, offsets, targets = problem()
    twice = Targets(*(torch.cat([t, t]) for t in targets))
    once = ssd_loss(logits, offsets, targets, config)
    torch.testing.assert_close(
        ssd_loss(torch.cat([logits] * 2), torch.cat([offsets] * 2), twice, config), once
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_without_objects_is_finite_and_has_no_box_loss(config):
    logits, offsets, targets = problem(positives=0.0)
    logits, offsets = logits.requires_grad_(), offsets.requires_grad_()
    losses = ssd_loss(logits, offsets, targets, config)
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.box == 0
    assert (offsets.grad == 0).all()
    assert logits.grad.isfinite().all()
    assert (losses.cls > 0) == (config.negatives is None or config.minimum_negatives > 0)


def test_means_over_all_anchors_as_d2l_takes_them():
    """D2L 14.7: cross-entropy's mean, and the mean of |masked offsets - masked wanted| over all numbers."""
    logits, offsets, targets = problem()
    config = LossConfig(box="l1", negatives=None, cls_normalizer="anchors", box_normalizer="anchors")
    ours = ssd_loss(logits, offsets, targets, config)
    mask = (targets.labels > 0).unsqueeze(-1).double()
    torch.testing.assert_close(ours.cls, F.cross_entropy(logits.flatten(0, 1), targets.labels.flatten()))
    torch.testing.assert_close(ours.box, F.l1_loss(offsets * mask, targets.offsets * mask))


def test_random_negatives_are_as_many_and_any_may_be_chosen():
    logits, offsets, targets = problem(n=1, a=20, positives=0.2)
    logits = logits.requires_grad_()
    chosen = torch.zeros(20)
    for _ in range(100):
        loss = ssd_loss(logits, offsets, targets, LossConfig(mining="random", negatives=1.0)).cls
        (slope,) = torch.autograd.grad(loss, logits)
        counted = slope[0].abs().sum(-1) > 0
        assert counted.sum() == 2 * (targets.labels > 0).sum()
        assert counted[targets.labels[0] > 0].all()
        chosen += counted
    assert (chosen > 0).all()


def test_the_default_minimum_teaches_background_even_without_objects():
    logits, offsets, targets = problem(n=1, positives=0.0)
    hardest = cross_entropy(logits, targets.labels).topk(3).values.sum()
    torch.testing.assert_close(ssd_loss(logits, offsets, targets).cls, hardest)


@pytest.mark.parametrize("wrong", [1.0, 1e30, math.inf])
@pytest.mark.parametrize("box", ["smooth_l1", "l1", "l2", "giou"])
def test_background_does_not_contribute_to_the_box_loss(box, wrong):
    """D2L averages over all anchors, positive or not."""
    logits, offsets, targets = problem(dtype=torch.float32)
    background = targets.labels == 0
    changed = offsets.clone()
    changed[background] = wrong
    changed.requires_grad_()
    config = LossConfig(box=box)
    losses = ssd_loss(logits, changed, targets, config)
    losses.box.backward()
    torch.testing.assert_close(losses, ssd_loss(logits, offsets, targets, config), **EXACT)
    assert (changed.grad[background] == 0).all()
    assert (changed.grad[~background] != 0).any(-1).all()  # GIoU is flat in some directions


def test_easy_negatives_have_no_gradient_and_hard_ones_do():
    logits, offsets, targets = problem(n=1, a=30, positives=0.1, seed=2)
    logits = logits.requires_grad_()
    ssd_loss(logits, offsets, targets).total.backward()
    hard = hard_negatives(cross_entropy(logits, targets.labels), targets.labels)
    used = hard | (targets.labels > 0)
    assert used.any()
    assert not used.all()
    torch.testing.assert_close((logits.grad != 0).any(-1), used, **EXACT)


def test_weights_are_factors():
    plain = ssd_loss(*problem(), LossConfig())
    weighed = ssd_loss(*problem(), LossConfig(cls_weight=3.0, box_weight=0.0))
    torch.testing.assert_close(weighed.cls, 3 * plain.cls)
    assert weighed.box == 0


def test_anchors_in_any_order_cost_the_same():
    logits, offsets, targets = problem()
    order = torch.randperm(40, generator=seeded(7))
    mixed = Targets(targets.labels[:, order], targets.offsets[:, order])
    torch.testing.assert_close(
        ssd_loss(logits[:, order], offsets[:, order], mixed), ssd_loss(logits, offsets, targets)
    )


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [80.0, 1e4])
def test_extreme_predictions_cost_a_finite_amount(config, size):
    logits, offsets, targets = problem(dtype=torch.float32)
    logits = (size * logits.sign()).requires_grad_()
    offsets = (size * offsets).requires_grad_()
    losses = ssd_loss(logits, offsets, targets, config)
    losses.total.backward()
    assert losses.total.isfinite()
    assert logits.grad.isfinite().all()
    assert offsets.grad.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kinds_of_numbers_agree(config, dtype):
    logits, offsets, targets = problem(a=12, positives=0.4)
    exact = ssd_loss(logits, offsets, targets, config)
    rounded = Targets(targets.labels, targets.offsets.to(dtype))
    losses = ssd_loss(logits.to(dtype), offsets.to(dtype), rounded, config)
    assert losses.cls.dtype == losses.box.dtype == dtype
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(losses.cls.double(), exact.cls, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(losses.box.double(), exact.box, rtol=tolerance, atol=tolerance)


def test_half_precision_predictions_meet_float32_targets():
    logits, offsets, targets = problem(dtype=torch.float32)
    losses = ssd_loss(logits.bfloat16(), offsets.bfloat16(), targets)
    assert losses.box.dtype == torch.float32


def test_an_empty_batch_costs_nothing():
    none = Targets(torch.zeros(0, 9, dtype=torch.int64), torch.zeros(0, 9, 4))
    losses = ssd_loss(torch.zeros(0, 9, 3), torch.zeros(0, 9, 4), none)
    assert losses == (0, 0)


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_waits_for_the_device(config):
    logits, offsets, targets = problem()
    with PretendDevice() as device:
        ssd_loss(logits.requires_grad_(), offsets.requires_grad_(), targets, config)
    assert not device.waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", CONFIGS)
def test_a_gpu_agrees_with_the_processor(config):
    logits, offsets, targets = problem()
    there = ssd_loss(logits.cuda(), offsets.cuda(), Targets(*(t.cuda() for t in targets)), config)
    here = ssd_loss(logits, offsets, targets, config)
    torch.testing.assert_close(tuple(loss.cpu() for loss in there), tuple(here))


# ------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cls", "hinge"),
        ("box", "ciou"),
        ("sigma", 0.0),
        ("sigma", math.nan),
        ("gamma", -1.0),
        ("negatives", 0.0),
        ("negatives", -3.0),
        ("minimum_negatives", -1),
        ("cls_weight", -1.0),
        ("box_weight", math.nan),
        ("mining", "soft"),
        ("cls_normalizer", "pixels"),
        ("box_normalizer", None),
    ],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ValueError, match=option):
        LossConfig(**{option: value})
