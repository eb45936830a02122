"""The anchor report and the suggested anchors, against slow and obvious counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from d2lmini import plots
from d2lmini.anchors import (
    TINY_SSD_ANCHORS,
    AnchorSpec,
    cluster_shapes,
    make_anchors,
    shape_iou,
    suggest_anchors,
)
from d2lmini.boxes import box_iou
from d2lmini.data import Synthetic, collate
from d2lmini.inspect import anchor_report, read_objects
from d2lmini.matching import match

MAPS = [(16, 16), (8, 8), (4, 4), (1, 1)]
SPEC = AnchorSpec(((0.1, 0.15), (0.25,), (0.5,), (0.9,)), ((1, 2, 0.5),) * 4)


@pytest.fixture(scope="module")
def scenes():
    return collate([Synthetic("scenes", count=12, size=64)[i] for i in range(12)])


def boxes_of(*sides: tuple[float, float]) -> Tensor:
    """Boxes of widths and heights around the middle."""
    half = torch.tensor(sides) / 2
    return torch.cat([0.5 - half, 0.5 + half], 1)


def test_counts_are_those_of_a_loop_over_objects(scenes):
    scenes, anchors = scenes.select(slice(3)), make_anchors(MAPS, SPEC)
    report = anchor_report(anchors, scenes.boxes, scenes.labels, image_size=64)
    targets = match(anchors, scenes.boxes, scenes.labels)
    row = 0
    for image, (boxes, labels) in enumerate(zip(scenes.boxes, scenes.labels, strict=True)):
        mine = targets.labels[image] > 0
        for box, label in zip(boxes[labels >= 0], labels[labels >= 0], strict=True):
            assert int(report.image[row]) == image
            assert int(report.labels[row]) == int(label)
            best = max(float(box_iou(box[None], a[None])) for a in anchors)
            assert float(report.best[row]) == pytest.approx(best)
            width, height = (float(box[2] - box[0]) * 64, float(box[3] - box[1]) * 64)
            assert float(report.side[row]) == pytest.approx(math.sqrt(width * height), rel=1e-5)
            assert float(report.ratio[row]) == pytest.approx(width / height, rel=1e-5)
            row += 1
        of_image = report.positives[report.image == image]
        assert int(of_image.sum()) == int(mine.sum())
    assert row == len(report.best)
    assert report.recall == pytest.approx(float((report.best >= 0.5).float().mean()))


def test_positives_are_each_objects_own(scenes):
    """The anchors of one object alone, moved by their targets, all become its box."""
    anchors = make_anchors(MAPS, SPEC)
    report = anchor_report(anchors, scenes.boxes, scenes.labels, image_size=64)
    for i in range(12):
        boxes = scenes.boxes[i][scenes.labels[i] >= 0]
        fits = (box_iou(anchors, boxes) >= 0.5).sum(0)
        mine = report.positives[report.image == i]
        if len(boxes) == 1:
            assert mine.tolist() == fits.clamp(min=1).tolist()
        assert (mine <= fits.clamp(min=1)).all()  # two objects share what fits both


def test_padding_and_order_do_not_matter(scenes):
    anchors = make_anchors(MAPS, SPEC)
    whole = anchor_report(anchors, scenes.boxes, scenes.labels)
    wide = torch.cat([scenes.boxes, torch.rand(12, 200, 4)], 1)
    padded = torch.cat([scenes.labels, torch.full((12, 200), -1)], 1)
    again = anchor_report(anchors, wide, padded)
    torch.testing.assert_close(again.best, whole.best)
    assert torch.equal(again.positives, whole.positives)


def test_groups_hold_every_object_once(scenes):
    report = anchor_report(make_anchors(MAPS, SPEC), scenes.boxes, scenes.labels)
    for groups in (report.by_side(), report.by_ratio(), report._groups(report.labels, ["x"] * 6)):
        assert sum(group.objects for group in groups) == len(report.best)
        fitted = sum(group.recall * group.objects for group in groups if group.objects)
        assert fitted == pytest.approx(float(report.fitted.sum()))


def test_unfitted_objects_are_named_the_worst_first():
    boxes = boxes_of((0.9, 0.9), (0.9, 0.02), (0.6, 0.05))[None]
    anchors = make_anchors(MAPS, SPEC)
    report = anchor_report(anchors, boxes, torch.tensor([[0, 1, 0]]), image_size=(100, 200))
    assert report.worst() == [1, 2]
    assert report.worst(1) == [1]
    text = report.text(["one", "two"], ["folder/photo.jpg"])
    assert "2 objects are fitted by no anchor" in text
    assert "folder/photo.jpg: IoU" in text
    assert "of 200 × 100" in text
    assert text.index("class ") < text.index("one ") < text.index("two ")


def test_an_object_that_others_leave_no_anchor_is_told():
    (box,) = boxes_of((0.3, 0.3))
    report = anchor_report(box[None], torch.stack([box, box])[None], torch.tensor([[0, 0]]))
    assert report.positives.tolist() == [1, 0]
    assert "1 of 2 have no anchor at all" in report.text()


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (2, 4)])
def test_no_object_is_a_report_too(size):
    labels = torch.full(size, -1)
    report = anchor_report(make_anchors(MAPS, SPEC), torch.zeros(*size, 4), labels)
    assert math.isnan(report.recall)
    assert "no object" in report.text()
    assert report.worst() == []
    with pytest.raises(ValueError, match="no objects"):
        plots.plot_coverage(report)


def test_boxes_that_are_none_fit_nothing():
    nan = float("nan")
    boxes = torch.tensor([[[nan, 0, 1, 1], [0.5, 0.5, 0.5, 0.9], [0.8, 0.8, 0.2, 0.2]]])
    report = anchor_report(make_anchors(MAPS, SPEC), boxes, torch.zeros(1, 3, dtype=torch.int64))
    assert report.best.tolist() == [0, 0, 0]
    assert report.positives.tolist() == [0, 0, 0]
    assert "3 objects are fitted by no anchor" in report.text()
    plots.plot_coverage(report)


def test_reading_keeps_the_objects_and_no_pixels(scenes):
    objects = read_objects(Synthetic("scenes", count=12, size=64))
    assert torch.equal(objects.boxes, scenes.boxes)
    assert torch.equal(objects.labels, scenes.labels)


# ---------------------------------------------------------------- clusters and suggestions


def test_shape_iou_is_the_iou_of_boxes_with_one_center():
    a, b = torch.rand(20, 2) + 0.01, torch.rand(7, 2) + 0.01
    sides = [torch.cat([-x / 2, x / 2], 1) for x in (a, b)]
    torch.testing.assert_close(shape_iou(a, b), box_iou(*sides))


def test_clusters_are_found_again():
    generator = torch.Generator().manual_seed(3)
    true = torch.tensor([[0.1, 0.1], [0.2, 0.6], [0.7, 0.3]])
    shapes = (true.repeat(40, 1) * (1 + 0.05 * torch.rand(120, 2, generator=generator))).double()
    centers = cluster_shapes(shapes, 3)
    assert float(shape_iou(centers, true.double()).amax(1).min()) > 0.9
    assert torch.equal(centers, cluster_shapes(shapes, 3))  # the same seed
    assert len(cluster_shapes(torch.ones(50, 2), 4)) == 1  # no more clusters than shapes
    with pytest.raises(ValueError, match="0 shapes"):
        cluster_shapes(torch.zeros(0, 2), 2)


def test_each_center_is_its_members_median():
    shapes = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)).double() + 0.05
    centers = cluster_shapes(shapes, 5)
    member = shape_iou(shapes, centers).argmax(1)
    for k, center in enumerate(centers):
        torch.testing.assert_close(center, shapes[member == k].median(0).values)


def test_suggested_anchors_fit_what_they_were_made_for():
    """Wide objects of two sizes, of which D2L's anchors fit half."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor([[0.16, 0.04], [0.6, 0.15]]).repeat(60, 1)
    sides = sides * (1 + 0.1 * torch.rand(120, 2, generator=generator))
    corner = torch.rand(120, 2, generator=generator) * (1 - sides)
    boxes, labels = torch.cat([corner, corner + sides], 1)[:, None], torch.zeros(120, 1, dtype=torch.int64)
    maps = [(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)]
    spec = suggest_anchors(boxes, maps)
    assert anchor_report(make_anchors(maps, TINY_SSD_ANCHORS), boxes, labels).recall < 0.6
    assert anchor_report(make_anchors(maps, spec), boxes, labels).recall > 0.9
    assert len(spec.sizes) == 5
    assert all(len(sizes) in (1, 2) for sizes in spec.sizes)
    assert all(3.4 < ratio < 4.7 for ratio in spec.ratios[0])
    assert spec == suggest_anchors(boxes, maps)


