"""The adapters under D2L's names: D2L's numbers where those are right, and none of its defects.

Three kinds of evidence: numbers that d2l 1.0.3 itself gave (recorded here), slow references written
from what D2L's text says, and, where the package is installed, d2l itself beside ours on random input.
"""

from __future__ import annotations

import csv
import itertools
import math
import warnings
from types import ModuleType

import matplotlib
import numpy as np

matplotlib.use("Agg")

import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from d2lmini.interop import d2l

ANCHORS = torch.tensor(
    [
        [0.0, 0.0, 0.3, 0.3],
        [0.2, 0.2, 0.5, 0.6],
        [0.25, 0.2, 0.6, 0.55],
        [0.6, 0.5, 0.9, 0.9],
        [0.55, 0.5, 0.95, 0.95],
        [0.1, 0.7, 0.3, 0.95],
    ]
)
TRUTH = torch.tensor([[2, 0.22, 0.22, 0.55, 0.6], [0, 0.6, 0.5, 0.95, 0.95]])
PADDING = torch.tensor([[-1.0, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    pyplot.close("all")


def random_boxes(generator: torch.Generator, *shape: int) -> Tensor:
    center = torch.rand(*shape, 2, generator=generator)
    half = torch.rand(*shape, 2, generator=generator) * 0.3 + 0.02
    return torch.cat([center - half, center + half], dim=-1)


# --- numbers recorded from d2l 1.0.3 --------------------------------------------------------------


def test_multibox_prior_gives_the_recorded_anchors():
    anchors = d2l.multibox_prior(torch.zeros(1, 3, 2, 2), sizes=[0.5, 0.25], ratios=[1, 2, 0.5])
    assert anchors.shape == (1, 16, 4)
    first = [
        [0.0, 0.0, 0.5, 0.5],
        [0.125, 0.125, 0.375, 0.375],
        [-0.103553, 0.073223, 0.603553, 0.426777],
        [0.073223, -0.103553, 0.426777, 0.603553],
    ]
    assert_close(anchors[0, :4], torch.tensor(first), rtol=0, atol=1e-6)
    last = torch.tensor([0.573223, 0.396447, 0.926777, 1.103553])
    assert_close(anchors[0, -1], last, rtol=0, atol=1e-6)


def test_multibox_target_gives_the_recorded_targets():
    offsets, mask, classes = d2l.multibox_target(ANCHORS[None], TRUTH[None])
    assert d2l.assign_anchor_to_bbox(TRUTH[:, 1:], ANCHORS, "cpu").tolist() == [-1, 0, 0, 1, 1, -1]
    assert classes.tolist() == [[0, 3, 3, 1, 1, 0]]
    assert mask.tolist() == [[0.0] * 4 + [1.0] * 16 + [0.0] * 4]
    recorded = [
        *(1.166667, 0.250000, 0.476555, -0.256461),
        *(-1.142858, 1.000001, -0.294197, 0.411195),
        *(0.833333, 0.625001, 0.770758, 0.588919),
        *(0.624999, 0.000000, -0.667652, 0.000005),
    ]
    # The 1e-6 that D2L adds to a ratio of sides is 5e-6 here.
    assert_close(offsets[0, 4:20], torch.tensor(recorded), rtol=0, atol=2e-5)
    assert offsets[0, :4].abs().sum() == offsets[0, 20:].abs().sum() == 0


def test_offsets_and_their_inverse_give_the_recorded_numbers():
    offsets = d2l.offset_boxes(ANCHORS[:2], TRUTH[:, 1:])
    recorded = [[7.833333, 8.666667, 0.476555, 1.181948], [14.166666, 8.125, 0.770757, 0.588919]]
    assert_close(offsets, torch.tensor(recorded), rtol=0, atol=2e-5)
    moved = d2l.offset_inverse(ANCHORS[:2], torch.tensor([[1.0, -1, 0.5, -0.5], [0, 2, -1, 1]]))
    recorded = [[0.014224, -0.015726, 0.345776, 0.255726], [0.22719, 0.235719, 0.47281, 0.724281]]
    assert_close(moved, torch.tensor(recorded), rtol=0, atol=2e-6)


PROBABILITIES = torch.tensor(
    [
        [
            [0.1, 0.2, 0.3, 0.05, 0.2, 0.995],
            [0.8, 0.7, 0.1, 0.05, 0.1, 0.003],
            [0.1, 0.1, 0.6, 0.9, 0.7, 0.002],
        ]
    ]
)
MOVES = torch.zeros(1, 6, 4)
MOVES[0, 1, :2], MOVES[0, 2, 2:], MOVES[0, 4] = 0.5, 0.5, torch.tensor([0.2, -0.2, 0.1, 0.1])
# class, confidence, corners; the last three rows are no detections
RECORDED = torch.tensor(
    [
        [1, 0.9, 0.6, 0.5, 0.9, 0.9],
        [0, 0.8, 0.0, 0.0, 0.3, 0.3],
        [0, 0.7, 0.215, 0.22, 0.515, 0.62],
        [-1, 0.6, 0.231595, 0.181595, 0.618405, 0.568405],
        [-1, 0.7, 0.553960, 0.486455, 0.962040, 0.945545],
        [-1, 0.003, 0.1, 0.7, 0.3, 0.95],  # d2l has 0.997 here
    ]
)


def test_multibox_detection_gives_the_recorded_rows():
    inputs = PROBABILITIES, MOVES.flatten(1), ANCHORS[None]
    rows = d2l.multibox_detection(*inputs, nms_threshold=0.3, class_aware=False)
    assert_close(rows, RECORDED[None], rtol=0, atol=2e-6)
    best = PROBABILITIES[0, 1:].max(0).values
    assert d2l.nms(ANCHORS, best, 0.3).tolist() == [3, 0, 1, 5]


def test_a_cat_does_not_delete_the_dog_beneath_it():
    rows = d2l.multibox_detection(PROBABILITIES, MOVES.flatten(1), ANCHORS[None], 0.3)
    # The cat at 0.6 lies over the dog at 0.7, the cat at 0.7 over the cat at 0.9.
    assert rows[0, :, 0].tolist() == [1, 0, 0, 1, -1, -1]
    assert_close(rows[0, :4, 1], torch.tensor([0.9, 0.8, 0.7, 0.6]))


# --- slow references from D2L's description -------------------------------------------------------


def iou(a: list[float], b: list[float]) -> float:
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    inter = max(sides[0], 0) * max(sides[1], 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inter / (sum(areas) - inter)


def slow_assign(truth: list[list[float]], anchors: list[list[float]]) -> list[int]:
    """Section 14.4.3.1, word for word: largest IoU first, then the threshold."""
    table = {(i, j): iou(a, t) for i, a in enumerate(anchors) for j, t in enumerate(truth)}
    chosen = [-1] * len(anchors)
    rows, columns = set(range(len(anchors))), set(range(len(truth)))
    while rows and columns:
        i, j = max(itertools.product(sorted(rows), sorted(columns)), key=table.__getitem__)
        chosen[i] = j
        rows.remove(i)
        columns.remove(j)
    for i in rows:
        j = max(range(len(truth)), key=lambda j: table[i, j])
        if table[i, j] >= 0.5:
            chosen[i] = j
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_greedy_one_of_the_text(seed):
    generator = torch.Generator().manual_seed(seed)
    anchors = d2l.multibox_prior(torch.zeros(5, 5), [0.3, 0.6], [1, 2])[0].double()
    anchors = anchors + 1e-4 * torch.rand(anchors.shape, generator=generator)  # no two IoUs equal
    truth = random_boxes(generator, 1 + 2 * seed).double()
    expected = slow_assign(truth.tolist(), anchors.tolist())
    assert d2l.assign_anchor_to_bbox(truth, anchors, "cpu").tolist() == expected


def slow_detection(probabilities: Tensor, boxes: Tensor, threshold: float) -> list[tuple[int, int]]:
    """(anchor, class) of what section 14.4.4 keeps, class by class and one box at a time."""
    best, classes = probabilities[1:].max(0)
    kept: list[int] = []
    for i in best.argsort(descending=True).tolist():
        rivals = [j for j in kept if classes[j] == classes[i]]
        clear = all(iou(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in rivals)
        if best[i] >= 0.01 and clear:
            kept.append(i)
    return [(i, int(classes[i])) for i in kept]


@pytest.mark.parametrize("seed", range(3))
def test_detection_is_the_suppression_of_the_text(seed):
    generator = torch.Generator().manual_seed(seed)
    anchors = d2l.multibox_prior(torch.zeros(4, 4), [0.3, 0.5], [1, 2])[0]
    logits = torch.randn(2, 4, len(anchors), generator=generator) * 4
    offsets = torch.randn(2, len(anchors), 4, generator=generator)
    rows = d2l.multibox_detection(logits.softmax(1), offsets.flatten(1), anchors[None])
    for image in range(2):
        boxes = d2l.offset_inverse(anchors, offsets[image])
        expected = slow_detection(logits[image].softmax(0), boxes, 0.5)
        found = rows[image][rows[image, :, 0] >= 0]
        assert found[:, 0].tolist() == [c for _, c in expected]
        assert_close(found[:, 2:], boxes[[i for i, _ in expected]])
        rest = [i for i in range(len(anchors)) if i not in dict(expected)]
        assert_close(rows[image][len(expected) :, 2:], boxes[rest])  # in the order of the anchors


def test_box_functions_agree_with_each_other_and_with_a_slow_iou():
    boxes = random_boxes(torch.Generator().manual_seed(0), 6).double()
    assert_close(d2l.box_center_to_corner(d2l.box_corner_to_center(boxes)), boxes)
    expected = [[iou(a, b) for b in boxes.tolist()] for a in boxes[:3].tolist()]
    assert_close(d2l.box_iou(boxes[:3], boxes), torch.tensor(expected, dtype=torch.float64))


def test_losses_take_arguments_in_the_order_of_the_exercise():
    x = torch.tensor([-2.0, -0.05, 0.0, 0.5])
    for sigma in (10.0, 1.0, 0.5):
        size = [abs(v) for v in x.tolist()]
        expected = [(sigma * v) ** 2 / 2 if v < 1 / sigma**2 else v - 0.5 / sigma**2 for v in size]
        assert_close(d2l.smooth_l1(x, scalar=sigma), torch.tensor(expected))
    p = torch.tensor([0.2, 0.9])
    expected = [-((1 - v) ** 5) * math.log(v) for v in p.tolist()]
    assert_close(d2l.focal_loss(5, p), torch.tensor(expected))


# --- defects that must not come back --------------------------------------------------------------


def test_padding_is_no_object():
    alone = d2l.multibox_target(ANCHORS[None], TRUTH[None])
    padded = d2l.multibox_target(ANCHORS[None], torch.cat([TRUTH, PADDING, PADDING])[None])
    for a, b in zip(alone, padded, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("rows", [TRUTH[:0], PADDING, PADDING.expand(3, 5)])
def test_no_object_means_background_everywhere(rows):
    offsets, mask, classes = d2l.multibox_target(ANCHORS[None], rows[None])
    assert offsets.shape == mask.shape == (1, 24)
    assert not offsets.any()
    assert not mask.any()
    assert not classes.any()
    assert d2l.assign_anchor_to_bbox(rows[:0, 1:], ANCHORS, "cpu").tolist() == [-1] * 6


@pytest.mark.parametrize(
    "box",
    [
        [0.0, 0.0, 0.0, 0.0],  # padding with zeros, under class 0
        [0.3, 0.3, 0.3, 0.6],  # empty
        [0.6, 0.6, 0.2, 0.2],  # reversed
        [2.0, 2.0, 3.0, 3.0],  # elsewhere
        [math.nan, 0.0, 1.0, 1.0],
    ],
)
def test_an_object_that_is_nowhere_takes_no_anchor(box):
    rows = torch.cat([TRUTH, torch.tensor([[1, *box]])])
    expected = d2l.multibox_target(ANCHORS[None], TRUTH[None])
    for a, b in zip(expected, d2l.multibox_target(ANCHORS[None], rows[None]), strict=True):
        assert_close(a, b)


def test_an_object_too_many_overwrites_nothing():
    anchors = ANCHORS[1:3]
    truth = torch.cat([TRUTH[:1, 1:], TRUTH[:1, 1:] + 0.02, TRUTH[:1, 1:] + 0.04])
    assert sorted(d2l.assign_anchor_to_bbox(truth, anchors, "cpu").tolist()) in ([0, 1], [0, 2])


def test_more_pairs_than_float32_can_count():
    # With 13 objects, pair 13 k of anchor k = 1 (mod 4) rounds to one of the anchor before it.
    anchors = torch.zeros(2**24 // 13 + 40, 4)
    anchors[:, 2:] = 1e-3
    k = 2**24 // 13 + 21
    k -= (k - 1) % 4
    anchors[k] = torch.tensor([0.5, 0.5, 0.9, 0.9])
    few = torch.rand(12, 4) * 0.01 + torch.tensor([0.2, 0.2, 0.3, 0.3])
    truth = torch.cat([torch.tensor([[0.5, 0.5, 0.9, 0.75]]), few])
    chosen = d2l.assign_anchor_to_bbox(truth, anchors, "cpu")
    assert (chosen == 0).nonzero().tolist() == [[k]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_labels_of_any_floating_type_will_do(dtype):
    offsets, mask, classes = d2l.multibox_target(ANCHORS[None], TRUTH[None].to(dtype))
    assert classes.tolist() == [[0, 3, 3, 1, 1, 0]]
    assert offsets.dtype == mask.dtype == torch.float32
    assert offsets.isfinite().all()


def test_an_anchor_is_as_wide_as_the_text_says():
    anchors = d2l.multibox_prior(torch.zeros(1, 2), sizes=[0.5], ratios=[1, 2])
    width, height = (anchors[0, :, 2:] - anchors[0, :, :2]).unbind(-1)
    assert_close(width[:2], torch.tensor([0.5, 0.5 * math.sqrt(2)]))
    assert_close(height[:2], torch.tensor([0.5, 0.5 / math.sqrt(2)]))


def test_offsets_of_empty_and_reversed_boxes_are_finite():
    boxes = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]])
    offsets = d2l.offset_boxes(ANCHORS[:2], boxes)
    assert_close(offsets[:, 2:], torch.full((2, 2), math.log(1e-6) / 0.2))
    assert offsets.isfinite().all()


def test_eps_does_not_touch_an_ordinary_box():
    assert d2l.offset_boxes(ANCHORS, ANCHORS).abs().max() < 1e-6


def test_huge_offsets_give_finite_boxes():
    assert d2l.offset_inverse(ANCHORS, torch.full((6, 4), 1e4)).isfinite().all()


def test_iou_of_empty_boxes_is_zero():
    assert d2l.box_iou(PADDING[:, 1:], PADDING[:, 1:]).item() == 0


def test_suppression_of_nothing_and_of_ties():
    empty = d2l.nms(ANCHORS[:0], torch.zeros(0), 0.5)
    assert empty.dtype == torch.int64
    assert ANCHORS[empty].shape == (0, 4)
    same = ANCHORS[:1].expand(40, 4)
    assert d2l.nms(same, torch.full((40,), 0.5), 0.5).tolist() == [0]


def test_detection_without_anchors_or_without_images():
    assert d2l.multibox_detection(torch.zeros(2, 3, 0), torch.zeros(2, 0), torch.zeros(1, 0, 4)).shape == (
        2,
        0,
        6,
    )
    assert d2l.multibox_detection(torch.zeros(0, 3, 6), torch.zeros(0, 24), ANCHORS[None]).shape == (
        0,
        6,
        6,
    )


def test_a_rejected_row_keeps_its_confidence():
    probabilities = torch.tensor([[[0.999, 0.97], [0.001, 0.03]]])
    rows = d2l.multibox_detection(probabilities, torch.zeros(1, 8), ANCHORS[None, :2])
    assert rows[0, :, 0].tolist() == [0, -1]
    assert_close(rows[0, :, 1], torch.tensor([0.03, 0.001]))


def test_a_box_that_is_no_box_is_no_detection():
    moves = MOVES.clone()
    moves[0, 3, 2] = math.nan  # of the best row
    rows = d2l.multibox_detection(PROBABILITIES, moves.flatten(1), ANCHORS[None], 0.3)
    assert rows[0, :, 0].tolist() == [0, 0, 1, 1, -1, -1]
    assert rows[0, 4, 2:].isnan().any()


def test_whole_numbers_as_offsets_as_in_the_cell_of_14_4_4():
    offsets = torch.tensor([0] * 24)
    rows = d2l.multibox_detection(PROBABILITIES, offsets[None], ANCHORS[None])
    assert_close(rows[0, 0, 2:], ANCHORS[3])


# --- the network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> d2l.TinySSD:
    torch.manual_seed(0)
    return d2l.TinySSD(num_classes=2).eval()


class TestTinySSD:
    def test_shapes(self, net):
        anchors, scores, offsets = net(torch.zeros(2, 3, 256, 256))
        assert anchors.shape == (1, 5444, 4)
        assert scores.shape == (2, 5444, 3)
        assert offsets.shape == (2, 21776)

    def test_the_first_layer_sees_raw_pixels(self, net):
        seen = []
        hook = next(m for m in net.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0])
        )
        images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
        with torch.no_grad():
            net(images.float())
            net(images)
        hook.remove()
        assert_close(seen[0], images.float(), rtol=1e-6, atol=1e-4)
        assert_close(seen[1], seen[0])

    def test_anchors_are_made_once(self, net):
        with torch.no_grad():
            first, second = (net(torch.zeros(1, 3, 256, 256))[0] for _ in range(2))
        assert first.data_ptr() == second.data_ptr() == net.anchors.data_ptr()


# --- data -----------------------------------------------------------------------------------------


def test_bananas_are_drawn_where_there_is_no_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LMINI_DATA", str(tmp_path))
    monkeypatch.setattr(d2l, "DRAWN", {"train": 5, "val": 3})
    train, validation = d2l.load_data_bananas(4)
    assert "5 images for train, drawn" in capsys.readouterr().out
    images, labels = next(iter(train))
    assert images.shape == (4, 3, 256, 256)
    assert images.dtype == torch.float32
    assert 100 < images.max() <= 255
    assert labels.shape == (4, 1, 5)
    assert (labels[..., 0] == 0).all()
    assert ((labels[..., 3:] > labels[..., 1:3]) & (labels[..., 3:] <= 1)).all()
    assert len(train.dataset) == 5
    assert len(validation.dataset) == 3
    orders = {tuple(y[:, 0, 1].tolist()) for _ in range(8) for _, y in train}
    assert len(orders) > 4  # shuffled
    assert_close(next(iter(validation))[1], next(iter(validation))[1])


def test_the_real_set_is_read_where_it_lies(tmp_path, monkeypatch, capsys):
    for split, count in (("train", 3), ("val", 2)):
        folder = tmp_path / "data" / "banana-detection" / f"bananas_{split}"
        (folder / "images").mkdir(parents=True)
        with (folder / "label.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["img_name", "label", "xmin", "ymin", "xmax", "ymax"])
            for i in range(count):
                Image.new("RGB", (256, 256), (i, 20, 30)).save(folder / "images" / f"{i}.png")
                table.writerow([f"{i}.png", 0, 64, 32, 128, 256])
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    train, validation = d2l.load_data_bananas(8)
    assert "3 images for train, read from" in capsys.readouterr().out
    images, labels = next(iter(validation))
    assert images[:, :, 0, 0].tolist() == [[0, 20, 30], [1, 20, 30]]
    assert labels.tolist() == [[[0, 0.25, 0.125, 0.5, 1.0]]] * 2
    assert len(train.dataset) == 3
    monkeypatch.setenv("D2LMINI_DATA", str(tmp_path / "data"))
    assert d2l.download_extract("banana-detection").endswith("banana-detection")


def test_nothing_else_is_fetched():
    with pytest.raises(ValueError, match="not voc2012"):
        d2l.download_extract("voc2012")


# --- helpers of the cells -------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by hand."""
    now = [100.0]
    monkeypatch.setattr(d2l.time, "perf_counter", lambda: now[0])
    return now


def train_ten_batches(timer, clock):
    for _ in range(10):
        timer.start()
        clock[0] += 3


def test_timer_counts_all_batches_of_the_training_cell(clock):
    timer = d2l.Timer()
    clock[0] += 50  # between the making of the timer and the training: not counted
    with pytest.warns(UserWarning, match="running already"):
        train_ten_batches(timer, clock)
    assert timer.stop() == 30


def test_timer_keeps_every_measurement(clock):
    timer = d2l.Timer()
    clock[0] += 1
    assert timer.stop() == 1
    for seconds in (2, 4):
        clock[0] += 10
        timer.start()
        clock[0] += seconds
        timer.stop()
    assert timer.times == [1, 2, 4]
    assert timer.sum() == 7
    assert timer.avg() == pytest.approx(7 / 3)
    assert timer.cumsum() == [1, 3, 7]


def test_accumulator_sums_and_refuses_a_wrong_count():
    sums = d2l.Accumulator(2)
    sums.add(1, torch.tensor(0.5))
    sums.add(2, 0.25)
    assert [sums[0], sums[1]] == [3, 0.75]
    with pytest.raises(ValueError, match="argument"):
        sums.add(1)
    sums.reset()
    assert sums[0] == 0


def test_animator_draws_every_point_of_every_line():
    animator = d2l.Animator(xlabel="epoch", xlim=[1, 3], legend=["a", "b"])
    for epoch in (1, 2, 3):
        animator.add(epoch, (epoch / 10, None if epoch == 2 else epoch / 20))
    lines = animator.axes[0].get_lines()
    assert [line.get_xdata().tolist() for line in lines] == [[1, 2, 3], [1, 3]]
    assert_close(torch.tensor(lines[1].get_ydata()), torch.tensor([0.05, 0.15]).double())
    assert animator.axes[0].get_xlim() == (1, 3)
    assert animator.axes[0].get_xlabel() == "epoch"
    assert [t.get_text() for t in animator.axes[0].get_legend().get_texts()] == ["a", "b"]


def test_device_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert d2l.try_gpu(1) == torch.device("cuda:1")
    assert d2l.try_gpu(2) == torch.device("cpu")


# --- cells in the manner of sections 14.3 to 14.7 -------------------------------------------------


def photo() -> np.ndarray:
    return np.random.default_rng(0).random((60, 80, 3))


def test_cells_of_14_3():
    d2l.set_figsize()
    shown = d2l.plt.imshow(photo())
    dog, cat = [6.0, 4.0, 37.0, 51.0], [40.0, 11.0, 65.0, 49.0]
    both = d2l.tensor((dog, cat))
    assert (d2l.box_center_to_corner(d2l.box_corner_to_center(both)) == both).all()
    shown.axes.add_patch(d2l.bbox_to_rect(dog, "blue"))
    outline = shown.axes.add_patch(d2l.bbox_to_rect(both[1], "red"))
    assert outline.get_bbox().extents.tolist() == cat
    assert not outline.get_fill()
    shown.figure.canvas.draw()


def test_cells_of_14_4():
    image = photo()
    height, width = image.shape[:2]
    anchors = d2l.multibox_prior(
        torch.rand(size=(1, 3, height, width)), sizes=[0.75, 0.5, 0.25], ratios=[1, 2, 0.5]
    )
    grid = anchors.reshape(height, width, 5, 4)
    scale = torch.tensor((width, height, width, height))
    axes = d2l.plt.imshow(image).axes
    labels = ["s=0.75, r=1", "s=0.5, r=1", "s=0.25, r=1", "s=0.75, r=2", "s=0.75, r=0.5"]
    d2l.show_bboxes(axes, grid[25, 25] * scale, labels)
    assert [t.get_text() for t in axes.texts] == labels
    assert len(axes.patches) == 5
    d2l.show_bboxes(axes, TRUTH[:, 1:] * scale, ["dog", "cat"], "k")
    assert axes.patches[-1].get_edgecolor() == (0, 0, 0, 1)
    targets = d2l.multibox_target(ANCHORS.unsqueeze(dim=0), TRUTH.unsqueeze(dim=0))
    assert [t.shape for t in targets] == [(1, 24), (1, 24), (1, 6)]
    output = d2l.multibox_detection(
        PROBABILITIES, MOVES.flatten(1), ANCHORS.unsqueeze(dim=0), nms_threshold=0.5
    )
    for row in d2l.numpy(output[0]):
        if row[0] != -1:
            label = ("dog=", "cat=")[int(row[0])] + str(row[1])
            d2l.show_bboxes(axes, [torch.tensor(row[2:]) * scale], label)
    assert axes.texts[-1].get_text().startswith(("dog=", "cat="))
    axes.figure.canvas.draw()


def test_cells_of_14_5():
    image = photo()
    height, width = image.shape[:2]

    def show_anchors(map_width: int, map_height: int, sizes: list[float]) -> int:
        d2l.set_figsize()
        features = torch.zeros((1, 10, map_height, map_width))
        anchors = d2l.multibox_prior(features, sizes=sizes, ratios=[1, 2, 0.5])
        scale = torch.tensor((width, height, width, height))
        axes = d2l.plt.figure().add_subplot()
        axes.imshow(image)
        d2l.show_bboxes(axes, anchors[0] * scale)
        return len(axes.patches)

    assert show_anchors(map_width=4, map_height=4, sizes=[0.15]) == 48
    assert show_anchors(map_width=1, map_height=1, sizes=[0.8]) == 3


@pytest.fixture
def few_bananas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LMINI_DATA", str(tmp_path))
    monkeypatch.setattr(d2l, "DRAWN", {"train": 10, "val": 1})


@pytest.mark.usefixtures("few_bananas")
def test_cells_of_14_6():
    d2l.DATA_HUB["banana-detection"] = (d2l.DATA_URL + "banana-detection.zip", d2l.bananas.SHA1)
    train, _ = d2l.load_data_bananas(10)
    images, labels = next(iter(train))
    axes = d2l.show_images(images.permute(0, 2, 3, 1) / 255, 2, 5, scale=2)
    for panel, label in zip(axes, labels, strict=True):
        d2l.show_bboxes(panel, [label[0][1:5] * 256], colors=["w"])
    assert len(axes) == 10
    assert all(len(panel.patches) == 1 for panel in axes)
    axes[0].figure.canvas.draw()
    assert len(d2l.show_images(images[:1, 0], 1, 1, titles=["one"])) == 1


@pytest.mark.usefixtures("few_bananas")
def test_cells_of_14_7():
    torch.manual_seed(0)
    train, _ = d2l.load_data_bananas(5)
    device, net = d2l.try_gpu(), d2l.TinySSD(num_classes=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, weight_decay=5e-4)
    cross_entropy, l1 = nn.CrossEntropyLoss(reduction="none"), nn.L1Loss(reduction="none")
    timer, animator = d2l.Timer(), d2l.Animator(xlabel="epoch", legend=["class error", "mae"])
    net = net.to(device)
    errors = []
    for epoch in range(2):
        metric = d2l.Accumulator(4)
        net.train()
        for features, target in train:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the timer, about being started again
                timer.start()
            optimizer.zero_grad()
            X, Y = features.to(device), target.to(device)
            anchors, scores, offsets = net(X)
            wanted, mask, labels = d2l.multibox_target(anchors, Y)
            cls = cross_entropy(scores.reshape(-1, 2), labels.reshape(-1)).reshape(len(X), -1)
            box = l1(offsets * mask, wanted * mask)
            (cls.mean(dim=1) + box.mean(dim=1)).mean().backward()
            optimizer.step()
            right = (scores.argmax(dim=-1) == labels).sum()
            gap = ((wanted - offsets) * mask).abs().sum().detach()
            metric.add(right, labels.numel(), float(gap), wanted.numel())
        errors.append(1 - metric[0] / metric[1])
        animator.add(epoch + 1, (errors[-1], metric[2] / metric[3]))
    assert errors[1] < errors[0]
    assert timer.stop() > 0

    net.eval()
    X = features[:1].to(device)
    anchors, scores, offsets = net(X)
    output = d2l.multibox_detection(scores.softmax(dim=2).permute(0, 2, 1), offsets, anchors)
    found = output[0, [i for i, row in enumerate(output[0]) if row[0] != -1]].cpu()
    assert len(found) > 0
    d2l.set_figsize((5, 5))
    axes = d2l.plt.figure().add_subplot()
    axes.imshow(X[0].permute(1, 2, 0).long().cpu())
    for row in found[:5]:
        d2l.show_bboxes(axes, [row[2:6] * 256], f"{float(row[1]):.2f}", "w")
    assert len(axes.texts) == min(5, len(found))


# --- d2l itself, where it is installed ------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> ModuleType:
    peer = pytest.importorskip("benchmarks.peer")
    if not peer.installed():
        pytest.skip("d2l is not installed (make bench installs it)")
    return peer.load()


@pytest.mark.parametrize("count", [1, 3, 10])
def test_targets_are_those_of_d2l(real, count):
    generator = torch.Generator().manual_seed(count)
    shapes = [torch.zeros(s, s) for s in (16, 8, 4, 1)]
    both = [
        torch.cat([m.multibox_prior(x, [0.2, 0.5], [1, 2, 0.5]) for x in shapes], dim=1) for m in (d2l, real)
    ]
    assert_close(*both, rtol=0, atol=1e-6)
    boxes = random_boxes(generator, 8, count).clamp(0, 1)
    classes = torch.randint(0, 5, (8, count, 1), generator=generator).float()
    rows = torch.cat([classes, boxes], dim=-1)
    ours, theirs = (m.multibox_target(both[1], rows) for m in (d2l, real))
    assert torch.equal(ours[2], theirs[2])
    assert torch.equal(ours[1], theirs[1])
    assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-3)


def test_detections_are_those_of_d2l(real):
    generator = torch.Generator().manual_seed(0)
    anchors = d2l.multibox_prior(torch.zeros(12, 12), [0.2, 0.4], [1, 2])
    logits = torch.randn(3, 4, anchors.shape[1], generator=generator) * 3
    offsets = torch.randn(3, anchors.shape[1] * 4, generator=generator)
    inputs = logits.softmax(1), offsets, anchors
    ours, theirs = (
        d2l.multibox_detection(*inputs, class_aware=False),
        real.multibox_detection(*inputs),
    )
    assert torch.equal(ours[..., 0] >= 0, theirs[..., 0] >= 0)
    kept = ours[..., 0] >= 0
    assert 0 < kept.sum() < kept.numel()
    assert_close(ours[kept], theirs[kept], rtol=1e-4, atol=1e-5)


def test_network_and_loss_are_those_of_the_published_recipe(real):
    step = pytest.importorskip("benchmarks.step")
    step.check(real)
