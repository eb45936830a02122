"""What can be said on the command line, and the parser for it."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, HelpFormatter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args, get_type_hints

from d2lmini import losses, train, transfer
from d2lmini.data.images import RESIZE_MODES
from d2lmini.data.splits import SPLITS
from d2lmini.detect import SOFT_NMS, DetectConfig
from d2lmini.engine.devices import PRECISIONS
from d2lmini.losses import LossConfig
from d2lmini.train import TrainConfig

# A line for each option: the commands that have it (train, evaluate, detect, data, export, doctor), its name
# and METAVAR (a flag has none), =default, and help. One that sets a field of a configuration has the type,
# the choices and the default of the field; for `train` the default is that of the data's recipe.
OPTIONS = """
  d    images IMAGE...          image files, or folders of them
     o folder FOLDER            annotated images
   a   data DATA=bananas        bananas, scenes, d2l-bananas or a folder
 e  x  --model FILE=runs/bananas/best.safetensors  checkpoint, everyday, scenes
  d    --model FILE=everyday    a checkpoint, or everyday or scenes
t      --out FOLDER             where checkpoints and images go (required)
  d    --out FOLDER=detections  where PNG and JSON files go
  d    --coco FILE              all detections in one file, as COCO's results (JSON)
   a   --out FILE=data.png      the contact sheet
     o --out FILE=doctor.png    a contact sheet of the boxes that look wrong
    x  --out FOLDER             inference checkpoint and weights script (export)
t      --resume                 go on with the run in --out, if there is one
 e     --compare FILE...        two checkpoints: which is better, and on which images
 e     --predictions FILE       score these instead: COCO's results (JSON), of any detector
 e     --suspects               instead: which labels may be wrong (no model needed; minutes)
 e     --out FOLDER             where images go: confusion matrix, calibration, comparison, suspects
 e   o --json FILE              where to write all numbers
  d    --skip-bad               go on where an image cannot be read
   a   --convert FORM OUT       write a folder anew as voc, coco or yolo: OUT must be new
   a   --anchors                report which anchors fit the objects, and how well
    x  --page FILE              one HTML file that holds the detector, ready to use
    x  --onnx FILE              an ONNX file, boxes decoded, without NMS
te   o --quiet                  no progress bars
data:
te     --data DATA=bananas      bananas, scenes, d2l-bananas or a folder
    x  --data DATA              data whose first images --page shows
 e  x  --split NAME=val         which images
   a   --split NAME=train       which images
te axo --data-seed N            of generated images, or of how a folder is divided
t      --count COUNT            generated training images
 e     --count COUNT            generated images (200)
    x  --count COUNT=4          images to begin a page with
   a   --count COUNT=40         images on the sheet
t      --validation-count COUNT  generated validation images (200)
t      --size PIXELS            side of the images
   a   --size PIXELS            side of the images (256, of a folder 300)
     o --size PIXELS            side of the images (300)
t  a   --resize-mode NAME       how images become square
te     --stream                 read images while they are used, even if they fit in memory
te     --workers N              threads that read images (one a core)
folders:
te axo --val-fraction X         of the images are for validation, chosen at random (0.2)
te axo --train-list FILE        the images for training, one a line
te axo --val-list FILE          the images for validation, one a line
t  a o --classes NAME...        in the order of their labels (all, sorted)
te axo --difficult              keep objects marked as difficult or crowd
te ax  --skip-bad               leave out what is faulty, and say so
recipe (what is not given depends on the data):
t      --epochs N               passes over the training images (everyday: like --finetune)
t      --batch-size N           images a step
t      --optimizer NAME         how weights are updated
t      --lr X                   peak learning rate
t      --weight-decay X         of convolutions
t      --eval-every N           epochs from one validation to the next
t      --patience N             stop after so many validations without a better AP
t      --seed N                 of weights, order and augmentation
t      --no-augment             images as they are
t      --cls NAME               class loss
t      --box NAME               box loss
t      --sigma X                σ of smooth L1
t      --gamma X                γ of focal loss
t      --alpha X                α of focal loss: weight of the foreground
t      --negatives X            hard negatives per positive
t      --all-negatives          no hard-negative mining
t      --cls-weight X           weight of the class loss
t      --box-weight X           weight of the box loss
network:
t      --start NAME             pretrained backbone (for folders everyday)
t      --views N=10             everyday: views of an image for its head
t      --finetune N             everyday: epochs of all weights, or 0
t      --learning-curve         everyday: AP of 10, 20, 50, 100 and all images, and of twice as many
t      --backbone NAME          a network of timm as backbone
t      --backbone-weights FILE  its weights as safetensors (random)
t      --fixed-anchors          for folders: the recipe's anchors, not suggested ones
detection:
 ed    --nms-iou X              NMS removes boxes that overlap a better one more
 ed    --soft NAME              Soft-NMS instead of NMS
 ed    --class-agnostic         NMS between boxes of all classes
 e     --match-iou X=0.5        least IoU of a positive anchor, for D2L's two numbers
 e     --score X=0.4            least score of a detection among the counted errors
  d    --score X=0.4            least score of a detection
