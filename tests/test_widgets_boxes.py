"""The live figure of two boxes: its images and places, and its IoU in a browser against `box_iou`."""

from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import pytest
import torch

from d2lmini import box_iou, widgets
from d2lmini.data import Sample, Synthetic
from d2lmini.widgets.boxes import BY_HAND, BoxPair, object_names

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium found; to run this test on Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Synthetic("scenes", count=24, size=256, split="val")[2]


@pytest.fixture(scope="module")
def live() -> widgets.Live:
    return widgets.iou()


def test_it_holds_the_running_image_and_its_objects(live, sample):
    data = live.figure.data
    boxes = np.frombuffer(data["objects"]["bytes"], data["objects"]["dtype"]).reshape(-1, 4)
    np.testing.assert_array_equal(boxes, sample.boxes)
    assert data["size"] == [256, 256]
    assert (data["photo"]["width"], data["photo"]["height"]) == (256, 256)


def test_a_list_for_each_box_names_all_objects(live):
    names = (BY_HAND, "apple 1", "fish", "star 1", "mug", "apple 2", "star 2")
    assert live.controls["object_a"].options == live.controls["object_b"].options == names


def test_it_starts_on_the_fish_with_a_guess_that_just_misses(live, sample):
    figure = live.figure
    assert (figure.object_a, figure.object_b) == (2, 0)
    assert figure.a == sample.boxes[1].tolist()
    assert 0.45 < box_iou(torch.tensor([figure.a]), torch.tensor([figure.b])).item() < 0.5


def test_the_caption_is_true(live):
    """Shift a box by a third of its width, and IoU is down to 0.5."""
    box = torch.tensor([[0.0, 0.0, 3.0, 1.0]])
    torch.testing.assert_close(box_iou(box, box + torch.tensor([1.0, 0, 1, 0])), torch.tensor([[0.5]]))
    assert "a third of its width, and IoU is down to 0.5" in live.caption


def test_it_is_told_in_words_and_drawn_without_scripts(live):
    assert len(live.figure.alt) > 20
    titles = [ax.get_title(loc="left") for ax in live.fallback.axes]
    assert titles == ["by a tenth: IoU 0.82", "by a third: IoU 0.50", "by two thirds: IoU 0.20"]


def test_any_image_will_do():
    image = Sample(
        torch.zeros(3, 100, 200, dtype=torch.uint8), torch.tensor([[0.1, 0.1, 0.5, 0.5]]), torch.tensor([0])
    )
    live = widgets.iou(image, ["thing"], start=0, b=(10, 10, 110, 60))
    assert live.figure.b == [0.05, 0.1, 0.55, 0.6]
    assert live.figure.data["size"] == [200, 100]


def test_what_cannot_be_shown_is_refused(sample):
    empty = Sample(sample.image, sample.boxes[:0], sample.labels[:0])
    with pytest.raises(ValueError, match="0 objects"):
        widgets.iou(empty, ["thing"])
    with pytest.raises(ValueError, match="6 objects, there is no number 6"):
        widgets.iou(start=6)
    for b in ((50, 10, 20, 60), (0, 0, 300, 20), (-1, 0, 20, 20)):
        with pytest.raises(ValueError, match=r"within 256 × 256 pixels"):
            widgets.iou(b=b)


def test_names_are_numbered_where_they_repeat():
    assert object_names(torch.tensor([1, 0, 1]), ["star", "apple"]) == ["apple 1", "star", "apple 2"]
    assert object_names(torch.zeros(0, dtype=torch.int64), ["star"]) == []


# ---------------------------------------------------------------- in a browser

# The smallest stand-in for an anywidget model that a figure can run on.
PAGE = """<!doctype html><meta charset="utf-8">
<body><div id="here" style="width: %dpx"></div><script type="module">
const state = %s, heard = {};
const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
for (const value of Object.values(state.data)) if (value.bytes) value.bytes = view(value.bytes);
const { default: figure } = await import(URL.createObjectURL(new Blob([%s], { type: "text/javascript" })));
window.model = {
  get: (name) => state[name],
  set(name, value) { state[name] = value; (heard[`change:${name}`] ?? []).forEach((f) => f()); },
  on: (name, f) => (heard[name] ??= []).push(f),
  off() {}, save_changes() {},
};
figure.render({ model, el: document.getElementById("here") });
</script>"""


