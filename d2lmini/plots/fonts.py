"""A font for any text: the usual one, else one of this machine that has its signs; else these are escaped."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from d2lmini.data.output import visible


def drawable(text: str) -> str:
    r"""Text as it can be drawn, on one line: control characters, and what no font has, are escaped.

    >>> drawable("a \x07\n b\U0010fffd")
    'a \\x07 b\\U0010fffd'
    """
    text = visible(" ".join(text.split()))
    if font_file(text) is not None:
        return text
    known = characters(usual_font())
    return "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in text)


@cache
def font_file(text: str) -> str | None:
    """The first font file that has all characters of a text, the usual one if it does; None without any."""
    needed = {ord(c) for c in text}
    if needed <= characters(usual_font()):
        return usual_font()
    fonts = [
        f for f in font_manager.fontManager.ttflist if f.style == "normal" and f.weight in (400, "normal")
    ]
    fonts.sort(key=lambda font: "Sans" not in font.name)
    return next((font.fname for font in fonts if needed <= characters(font.fname)), None)


def usual_font() -> str:
    """The file of the font that matplotlib takes."""
    return font_manager.findfont(font_manager.FontProperties())


@cache
def characters(path: str) -> frozenset[int]:
    """What a font has: nothing if it only has frames, or colored bitmaps that no size fits."""
    try:
        font = FT2Font(path)
        font.set_size(10, 72)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset() if "Last Resort" in font.family_name else frozenset(font.get_charmap())


def fit_font(text: Text) -> None:
    """Give a text of a figure a font that has its characters."""
    path = font_file(text.get_text())
    if path not in (None, usual_font()):
        font = text.get_fontproperties().copy()
        font.set_file(path)
        text.set_fontproperties(font)
