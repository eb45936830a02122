"""The page that teaches, in Chromium: images in, boxes drawn, a detector trained, used, kept, reopened."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2lmini import detect, live, load_model, pretrained
from d2lmini.data import Synthetic, load, open_data
from d2lmini.data.images import to_tensor
from d2lmini.interop import export
from d2lmini.widgets.teach import teach_page
from d2lmini.widgets.turn import set_script, turn_it
from tests.test_live_page import browser, move, said, settle, watched, widget_page  # noqa: F401
from tools import look

pytestmark = pytest.mark.skipif(look.CHROMIUM is None, reason=look.NO_CHROMIUM)
STATE = 'document.querySelector(".d2l-app.teaching > div:nth-of-type(2)").state()'
IMAGES = 7


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    scenes = Synthetic("scenes", count=IMAGES, size=256, split="val")
    for i in range(IMAGES):
        Image.fromarray(scenes[i].image.permute(1, 2, 0).numpy()).save(folder / f"p{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def teach_book(tmp_path_factory) -> Path:
    """A folder that is like a built book with the page in it."""
    folder = tmp_path_factory.mktemp("book")
    scripts = folder / "_static" / "live"
    scripts.mkdir(parents=True)
    (scripts / "teach.js").write_text(live.teach_script(), "utf8")
    export.save_weights_script(scripts, *pretrained("everyday"), "everyday", 9)
    image = Synthetic("scenes", count=1, size=64, split="val")[0].image
    figure = teach_page({"a sample": image}).figure
    (folder / "page.html").write_text(widget_page(figure, 'data-content_root="./"'), "utf8")
    return folder


def begin(tab, address: str) -> None:
    tab.goto(address)
    tab.get_by_role("button", name="start", exact=True).click()
    tab.locator("section").first.wait_for(timeout=120_000)


def sheet(tab, count: int):
    tab.wait_for_function(f"document.querySelectorAll('.sheet li').length === {count}", timeout=60_000)
    return tab.locator(".sheet li > button")


def choose(tab, number: int) -> None:
    tab.locator(".sheet li > button").nth(number).click()
    tab.wait_for_function(f"{STATE}.project.images[{number}].width > 0")
    settle(tab)
    tab.wait_for_timeout(100)


def draw(tab, box: tuple[float, float, float, float]) -> None:
    tab.locator(".view svg").first.scroll_into_view_if_needed()
    frame = tab.locator(".view svg").first.bounding_box()
    x, y = (lambda v: frame["x"] + v * frame["width"]), (lambda v: frame["y"] + v * frame["height"])
    tab.mouse.move(x(box[0]), y(box[1]))
    tab.mouse.down()
    tab.mouse.move(x(box[2]), y(box[3]), steps=3)
    tab.mouse.up()


def wait_for(tab, words: str) -> None:
    test = f"/{words}|That did not work/.test(document.querySelector('.teaching > .readout').textContent)"
    tab.wait_for_function(test, timeout=300_000)
    assert "did not work" not in said(tab)


def download(tab, name: str) -> bytes:
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name=name).click()
    return Path(waiting.value.path()).read_bytes()


@pytest.fixture(scope="module")
def taught_tab(browser, teach_book, photographs):  # noqa: F811
    """The page after the whole loop: six images labelled, by pointer and by keyboard, and twenty steps."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = watched(context.new_page())
    begin(tab, f"{teach_book.as_uri()}/page.html")
    tab.locator("input[type=file][accept='image/*']").set_input_files(photographs)
    sheet(tab, IMAGES)
    for i in range(5):
        choose(tab, i)
        draw(tab, (0.2, 0.2, 0.6, 0.7))
    choose(tab, 5)
    tab.get_by_role("button", name="add a box").click()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight"):
        tab.keyboard.press(key)
    move(tab, "steps", 20)
    tab.get_by_role("button", name="train", exact=True).click()
    wait_for(tab, "Trained after 20 steps")
    yield tab
    assert not tab.complaints
    own = [url for url in tab.requests if not url.startswith(("blob:", "data:"))]
    assert all(url.startswith("file://") for url in own), "something left the page"
    context.close()