def page_of(figure: BoxPair, width: int) -> str:
    """An HTML page with nothing but a figure."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    names = ("data", "alt", "a", "b", "object_a", "object_b")
    state = {name: plain(getattr(figure, name)) for name in names}
    return PAGE % (width, json.dumps(state), json.dumps(figure._esm).replace("</", "<\\/"))


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[690, 340])
def page(request, browser, live):
    opened = browser.new_page(viewport={"width": 720, "height": 900})
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_content(page_of(live.figure, request.param))
    opened.wait_for_selector(".d2l-figure[data-iou]")
    yield opened
    opened.close()
    assert not errors


def settled(page) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Both boxes and the IoU that the drawing tells, once it has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    told = page.evaluate("({...document.querySelector('.d2l-figure').dataset})")
    a, b = (torch.tensor([[float(v) for v in told[name].split(",")]]) for name in "ab")
    return a, b, float(told["iou"])


@in_a_browser
def test_its_iou_is_that_of_the_package(page, sample):
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(0, 128, (40, 2, 4), generator=generator)
    pairs[..., 2:] += pairs[..., :2] + 1
    pairs = pairs.clamp(max=256) / 256
    fixed = [(sample.boxes[0], sample.boxes[4]), (sample.boxes[0], sample.boxes[0])]
    for a, b in [*pairs, *fixed]:
        page.evaluate("([a, b]) => { model.set('a', a); model.set('b', b); }", [a.tolist(), b.tolist()])
        drawn_a, drawn_b, iou = settled(page)
        torch.testing.assert_close(torch.cat([drawn_a, drawn_b]), torch.stack([a, b]))
        assert iou == pytest.approx(box_iou(drawn_a, drawn_b).item(), abs=1e-6)


@in_a_browser
def test_boxes_and_corners_are_moved_by_keys(page):
    start, other, _ = settled(page)
    page.locator('[aria-label^="Box A."]').focus()
    for key, change in (("ArrowRight", [1, 0, 1, 0]), ("Shift+ArrowUp", [0, -8, 0, -8])):
        page.keyboard.press(key)
        moved, still, iou = settled(page)
        torch.testing.assert_close((moved - start) * 256, torch.tensor([change]).float())
        torch.testing.assert_close(still, other)
        assert iou == pytest.approx(box_iou(moved, still).item(), abs=1e-6)
        start = moved
    page.get_by_label("Lower right corner of box B").focus()
    page.keyboard.press("ArrowDown")
    _, grown, _ = settled(page)
    torch.testing.assert_close((grown - other) * 256, torch.tensor([[0.0, 0, 0, 1]]))
    assert page.evaluate("model.get('object_a')") == 0, "it no longer lies on its object"


@in_a_browser
def test_boxes_and_corners_are_dragged_and_stay_in_the_image(page):
    start, other, _ = settled(page)
    corner = page.get_by_label("Upper left corner of box A").bounding_box()
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 30, steps=4)
    page.mouse.up()
    pulled, still, _ = settled(page)
    assert (pulled[0, :2] < start[0, :2]).all()
    torch.testing.assert_close(pulled[0, 2:], start[0, 2:])
    torch.testing.assert_close(still, other)

    page.mouse.move(x + 20, y + 25)  # inside A, outside B
    page.mouse.down()
    page.mouse.move(x - 900, y + 25, steps=4)
    page.mouse.up()
    left, _, iou = settled(page)
    assert left[0, 0] == 0, "at the edge of the image, and no further"
    torch.testing.assert_close(left[0, 2:] - left[0, :2], pulled[0, 2:] - pulled[0, :2])
    assert iou == pytest.approx(box_iou(left, other).item(), abs=1e-6)


@in_a_browser
def test_a_choice_puts_the_box_on_an_object(page, sample):
    page.evaluate("model.set('object_b', 5)")
    settled(page)
    _, b, _ = settled(page)
    torch.testing.assert_close(b[0], sample.boxes[4])
