"""Training in JavaScript against PyTorch: matching, losses, every gradient, whole steps, views of images."""

from __future__ import annotations

import base64
import gzip
import json
import math

import numpy as np
import pytest
import torch

from d2lmini import live, pretrained
from d2lmini.anchors import make_anchors
from d2lmini.boxes import VARIANCES
from d2lmini.checkpoint import load_model
from d2lmini.data import AugmentConfig, Synthetic
from d2lmini.data.augment import AugmentParams, _windows, color_changes, render, view_objects
from d2lmini.data.samples import pad_objects
from d2lmini.detect import detect
from d2lmini.engine.features import HeadOnFeatures, features_of, freeze_backbone
from d2lmini.interop import export
from d2lmini.losses import LossConfig, ssd_loss
from d2lmini.matching import Targets, match
from d2lmini.model import normalize
from d2lmini.train import TrainConfig, make_optimizer, one_cycle
from d2lmini.widgets import turn
from d2lmini.widgets.teach import ANCHORS, teaching_model, template
from tests.test_live import in_node, needs_node, packed64, rgba, unpacked

pytestmark = needs_node
BINARIES = [
    base64.b64encode((live.HERE / name).read_bytes()).decode() for name in ("train.wasm", "train-strict.wasm")
]
UNIT = 6 / 255  # of a feature's byte
SMALL = (128, 128)


# ---------------------------------------------------------------- matching and losses


def matching_case(generator: np.random.Generator) -> tuple[torch.Tensor, list[list[float]], list[int]]:
    """Objects on a grid, so that ties abound; some are empty or reversed."""
    count = int(generator.integers(0, 7))
    low = generator.integers(0, 12, (count, 2)) / 16
    corners = np.concatenate([low, low + generator.integers(-1, 9, (count, 2)) / 16], 1).astype(np.float32)
    return corners, generator.integers(0, 3, count)


def test_matching_is_pythons_in_thousands_of_cases_with_ties():
    generator = np.random.default_rng(0)
    anchors = make_anchors([(8, 8), (4, 4), (1, 1)], ANCHORS_OF_THREE)
    cases = [matching_case(generator) for _ in range(2000)]
    sent = [[{"box": box.tolist(), "label": int(k)} for box, k in zip(*case, strict=True)] for case in cases]
    program = """
    const anchors = floats(given.anchors);
    answer(given.cases.map((objects) => {
      const { labels, offsets } = matchObjects(anchors, objects, given.variances);
      return [pack(labels), pack(offsets)];
    }));
    """
    names = {"matching": "matchObjects"}
    seen = in_node(names, program, anchors=anchors, cases=sent, variances=VARIANCES._asdict())
    boxes, labels = pad_objects(*([torch.from_numpy(case[i]) for case in cases] for i in (0, 1)))
    wanted = match(anchors, boxes.float(), labels)
    mine = [np.frombuffer(base64.b64decode(one), np.uint8) for one, _ in seen]
    np.testing.assert_array_equal(np.stack(mine), wanted.labels)
    offsets = np.stack([unpacked(text, -1, 4) for _, text in seen])
    np.testing.assert_allclose(offsets, wanted.offsets, rtol=1e-5, atol=1e-5)
    assert (wanted.labels > 0).sum() > 5000


ANCHORS_OF_THREE = type(ANCHORS)(ANCHORS.sizes[2:], ANCHORS.ratios[2:])
LOSSES = {
    "the book's": {"negatives": None},
    "hard negatives": {"negatives": 3.0},
    "no negatives to speak of": {"negatives": 0.3, "minimum_negatives": 0},
    "focal": {"cls": "focal", "negatives": None},
    "focal, weighted": {"cls": "focal", "gamma": 0.5, "alpha": 0.25, "negatives": None},
    "focal without focus": {"cls": "focal", "gamma": 0.0, "negatives": 2.0},
    "steep": {"sigma": 3.0, "box_weight": 2.5, "negatives": None},
    "l1": {"box": "l1", "cls_weight": 0.5, "negatives": None},
    "l2": {"box": "l2", "negatives": None},
    "D2L's means": {"negatives": None, "cls_normalizer": "anchors", "box_normalizer": "anchors"},
}


