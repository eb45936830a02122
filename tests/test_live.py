"""The detector in JavaScript against the one in Python: pixels, every layer, boxes, suppression, scores.

The modules run in Node, and are skipped without one; what needs a page is in test_live_page.py.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import nn

from d2lmini import boxes, detect, evaluate, live, pretrained
from d2lmini.checkpoint import ModelInfo
from d2lmini.data import GroundTruth, Synthetic
from d2lmini.data.images import RESIZE_MODES, to_tensor
from d2lmini.data.samples import pad_objects
from d2lmini.detect import Detections, foreground_scores
from d2lmini.engine.features import photograph_model
from d2lmini.errors import error_breakdown
from d2lmini.interop import export, plan
from d2lmini.model import TinySSD
from tests.test_export import ODD, odd_detector
from tools import assemble

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node found; on Debian: apt-get install nodejs")

# What every program begins with: arrays come in as base64, floats go out the same way.
PRELUDE = """
import fs from "node:fs";
const given = JSON.parse(fs.readFileSync(0, "utf8"));
const raw = (text) => new Uint8Array(Buffer.from(text, "base64")).buffer;
const floats = (text) => new Float32Array(raw(text));
const pack = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const answer = (value) => fs.writeSync(1, JSON.stringify(value));
"""


def in_node(names: dict[str, str], program: str, *, timeout: float = 120, **given: object) -> object:
    """What a program answers; `names` says what it imports from which module."""
    imports = "".join(
        f'import {{ {what} }} from "{live.HERE.as_uri()}/{m}.js";\n' for m, what in names.items()
    )
    packed = {k: packed64(v) if isinstance(v, np.ndarray | torch.Tensor) else v for k, v in given.items()}
    script = imports + PRELUDE + program
    command = [NODE, "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(packed), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def packed64(values: np.ndarray | torch.Tensor) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def unpacked(text: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def rgba(image: torch.Tensor) -> np.ndarray:
    """Pixels (H, W, 4) of an image (3, H, W)."""
    return np.concatenate([image.permute(1, 2, 0), np.full((*image.shape[1:], 1), 255, np.uint8)], 2)


@pytest.fixture(scope="module")
def scenes():
    return Synthetic("scenes", count=24, size=256, split="val")


# ---------------------------------------------------------------- the forward pass


def layers(model: TinySSD, image: torch.Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What PyTorch has after every step of the plan that makes a map; logits, offsets.

    ReLU counts as part of the convolution before it, also across a pooling.
    """
    steps = [step for step in plan.layer_plan(model).steps if step["op"] != "heads"]
    maps: list[np.ndarray] = []
    kinds = (nn.Conv2d, nn.MaxPool2d)

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        step = steps[len(maps)]
        low, high = 0 if step.get("relu", True) else -math.inf, step.get("most", math.inf)
        maps.append(output[0].clamp(low, high).numpy())
        follow()

    def follow() -> None:
        """Steps that no module makes: sums, enlarged maps, the largest value of all."""
        while len(maps) < len(steps) and steps[len(maps)]["op"] not in ("conv", "pool"):
            step = steps[len(maps)]
            made = maps[step["from"] - 1] if "from" in step else maps[-1]
            if step["op"] == "add":
                made = made + maps[step["and"] - 1]
            elif step["op"] == "global":
                made = made.max((1, 2), keepdims=True)
            else:
                size = (step["height"], step["width"])
                made = nn.functional.interpolate(torch.tensor(made)[None], size=size)[0].numpy()
            maps.append(made)

    hooks = [m.register_forward_hook(keep) for m in model.backbone.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        answers = model(image[None])
    for hook in hooks:
        hook.remove()
    return maps, [part[0].numpy() for part in answers]


def browser_case(which: str) -> tuple[TinySSD, ModelInfo, int]:
    """A detector, what is known of it, and the bits of its weights in a page."""
    if which == "odd":
        return odd_detector(), ODD, 16
    if which == "of your own":
        truth = GroundTruth(torch.tensor([[[0.1, 0.1, 0.4, 0.5]]]), torch.zeros(1, 1, dtype=torch.int64))
        return photograph_model(truth, (150, 150), ("a", "b")).eval(), ModelInfo(("a", "b")), 16
    model, info = pretrained("scenes" if which == "scenes" else "everyday")
    if which == "odd size":
        model.set_image_size((131, 77))
    return model, info, 9 if which == "nine bits" else 16


FORWARD = """
const bytes = fs.readFileSync(given.kernel).toString("base64"), model = given.model, layout = layOut(model);
const kernel = given.simd ? await loadKernel(layout.floats, bytes) : null;
if (given.simd && !kernel) throw new Error("no SIMD here");
const memory = kernel?.memory ?? new Float32Array(layout.floats);
placeWeights(memory, layout, unpack(model, layout));
const look = (pixels) => forward(memory, layout, model, new Uint8Array(raw(pixels)), { kernel });
await look(given.other); // whatever it leaves behind
const { logits, offsets } = await look(given.pixels);
const inside = ({ at, channels, height, width, stride, plane }) => {
  const out = new Float32Array(channels * height * width);
  for (let c = 0, i = 0; c < channels; c++) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++)
    out[i++] = memory[at + c * plane + (y + 1) * stride + x + 1];
  return out;
};
const maps = layout.maps.slice(1).map((map) => pack(inside(map)));
answer({ maps, logits: pack(logits), offsets: pack(offsets) });
"""
MODULES = {
    "network": "forward, layOut, placeWeights",
    "engine": "unpack",
    "simd": "loadKernel",
}


@needs_node
@pytest.mark.parametrize("simd", [True, False], ids=["SIMD", "plain JavaScript"])
@pytest.mark.parametrize("which", ["scenes", "odd", "everyday", "nine bits", "of your own", "odd size"])
def test_every_layer_is_pytorchs(scenes, which, simd):
    model, info, bits = browser_case(which)
    random = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (3, *model.image_size), dtype=torch.uint8, generator=random)
    image = scenes[2].image if which == "scenes" else noise.flip(1)
    seen = in_node(
        MODULES,
        FORWARD,
        model=export.browser_model(model, info, bits),
        kernel=str(live.HERE / "kernel.wasm"),
        pixels=rgba(image),
        other=rgba(noise),
        simd=simd,
    )
    maps, (logits, offsets) = layers(export.inference_model(model, bits), image)
    assert len(seen["maps"]) == len(maps)
    tolerance = 2e-5 if which in ("scenes", "odd") else 2e-4  # longer sums of larger numbers
    for number, (mine, theirs) in enumerate(zip(seen["maps"], maps, strict=True)):
        mine = unpacked(mine, *theirs.shape)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance, err_msg=f"layer {number}")
    np.testing.assert_allclose(unpacked(seen["logits"], *logits.shape), logits, rtol=0, atol=tolerance)
    np.testing.assert_allclose(unpacked(seen["offsets"], *offsets.shape), offsets, rtol=0, atol=tolerance)


