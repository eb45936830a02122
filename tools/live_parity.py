"""Does the live page find what Python finds? Images of every kind through both, and what differs.

    python -m tools.live_parity [--count 300] [--engine simd] [--resize-mode letterbox]

Each image is a file that a reader might drop into the page: generated scenes as PNG, JPEG, WebP or GIF, of
odd sizes, turned by EXIF, with alpha, grey, with a palette, CMYK, animated. Python reads it by `read_image`,
the page with the browser's own decoder; then come the same network and the same NMS. Needs Chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from d2lmini import detect, pretrained
from d2lmini.data import Synthetic
from d2lmini.data.images import RESIZE_MODES, read_image, to_tensor
from d2lmini.interop.export import inference_model, save_page
from tools.look import CHROMIUM, NO_CHROMIUM, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIDES = ((256, 256), (640, 480), (333, 500), (1024, 97), (61, 300), (1600, 1201), (255, 257), (97, 1024))
SCORE, IOU = 0.5, 0.45  # where the page's sliders stand at first
PLAIN = "WebAssembly.instantiate = () => Promise.reject(new Error('refused'))"
NO_WORKER = "delete globalThis.Worker"
FOUND = """() => {
  const { image, answers, result, engine } = document.querySelector(".d2l-app").state();
  const packed = (array) => {
    let text = "";
    for (const byte of new Uint8Array(array.buffer)) text += String.fromCharCode(byte);
    return btoa(text);
  };
  return {
    engine, ms: answers.ms, size: [image.width, image.height],
    rgba: packed(image.rgba), logits: packed(answers.logits), offsets: packed(answers.offsets),
    found: result.found.map(({ box, score, label }) => [...box, score, label]),
  };
}"""
READ = """(name) => {
  const app = document.querySelector(".d2l-app"), said = app.dataset.state;
  return app.state?.().image?.name === name || (said.startsWith(`${name}: `) && !said.includes("looking"));
}"""


# ---------------------------------------------------------------- images of every kind


def files(count: int, folder: Path) -> Iterator[Path]:
    """Write `count` images, each of another kind than the one before; yield their paths."""
    scenes = Synthetic("scenes", count=count, size=256, split="val")
    kinds = list(KINDS)
    for i in range(count):
        pixels = Image.fromarray(scenes[i].image.permute(1, 2, 0).numpy())
        kind = kinds[i % len(kinds)]
        width, height = SIDES[(i // len(kinds)) % len(SIDES)]
        image = pixels.resize((width, height), Image.Resampling.LANCZOS)
        suffix, data = KINDS[kind](image, i)
        path = folder / f"{i:03}-{kind}.{suffix}"
        path.write_bytes(data)
        yield path


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(image: Image.Image, number: int) -> bytes:
    """With an EXIF orientation from 1 to 8."""
    exif = Image.Exif()
    exif[0x0112] = number % 8 + 1
    return saved(image, "JPEG", quality=90, exif=exif)


def see_through(image: Image.Image) -> Image.Image:
    """With alpha that falls from the left to the right, and a hole."""
    alpha = np.tile(np.linspace(255, 60, image.width).astype(np.uint8), (image.height, 1))
    alpha[: image.height // 4, : image.width // 4] = 0
    result = image.convert("RGBA")
    result.putalpha(Image.fromarray(alpha))
    return result


def deep(image: Image.Image) -> Image.Image:
    """Grey in 16 bits."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


