"""TinySSD: the same network as D2L's, any size, any backbone, and every way to run it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, make_anchors
from d2lmini.boxes import box_iou, xyxy_to_cxcywh
from d2lmini.detect import detect
from d2lmini.losses import LossConfig, ssd_loss
from d2lmini.matching import Targets, match
from d2lmini.model import TinyBackbone, TinySSD, conv_bn_relu, normalize, replace_class_heads

from .pretend import PretendDevice

EXACT = {"rtol": 0, "atol": 0}
SMALL_SPEC = AnchorSpec(sizes=((0.25, 0.35), (0.5,), (0.8, 0.9)), ratios=((1, 2), (1, 2, 0.5), (1,)))


def small(num_classes: int = 2, image_size: int | tuple[int, int] = 32, seed: int = 0) -> TinySSD:
    """A network of three maps that is quick to run."""
    torch.manual_seed(seed)
    return TinySSD(num_classes, image_size, SMALL_SPEC, TinyBackbone((8, 16), width=16, extra=1))


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- D2L's network, written again


class PlainSSD(nn.Module):
    """What D2L describes in 14.7.1, layer by layer, with ReLU before pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        halve = self._halve
        base = nn.Sequential(halve(3, 16), halve(16, 32), halve(32, 64))
        last = nn.AdaptiveMaxPool2d(1)
        self.stages = nn.ModuleList([base, halve(64, 128), halve(128, 128), halve(128, 128), last])
        channels = (64, 128, 128, 128, 128)
        self.cls = nn.ModuleList(nn.Conv2d(c, 4 * (num_classes + 1), 3, padding=1) for c in channels)
        self.box = nn.ModuleList(nn.Conv2d(c, 4 * 4, 3, padding=1) for c in channels)

    @staticmethod
    def _halve(i: int, o: int) -> nn.Sequential:
        layers = []
        for channels in (i, o):
            layers += [nn.Conv2d(channels, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = [], []
        for stage, cls, box in zip(self.stages, self.cls, self.box, strict=True):
            x = stage(x)
            logits.append(cls(x).permute(0, 2, 3, 1).flatten(1))
            offsets.append(box(x).permute(0, 2, 3, 1).flatten(1))
        offsets = torch.cat(offsets, 1).unflatten(1, (-1, 4))
        return torch.cat(logits, 1).reshape(len(x), offsets.shape[1], -1), offsets


@pytest.mark.parametrize(
    ("classes", "parameters"), [(1, 1_010_376), (20, 1_010_376 + 19 * 4 * (9 * (64 + 4 * 128) + 5))]
)
def test_it_has_d2ls_parameters(classes, parameters):
    ours, plain = TinySSD(classes), PlainSSD(classes)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert sum(p.numel() for p in plain.parameters()) == parameters
    assert [p.shape for p in ours.parameters()] == [p.shape for p in plain.parameters()]


@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_d2ls_network_computes(training):
    torch.manual_seed(0)
    ours, plain = TinySSD(3, 128).train(training), PlainSSD(3).train(training)
    state = zip(plain.state_dict(), ours.state_dict().values(), strict=True)
    plain.load_state_dict(dict(state))
    images = random_images(2, 3, 128, 128)
    expected = plain((images - 0.5) / 0.25)
    torch.testing.assert_close(tuple(ours(images)), expected, rtol=1e-4, atol=1e-4)


def test_a_image_of_256_has_d2ls_maps_and_anchors():
    model = TinySSD(1)
    maps = model.backbone(torch.zeros(1, 3, 256, 256))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32),
        (128, 16, 16),
        (128, 8, 8),
        (128, 4, 4),
        (128, 1, 1),
    ]
    expected = make_anchors([(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)], TINY_SSD_ANCHORS)
    torch.testing.assert_close(model.anchors, expected, **EXACT)
    assert model.anchors.shape == (5444, 4)


# ------------------------------------------------------------------------- sizes and backbones


