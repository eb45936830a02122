"""The live detector in Chromium: as a page of its own, as a page of the book, and beside a kernel.

A page of the book is imitated by what matters of one: Sphinx's mark on the root element, the widget's module,
and the scripts where `_ext/live_detector.py` puts them. tests/test_book.py has the real ones.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2lmini import box_iou, detect, evaluate, live, pretrained, save_model, widgets
from d2lmini.checkpoint import ModelInfo
from d2lmini.cli import main
from d2lmini.data import GroundTruth, Synthetic
from d2lmini.data.images import RESIZE_MODES, to_tensor
from d2lmini.detect import Detections
from d2lmini.engine.features import photograph_model
from d2lmini.errors import error_breakdown
from d2lmini.interop import export
from tests.test_export import ODD, odd_detector
from tools import live_parity, look

pytestmark = pytest.mark.skipif(look.CHROMIUM is None, reason=look.NO_CHROMIUM)
STATE = 'document.querySelector(".d2l-app").state()'
COUNT = 18  # images here, one of each kind; `python -m tools.live_parity` takes 300


@pytest.fixture(scope="module")
def browser():
    """Chromium with a camera that films a test image, and may be used unasked."""
    from playwright.sync_api import sync_playwright

    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--disable-gpu"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=look.CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def detector():
    return pretrained("scenes")


@pytest.fixture(scope="module")
def samples():
    scenes = Synthetic("scenes", count=24, size=256, split="val")
    return [scenes[2], scenes[4]]


@pytest.fixture(scope="module")
def page(detector, samples, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "detector.html"
    export.save_page(path, *detector, samples)
    return path


@pytest.fixture
def tab(browser, page):
    """The page from the disk; nothing may go wrong in it unsaid, and nothing leave it."""
    tab = watched(browser.new_page(viewport={"width": 900, "height": 900}))
    tab.goto(page.as_uri())
    yield tab
    assert not tab.complaints
    tab.close()


def watched(tab):
    tab.complaints, tab.requests = [], []
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("console", lambda m: m.type == "error" and tab.complaints.append(m.text))
    tab.on("request", lambda r: tab.requests.append(r.url))
    return tab


def start(tab, number: int = 0) -> None:
    """Choose a sample and wait for its boxes."""
    button = tab.locator("button.sample").nth(number)
    title = button.get_attribute("aria-label")
    button.click()
    tab.wait_for_function("(t) => document.querySelector('.d2l-app').state?.().image?.name === t", arg=title)


def move(tab, name: str, value: float) -> None:
    """Put a slider at a value, as dragging it would."""
    tab.get_by_label(name).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )
    settle(tab)


def settle(tab) -> None:
    tab.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")


def found(tab) -> np.ndarray:
    """Boxes, scores and labels (D, 6) as the page shows them."""
    rows = tab.evaluate(
        f"() => {STATE}.result.found.map(({{ box, score, label }}) => [...box, score, label])"
    )
    return np.array(rows, np.float64).reshape(-1, 6)


def said(tab) -> str:
    return tab.locator(".readout").text_content()


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_files_of_every_kind_give_what_python_finds(browser, tmp_path, resize_mode):
    checker, page = live_parity.Checker(resize_mode), tmp_path / "page.html"
    export.save_page(page, checker.model, checker.info)
    tab = live_parity.open_page(browser, page.as_uri())
    outcomes = [checker.compare(tab, path) for path in live_parity.files(COUNT, tmp_path)]
    tab.close()
    assert len({o.kind for o in outcomes}) == len(live_parity.KINDS)
    assert {o.engine for o in outcomes} == {"WASM SIMD"}
    assert max(o.logits for o in outcomes) <= 2e-5
    assert max(o.pixels for o in outcomes) <= 1
    assert all(o.same for o in outcomes), [o for o in outcomes if not o.same]


@pytest.mark.parametrize("name", ["<!--<script>", "</script>", "<SCRIPT>//", "\u2028", "${1}`\\"])
def test_no_class_name_stops_a_page(browser, tmp_path, name):
    model, info = pretrained("scenes")
    odd = dataclasses.replace(info, classes=tuple(name if c == "star" else c for c in info.classes))
    scene = Synthetic("scenes", count=3, size=256, split="val")[2]
    export.save_page(tmp_path / "page.html", model, odd, [scene])
    tab = watched(live_parity.open_page(browser, (tmp_path / "page.html").as_uri()))
    start(tab)
    assert f"{name} " in tab.locator(".found").text_content()
    assert not tab.complaints
    tab.close()


@torch.inference_mode()
def test_a_detector_of_your_own_photographs_runs_in_its_page(browser, tmp_path):
    scene = Synthetic("scenes", count=3, size=150, split="val")[2]
    truth = GroundTruth(scene.boxes[None], scene.labels[None])
    model = photograph_model(truth, (150, 150), tuple("abcdef")).eval()
    export.save_page(tmp_path / "page.html", model, ModelInfo(tuple("abcdef")), [scene])
    tab = watched(live_parity.open_page(browser, (tmp_path / "page.html").as_uri()))
    start(tab)
    move(tab, "score at least", 0.01)
    small = export.inference_model(model)
    (wanted,) = detect(*small(scene.image[None]), small.anchors, score_threshold=0.01, iou_threshold=0.45)
    np.testing.assert_allclose(found(tab)[:, :4], wanted.boxes, atol=1e-4)
    assert not tab.complaints
    tab.close()


def test_without_worker_and_wasm_the_numbers_stay_and_the_page_lives(browser, page, tmp_path):
    checker = live_parity.Checker()
    tab = live_parity.open_page(browser, page.as_uri(), "plain")
    tab.evaluate("""() => {
      window.longest = 0;
      let last = performance.now();
      window.beats = 0;
      setInterval(() => { window.beats++; }, 10);
    }""")
    (path,) = live_parity.files(1, tmp_path)
    outcome = checker.compare(tab, path)
    assert outcome.engine == "plain JavaScript"
    assert outcome.same
    assert outcome.logits <= 2e-5
    assert tab.evaluate("window.beats") > 5, "the page was dead while it computed"
    tab.close()


def test_thresholds_and_methods_do_what_detect_does(tab, detector, samples):
    start(tab)
    model = export.inference_model(detector[0])
    with torch.inference_mode():
        answers = model(samples[0].image[None])
    for score, iou, method, aware in (
        (0.1, 0.45, "hard", True),
        (0.05, 0.15, "hard", False),
        (0.3, 0.45, "linear", True),
        (0.1, 0.45, "gaussian", False),
    ):
        move(tab, "score at least", score)
        move(tab, "overlap: IoU above", iou)
        tab.get_by_label("then a worse box").select_option(method)
        tab.get_by_label("only boxes of the same class").set_checked(aware)
        settle(tab)
        options = {"score_threshold": score, "iou_threshold": iou, "class_aware": aware}
        (wanted,) = detect(*answers, model.anchors, soft=None if method == "hard" else method, **options)
        rows = found(tab)
        assert rows[:, 5].tolist() == wanted.labels.tolist(), (score, iou, method, aware)
        np.testing.assert_allclose(rows[:, :4], wanted.boxes, atol=2e-5)
        np.testing.assert_allclose(rows[:, 4], wanted.scores, atol=2e-5)
        assert f"{len(rows)} box" in said(tab)


def test_another_detector_runs_without_a_change(browser, tmp_path):
    """Other classes, sides, channels, depth and anchors, and images of no use at all."""
    path = tmp_path / "odd.html"
    export.save_page(path, odd_detector(), ODD)
    tab = watched(browser.new_page())
    tab.goto(path.as_uri())
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    tab.locator("input[type=file]").set_input_files(tmp_path / "noise.png")
    tab.wait_for_function(live_parity.READ, arg="noise.png")
    move(tab, "score at least", 0.4)
    model = export.inference_model(odd_detector())
    with torch.inference_mode():
        answers = model(to_tensor(Image.fromarray(pixels), model.image_size)[None])
    (wanted,) = detect(*answers, model.anchors, score_threshold=0.4)
    rows = [torch.cat([wanted.boxes, wanted.scores[:, None]], 1).numpy(), found(tab)[:, :5]]
    first, second = (
        r[np.lexsort(r.round(3).T)] for r in rows
    )  # where scores are all but equal, order is chance
    np.testing.assert_allclose(second, first, atol=1e-4)
    assert not tab.complaints
    tab.close()


# ---------------------------------------------------------------- looking into it


def test_a_box_tells_its_anchor_and_what_it_removed(tab, detector):
    start(tab)
    first = tab.locator("ul.found button").first
    first.focus()
    tab.keyboard.press("Enter")
    settle(tab)
    assert tab.evaluate("document.activeElement.closest('ul.found') !== null"), "the keyboard lost its place"
    text = tab.locator(".details").text_content()
    best = tab.evaluate(f"() => {STATE}.result.found[0].anchor")
    gone = tab.evaluate(
        f"() => {{ const r = {STATE}.result; return r.above.filter((o) => o.by === r.found[0]).length; }}"
    )
    assert gone >= 2
    assert f"Anchor {best} " in text
    assert f"it removed {gone} boxes" in text
    bars = tab.locator(".details tr").all_text_contents()
    assert len(bars) == len(detector[1].classes) + 1
    assert sum(float(bar[-5:]) for bar in bars) == pytest.approx(1, abs=0.004)
    tab.get_by_label("anchor", exact=True).fill("3")
    tab.keyboard.press("Enter")
    assert "Anchor 3 of scale 1, row 1, column 1" in tab.locator(".details").text_content()
    assert "None of its scores reaches the threshold" in tab.locator(".details").text_content()


def test_pointing_at_a_box_or_a_place_chooses(tab):
    start(tab)
    settle(tab)
    frame = tab.locator(".view svg").bounding_box()
    left, top, right, bottom = found(tab)[0][:4]
    x, y = frame["x"] + frame["width"] * (left + right) / 2, frame["y"] + frame["height"] * (top + bottom) / 2
    tab.mouse.click(x, y)
    assert tab.locator("ul.found button[aria-pressed=true]").count() == 1
    before = tab.locator(".details").text_content()
    tab.locator(".maps canvas").last.click()
    assert "of scale 5, row 1, column 1" in tab.locator(".details").text_content() != before


def test_all_candidates_are_drawn_in_the_colors_of_their_scales(tab):
    start(tab)
    few = tab.locator(".view svg rect").count()
    tab.get_by_label("show all candidates").check()
    settle(tab)
    above = tab.evaluate(f"() => {STATE}.result.above.length")
    assert tab.locator(".view svg rect").count() == few + above


# ---------------------------------------------------------------- against the truth


def test_true_boxes_of_a_sample_give_pythons_scores(tab, samples):
    start(tab)
    move(tab, "score at least", 0.1)
    tab.get_by_label("mark the true boxes").check()
    settle(tab)
    numbers = tab.locator(".report td").all_text_contents()
    rows = torch.tensor(found(tab))
    mine = Detections(boxes=rows[:, :4].float(), scores=rows[:, 4].float(), labels=rows[:, 5].long())
    truth = samples[0].boxes[None], samples[0].labels[None]
    errors = error_breakdown([mine], *truth, score_threshold=0.0)
    counts = [errors.correct, errors.false_positives, errors.missed]
    assert numbers[:3] == [str(n) for n in counts]
    best = box_iou(truth[0][0], mine.boxes) * (mine.labels == truth[1].T)  # only boxes of its class
    listed = ", ".join(f"{v:.2f}" for v in best.max(1).values.tolist())
    assert f"the best box of their class: {listed}." in tab.locator(".report p").text_content()
    move(tab, "score at least", 0.01)  # from here on AP counts
    rows = torch.tensor(found(tab))
    every = Detections(boxes=rows[:, :4].float(), scores=rows[:, 4].float(), labels=rows[:, 5].long())
    metrics = evaluate([every], *truth, classes=6)
    assert numbers[5:] == [f"{metrics.ap50:.2f}", f"{metrics.ap:.2f}"]


def test_the_reader_draws_moves_and_removes_true_boxes(tab):
    start(tab, 1)  # nothing is in it
    tab.get_by_label("mark the true boxes").check()
    settle(tab)
    assert "Draw a true box" in tab.locator(".report").text_content()
    frame = tab.locator(".view svg").bounding_box()
    corners = [(frame["x"] + s * frame["width"], frame["y"] + s * frame["height"]) for s in (0.25, 0.75)]
    tab.mouse.move(*corners[0])
    tab.mouse.down()
    tab.mouse.move(*corners[1], steps=3)
    tab.mouse.up()
    boxes = tab.evaluate(f"() => {STATE}.truth")
    np.testing.assert_allclose(boxes[0]["box"], [0.25, 0.25, 0.75, 0.75], atol=0.01)
    tab.get_by_role("button", name="add a true box").click()
    before = tab.evaluate(f"() => {STATE}.truth[1].box")
    assert tab.evaluate("document.activeElement.closest('ul.truths') !== null")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Shift+ArrowDown")
    after = tab.evaluate(f"() => {STATE}.truth[1].box")
    np.testing.assert_allclose(np.subtract(after, before), [0.01, 0, 0.01, 0.01], atol=1e-9)
    tab.get_by_label("class of true box 2").select_option("mug")
    settle(tab)
    assert tab.locator(".report td").all_text_contents()[2] == "2", "both are missed"
    tab.get_by_label("remove true box 1").click()
    assert [box["label"] for box in tab.evaluate(f"() => {STATE}.truth")] == [2]


# ---------------------------------------------------------------- in and out


def image_file(folder: Path, name: str, **changes) -> Path:
    path = folder / name
    Image.new("RGB", changes.pop("size", (300, 200)), changes.pop("color", "#4060a0")).save(path, **changes)
    return path


def test_what_cannot_be_read_is_answered_with_why(tab, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    huge = Image.new("1", (12_000, 9_000))
    huge.save(tmp_path / "huge.png")
    file = tab.locator("input[type=file]")
    for name, message in (
        ("text.jpg", "your browser cannot read this file as an image: save it as JPEG or PNG"),
        ("empty.png", "your browser cannot read this file"),
        ("huge.png", "the image has 108 megapixels: make it smaller first"),
    ):
        file.set_input_files(tmp_path / name)
        tab.wait_for_function(
            "(t) => document.querySelector('.readout').textContent.includes(t)", arg=message
        )
        assert said(tab).startswith(name)
    file.set_input_files(image_file(tmp_path, "good.png"))
    tab.wait_for_function(live_parity.READ, arg="good.png")  # and then it goes on


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted(tab, tmp_path, way):
    data = base64.b64encode(image_file(tmp_path, "mine.png").read_bytes()).decode()
    tab.locator(".d2l-app").hover()
    tab.evaluate(
        """([way, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), carried = new DataTransfer();
          carried.items.add(new File([bytes], "mine.png", { type: "image/png" }));
          const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true });
          (way === "drop" ? document.querySelector(".d2l-app") : document).dispatchEvent(event);
        }""",
        [way, data],
    )
    tab.wait_for_function(live_parity.READ, arg="mine.png" if way == "drop" else "the pasted image")
    assert tab.evaluate(f"() => [{STATE}.image.width, {STATE}.image.height]") == [300, 200]


def test_result_is_saved_as_image_and_as_numbers(tab, samples):
    start(tab)
    with tab.expect_download() as png:
        tab.get_by_role("button", name="save as PNG").click()
    with Image.open(png.value.path()) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    assert drawn.shape == (256, 256, 3)
    changed = np.abs(drawn - samples[0].image.permute(1, 2, 0).numpy()).max(2) > 30
    assert 0.02 < changed.mean() < 0.6, "boxes are drawn over the image"
    with tab.expect_download() as numbers:
        tab.get_by_role("button", name="save as JSON").click()
    record = json.loads(Path(numbers.value.path()).read_text("utf8"))
    rows = found(tab)
    assert [d["class"] for d in record["detections"]] == [
        pretrained("scenes")[1].classes[int(k)] for k in rows[:, 5]
    ]
    np.testing.assert_allclose([d["box"] for d in record["detections"]], rows[:, :4] * 256, atol=0.051)
    assert record["settings"] == {"score": 0.5, "iou": 0.45, "method": "hard", "aware": True}


@pytest.mark.parametrize("size", [(640, 480), (200, 300)])
def test_a_letterboxed_image_is_saved_without_its_bands(browser, samples, tmp_path, size):
    """The numbers are those of `python -m d2lmini detect`, the image has its own shape."""
    checker, out = live_parity.Checker("letterbox"), tmp_path / "out"
    page, weights = tmp_path / "page.html", tmp_path / "m.safetensors"
    export.save_page(page, checker.model, checker.info)
    save_model(weights, checker.model, checker.info)
    file = tmp_path / "wide.png"
    Image.fromarray(samples[0].image.permute(1, 2, 0).numpy()).resize(size).save(file)
    assert main(["detect", str(file), "--model", str(weights), "--score", "0.3", "--out", str(out)]) == 0
    tab = live_parity.open_page(browser, page.as_uri())
    tab.locator("input[type=file]").set_input_files(file)
    tab.wait_for_function(live_parity.READ, arg="wide.png")
    tab.get_by_label("score at least").fill("0.3")
    with tab.expect_download() as numbers:
        tab.get_by_role("button", name="save as JSON").click()
    theirs = json.loads((out / "wide.json").read_text("utf8"))["detections"]
    mine = json.loads(Path(numbers.value.path()).read_text("utf8"))["detections"]
    assert mine
    assert [d["class"] for d in mine] == [d["class"] for d in theirs]
    np.testing.assert_allclose([d["box"] for d in mine], [d["box"] for d in theirs], atol=0.11)
    with tab.expect_download() as png:
        tab.get_by_role("button", name="save as PNG").click()
    with Image.open(png.value.path()) as image:
        assert image.size == size
    tab.close()


KEEP_STREAM = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wish) => (window.stream = await ask(wish));
"""
NO_CAMERA = """
navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("none", "NotFoundError"));
"""