@needs_node
def test_float16_is_read_to_the_bit():
    halves = np.arange(2**16, dtype="<u2")
    wanted = halves.view("<f2").astype("<f4")
    seen = in_node(
        {"engine": "fromHalf"},
        "answer(pack(fromHalf(new Uint16Array(raw(given.halves)))));",
        halves=halves[np.isfinite(wanted)],
    )
    np.testing.assert_array_equal(unpacked(seen, -1), wanted[np.isfinite(wanted)])


@needs_node
def test_weights_that_do_not_fit_the_plan_are_refused():
    program = """
    try { placeWeights(new Float32Array(9), layOut(given.model), new Float32Array(7)); }
    catch (error) { answer(error.message); }
    """
    record = export.browser_model(odd_detector(), ODD)
    seen = in_node({"network": "layOut, placeWeights"}, program, model=record)
    assert (
        seen
        == f"the layer plan needs {len(base64.b64decode(record['weights'])) // 2} weights, the file holds 7"
    )


@needs_node
def test_where_wasm_is_refused_there_is_no_kernel():
    program = """
    WebAssembly.instantiate = () => Promise.reject(new WebAssembly.CompileError("not allowed"));
    answer(await loadKernel(1000, fs.readFileSync(given.kernel).toString("base64")));
    """
    assert in_node({"simd": "loadKernel"}, program, kernel=str(live.HERE / "kernel.wasm")) is None