device:
ted    --device NAME            auto, cpu, cuda or mps
te     --precision NAME         of convolutions
  d    --precision NAME=float32  as web pages compute
t      --compile                the network through torch.compile
t      --graph                  record a step as a CUDA graph and replay it
t      --deterministic          equal bits in every run on one device; slower on a GPU
t      --sync-batch-norm        normalize by the batches of all processes of torchrun
"""
CONFIGS = (TrainConfig, LossConfig, DetectConfig)
HINTS = {name: hint for config in CONFIGS for name, hint in get_type_hints(config).items()}
CHOICES = {"optimizer": train.OPTIMIZERS, "precision": PRECISIONS, "resize_mode": RESIZE_MODES}
CHOICES |= {"soft": SOFT_NMS, "start": transfer.STARTS, "split": (*SPLITS, "all"), **losses.CHOICES}
FLAGS = {"--no-augment": ("augment", None), "--all-negatives": ("negatives", None)}
FLAGS |= {"--class-agnostic": ("class_aware", False)}  # fields, and what these options set them to


def _whole(least: int, text: str) -> int:
    """A whole number, for argparse."""
    if not text.isdecimal() or int(text) < least:
        raise ArgumentTypeError(f"{text} is not a whole number from {least}")
    return int(text)


_count, _number = partial(_whole, 1), partial(_whole, 0)
TYPES = {"COUNT": _count, "PIXELS": _count, "N": _number, "X": float}  # where no field says; else text
USAGE = {"train": "--out FOLDER ", "detect": "IMAGE ... ", "data": "[DATA] ", "doctor": "FOLDER "}


def make_parser(commands: Mapping[str, Callable]) -> ArgumentParser:
    """The whole command line; `commands`, in the order of the table, are described by their docstrings."""
    parser = ArgumentParser(
        prog="d2lmini",
        usage="%(prog)s COMMAND [options]",
        description="Train, score and use a single-shot object detector.",
        epilog="d2lmini COMMAND --help lists the options of a command.",
    )
    parsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for column, (name, run) in enumerate(commands.items()):
        about, usage = run.__doc__.partition("\n")[0], f"d2lmini {name} {USAGE.get(name, '')}[options]"
        group = command = parsers.add_parser(
            name, prog=f"d2lmini {name}", usage=usage, help=about, description=about
        )
        command.formatter_class = lambda prog: HelpFormatter(prog, max_help_position=30)
        command.set_defaults(run=run)
        for line in OPTIONS.strip("\n").splitlines():
            if line.endswith(":"):
                group = command.add_argument_group(line[:-1])
            elif line[column] != " ":
                _add_option(group, *re.split("  +", line[7:], maxsplit=1), recipe=name == "train")
    return parser


def _add_option(group: Any, option: str, text: str, recipe: bool) -> None:
    """One option, as its line in the table says; if it is not given, one that changes a recipe is absent."""
    name, _, value = option.partition(" ")
    metavar, _, default = value.partition("=")
    dest, const = FLAGS.get(name, (name.strip("-").replace("-", "_"), True))
    dest = "iou_threshold" if name == "--nms-iou" else dest
    hint = HINTS.get(dest)
    if not metavar:
        absent = name in FLAGS or (recipe and hint)
        more = {"action": "store_const", "const": const, "default": SUPPRESS if absent else False}
    else:
        kinds = (hint, *get_args(hint)) if hint and metavar != "N" else (TYPES.get(metavar, str),)
        usual = vars(DetectConfig).get(dest, vars(TrainConfig).get(dest)) if hint else None
        words = tuple(metavar.strip(".").split())
        more = {"metavar": words if len(words) > 1 else words[0], "choices": CHOICES.get(dest)}
        more |= {"nargs": len(words)} if len(words) > 1 else {}
        more["type"] = next((kind for kind in (int, float, str) if kind in kinds), kinds[0])
        more["default"] = default or (SUPPRESS if recipe and hint else usual)
        text += f": {', '.join(more['choices'])}" if more["choices"] else ""
        text += "" if more["default"] in (None, SUPPRESS) else " (default: %(default)s)"
    if name.startswith("-"):
        more |= {"dest": dest, "required": text.endswith("(required)")}
    if metavar.endswith("...") or not name.startswith("-"):
        more["nargs"] = "+" if metavar.endswith("...") else "?" if default else None
    group.add_argument(name, help=text, **more)