KINDS = {
    "png": lambda p, i: ("png", saved(p, "PNG")),
    "jpeg": lambda p, i: ("jpg", saved(p, "JPEG", quality=85)),
    "jpeg-444": lambda p, i: ("jpg", saved(p, "JPEG", quality=95, subsampling=0)),
    "progressive": lambda p, i: ("jpg", saved(p, "JPEG", quality=80, progressive=True)),
    "exif": lambda p, i: ("jpg", turned(p, i // len(KINDS))),
    "alpha": lambda p, i: ("png", saved(see_through(p), "PNG")),
    "grey": lambda p, i: ("png", saved(p.convert("L"), "PNG")),
    "grey-jpeg": lambda p, i: ("jpg", saved(p.convert("L"), "JPEG", quality=85)),
    "grey-alpha": lambda p, i: ("png", saved(see_through(p).convert("LA"), "PNG")),
    "grey-16": lambda p, i: ("png", saved(deep(p), "PNG")),
    "palette": lambda p, i: ("png", saved(p.quantize(64), "PNG")),
    "one-bit": lambda p, i: ("png", saved(p.convert("1"), "PNG")),
    "gif": lambda p, i: ("gif", saved(p, "GIF")),
    "animated": lambda p, i: (
        "gif",
        saved(p, "GIF", save_all=True, append_images=[p.rotate(90), p.rotate(180)], duration=50),
    ),
    "webp": lambda p, i: ("webp", saved(p, "WEBP", quality=90)),
    "webp-lossless": lambda p, i: ("webp", saved(see_through(p), "WEBP", lossless=True)),
    "cmyk": lambda p, i: ("jpg", saved(p.convert("CMYK"), "JPEG", quality=90)),
    "bmp": lambda p, i: ("bmp", saved(p, "BMP")),
}


# ---------------------------------------------------------------- both, and what differs


class Outcome(NamedTuple):
    """How far the page is from Python on one file: levels of pixels; logits and offsets on the page's own
    pixels; whether the lists of detections are the same, on the page's pixels and from file to box."""

    kind: str
    pixels: int
    logits: float
    same_engine: bool
    same: bool
    ms: float
    engine: str


class Checker:
    """Python's side: the network that the page holds, and how images get into its square."""

    def __init__(self, resize_mode: str = "stretch") -> None:
        self.model, info = pretrained("scenes")
        self.info = replace(info, resize_mode=resize_mode)
        self.small = inference_model(self.model)

    def boxes(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Logits and offsets side by side (A, K + 5), and detections (D, 6) for pixels (3, H, W)."""
        with torch.inference_mode():
            answers = self.small(pixels[None])
        (found,) = detect(*answers, self.small.anchors, score_threshold=SCORE, iou_threshold=IOU)
        rows = torch.cat([found.boxes, found.scores[:, None], found.labels[:, None]], 1)
        return torch.cat(answers, -1)[0].numpy(), rows.numpy()

    def compare(self, tab: Page, path: Path) -> Outcome:
        """Give a file to the page, and to Python."""
        tab.locator("input[type=file]").set_input_files(path)
        tab.wait_for_function(READ, arg=path.name, timeout=60_000)
        if (said := tab.locator(".readout").text_content() or "").startswith(f"{path.name}: your browser"):
            raise ValueError(said)
        seen = tab.evaluate(FOUND)
        height, width = self.small.image_size
        raw = np.frombuffer(base64.b64decode(seen["rgba"]), np.uint8).reshape(height, width, 4)[..., :3]
        theirs = torch.from_numpy(raw.copy()).permute(2, 0, 1)
        mine = to_tensor(read_image(path), (height, width), self.info.resize_mode)
        answers, engine_rows = self.boxes(theirs)
        count = len(answers)
        parts = [
            np.frombuffer(base64.b64decode(seen[k]), "<f4").reshape(count, -1) for k in ("logits", "offsets")
        ]
        rows = np.array(seen["found"], np.float64).reshape(-1, 6)
        return Outcome(
            path.stem.partition("-")[2],
            int((theirs.int() - mine.int()).abs().max()),
            float(np.abs(np.concatenate(parts, 1) - answers).max()),
            alike(rows, engine_rows),
            alike(rows, self.boxes(mine)[1]),
            seen["ms"],
            seen["engine"],
        )


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two lists of detections are the same: classes in order, boxes and scores to 0.002."""
    if len(a) != len(b) or (a[:, 5] != b[:, 5]).any():
        return False
    return bool(np.allclose(a[:, :5], b[:, :5], rtol=0, atol=0.002))


def main() -> int:
    """Compare and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--engine", choices=("simd", "plain", "no-worker"), default="simd")
    parser.add_argument("--resize-mode", choices=RESIZE_MODES, default="stretch")
    options = parser.parse_args()
    if CHROMIUM is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    checker, outcomes = Checker(options.resize_mode), []
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        page = Path(name, "page.html")
        save_page(page, checker.model, checker.info)
        tab = open_page(browser, page.as_uri(), options.engine)
        for path in files(options.count, Path(name)):
            outcomes.append(checker.compare(tab, path))
    report(outcomes)
    return 0 if np.mean([o.same for o in outcomes]) >= 0.99 else 1


def open_page(browser: Any, address: str, engine: str = "simd") -> Page:
    """A tab with a live page, whose engine is refused what it would rather use."""
    tab = browser.new_page()
    refuse = {"simd": "", "plain": NO_WORKER + ";" + PLAIN, "no-worker": NO_WORKER}[engine]
    tab.add_init_script(refuse)
    tab.goto(address)
    tab.locator(".d2l-app").wait_for()
    return tab


def report(outcomes: list[Outcome]) -> None:
    """Print what differs, by kind and altogether."""
    for kind in dict.fromkeys(o.kind for o in outcomes):
        some = [o for o in outcomes if o.kind == kind]
        print(
            f"{kind:14} {len(some):3} files  pixels ≤ {max(o.pixels for o in some):3}  "
            f"logits ≤ {max(o.logits for o in some):.1e}  same {sum(o.same for o in some)}"
        )
    same, engine = (sum(getattr(o, name) for o in outcomes) for name in ("same", "same_engine"))
    middle = np.median([o.ms for o in outcomes])
    far = max(o.logits for o in outcomes)
    print(
        f"{len(outcomes)} files, {outcomes[0].engine}: the same detections from file to box in {same}, on the"
    )
    print(f"page's own pixels in {engine}; logits within {far:.1e}; {middle:.0f} ms an image")


if __name__ == "__main__":
    started = time.perf_counter()
    code = main()
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(code)
