"""What was found in an image, and the same in the words of other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first: `boxes` (D, 4) corners in [0, 1], `scores` (D,),
    `labels` (D,) class ids from 0 (background is not counted).

    As in a data frame, `len`, masks, slices and indices are those of rows, and iterating gives the columns;
    `+` merges two, best first. Sizes of images are (height, width) in pixels.

    >>> scores, labels = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0, 1, 0])
    >>> found = Detections(torch.rand(3, 4), scores, labels)
    >>> len(found), len(found[labels == 0]), len(found + found[0])
    (3, 2, 4)
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.boxes, self.scores, self.labels))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence | Tensor) -> Detections:
        if isinstance(index, int):
            index = [range(len(self))[index]]  # raises IndexError
        return Detections(*(column[index] for column in self))

    def __add__(self, other: Detections) -> Detections:
        return Detections(*map(torch.cat, zip(self, other, strict=True))).best_first()

    def at_least(self, score: float) -> Detections:
        """Only those with at least this score."""
        return self[self.scores >= score]

    def best_first(self) -> Detections:
        """Sorted by falling score; equal ones keep their order."""
        return self[self.scores.argsort(descending=True, stable=True)]

    def in_pixels(self, size: tuple[int, int]) -> Tensor:
        """The corners (D, 4) in pixels of an image of this size."""
        return self.boxes * self.boxes.new_tensor([*size[::-1]] * 2)

    @classmethod
    def from_pixels(cls, corners: Any, scores: Any, labels: Any, size: tuple[int, int]) -> Detections:
        """From corners (D, 4) in pixels of an image of this size, scores (D,) and labels (D,), best first."""
        boxes, scores = (torch.as_tensor(values, dtype=torch.float32) for values in (corners, scores))
        boxes = boxes.reshape(-1, 4) / boxes.new_tensor([*size[::-1]] * 2)
        return cls(boxes, scores, torch.as_tensor(labels, dtype=torch.int64)).best_first()

    def to_supervision(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """What makes a `supervision.Detections`: `supervision.Detections(**found.to_supervision(size))`."""
        columns = self.in_pixels(size).float(), self.scores.float(), self.labels.long()
        names = ("xyxy", "confidence", "class_id")
        return {name: v.cpu().numpy() for name, v in zip(names, columns, strict=True)}

    @classmethod
    def from_supervision(cls, found: Any, size: tuple[int, int]) -> Detections:
        """From a `supervision.Detections`. Raises ValueError for one without scores or classes."""
        if found.confidence is None or found.class_id is None:
            raise ValueError("these detections have no confidence or no class_id: they cannot be ranked")
        return cls.from_pixels(found.xyxy, found.confidence, found.class_id, size)

    def to_torchvision(self, size: tuple[int, int]) -> dict[str, Tensor]:
        """As torchvision's detectors answer: boxes in pixels, scores, and labels from 1 (0: background)."""
        return {"boxes": self.in_pixels(size), "scores": self.scores, "labels": self.labels + 1}

    @classmethod
    def from_torchvision(cls, found: Mapping[str, Tensor], size: tuple[int, int]) -> Detections:
        """From the answer of one of torchvision's detectors, on its device."""
        boxes = found["boxes"] / found["boxes"].new_tensor([*size[::-1]] * 2)
        return cls(boxes, found["scores"], found["labels"] - 1).best_first()