@pytest.mark.parametrize("empty", [False, True], ids=["objects", "no object"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_pytorchs(name, empty):
    config = LossConfig(**LOSSES[name])
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, 200, 4, generator=random)
    logits[0, :50] = logits[0, 50:100]  # ties among the negatives
    offsets = 2 * torch.randn(3, 200, 4, generator=random)
    labels = torch.randint(-40, 4, (3, 200), generator=random).clamp(min=0) * (not empty)
    labels[1] = 0  # an image without objects
    wanted = torch.where(labels[..., None] > 0, torch.randn(3, 200, 4, generator=random), 0)
    logits.requires_grad_()
    offsets.requires_grad_()
    losses = ssd_loss(logits, offsets, Targets(labels, wanted), config)
    losses.total.backward()
    program = """
    const targets = { labels: new Uint8Array(raw(given.labels)), offsets: floats(given.wanted) };
    const [logits, offsets] = [floats(given.logits), floats(given.offsets)];
    const { cls, box, dLogits, dOffsets } = ssdLoss(logits, offsets, targets, 200, given.config);
    answer([cls, box, pack(dLogits), pack(dOffsets)]);
    """
    given = {"labels": labels.to(torch.uint8), "wanted": wanted, "config": TrainConfig(loss=config).record()}
    cls, box, d_logits, d_offsets = in_node(
        {"losses": "ssdLoss"},
        program,
        logits=logits.detach(),
        offsets=offsets.detach(),
        **given | {"config": given["config"]["loss"]},
    )
    assert [cls, box] == pytest.approx([losses.cls.item(), losses.box.item()], rel=1e-5, abs=1e-7)
    for mine, theirs in ((d_logits, logits.grad), (d_offsets, offsets.grad)):
        np.testing.assert_allclose(unpacked(mine, *theirs.shape), theirs, rtol=1e-4, atol=1e-6)


def test_random_negatives_are_as_many_as_asked():
    labels = np.zeros(400, np.uint8)
    labels[:5] = 1
    program = """
    const random = makeRandom(7), seen = [];
    for (let i = 0; i < 3; i++) {
      const targets = { labels: new Uint8Array(raw(given.labels)), offsets: new Float32Array(1600) };
      const config = { ...LOSS, negatives: 3, mining: "random" };
      const { dLogits } = ssdLoss(floats(given.logits), new Float32Array(1600), targets, 400, config, random);
      seen.push(Array.from({ length: 400 }, (_, a) => dLogits[2 * a] !== 0));
    }
    answer(seen);
    """
    logits = np.random.default_rng(0).normal(size=800).astype(np.float32)
    names = {"losses": "LOSS, ssdLoss", "trainer": "makeRandom"}
    seen = np.array(in_node(names, program, labels=labels, logits=logits))
    assert seen[:, :5].all()
    assert (seen[:, 5:].sum(1) == 15).all()
    assert (seen[0] != seen[1]).any()
    assert (seen[1] != seen[2]).any()


# ---------------------------------------------------------------- gradients and steps


TRAIN = """
const named = (object, make) =>
  Object.fromEntries(Object.entries(object).map(([name, value]) => [name, make(value)]));
const tensors = named(given.state, (text) => ({ values: floats(text) }));
const config = { ...CONFIG, ...given.config, batch_size: given.count };
const trainer = await makeTrainer(given.shape, config, { simd: given.simd, binaries: given.binaries });
trainer.set(tensors);
const [features, labels] = [given.features, given.labels].map((text) => new Uint8Array(raw(text)));
const offsets = floats(given.offsets), { count } = given;
const part = (array, i) => array.subarray((i * array.length) / count, ((i + 1) * array.length) / count);
const examples = Array.from({ length: count }, (_, i) => (
  { features: part(features, i), labels: part(labels, i), offsets: part(offsets, i) }
));
const packed = (tensors) => named(tensors, ({ shape, values }) => [shape, pack(values)]);
const losses = [];
let gradients = null;
for (let step = 0; step < given.steps; step++) {
  const { cls, box } = trainer.step(examples);
  losses.push([cls, box]);
  gradients ??= packed(trainer.weights("grad"));
}
const last = trainer.answers(examples).map(({ logits, offsets }) => [pack(logits), pack(offsets)]);
answer({ name: trainer.name, losses, gradients, weights: packed(trainer.weights()), last });
"""


def teaching_case(classes: int, size: tuple[int, int], images: torch.Tensor | None, count: int):
    """A head on features, the features as bytes, and targets."""
    torch.manual_seed(3)
    head = HeadOnFeatures(teaching_model([str(k) for k in range(classes)], size))
    freeze_backbone(head)
    length = sum(math.prod(shape) for shape in head.shapes)
    if images is None:
        features = (torch.randint(0, 256, (count, length)) * (torch.rand(count, length) < 0.4)).to(
            torch.uint8
        )
    else:
        features = (features_of(head, images, "float32").float() / UNIT).round().clamp(0, 255).to(torch.uint8)
    low = 0.6 * torch.rand(count, 3, 2)
    boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(count, 3, 2)], -1)
    labels = torch.randint(0, classes, (count, 3))
    labels[1] = -1  # an image without objects
    return head, features, match(head.anchors, boxes, labels)