def test_suggestion_survives_odd_boxes():
    nan = float("nan")
    odd = torch.tensor([[nan] * 4, [0.3, 0.3, 0.3, 0.8], [0.9, 0.9, 0.1, 0.1]])
    one = suggest_anchors(torch.cat([odd, boxes_of((0.2, 0.2))]), MAPS)
    assert (0.2,) in one.sizes
    with pytest.raises(ValueError, match="no object"):
        suggest_anchors(odd, MAPS)
    with pytest.raises(ValueError, match="no feature maps"):
        suggest_anchors(boxes_of((0.2, 0.2)), [])


def test_drawing_shows_every_object_and_every_group(scenes):
    report = anchor_report(make_anchors(MAPS, SPEC), scenes.boxes, scenes.labels, image_size=64)
    figure = plots.plot_coverage(report, SPEC)
    objects, *bars = figure.axes
    marks = objects.collections
    assert sum(len(c.get_offsets()) for c in marks[:2]) == len(report.best)
    assert len(marks[2].get_offsets()) == 4 * 3 + 1  # shapes of SPEC
    for ax, groups in zip(bars, (report.by_side(), report.by_ratio()), strict=True):
        wanted = [g for g in groups if g.objects]
        ticks = sorted(zip(ax.get_yticks(), ax.get_yticklabels(), strict=True), reverse=True)  # from the top
        assert [label.get_text() for _, label in ticks] == [g.name for g in wanted]
        shares = sorted(ax.patches[: len(wanted)], key=lambda bar: -bar.get_y())
        assert [bar.get_width() for bar in shares] == pytest.approx([g.recall for g in wanted])
    assert figure._repr_png_().startswith(b"\x89PNG")