def test_the_camera_is_live_and_its_light_goes_out(browser, page):
    with look.served(page.parent) as address:
        tab = watched(browser.new_page())
        tab.add_init_script(KEEP_STREAM)
        tab.goto(f"{address}/{page.name}")
        for leave in ("button", "sample"):
            tab.get_by_role("button", name="camera").click()
            tab.wait_for_function("Number(document.querySelector('.d2l-app').dataset.rate) > 0")
            assert tab.evaluate("window.stream.getTracks()[0].readyState") == "live"
            assert tab.get_by_role("button", name="stop the camera").is_visible()
            if leave == "button":
                tab.get_by_role("button", name="stop the camera").click()
            else:
                start(tab)
            assert tab.evaluate("window.stream.getTracks().every((t) => t.readyState === 'ended')")
            assert tab.get_by_role("button", name="camera").text_content() == "camera"
        assert not tab.complaints
        tab.close()


def test_without_a_camera_the_page_says_so(browser, page):
    tab = browser.new_page()
    tab.add_init_script(NO_CAMERA)
    tab.goto(page.as_uri())
    tab.get_by_role("button", name="camera").click()
    tab.wait_for_function("document.querySelector('.readout').textContent.includes('no camera was found')")
    tab.close()


# ---------------------------------------------------------------- as a widget

