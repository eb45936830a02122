"""What a data set yields: one image with its boxes, and a batch of them with padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_LABEL = -1


class Sample(NamedTuple):
    """One annotated image, uint8 (3, H, W) in RGB order, and its G objects; G may be 0.

    `boxes` is float32 (G, 4), corners normalized to [0, 1]; `labels` is int64 (G,), class ids from 0.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor


class GroundTruth(NamedTuple):
    """The objects of N images: `boxes` float32 (N, G, 4) and `labels` int64 (N, G), padded with label -1."""

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> GroundTruth:
        """The same on another device."""
        return GroundTruth(*(t.to(device) for t in self))


class Batch(NamedTuple):
    """N annotated images of one size, uint8 (N, 3, H, W), with objects padded as in `GroundTruth`."""

    images: Tensor
    boxes: Tensor
    labels: Tensor

    @property
    def ground_truth(self) -> GroundTruth:
        """The boxes and labels without the images."""
        return GroundTruth(self.boxes, self.labels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(*(t.to(device, non_blocking=non_blocking) for t in self))

    def select(self, index: slice | Tensor) -> Batch:
        """The chosen images as a batch of their own."""
        return Batch(*(t[index] for t in self))

    def sample(self, index: int) -> Sample:
        """One image with its own objects only."""
        real = self.labels[index] >= 0
        return Sample(self.images[index], self.boxes[index][real], self.labels[index][real])


Part = TypeVar("Part", Batch, GroundTruth)


def pad_objects(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], max_objects: int | None = None
) -> GroundTruth:
    """Stack the objects of images, boxes (G_i, 4) and labels (G_i,), to boxes (N, G, 4) and labels (N, G).

    G is the largest number of objects, or `max_objects`; at least 1. Padding has label -1 and box 0. Raises
    ValueError naming the image that has more than `max_objects`, or whose boxes and labels do not fit.
    """
    most = max((len(b) for b in labels), default=0) if max_objects is None else max_objects
    padded_boxes = torch.zeros(len(boxes), max(1, most), 4)  # (N, G, 4)
    padded_labels = torch.full(padded_boxes.shape[:2], PADDING_LABEL)  # (N, G)
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        count, has = len(label), f"image {i} of the batch has"
        if box.shape != (count, 4):
            has += f" boxes {tuple(box.shape)} for {count} labels"
            raise ValueError(f"{has}: give one row of four for each")
        if count > most:
            has += f" {count} objects, but max_objects is {most}"
            raise ValueError(f"{has}: raise max_objects or leave it out")
        padded_boxes[i, :count], padded_labels[i, :count] = box, label
    return GroundTruth(padded_boxes, padded_labels)


def collate(samples: Sequence[Sample], max_objects: int | None = None) -> Batch:
    """Stack samples into a `Batch`; ValueError for none, for sizes that differ, and as `pad_objects`."""
    if not samples:
        raise ValueError("cannot collate an empty list of samples")
    shapes = [tuple(sample.image.shape) for sample in samples]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            sizes = f"{shape}, the first is {shapes[0]}"
            raise ValueError(f"image {i} of the batch is {sizes}: resize all images to one size first")
    truth = pad_objects([s.boxes for s in samples], [s.labels for s in samples], max_objects)
    return Batch(torch.stack([s.image for s in samples]), *truth)


def concatenate(parts: Sequence[Part]) -> Part:
    """Several batches of one image size, or the ground truths of several, as one, padded as far as needed."""
    if not parts:
        raise ValueError("cannot concatenate an empty list of batches: the data set has no images")
    width = max(part.labels.shape[1] for part in parts)
    padded = []
    for part in parts:
        more = width - part.labels.shape[1]
        labels = F.pad(part.labels, (0, more), value=PADDING_LABEL)
        padded.append(part._replace(boxes=F.pad(part.boxes, (0, 0, 0, more)), labels=labels))
    return type(parts[0])(*map(torch.cat, zip(*padded, strict=True)))
