"""Names of classes in any script: drawn in a font that has them, else escaped, never a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from d2lmini import plots
from d2lmini.data import Sample
from d2lmini.detect import Detections
from d2lmini.plots import fonts

CAT = "猫"


@pytest.fixture
def only_fonts(monkeypatch):
    """A machine with the usual font and those given."""

    def install(*paths: Path) -> None:
        entries = [font_manager.FontEntry(str(p), "Test Sans", "normal", "normal", 400) for p in paths]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
        fonts.font_file.cache_clear()

    usual = fonts.usual_font()
    monkeypatch.setattr(fonts, "usual_font", lambda: usual)
    yield install
    fonts.font_file.cache_clear()


@pytest.fixture
def cat_font(tmp_path) -> Path:
    """A font whose only characters are a space and a cat, as a full black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs = {".notdef": TTGlyphPen(None).glyph(), "space": TTGlyphPen(None).glyph(), "cat": pen.glyph()}
    build = FontBuilder(1000, isTTF=True)
    build.setupGlyphOrder(list(glyphs))
    build.setupCharacterMap({32: "space", ord(CAT): "cat"})
    build.setupGlyf(glyphs)
    build.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    build.setupHorizontalHeader(ascent=900, descent=-100)
    build.setupNameTable({"familyName": "Test Sans", "styleName": "Regular"})
    build.setupOS2()
    build.setupPost()
    build.save(tmp_path / "cat.ttf")
    return tmp_path / "cat.ttf"


def test_what_a_font_has_is_drawn_and_the_rest_escaped(only_fonts, cat_font, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    only_fonts(tmp_path / "broken.ttf", cat_font)
    assert fonts.drawable(CAT) == CAT
    assert fonts.font_file(CAT) == str(cat_font)
    assert fonts.drawable("猫 犬 cat\x1b") == "\\u732b \\u72ac cat\\x1b"  # no font has all of them
    assert fonts.font_file("σ é Я") == fonts.usual_font()
    only_fonts()
    assert fonts.drawable(CAT) == "\\u732b"


NAMES = ("猫", "قط", "😀", "a\x07b\x1b[31m", "_hidden", "$x$", "\ud800", "два слова", "x\u202ey")


def drawings(names: tuple[str, ...]) -> list[bytes]:
    """Every drawing that writes names of classes, as bytes."""
    boxes = torch.rand(len(names), 2, 2).sort(1).values.flatten(1)
    labels = torch.arange(len(names))
    sample = Sample(torch.zeros(3, 200, 200, dtype=torch.uint8), boxes, labels)
    found = Detections(boxes, torch.ones(len(names)), labels)
    plain = plots.annotate(Image.new("RGB", (400, 300)), found, names)
    figures = [
        plots.draw_image(sample.image, boxes=boxes, labels=labels, classes=names),
        plots.contact_sheet([sample], names),
        plots.contact_sheet([sample], names, detections=[found]),
        plots.plot_precision_recall([0.5], [0.5], label=" ".join(names)),
    ]
    return [figure._repr_png_() for figure in figures] + [plain.tobytes()]


def test_no_name_makes_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(drawings(NAMES))


def test_a_name_is_drawn_in_the_font_that_has_it(only_fonts, cat_font):
    """The cat of the test's font is a square: much black, where escaped letters leave most of a tag free."""
    image, box = (
        Image.new("RGB", (400, 300)),
        Detections(*map(torch.tensor, ([[0.1, 0.4, 0.9, 0.9]], [0.5], [0]))),
    )
    drawn = []
    for installed in ((cat_font,), ()):
        only_fonts(*installed)
        drawn.append(np.asarray(plots.annotate(image, box, (CAT,))))
    assert not np.array_equal(*drawn)
    only_fonts(cat_font)
    sheet = plots.contact_sheet(
        [Sample(torch.zeros(3, 64, 64, dtype=torch.uint8), box.boxes, box.labels)], (CAT, "b")
    )
    (text,) = sheet.legends[0].get_texts()
    assert (text.get_text(), text.get_fontproperties().get_file()) == (CAT, str(cat_font))