def test_boxes_are_where_they_were_drawn(taught_tab):
    images = taught_tab.evaluate(
        f"{STATE}.project.images.map(({{ objects, labelled }}) => [objects, labelled])"
    )
    assert [labelled for _, labelled in images] == [True] * 6 + [False]
    for objects, _ in images[:5]:
        np.testing.assert_allclose(objects[0]["box"], [0.2, 0.2, 0.6, 0.7], atol=0.01)
    np.testing.assert_allclose(images[5][0][0]["box"], [0.29, 0.29, 0.70, 0.69], atol=1e-6)


def test_it_learned_and_says_so(taught_tab):
    runs = taught_tab.evaluate(f"{STATE}.runs.map(({{ cls, box, images }}) => [cls, box, images])")
    (cls, box, images) = runs[0]
    assert images == 5  # every fifth labelled image is held out
    assert cls[-1][1] < 0.3 * cls[0][1]
    assert box[-1][1] < box[0][1]
    assert "1 held-out image" in said(taught_tab)
    assert "few" in taught_tab.locator("section ul").nth(2).text_content()
    assert taught_tab.locator(".pair figure").count() == 1


def test_a_suggestion_can_be_undone(taught_tab):
    choose(taught_tab, 6)
    taught_tab.get_by_role("button", name="suggest boxes").click()
    wait_for(taught_tab, "suggested")
    draw(taught_tab, (0.1, 0.1, 0.3, 0.3))
    boxes = f"{STATE}.project.images[6].objects.length"
    before = taught_tab.evaluate(boxes)
    taught_tab.get_by_role("button", name="undo").click()
    assert taught_tab.evaluate(boxes) == before - 1
    while taught_tab.evaluate(boxes):
        taught_tab.get_by_role("button", name="undo").click()


def test_the_zip_is_a_folder_that_the_package_reads(taught_tab, tmp_path):
    with zipfile.ZipFile(io.BytesIO(download(taught_tab, "save images and boxes"))) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    data = open_data(str(tmp_path), "all", size=300)
    assert tuple(data.classes) == ("object",)
    batch = load(data, workers=0)
    assert len(batch.images) == 6
    np.testing.assert_allclose(batch.boxes[0, 0], [0.2, 0.2, 0.6, 0.7], atol=0.01)


