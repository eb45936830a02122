"""Make d2lmini/weights/everyday.safetensors: SSD-MobileNetV2 out of an npm package (Apache-2.0).

    npm pack @mediapipe/objectron@0.4.1675468480
    pip install ai-edge-litert
    python tools/import_everyday.py mediapipe-objectron-0.4.1675468480.tgz [--check FOLDER]

The package holds the network as TensorFlow Lite: float16, batch normalization folded. Its convolutions are
copied in order; only the stem changes (our pixels are twice theirs) and the order of the four offsets.
The outputs are then compared with the original's on noise, drawn scenes and the images of FOLDER; those
of the first two are kept for the tests (tests/everyday.npz).
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor

from d2lmini import Predictions, TinySSD, decode, load_model
from d2lmini.anchors import SSD_ANCHORS
from d2lmini.checkpoint import WEIGHTS, ModelInfo, describe_model, model_tensors, save_tensors
from d2lmini.data import Synthetic
from d2lmini.data.files import IMAGE_SUFFIXES, files_below
from d2lmini.data.images import read_image, to_tensor
from d2lmini.mobilenet import Conv, SSDMobileNetV2

SOURCE = "https://www.npmjs.com/package/@mediapipe/objectron/v/0.4.1675468480"
MEMBER = "package/objectron_solution_packed_assets.data"
SHA256 = "470986ca5df183f41698da6de74b027d838fe289d77b5ab094497d350bee664e"
LABELS = 184  # bytes of the class names before the network, a line each; the first is background
SIZE = 300
RECORDED = Path(__file__).parents[1] / "tests" / "everyday.npz"
EVERY = 5  # anchors from one recorded one to the next
XY_FIRST = [1, 0, 3, 2]  # their offsets are y, x, height, width
LICENSE = WEIGHTS / "everyday.LICENSE.txt"
CHANGES = "written as safetensors; stem for pixels of twice the size; offsets ordered x, y, width, height"


class Original:
    """The network as TensorFlow Lite runs it."""

    def __init__(self, path: Path) -> None:
        kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # others hide the weights
        options = {"experimental_op_resolver_type": kind, "experimental_preserve_all_tensors": True}
        self.interpreter = Interpreter(str(path), num_threads=1, **options)
        self.interpreter.allocate_tensors()
        self.interpreter.invoke()

    def convolutions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights (outputs, inputs / groups, k, k) and biases, from the image to the coarsest map."""
        for op in self.interpreter._get_ops_details():
            if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                weight, bias = (torch.tensor(self.interpreter.get_tensor(i)) for i in op["inputs"][1:])
                depthwise = op["op_name"] != "CONV_2D"  # (1, k, k, outputs), else (outputs, k, k, inputs)
                yield weight.permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)), bias

    def __call__(self, image: Tensor) -> Predictions:
        """Logits (1, A, K + 1) and offsets (1, A, 4) of an image (3, H, W), uint8."""
        pixels = image.permute(1, 2, 0).unsqueeze(0).float() / 127.5 - 1
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], pixels.numpy())
        self.interpreter.invoke()
        details = self.interpreter.get_output_details()
        offsets, logits = (torch.tensor(self.interpreter.get_tensor(d["index"])) for d in details)
        return Predictions(logits, offsets[..., XY_FIRST])


@torch.no_grad()
def converted(original: Original, classes: int) -> TinySSD:
    """The same network as a TinySSD."""
    backbone = SSDMobileNetV2("tensorflow")
    model = TinySSD(classes, SIZE, SSD_ANCHORS, backbone, head_kernel=1, score_function="sigmoid")
    heads = [head for pair in zip(model.box_heads, model.class_heads, strict=True) for head in pair]
    body = [module for module in backbone.modules() if isinstance(module, Conv)]
    for weight, bias in original.convolutions():
        layers = heads if heads and heads[0].weight.shape == weight.shape else body
        layer = layers.pop(0)
        if layer.weight.shape != weight.shape:
            raise SystemExit(
                f"a filter of {tuple(weight.shape)} does not fit {layer}: not the network expected"
            )
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    backbone.backbone.stem[0].weight /= 2  # (p − 0.5) / 0.25 is twice (p − 0.5) / 0.5
    for head in model.box_heads:
        for parameter in head.parameters():
            parameter.copy_(parameter.unflatten(0, (-1, 4))[:, XY_FIRST].flatten(0, 1))
    return model.eval()


def read_package(path: Path) -> tuple[list[str], bytes]:
    """Class names and network of the npm package; ends with a message where its content is another."""
    with tarfile.open(path) as archive:
        data = archive.extractfile(MEMBER).read()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{path}: {MEMBER} is not the file of {SOURCE} (its SHA-256 differs)")
    return data[:LABELS].decode().split("\n")[1:-1], data[LABELS:]


def images(folder: Path | None) -> Iterator[tuple[str, Tensor]]:
    """Noise, drawn scenes and the images of a folder, each (3, 300, 300), uint8."""
    generator = torch.Generator().manual_seed(0)
    for i in range(2):
        yield f"noise {i}", torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    for i, sample in enumerate(Synthetic("scenes", count=2, size=SIZE, split="val")):
        yield f"scene {i}", sample.image
    for path in files_below(folder, IMAGE_SUFFIXES) if folder else ():
        yield str(path), to_tensor(read_image(path), (SIZE, SIZE), "stretch")


@torch.no_grad()
def compare(original: Original, model: TinySSD, folder: Path | None) -> dict[str, np.ndarray]:
    """Print the largest differences of raw outputs and of boxes in pixels; returns what tests shall keep."""
    record, gaps = {}, []
    for name, image in images(folder):
        theirs, ours = original(image), model(image.unsqueeze(0))
        raw = max((a - b).abs().max().item() for a, b in zip(theirs, ours, strict=True))
        boxes = [decode(model.anchors, p.offsets) for p in (theirs, ours)]
        gaps.append((raw, SIZE * (boxes[0] - boxes[1]).abs().max().item(), name))
        if name.startswith(("noise", "scene")):
            values = torch.cat([theirs.logits, theirs.offsets], dim=-1)[0, ::EVERY]
            record[name] = values.numpy()
    for value, unit in ((0, "in raw outputs"), (1, "pixels in boxes")):
        worst = max(gaps, key=lambda gap: gap[value])
        print(f"{len(gaps)} images: at most {worst[value]:.1e} {unit} ({worst[2]})")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    classes, network = read_package(options.package)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        path.write_bytes(network)
        original = Original(path)
        model = converted(original, len(classes))
        notes = {"source": SOURCE, "sha256": SHA256, "license": "Apache-2.0", "changes": CHANGES}
        notes["license_text"] = LICENSE.read_text("utf8")
        tensors = {name: tensor.half() for name, tensor in model_tensors(model).items()}
        record = {"model": describe_model(model, ModelInfo(tuple(classes), notes))}
        save_tensors(WEIGHTS / "everyday.safetensors", tensors, record)
        loaded, _ = load_model(WEIGHTS / "everyday.safetensors")
        np.savez_compressed(RECORDED, **compare(original, loaded, options.check))


if __name__ == "__main__":
    main()