WIDGET = """<!doctype html>
<html lang="en" {mark}><title>a page</title><link rel="icon" href="data:,"><body>
<main><h1>A page</h1><div id="here"></div></main>
<style>{style}</style><script type="module">
{module}
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const data = {data};
for (const value of Object.values(data)) if (value.mime) value.bytes = bytes(value.bytes);
const heard = new Set();
window.tell = (message, buffers) => {{
  for (const hear of [...heard]) hear(message, buffers.map(bytes));
}};
const model = {{
  get: () => data, on: (_, hear) => heard.add(hear), off: (_, hear) => heard.delete(hear),
  send: (message, _, buffers = []) => {{
    const text = (b) => btoa(Array.from(new Uint8Array(b), (v) => String.fromCharCode(v)).join(""));
    window.python?.(message, buffers.map(text));
  }},
}};
widget.render({{ model, el: document.querySelector("#here") }});
</script></body></html>"""


@pytest.fixture(scope="module")
def figure(detector, samples):
    return widgets.live_detector(*detector, samples).figure


def widget_page(figure, mark: str) -> str:
    data = {
        k: {**v, "bytes": base64.b64encode(v["bytes"]).decode()} if isinstance(v, dict) and "mime" in v else v
        for k, v in figure.data.items()
    }
    module = live.widget_module().replace("export default {", "const widget = {")
    return WIDGET.format(mark=mark, style=figure._css, module=module, data=json.dumps(data))


