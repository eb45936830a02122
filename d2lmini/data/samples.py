"""What a data set yields: one picture with its boxes, and a batch of them with padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PADDING_LABEL = -1


class Sample(NamedTuple):
    """One annotated picture.

    `image` is uint8 (3, H, W) in RGB order; `boxes` is float32 (G, 4), corners normalised to
    [0, 1]; `labels` is int64 (G,), class ids from 0. G may be 0: a picture without objects is legal.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """N annotated pictures of one size.

    `images` is uint8 (N, 3, H, W); `boxes` is float32 (N, G, 4); `labels` is int64 (N, G), with -1 on
    the rows that only fill up to the picture with the most objects.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(*(t.to(device, non_blocking=non_blocking) for t in self))

    def select(self, index: slice | Tensor) -> Batch:
        """The chosen pictures as a batch of their own.

        >>> one = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0))
        >>> collate([one, one, one]).select(slice(1, None)).images.shape
        torch.Size([2, 3, 8, 8])
        """
        return Batch(*(t[index] for t in self))

    def sample(self, index: int) -> Sample:
        """One picture with its own objects only."""
        real = self.labels[index] >= 0
        return Sample(self.images[index], self.boxes[index][real], self.labels[index][real])


def pad_objects(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], max_objects: int | None = None
) -> tuple[Tensor, Tensor]:
    """Stack annotations of different lengths: boxes (N, G, 4) and labels (N, G) with -1 as padding.

    G is the largest number of objects, or `max_objects`; at least 1, so that no shape is empty.
    Raises ValueError naming the picture that holds more than `max_objects`, or whose boxes and labels
    are not as many.
    """
    most = max((len(b) for b in labels), default=0) if max_objects is None else max_objects
    width = max(1, most)
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        if box.shape != (len(label), 4):
            raise ValueError(
                f"picture {i} of the batch has boxes {tuple(box.shape)} for {len(label)} labels: "
                "give one row of four for each"
            )
        if len(label) > most:
            raise ValueError(
                f"picture {i} of the batch has {len(label)} objects, but max_objects is {most}: "
                "raise max_objects or leave it out"
            )
    padded_boxes = torch.zeros(len(boxes), width, 4)  # (N, G, 4)
    padded_labels = torch.full((len(labels), width), PADDING_LABEL, dtype=torch.int64)  # (N, G)
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        padded_boxes[i, : len(label)] = box
        padded_labels[i, : len(label)] = label
    return padded_boxes, padded_labels


def collate(samples: Sequence[Sample], max_objects: int | None = None) -> Batch:
    """Stack samples of one size into a `Batch`, padding their objects with label -1.

    Raises ValueError when the list is empty, when pictures differ in size, or when one holds more
    objects than `max_objects`.
    """
    if not samples:
        raise ValueError("cannot collate an empty list of samples")
    shape = samples[0].image.shape
    for i, sample in enumerate(samples):
        if sample.image.shape != shape:
            raise ValueError(
                f"picture {i} of the batch is {tuple(sample.image.shape)}, the first is "
                f"{tuple(shape)}: resize all pictures to one size first"
            )
    boxes, labels = pad_objects([s.boxes for s in samples], [s.labels for s in samples], max_objects)
    return Batch(torch.stack([s.image for s in samples]), boxes, labels)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Several batches of one picture size as one, padded to the most objects of any."""
    if not batches:
        raise ValueError("cannot concatenate an empty list of batches: the data set has no pictures")
    width = max(b.labels.shape[1] for b in batches)
    labels = [
        torch.nn.functional.pad(b.labels, (0, width - b.labels.shape[1]), value=PADDING_LABEL)
        for b in batches
    ]
    boxes = [torch.nn.functional.pad(b.boxes, (0, 0, 0, width - b.boxes.shape[1])) for b in batches]
    return Batch(torch.cat([b.images for b in batches]), torch.cat(boxes), torch.cat(labels))