def test_the_weights_find_the_same_in_python(taught_tab, photographs, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(download(taught_tab, "save the weights"))
    model, _ = load_model(path)
    image = to_tensor(Image.open(photographs[0]), (300, 300))
    with torch.inference_mode():
        (mine,) = detect(*model(image[None]), model.anchors, score_threshold=0.05, iou_threshold=0.45)
    taught_tab.get_by_role("button", name="use what was learned").click()
    taught_tab.locator("button.sample").first.click()
    inner = 'document.querySelectorAll(".d2l-app")[1]'
    taught_tab.wait_for_function(f"{inner}.state?.().image", timeout=60_000)
    taught_tab.get_by_label("score at least").evaluate(
        "(e) => { e.value = 0.05; e.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    settle(taught_tab)
    theirs = taught_tab.evaluate(f"{inner}.state().result.found.map(({{ box, score }}) => [...box, score])")
    theirs = np.array(theirs).reshape(-1, 5)
    assert len(theirs) == len(mine.scores) > 0
    np.testing.assert_allclose(theirs[:, 4], mine.scores, atol=1e-3)
    np.testing.assert_allclose(theirs[:, :4], mine.boxes, atol=1e-3)


def test_the_saved_page_detects(taught_tab, browser, tmp_path):  # noqa: F811
    path = tmp_path / "mine.html"
    path.write_bytes(download(taught_tab, "save a page that detects"))
    tab = watched(browser.new_page())
    tab.goto(path.as_uri())
    image = tmp_path / "x.png"
    Image.new("RGB", (60, 40), "red").save(image)
    tab.locator("input[type=file]").set_input_files(image)
    tab.wait_for_function("/NMS/.test(document.querySelector('.readout').textContent)", timeout=60_000)
    assert not tab.complaints
    assert [url for url in tab.requests if not url.startswith(("blob:", "data:"))] == [path.as_uri()]
    tab.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_axe_finds_nothing(taught_tab, width):
    for scheme in ("light", "dark"):
        taught_tab.emulate_media(color_scheme=scheme)
        taught_tab.set_viewport_size({"width": width, "height": 900})
        settle(taught_tab)
        assert taught_tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not look.axe(taught_tab)


def test_work_survives_a_reload_and_deleting_it_does_not(taught_tab):
    taught_tab.wait_for_timeout(800)  # what changed is kept after a moment
    taught_tab.reload()
    begin(taught_tab, taught_tab.url)
    sheet(taught_tab, IMAGES)
    wait_for(taught_tab, "6 labelled")
    assert taught_tab.get_by_role("button", name="train further").is_enabled()
    taught_tab.get_by_role("button", name="delete all").click()
    wait_for(taught_tab, "Deleted")
    begin(taught_tab, taught_tab.url)
    assert taught_tab.locator(".sheet li").count() == 0


def test_a_zip_of_the_page_can_be_opened_again(browser, teach_book, photographs, tmp_path):  # noqa: F811
    coco = {
        "images": [{"id": 7, "file_name": "001-p0.png", "width": 256, "height": 256}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [64, 64, 128, 64]}],
        "categories": [{"id": 3, "name": "<!--<script>"}, {"id": 5, "name": "</script>"}],
    }
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(photographs[0], "train/001-p0.png")
        archive.write(photographs[1], "unlabelled/002-p1.png")
        archive.writestr("train/_annotations.coco.json", json.dumps(coco))
    context = browser.new_context()
    tab = watched(context.new_page())
    begin(tab, f"{teach_book.as_uri()}/page.html")
    tab.locator("input[accept='.zip']").set_input_files(path)
    sheet(tab, 2)
    project = tab.evaluate(
        "(({ project: { classes, images } }) => "
        "[classes, images.map((i) => [i.name, i.objects, i.labelled])])"
        f"({STATE})"
    )
    assert project[0] == ["<!--<script>", "</script>"]
    assert project[1][0] == ["p0.png", [{"box": [0.25, 0.25, 0.75, 0.5], "label": 0}], True]
    assert project[1][1] == ["p1.png", [], False]
    (tmp_path / "bad.zip").write_bytes(b"no zip at all, but long enough for its end to be looked for")
    tab.locator("input[accept='.zip']").set_input_files(tmp_path / "bad.zip")
    tab.wait_for_function("/no zip file/.test(document.querySelector('.teaching > .readout').textContent)")
    assert not tab.complaints
    context.close()


def test_turn_it_compares_settings_and_keeps_the_runs(browser, tmp_path):  # noqa: F811
    scripts = tmp_path / "_static" / "live"
    scripts.mkdir(parents=True)
    (scripts / "teach.js").write_text(live.teach_script(), "utf8")
    name, text = set_script()
    (scripts / name).write_text(text, "utf8")
    (tmp_path / "page.html").write_text(widget_page(turn_it().figure, 'data-content_root="./"'), "utf8")
    tab = watched(browser.new_page(viewport={"width": 390, "height": 844}))
    tab.goto(f"{(tmp_path / 'page.html').as_uri()}")
    tab.get_by_role("button", name="start", exact=True).click()
    tab.get_by_role("button", name="train both").wait_for(timeout=60_000)
    move(tab, "σ of smooth L1", 3)
    for _ in range(2):  # the second time both are known, to the last digit, and nothing is trained
        tab.get_by_role("button", name="train both").click()
        wait_for(tab, "the book.s: AP50 .*σ 3: AP50")
    assert tab.locator("table tr").count() == 3
    assert "one seed says nothing yet" in tab.locator(".d2l-app").text_content()
    tab.get_by_role("button", name="train both").click()
    tab.wait_for_timeout(100)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not look.axe(tab)
    assert not tab.complaints
    tab.close()