@pytest.fixture(scope="module")
def book(detector, figure, tmp_path_factory) -> Path:
    """A folder that is like a built book with one page, one folder down."""
    folder = tmp_path_factory.mktemp("book")
    scripts = folder / "_static" / "live"
    scripts.mkdir(parents=True)
    (scripts / "live.js").write_text(live.live_script(), "utf8")
    assert export.save_weights_script(scripts, *detector, "scenes").name == figure.data["name"]
    (folder / "chapters").mkdir()
    (folder / "chapters" / "page.html").write_text(widget_page(figure, 'data-content_root="../"'), "utf8")
    return folder


@pytest.mark.parametrize("how", ["served", "from the disk"])
def test_in_the_book_two_scripts_come_with_the_first_image(browser, book, figure, how, request):
    with look.served(book) as address:
        root = address if how == "served" else book.as_uri()
        tab = watched(browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark"))
        tab.goto(f"{root}/chapters/page.html")
        tab.locator(".d2l-app").wait_for()
        own = [url for url in tab.requests if not url.startswith(("blob:", "data:"))]
        assert len(own) == 1, "something was loaded before it was wanted"
        assert not look.axe(tab)
        start(tab)
        new = [url for url in tab.requests if not url.startswith(("blob:", "data:"))][1:]
        assert new == [f"{root}/_static/live/live.js", f"{root}/_static/live/{figure.data['name']}"]
        tab.get_by_label("mark the true boxes").check()
        tab.locator("ul.found button").first.click()
        settle(tab)
        assert "WASM SIMD" in said(tab)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not look.axe(tab)
        assert not tab.complaints
        tab.close()


def test_a_script_that_is_missing_is_told_and_tried_again(browser, book, figure):
    tab = watched(browser.new_page())
    with look.served(book) as address:
        tab.route("**/scenes-*.js", lambda route: route.abort())
        tab.goto(f"{address}/chapters/page.html")
        tab.locator("button.sample").first.click()
        tab.wait_for_function(
            "document.querySelector('.readout').textContent.includes('could not be loaded')"
        )
        tab.unroute("**/scenes-*.js")
        start(tab)
        assert "6 boxes" in said(tab)
    tab.close()


def test_beside_a_kernel_python_answers(browser, figure, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text(widget_page(figure, ""), "utf8")
    tab = watched(browser.new_page())
    answers: list = []
    monkeypatch.setattr(figure, "send", lambda message, buffers=(): answers.append((message, buffers)))

    def python(message, buffers):
        figure._answer(None, message, [memoryview(base64.b64decode(b)) for b in buffers])

    def pump() -> None:
        while answers:
            message, buffers = answers.pop(0)
            tab.evaluate(
                "([m, b]) => window.tell(m, b)", [message, [base64.b64encode(b).decode() for b in buffers]]
            )

    tab.expose_function("python", python)
    tab.goto((tmp_path / "page.html").as_uri())
    tab.locator("button.sample").first.click()
    for _ in range(100):
        tab.wait_for_timeout(50)
        pump()
        if "boxes" in said(tab):
            break
    assert "6 boxes after NMS. Python," in said(tab)
    assert not tab.complaints
    tab.close()


def test_without_kernel_and_book_the_widget_says_what_is_missing(browser, figure, tmp_path):
    text = widget_page(figure, "").replace("10_000", "50")
    (tmp_path / "page.html").write_text(text, "utf8")
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.locator("button.sample").first.click()
    tab.wait_for_function("document.querySelector('.readout').textContent.includes('Python does not answer')")
    tab.close()


def test_samples_travel_without_loss(figure, samples):
    sent = figure.data["image0"]
    with Image.open(io.BytesIO(sent["bytes"])) as image:
        np.testing.assert_array_equal(np.asarray(image), samples[0].image.permute(1, 2, 0))
    assert figure.data["samples"][0]["title"] == "image A: six objects"
    truth = figure.data["samples"][0]["truth"]
    np.testing.assert_allclose([one["box"] for one in truth], samples[0].boxes, atol=1e-5)


def test_nonsense_from_the_page_is_answered_in_the_page(figure, monkeypatch):
    sent: list = []
    monkeypatch.setattr(figure, "send", lambda message, buffers=(): sent.append(message))
    figure._answer(None, {"id": "1"}, [memoryview(bytes(5))])
    figure._answer(None, {"id": "2"}, [])
    figure._answer(None, {"something": "else"}, [])
    assert [message["id"] for message in sent] == ["1", "2"]
    assert all(message["error"] for message in sent)


def test_a_widget_needs_a_sample(detector):
    with pytest.raises(ValueError, match="give at least one sample"):
        widgets.live_detector(*detector, [])
