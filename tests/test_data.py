"""Finding a data set by name and bringing it into memory."""

from __future__ import annotations

import pytest
import torch

from d2lmini.data import PRESETS, Synthetic, collate, load, open_data


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("val", 200)])
def test_presets_have_their_usual_counts(name, split, count):
    data = open_data(name, split)
    assert len(data) == count
    assert data.classes == PRESETS[name]


def test_what_is_not_there_is_named_with_what_is():
    with pytest.raises(ValueError, match=r"'apples'.*bananas.*scenes"):
        open_data("apples")


@pytest.mark.parametrize("workers", [0, 2])
def test_load_is_the_whole_set_in_order(workers):
    data = Synthetic("scenes", count=30, size=64)
    batch = load(data, workers=workers)
    expected = collate([data[i] for i in range(30)])
    for a, b in zip(batch, expected, strict=True):
        assert torch.equal(a, b)


def test_an_empty_set_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        load(Synthetic("bananas", count=0))
