"""The source that a page shows is the source that runs."""

from __future__ import annotations

import functools
import inspect

import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from d2lmini import boxes, losses
from d2lmini.inspect import show_source
from d2lmini.model import TinySSD


def test_the_shown_function_is_the_whole_of_it_and_runs():
    shown = show_source(boxes.box_area).code
    names = {"Tensor": torch.Tensor, "torch": torch}
    exec("from __future__ import annotations\n" + shown, names)
    some = torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.1, 0.2, 0.4, 0.9]])
    torch.testing.assert_close(names["box_area"](some), boxes.box_area(some), rtol=0, atol=0)
    assert inspect.getsource(boxes.box_area).rstrip() == shown


def test_several_stand_below_each_other_in_the_order_asked_for():
    both = show_source(losses.smooth_l1, boxes.box_area).code
    first, second = both.split("\n\n\n")
    assert first.startswith("def smooth_l1(")
    assert second.startswith("def box_area(")


def test_a_method_is_shown_at_the_margin_and_a_class_whole():
    method = show_source(TinySSD.forward).code
    assert method.startswith("def forward(self")
    assert show_source(losses.Losses).code.startswith("class Losses(NamedTuple):")


def test_what_wraps_a_function_does_not_hide_it():
    """What `torch.no_grad` or a cache puts around a function is not what the reader wants to see."""
    wrapped = torch.no_grad()(functools.lru_cache(boxes.box_area))
    assert show_source(wrapped).code == show_source(boxes.box_area).code


def test_a_page_highlights_it_and_a_terminal_prints_it():
    shown = show_source(boxes.box_area)
    bundle, _ = DisplayFormatter().format(shown)
    assert bundle["text/plain"] == shown.code
    assert bundle["text/markdown"] == f"```python\n{shown.code}\n```"


@pytest.mark.parametrize("thing", [len, 3, torch.relu], ids=["built in", "a number", "in C++"])
def test_what_has_no_source_is_refused_by_name(thing):
    with pytest.raises(ValueError, match="has no Python source") as caught:
        show_source(thing)
    assert repr(thing) in str(caught.value)