def pytorch_steps(head, features, targets, config, steps):
    """Losses, the gradients of the first step, and in `head` the weights after the last."""
    head.train()
    optimizer = make_optimizer(head, config)
    losses, gradients = [], {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(step, 100, config.lr, config.warmup)
        both = ssd_loss(*head(features), targets, config.loss)
        optimizer.zero_grad()
        both.total.backward()
        if not step:
            gradients = {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(head.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append([both.cls.item(), both.box.item()])
    return losses, gradients, head.eval()(features)


@pytest.mark.parametrize("simd", [True, False], ids=["SIMD", "plain JavaScript"])
@pytest.mark.parametrize("which", ["noise", "drawn images", "hard negatives, odd size"])
def test_gradients_and_ten_steps_are_pytorchs(which, simd):
    loss = LossConfig(negatives=3.0 if "hard" in which else None)
    config = TrainConfig(lr=3e-3, weight_decay=0.1, loss=loss)
    classes, size, count, steps = 2, (97, 130) if "odd" in which else SMALL, 4, 10 if simd else 3
    images = None
    if which == "drawn images":
        data = Synthetic("scenes", count=count, size=SMALL[0], split="val")
        images = torch.stack([data[i].image for i in range(count)])
    head, features, targets = teaching_case(classes, size, images, count)
    state = {n: packed64(t) for n, t in head.state_dict().items() if t.is_floating_point()}
    given = {
        "shape": {
            "features": [{"channels": c, "height": h, "width": w} for c, h, w in head.shapes],
            "anchors": ANCHORS.num_anchors_per_location[0],
            "classes": classes,
        },
        "labels": targets.labels.to(torch.uint8),
        "offsets": targets.offsets,
    }
    seen = in_node(
        {"trainer": "CONFIG, makeTrainer"},
        TRAIN,
        state={n: t for n, t in state.items() if not n.startswith("backbone.backbone")},
        config={"loss": config.record()["loss"]},
        features=features,
        count=count,
        steps=steps,
        simd=simd,
        binaries=BINARIES,
        **given,
    )
    assert seen["name"] == ("WASM SIMD" if simd else "plain JavaScript")
    rows = (features.float() * UNIT).view(count, 1, 1, -1)
    losses, gradients, last = pytorch_steps(head, rows, targets, config, steps)
    np.testing.assert_allclose(seen["losses"], losses, rtol=1e-3)
    assert gradients.keys() == seen["gradients"].keys()
    for name, (shape, text) in seen["gradients"].items():
        wanted = gradients[name]
        assert tuple(shape) == tuple(wanted.shape)
        scale = max(1e-6, wanted.abs().max().item())
        np.testing.assert_allclose(unpacked(text, *shape), wanted, rtol=0, atol=1e-4 * scale, err_msg=name)
    state = head.state_dict()
    for name, (shape, text) in seen["weights"].items():
        # AdamW divides by the gradient's own size: where that is as small as rounding, a weight goes any way.
        assert np.abs(unpacked(text, *shape) - state[name].numpy()).mean() < 1e-3, name
    for i, (logits, offsets) in enumerate(seen["last"]):
        for mine, wanted in ((logits, last.logits[i]), (offsets, last.offsets[i])):
            difference = np.abs(unpacked(mine, *wanted.shape) - wanted.detach().numpy()).mean()
            assert difference < 1e-3 * wanted.abs().max().item()


# ---------------------------------------------------------------- views of images


def test_views_are_those_of_the_package():
    """The same random numbers give the same windows, objects and pixels."""
    count, config, random = 60, AugmentConfig(), torch.Generator().manual_seed(5)
    low = 0.7 * torch.rand(count, 2, 2, generator=random)
    boxes = torch.cat([low, low + 0.05 + 0.25 * torch.rand(count, 2, 2, generator=random)], -1)
    labels = torch.randint(-1, 3, (count, 2), generator=random)
    draws = lambda *shape: torch.rand(count, *shape, generator=random)  # noqa: E731
    params = AugmentParams(draws(4), draws(4, 50), draws(6), draws(), draws(), draws(2, 4))
    windows = _windows(boxes, labels, config, params)
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=random)
    images = image.expand(count, -1, -1, -1)
    pixels = render(images, windows, color_changes(params.color, config.color), config)
    kept_boxes, kept = view_objects(boxes, labels, windows, config.min_visible)
    numbers = torch.cat(
        [params.canvas, params.trials.transpose(1, 2).flatten(1), params.minimum, params.crop[:, None],
         params.flip[:, None], params.color.flatten(1)], 1,
    )  # fmt: skip
    cases = [
        {
            "numbers": numbers[i].tolist(),
            "objects": [
                {"box": b, "label": k}
                for b, k in zip(boxes[i].tolist(), labels[i].tolist(), strict=True)
                if k >= 0
            ],
        }
        for i in range(count)
    ]
    program = """
    const rgba = new Uint8Array(raw(given.rgba));
    answer(given.cases.map(({ numbers, objects }) => {
      const random = () => numbers.shift();
      const window = drawWindow(objects, random), colors = drawColors(random);
      const drawn = pack(renderView(rgba, [48, 64], window, colors));
      return [window, objectsIn(objects, window), drawn, numbers.length];
    }));
    """
    names = {"augment": "drawColors, drawWindow, objectsIn, renderView"}
    seen = in_node(names, program, rgba=rgba(image), cases=cases)
    for i, (window, objects, text, left) in enumerate(seen):
        assert left == 0
        np.testing.assert_allclose(window, windows[i], atol=2e-6)
        assert [one["label"] for one in objects] == kept[i][kept[i] >= 0].tolist()
        mine = np.array([one["box"] for one in objects]).reshape(-1, 4)
        np.testing.assert_allclose(mine, kept_boxes[i][kept[i] >= 0], atol=1e-5)
        drawn = np.frombuffer(base64.b64decode(text), np.uint8).reshape(48, 64, 4)[..., :3]
        assert np.abs(drawn.astype(int) - pixels[i].permute(1, 2, 0).numpy()).max() <= 1
    assert (kept >= 0).sum() < (labels >= 0).sum()  # some left the window


# ---------------------------------------------------------------- from images to a detector


TEACH = """
(0, eval)(given.script); // as a page loads it
const { makeTeacher, makeRecord, checkpoint, makeEngine, lookWith } = globalThis.d2lminiTeach();
const teacher = await makeTeacher(given.everyday, given.template.record), told = [];
for (const [key, { objects, ...image }] of given.images.entries()) {
  const views = key < given.train ? given.views : 1, rgba = new Uint8Array(raw(image.rgba));
  await teacher.see({ key, rgba, objects, views, seed: key });
}
const list = given.images.map(({ objects }, key) => ({ key, objects }));
const parts = { images: list.slice(0, given.train), heldOut: list.slice(given.train) };
const wanted = { ...parts, classes: given.classes.length, config: given.config };
await teacher.train(wanted, (news) => told.push(news));
const record = makeRecord(given.template, given.everyday, teacher.weights().tensors, given.classes);
const file = await checkpoint(given.template, record), engine = await makeEngine(record), seen = [];
for (const { rgba } of given.images.slice(given.train)) {
  seen.push(await lookWith(engine, record, new Uint8Array(raw(rgba)), 0.03));
}
answer({ told, seen, file: Buffer.from(await file.arrayBuffer()).toString("base64"), plan: record.plan });
"""


@pytest.fixture(scope="module")
def everyday():
    return export.browser_model(*pretrained("everyday"), 9)


@pytest.fixture(scope="module")
def taught(everyday):
    """A detector taught in JavaScript on drawn scenes, and what it found in others."""
    data = Synthetic("scenes", count=8, size=300, split="val")
    samples = [data[i] for i in range(8)]
    images = [
        {
            "rgba": packed64(rgba(s.image)),
            "objects": [
                {"box": b, "label": k} for b, k in zip(s.boxes.tolist(), s.labels.tolist(), strict=True)
            ],
        }
        for s in samples
    ]
    given = {"everyday": everyday, "template": template(), "images": images, "train": 6, "views": 2}
    classes = [str(k) for k in range(len(data.classes))]
    config = {"steps": 20, "batch_size": 4}
    seen = in_node(
        {}, TEACH, timeout=600, script=live.teach_script(), classes=classes, config=config, **given
    )
    return seen, samples


def test_teaching_brings_the_losses_down(taught):
    steps = [news for news in taught[0]["told"] if "cls" in news]
    assert [news["step"] for news in steps] == list(range(1, 21))
    first, last = (np.mean([n["cls"] + n["box"] for n in part]) for part in (steps[:5], steps[-5:]))
    assert last < 0.7 * first
    scores = [news["ap50"] for news in taught[0]["told"] if "ap50" in news]
    assert len(scores) == 1
    assert 0 < scores[0] <= 1


def test_weights_from_the_page_detect_the_same_in_python(taught, tmp_path):
    seen, samples = taught
    path = tmp_path / "mine.safetensors"
    path.write_bytes(base64.b64decode(seen["file"]))
    model, info = load_model(path)
    assert info.classes == tuple(str(k) for k in range(len(info.classes)))
    assert export.browser_model(model, info)["plan"] == seen["plan"]
    images = torch.stack([s.image for s in samples[6:]])
    with torch.inference_mode():
        found = detect(*model(images), model.anchors, score_threshold=0.03, iou_threshold=0.45)
    total = 0
    for mine, theirs in zip(seen["seen"], found, strict=True):
        assert [one["label"] for one in mine] == theirs.labels.tolist()
        np.testing.assert_allclose([one["score"] for one in mine], theirs.scores, atol=2e-3)
        np.testing.assert_allclose(
            np.array([one["box"] for one in mine]).reshape(-1, 4), theirs.boxes, atol=2e-3
        )
        total += len(mine)
    assert total > 0


def test_a_seed_is_a_run_and_a_setting_makes_another():
    """Turn it: the same seed gives the same digits, another loss others, and held-out coins are found."""
    program = """
    (0, eval)(given.script);
    const study = globalThis.d2lminiTeach().makeStudy(given.set), runs = [];
    for (const config of [{}, {}, { loss: { sigma: 3 } }]) {
      const news = [];
      await study.train({ config: { ...config, steps: 20, seed: 3 } }, (one) => news.push(one));
      runs.push(news);
    }
    answer(runs);
    """
    one, same, other = in_node({}, program, timeout=600, script=live.teach_script(), set=turn.study_set())
    assert one == same
    assert [news["cls"] for news in one[:20]] != [news["cls"] for news in other[:20]]
    assert [news["box"] for news in one[:1]] != [news["box"] for news in other[:1]]
    assert one[19]["cls"] < 0.5 * one[0]["cls"]
    assert 0 <= one[-1]["ap"] <= one[-1]["ap50"] <= 1


def test_what_the_study_ships_is_small_and_is_what_python_computes():
    name, text = turn.set_script()
    assert name in text
    assert len(gzip.compress(text.encode())) < 1.5e6
    held = turn.coin_windows()[turn.TRAIN :]
    assert len(held) == turn.HELD_OUT
    assert all(len(sample.labels) for sample in turn.coin_windows())
    objects = turn.study_set()["objects"]
    np.testing.assert_allclose(objects[-1][0]["box"], held[-1].boxes[0], atol=1e-5)


def test_float16_is_written_as_numpy_rounds():
    generator = np.random.default_rng(0)
    some = generator.normal(size=20000) * 10.0 ** generator.integers(-9, 6, 20000)
    halves = np.arange(2**16, dtype="<u2").view("<f2").astype("<f4")
    halves = halves[np.isfinite(halves)]
    edges = np.concatenate([halves, (halves[:-1] + halves[1:]) / 2])  # each number, and halfway to the next
    values = np.concatenate([some.astype("<f4"), edges])
    program = "answer(Array.from(floats(given.values), toHalf));"
    seen = np.array(in_node({"record": "toHalf"}, program, values=values), "<u2")
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(seen, values.astype("<f2").view("<u2"))


def test_features_are_pythons(everyday):
    image = Synthetic("scenes", count=1, size=300, split="val")[0].image
    program = """
    const engine = await makeEngine(given.everyday, { simd: false });
    const { maps, needed } = featureMaps(engine.layout);
    await engine.run(new Uint8Array(raw(given.rgba)), needed);
    const inside = ({ at, channels, height, width, stride, plane }) => {
      const out = new Float32Array(channels * height * width);
      return out.map((_, i) => {
        const c = Math.floor(i / height / width), y = Math.floor(i / width) % height, x = i % width;
        return engine.memory[at + c * plane + (y + 1) * stride + x + 1];
      });
    };
    answer(maps.map((map) => pack(inside(map))));
    """
    names = {"engine": "makeEngine", "teacher": "featureMaps"}
    seen = in_node(names, program, everyday=everyday, rgba=rgba(image))
    model = export.inference_model(pretrained("everyday")[0], 9)
    with torch.inference_mode():
        maps = model.backbone.backbone(normalize(image[None]))
    for mine, wanted in zip(seen, maps, strict=True):
        np.testing.assert_allclose(unpacked(mine, *wanted.shape), wanted, atol=2e-4)


def test_the_template_is_json():
    given = json.loads(json.dumps(template()))
    assert len(given["convs"]) == sum(
        2 if step["op"] == "heads" else step["op"] == "conv" for step in given["record"]["plan"]
    )