# ---------------------------------------------------------------- pixels


SIZES = [
    (1, 1),
    (1, 900),
    (900, 1),
    (3, 7),
    (255, 257),
    (256, 256),
    (256, 90),
    (640, 480),
    (1013, 771),
    (4001, 5),
]


@needs_node
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("target", [(256, 256), (150, 213)], ids=["square", "odd"])
def test_pixels_are_pillows_to_the_byte(target, resize_mode):
    generator = np.random.default_rng(0)
    program = """
    const out = given.sizes.map(([width, height], i) => {
      const pixels = new Uint8ClampedArray(raw(given.images[i]));
      const strip = (top, rows) => pixels.subarray(top * width * 4, (top + rows) * width * 4);
      const place = placement(width, height, given.target, given.resize_mode);
      const inner = resize(strip, width, height, place.width, place.height);
      return pack(withBands(inner, place, given.target).rgba);
    });
    answer(out);
    """
    images = [generator.integers(0, 256, (h, w, 3), np.uint8) for w, h in SIZES]
    sent = [packed64(rgba(torch.from_numpy(p).permute(2, 0, 1))) for p in images]
    names = {"pixels": "placement, resize, withBands"}
    seen = in_node(names, program, sizes=SIZES, images=sent, target=target, resize_mode=resize_mode)
    for size, image, text in zip(SIZES, images, seen, strict=True):
        wanted = to_tensor(Image.fromarray(image), target, resize_mode).permute(1, 2, 0).numpy()
        mine = np.frombuffer(base64.b64decode(text), np.uint8).reshape(*target, 4)
        np.testing.assert_array_equal(mine[..., :3], wanted, err_msg=f"{size}")
        assert (mine[..., 3] == 255).all()