@pytest.mark.parametrize("size", [64, 65, 257, 300, (192, 320), (64, 640), [96, 64]])
def test_any_size_gives_as_many_predictions_as_anchors(size):
    model = TinySSD(2, size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    logits, offsets = model(torch.zeros(2, 3, height, width))
    count = len(model.anchors)
    assert logits.shape == (2, count, 3)
    assert offsets.shape == (2, count, 4)
    assert count == 4 * sum(h * w for h, w in halvings(height, width))


def halvings(height: int, width: int) -> list[tuple[int, int]]:
    maps = [(height >> k, width >> k) for k in (3, 4, 5, 6)]
    return [*maps, (1, 1)]


@pytest.mark.parametrize("size", [63, 1, (64, 63), (0, 256), (256,), (3, 256, 256)])
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match=r"image_size .*64 pixels"):
        TinySSD(1, size)


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (1, 3, 96, 96), (1, 1, 96, 64), (3, 96, 64)])
def test_images_of_another_size_are_refused_and_both_sizes_named(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 96, 64\)") as error:
        TinySSD(1, (96, 64))(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("classes", [0, -1])
def test_there_must_be_a_class(classes):
    with pytest.raises(ValueError, match="num_classes"):
        TinySSD(classes)


def test_a_spec_of_other_lengths():
    model = small(num_classes=5)
    assert [head.out_channels for head in model.class_heads] == [3 * 6, 3 * 6, 2 * 6]
    assert [head.out_channels for head in model.box_heads] == [3 * 4, 3 * 4, 2 * 4]
    assert model(random_images(1, 3, 32, 32)).logits.shape == (1, len(model.anchors), 6)


def test_a_spec_with_too_few_scales_is_refused():
    with pytest.raises(ValueError, match=r"5 feature maps.*3 scales"):
        TinySSD(1, 64, SMALL_SPEC)


class Positions(nn.Module):
    """A backbone whose maps say where each of their pixels lies in the image."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for height, width in self.shapes:
            y = ((torch.arange(height) + 0.5) / height).expand(width, height).T
            rows = [((torch.arange(width) + 0.5) / width).expand(height, width), y]
            maps.append(torch.stack(rows).expand(len(x), -1, -1, -1).to(x))
        return maps


def test_predictions_lie_where_their_anchors_lie():
    """Heads that pass on a pixel's place give the anchor's centre, on maps not square."""
    model = TinySSD(1, 32, SMALL_SPEC, Positions([(3, 5), (2, 4), (1, 2)]))
    with torch.no_grad():
        for head in model.box_heads:
            head.weight.zero_()
            head.bias.zero_()
            head.weight[0::4, 0, 1, 1] = 1  # each anchor's first offset: x
            head.weight[1::4, 1, 1, 1] = 1
        offsets = model(torch.zeros(2, 3, 32, 32)).offsets
    centers = xyxy_to_cxcywh(model.anchors)[:, :2]
    torch.testing.assert_close(offsets[..., :2], centers.expand(2, -1, -1))


def test_classes_are_last_and_anchors_of_a_pixel_stay_in_order():
    model = small(num_classes=3)
    with torch.no_grad():
        for head in model.class_heads:
            head.weight.zero_()
            head.bias.copy_(torch.arange(head.out_channels))
        logits = model(torch.zeros(1, 3, 32, 32)).logits[0]
    torch.testing.assert_close(logits[:3], torch.arange(12.0).reshape(3, 4), **EXACT)
    torch.testing.assert_close(logits[3:6], logits[:3], **EXACT)
    torch.testing.assert_close(logits[-2:], torch.arange(8.0).reshape(2, 4), **EXACT)


def test_a_backbone_that_returns_no_list_of_maps_is_refused():
    with pytest.raises(ValueError, match="list of feature maps"):
        TinySSD(1, 64, backbone=conv_bn_relu(3, 8))


def test_finer_maps_are_those_that_the_base_network_passes_through():
    plain, finer = TinyBackbone(), TinyBackbone(finer=2)
    finer.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)
    maps, more = plain.eval()(x), finer.eval()(x)
    assert [tuple(m.shape[1:]) for m in more[:2]] == [(16, 32, 32), (32, 16, 16)]
    torch.testing.assert_close(more[2:], maps, **EXACT)
    torch.testing.assert_close(more[1], plain.base[:2](x), **EXACT)


@pytest.mark.parametrize("finer", [-1, 3])
def test_the_base_network_has_only_so_many_maps(finer):
    with pytest.raises(ValueError, match="finer"):
        TinyBackbone(finer=finer)


def test_building_does_not_train_the_backbone():
    backbone = TinyBackbone()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    TinySSD(1, 64, backbone=backbone)
    assert backbone.training
    torch.testing.assert_close(dict(backbone.state_dict()), before, **EXACT)


def test_building_leaves_a_frozen_part_of_the_backbone_frozen():
    backbone = TinyBackbone()
    backbone.base.eval()  # statistics of a pretrained base are not to change
    TinySSD(1, 64, backbone=backbone)
    assert not backbone.base.training


def test_another_size_with_the_same_weights():
    model = small(image_size=32).eval()
    fresh = small(image_size=(48, 64)).eval()
    before = model(random_images(1, 3, 32, 32))
    model.set_image_size((48, 64))
    images = random_images(2, 3, 48, 64)
    torch.testing.assert_close(model.anchors, fresh.anchors, **EXACT)
    torch.testing.assert_close(tuple(model(images)), tuple(fresh(images)), **EXACT)
    model.set_image_size(32)
    torch.testing.assert_close(tuple(model(random_images(1, 3, 32, 32))), tuple(before), **EXACT)


def test_a_size_that_is_refused_changes_nothing():
    model = small(image_size=32)
    with pytest.raises(ValueError, match="image_size"):
        model.set_image_size(2)
    assert model.image_size == (32, 32)
    model(random_images(1, 3, 32, 32))


# ---------------------------------------------------------------------------- what goes in


def test_bytes_and_floats_are_the_same_image():
    model = small().eval()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(tuple(model(images)), tuple(model(images / 255)), rtol=1e-5, atol=1e-5)


def test_pixels_are_normalized_from_0_and_1_to_minus_2_and_2():
    gray = torch.tensor([0, 255], dtype=torch.uint8)
    for images in (gray, torch.tensor([0.0, 1.0])):
        torch.testing.assert_close(normalize(images), torch.tensor([-2.0, 2.0]))


def test_whole_numbers_other_than_bytes_are_refused():
    with pytest.raises(ValueError, match="int64"):
        small()(torch.full((1, 3, 32, 32), 255))


def test_no_images_give_no_predictions():
    model = small().eval()
    assert model(torch.zeros(0, 3, 32, 32)).logits.shape == (0, len(model.anchors), 3)


def test_images_do_not_see_each_other():
    model = small().eval()
    images = random_images(3, 3, 32, 32)
    alone = torch.cat([model(image[None]).logits for image in images])
    torch.testing.assert_close(model(images).logits, alone, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------ ways to run and keep it


def test_anchors_are_a_buffer_that_moves_and_is_not_stored():
    model = small()
    assert "anchors" in dict(model.named_buffers())
    assert "anchors" not in model.state_dict()
    assert small().double().anchors.dtype == torch.float64
    assert small().to("meta").anchors.device.type == "meta"


def test_weights_move_from_model_to_model():
    first, second = small(seed=0).eval(), small(seed=1).eval()
    images = random_images(1, 3, 32, 32)
    assert not torch.equal(first(images).logits, second(images).logits)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(tuple(second(images)), tuple(first(images)), **EXACT)


def test_float64_goes_through():
    model = small().eval()
    images = random_images(1, 3, 32, 32)
    narrow, wide = model(images), model.double()(images.double())
    assert wide.logits.dtype == wide.offsets.dtype == torch.float64
    torch.testing.assert_close(tuple(t.float() for t in wide), tuple(narrow), rtol=1e-4, atol=1e-4)


def test_autocast_computes_in_bfloat16_and_answers_in_float32():
    model = small().eval()
    images, seen = random_images(2, 3, 32, 32), []
    model.class_heads[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    plain = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(images)
        targets = match(model.anchors, torch.tensor([[[0.1, 0.1, 0.5, 0.6]]] * 2), torch.zeros(2, 1).long())
    assert seen == [torch.float32, torch.bfloat16]
    assert {t.dtype for t in (*rough, targets.offsets, model.anchors)} == {torch.float32}
    torch.testing.assert_close(tuple(rough), tuple(plain), rtol=0.1, atol=0.05)


def test_channels_last_computes_the_same():
    model, images = small().eval(), random_images(2, 3, 32, 32)
    plain = model(images)
    model.to(memory_format=torch.channels_last)
    for layout in (torch.channels_last, torch.contiguous_format):
        there = model(images.contiguous(memory_format=layout))
        torch.testing.assert_close(tuple(there), tuple(plain), rtol=1e-5, atol=1e-5)


def test_it_exports_with_any_number_of_images():
    model = small().eval()
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (random_images(2, 3, 32, 32),), dynamic_shapes=[{0: batch}])
    images = random_images(5, 3, 32, 32, seed=1)
    torch.testing.assert_close(tuple(program.module()(images)), tuple(model(images)))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_in_one_piece(backend):
    model, images = small(), random_images(2, 3, 32, 32)
    plain = model(images)
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(tuple(compiled(images)), tuple(plain), rtol=1e-4, atol=1e-4)


def test_nothing_waits_for_the_device():
    """D2L builds its anchors, and copies lists to the device, in every forward pass."""
    model = small()
    with PretendDevice() as device:
        model(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8))
    assert not device.waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_processor():
    model, images = small().eval(), random_images(2, 3, 32, 32)
    here = model(images)
    model.cuda()
    there = model(images.cuda())
    assert model.anchors.is_cuda
    torch.testing.assert_close(tuple(t.cpu() for t in there), tuple(here), rtol=1e-2, atol=1e-2)


# ------------------------------------------------------------------------------------- learning


def test_every_parameter_has_a_gradient():
    """In evaluation mode: batch statistics would cancel the convolutions' biases."""
    model = small().eval()
    logits, offsets = model(random_images(2, 3, 32, 32))
    labels = torch.randint(0, 3, logits.shape[:2], generator=torch.Generator().manual_seed(0))
    labels[:, -2:] = torch.tensor([1, 2])  # the single pixel's heads need positives too
    targets = Targets(labels, torch.zeros_like(offsets))
    ssd_loss(logits, offsets, targets, LossConfig(negatives=None)).total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_it_can_learn_one_batch_by_heart():
    model = small()
    images = random_images(2, 3, 32, 32)
    boxes = torch.tensor([[[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.9, 0.9]], [[0.3, 0.2, 1.0, 0.8], [0] * 4]])
    labels = torch.tensor([[0, 1], [1, -1]])
    targets = match(model.anchors, boxes, labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        loss = ssd_loss(*model(images), targets).total
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # in training mode: two images are too few for running statistics
        found = detect(*model(images), model.anchors, score_threshold=0.5)
    for one, box, label in zip(found, boxes, labels, strict=True):
        count = int((label >= 0).sum())
        best = box_iou(box[:count], one.boxes).max(dim=1)
        assert len(one.scores) == count
        assert best.values.min() > 0.8
        assert one.labels[best.indices].tolist() == label[:count].tolist()


def test_size_may_be_a_numpy_integer():
    assert TinySSD(1, np.int64(64)).image_size == (64, 64)


# ---------------------------------------------------------------- for other classes


def test_adapted_to_its_own_classes_in_another_order_it_says_the_same_in_that_order():
    model = small().eval()  # two classes
    other = replace_class_heads(model, [1, 0])
    images = random_images(2, 3, 32, 32)
    with torch.no_grad():
        known, told = model(images), other(images)
    torch.testing.assert_close(told.logits, known.logits[..., [0, 2, 1]], **EXACT)
    torch.testing.assert_close(told.offsets, known.offsets, **EXACT)
    assert (other.num_classes, other.training) == (2, False)


def test_adapted_classes_may_share_a_source_or_begin_anew():
    model = small().eval()
    torch.manual_seed(1)
    other = replace_class_heads(model, [0, 0, None])
    with torch.no_grad():
        known, told = (m(random_images(1, 3, 32, 32)).logits for m in (model, other))
    torch.testing.assert_close(told[..., :3], known[..., [0, 1, 1]], **EXACT)
    assert not torch.isin(told[..., 3], known).any()
    assert all(p.requires_grad and p.is_leaf for p in other.parameters())


def test_adapting_leaves_the_model_alone():
    model = small()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    other = replace_class_heads(model, [0])
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert model.num_classes == 2
    for name, t in model.state_dict().items():
        torch.testing.assert_close(t, before[name], **EXACT)


@pytest.mark.parametrize("sources", [[], [2], [0, -1]])
def test_adapting_to_a_class_that_there_is_not(sources):
    with pytest.raises(ValueError, match="class from 0 to 1"):
        replace_class_heads(small(), sources)