def colorful(form: str, **options: object) -> tuple[Image.Image, bytes]:
    """A small image, and a file of it that carries a color profile."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    image.save(file, form, icc_profile=profile, **options)
    return image, file.getvalue()


@needs_node
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_profiles_are_dropped_and_pixels_stay(form):
    _, data = colorful(form, **({"exif": Image.Exif()} if form != "PNG" else {}))
    program = 'answer(Buffer.from(plainFile(new Uint8Array(raw(given.file)))).toString("base64"));'
    plain = base64.b64decode(in_node({"file": "plainFile"}, program, file=np.frombuffer(data, np.uint8)))
    before, after = (Image.open(io.BytesIO(one)) for one in (data, plain))
    assert before.info.get("icc_profile")
    assert not after.info.get("icc_profile")
    assert len(plain) < len(data)
    np.testing.assert_array_equal(np.array(after), np.array(before))


@needs_node
def test_cut_files_are_refused_and_others_left_alone():
    program = """
    answer(given.files.map((file) => {
      try { return plainFile(new Uint8Array(raw(file))).length; } catch (error) { return error.message; }
    }));
    """
    whole = [colorful(form)[1] for form in ("PNG", "JPEG", "WEBP")]
    cut = [data[: len(data) * share // 100] for data in whole for share in (40, 70, 99)]
    odd = [b"", b"\xff\xd8", b"GIF89a;", b"<svg/>"]
    files = [packed64(np.frombuffer(data, np.uint8)) for data in (*cut, *odd)]
    seen = in_node({"file": "plainFile"}, program, files=files)
    assert all("ends too early" in said for said in seen[: len(cut)])
    assert [seen[9], seen[11], seen[12]] == [0, 7, 6]
    assert "ends too early" in seen[10]


# ---------------------------------------------------------------- boxes and scores


@needs_node
@pytest.mark.parametrize("which", ["scenes", "odd", "everyday"])
def test_anchors_scores_and_boxes_are_pythons(which):
    model, info, _ = browser_case(which)
    record = {k: v for k, v in export.browser_model(model, info).items() if k != "weights"}
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(len(model.anchors), model.num_classes + 1, generator=generator)
    offsets = 8 * torch.randn(len(model.anchors), 4, generator=generator)  # some beyond the largest growth
    program = """
    const anchors = makeAnchors(given.model);
    const scores = foregroundScores(floats(given.logits), given.model.classes.length, given.model.scores);
    const boxes = decodeBoxes(anchors, floats(given.offsets), given.model.decoding);
    answer([anchors, scores, boxes].map(pack).concat([given.picks.map((a) => placeOf(given.model, a))]));
    """
    names = {"decode": "decodeBoxes, foregroundScores, makeAnchors, placeOf"}
    picks = [0, len(model.anchors) - 1]
    anchors, scores, corners, places = in_node(
        names, program, model=record, logits=logits, offsets=offsets, picks=picks
    )
    wanted = boxes.decode(model.anchors, offsets)
    np.testing.assert_array_equal(unpacked(anchors, -1, 4), model.anchors)
    np.testing.assert_allclose(
        unpacked(scores, -1, model.num_classes), foreground_scores(logits, model.score_function), atol=2e-7
    )
    np.testing.assert_allclose(unpacked(corners, -1, 4), wanted, rtol=1e-6, atol=1e-6)
    assert places[0] == {"scale": 0, "row": 0, "column": 0, "shape": 0}
    assert places[1]["scale"] == len(model.anchor_spec.sizes) - 1
    assert places[1]["shape"] == model.anchor_spec.num_anchors_per_location[-1] - 1


# ---------------------------------------------------------------- suppression


IMAGES = 25  # with the same options, so that Python does them at once


def nms_case(generator: np.random.Generator) -> dict[str, object]:
    """Boxes on a grid, some alike, some empty, scores of which many are equal, in many images; options."""
    count, classes = int(generator.integers(0, 60)), int(generator.integers(1, 4))
    low = generator.integers(-2, 10, (count, 2))
    corners = np.concatenate([low, low + generator.integers(0, 8, (count, 2))], 1) / 10
    return {
        "anchors": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        "logits": torch.tensor(generator.integers(-3, 4, (IMAGES, count, classes + 1))).float(),
        "score": float(generator.choice([0.01, 0.1, 0.25, 0.5])),
        "iou": float(generator.choice([0.0, 0.2, 1 / 3, 0.45, 0.5, 0.75, 1.0])),
        "aware": bool(generator.integers(2)),
        "topK": int(generator.choice([5, 400])),
        "most": int(generator.choice([3, 100])),
        "method": str(generator.choice(["hard", "hard", "linear", "gaussian"])),
    }


def found_by_python(case: dict[str, object]) -> list[Detections]:
    anchors, logits = case["anchors"], case["logits"]
    return detect(
        logits, torch.zeros(IMAGES, len(anchors), 4), anchors,
        score_threshold=case["score"], iou_threshold=case["iou"], class_aware=case["aware"],
        top_k=case["topK"], max_detections=case["most"],
        soft=None if case["method"] == "hard" else case["method"],
    )  # fmt: skip


@needs_node
def test_suppression_is_pythons_in_thousands_of_cases_with_ties():
    generator = np.random.default_rng(0)
    cases = [nms_case(generator) for _ in range(120)]
    sent = [
        {k: v for k, v in case.items() if k not in ("anchors", "logits")}
        | {
            "scores": [packed64(one) for one in foreground_scores(case["logits"])],
            "boxes": packed64(boxes.decode(case["anchors"], torch.zeros_like(case["anchors"]))),
        }
        for case in cases
    ]
    program = """
    answer(given.cases.map(({ scores, boxes, ...options }) => scores.map((image) => {
      const { found } = detect({ scores: floats(image), boxes: floats(boxes) }, options);
      return found.map(({ box, score, label }) => [...box, score, label]);
    })));
    """
    kept = 0
    seen = in_node({"nms": "detect"}, program, cases=sent)
    for number, (case, images) in enumerate(zip(cases, seen, strict=True)):
        for rows, wanted in zip(images, found_by_python(case), strict=True):
            rows = np.array(rows, np.float64).reshape(-1, 6)
            assert rows[:, 5].astype(int).tolist() == wanted.labels.tolist(), number
            np.testing.assert_array_equal(
                rows[:, :4].astype(np.float32), wanted.boxes, err_msg=f"case {number}"
            )
            exact = case["method"] != "gaussian"  # exp differs in its last bit
            np.testing.assert_allclose(rows[:, 4], wanted.scores, rtol=0 if exact else 1e-6, atol=0)
            kept += len(rows)
    assert kept > 5000


@needs_node
def test_numbers_that_are_none_are_no_candidates():
    program = """
    const boxes = new Float32Array([0, 0, 1, 1, NaN, 0, 1, 1, 0, 0, Infinity, 1, 0.5, 0.5, 0.5, 0.9]);
    const scores = new Float32Array([NaN, 0.9, 0.8, 0.7]);
    const { above } = detect({ boxes, scores }, { score: 0.01, iou: 0.5 });
    answer(above.map(({ anchor, box }) => [anchor, box]));
    """
    assert in_node({"nms": "detect"}, program) == [[2, [0, 0, 1, 1]]]  # clipped; NaN and empty are out


@needs_node
def test_a_removed_box_knows_by_whom():
    program = """
    const boxes = new Float32Array([0, 0, 1, 1, 0, 0, 1, 0.9, 0, 0, 1, 0.8]);
    const { above } = detect({ boxes, scores: new Float32Array([0.7, 0.9, 0.8]) }, { score: 0.1, iou: 0.5 });
    answer(above.map(({ anchor, by }) => [anchor, by?.anchor ?? null]));
    """
    assert in_node({"nms": "detect"}, program) == [[1, None], [2, 1], [0, 1]]


# ---------------------------------------------------------------- what is drawn


@needs_node
def test_layers_lie_in_order_over_the_image():
    """Candidates at the back, weakest first; then detections, the chosen one with its anchor, the truth."""
    program = """
    const one = (anchor, label, score, by) => ({ anchor, label, score, by, box: [0, 0, 0.1 * anchor, 1] });
    const best = one(2, 0, 0.9), removed = one(1, 0, 0.6, best), other = one(3, 1, 0.7);
    const anchors = Float32Array.from({ length: 16 }, (_, i) => Math.floor(i / 4));
    const state = {
      above: [best, other, removed], found: [best, other], chosen: best, everything: true,
      truth: [{ box: best.box, label: 0 }, { box: other.box, label: 0 }], drawn: [0, 0, 0.5, 0.5],
    };
    const model = { anchors, classes: ["a", "b"], scaleOf: ({ anchor }) => anchor };
    const seen = (state) => layersOf(state, model).map(([box, { color, tag, opacity, width }]) =>
      [Math.round(10 * box[2]), color, tag ?? null, opacity ?? null, width ?? null]);
    answer([seen(state), seen({ ...state, chosen: null, everything: false, truth: [], drawn: null })]);
    """
    full, plain = in_node({"layers": "layersOf"}, program)
    blue, orange, green, pink = "#56B4E9", "#E69F00", "#009E73", "#CC79A7"
    assert full == [
        *([1, orange, None, None, 1.25], [3, pink, None, None, 1.25], [2, green, None, None, 1.25]),
        *([3, orange, "b 0.70", 0.45, None], [2, blue, "a 0.90", 1, None]),
        *([1, "#fff", None, None, 1], [20, "#fff", None, None, 2], [2, blue, "a 0.90", None, 4]),
        *([2, "#fff", "1: a 1.00", None, 2], [3, "#fff", "2: a 0.67", None, 2]),
        [5, "#fff", None, None, 2],
    ]
    assert plain == [[3, orange, "b 0.70", 1, None], [2, blue, "a 0.90", 1, None]]


# ---------------------------------------------------------------- scores of an image


@needs_node
def test_precision_recall_and_ap_are_pythons():
    generator = np.random.default_rng(1)
    cases = []
    for _ in range(60):
        truth = sample_boxes(generator, int(generator.integers(1, 8)))
        near = truth[0].repeat(2, 0) + generator.normal(0, 0.02, (2 * len(truth[0]), 4))
        stray, labels = sample_boxes(generator, 4)
        corners = np.concatenate([near, stray]).astype(np.float32).clip(0, 1)
        scores = np.sort(generator.random(len(corners)).astype(np.float32))[::-1]
        cases.append((truth, (corners, np.concatenate([truth[1].repeat(2), labels]), scores)))
    listed = [
        {
            "truth": [{"box": b.tolist(), "label": int(k)} for b, k in zip(*truth, strict=True)],
            "found": [
                {"box": b.tolist(), "label": int(k), "score": float(s)}
                for b, k, s in zip(*found, strict=True)
            ],
        }
        for truth, found in cases
    ]
    program = """
    answer(given.cases.map(({ truth, found }) => {
      const { right, wrong, missed } = count(found, truth);
      return [right, wrong, missed, averagePrecision([{ found, truth }], 0.5), meanAP([{ found, truth }])];
    }).concat([[averagePrecision(given.cases, 0.5), meanAP(given.cases)]]));
    """
    seen = in_node({"scoring": "averagePrecision, count, meanAP"}, program, cases=listed)
    *each, together = seen
    every, objects_of = [], []
    for (truth, (corners, labels, scores)), (right, wrong, missed, ap50, ap) in zip(cases, each, strict=True):
        found = Detections(*(torch.from_numpy(a.copy()) for a in (corners, scores, labels)))
        objects = [torch.from_numpy(part)[None] for part in truth]
        every.append(found)
        objects_of.append([part[0] for part in objects])
        errors = error_breakdown([found], *objects, score_threshold=0.0)
        assert (right, wrong, missed) == (errors.correct, errors.false_positives, errors.missed)
        metrics = evaluate([found], *objects, classes=3)
        assert ap50 == pytest.approx(metrics.ap50, abs=1e-9)
        assert ap == pytest.approx(metrics.ap, abs=1e-9)
    metrics = evaluate(every, *pad_objects(*zip(*objects_of, strict=True)), classes=3)
    assert together == pytest.approx([metrics.ap50, metrics.ap], abs=1e-9)


def sample_boxes(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    low = generator.random((count, 2)) * 0.7
    corners = np.concatenate([low, low + 0.1 + 0.2 * generator.random((count, 2))], 1)
    return corners.astype(np.float32), generator.integers(0, 3, count)


# ---------------------------------------------------------------- the kernel and the bundles


@pytest.mark.parametrize("name", assemble.MADE)
def test_the_kernels_are_what_their_sources_say(name):
    assert assemble.make(name) == (live.HERE / name).read_bytes()


def test_a_change_of_the_kernels_source_is_noticed():
    source = (live.HERE / "kernel.wat").read_text("utf8")
    changed = source.replace("f32x4.pmax", "f32x4.add", 1)
    assert assemble.assemble(changed) != (live.HERE / "kernel.wasm").read_bytes()
    with pytest.raises(ValueError, match="faulty"):
        assemble.assemble(changed.replace("f32x4.add", "f32x4.sqrt"))


BUNDLES = {
    "widget": live.widget_module,
    "page": live.page_script,
    "live": live.live_script,
    "teach": live.teach_script,
}


@pytest.mark.parametrize("name", BUNDLES)
def test_bundles_stand_alone(name):
    text = BUNDLES[name]()
    assert "import {" not in text
    assert "\nexport " not in text.replace("\nexport default {", "")
    assert not any(mark in text for mark in live.KERNELS)
    if NODE is not None:
        kind = ["--input-type=module"] if name in ("widget", "page") else []
        done = subprocess.run([NODE, "--check", *kind, "-"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_module_is_in_a_bundle():
    listed = {*live.LIVE, *live.TRAIN, *live.START, *live.FIGURE, "widget.js", "page.js"}
    assert {path.name for path in live.HERE.glob("*.js")} == listed


def test_a_module_needs_those_before_it():
    with pytest.raises(ValueError, match=r"nms\.js needs decode\.js before it"):
        live.bundle(("nms.js", "decode.js"))


def test_little_is_loaded_before_the_first_click():
    assert len(gzip.compress(live.widget_module().encode())) < 4_000
    assert len(gzip.compress(live.live_script().encode())) < 24_000
