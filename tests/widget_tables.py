"""What the live figures of a notebook hold, and in what two runs of it differ.

nbval compares what cells print, and never looks at widgets: a figure could go on showing the numbers of a
formula that has changed since. Here a figure is taken apart into its models (drawing, controls, links) and
compared with what the same notebook gives now: floats and decoded images nearly, all else exactly.
"""

from __future__ import annotations

import base64
import copy
import functools
import io
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
REFERENCE = re.compile(r"IPY_MODEL_([0-9a-f]{32})$")

ATOL, RTOL = 3e-3, 3e-3  # of floats: another processor, or thread count, adds up in another order
LEVELS = 2.0  # of images: mean difference of their pixels, out of 255
SCRIPTS = ("_esm", "_css")  # as long as a file: told, not shown

Models = dict[str, dict[str, Any]]


def stored(notebook: Mapping[str, Any]) -> Models:
    """The figures that a notebook holds, as `models` gives them."""
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    return models(views(outputs), notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {}))


def views(outputs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ids of the widgets that these outputs show, in the order of the page."""
    bundles = (output.get("data", {}).get(VIEW) for output in outputs)
    return [bundle["model_id"] for bundle in bundles if bundle]


def models(shown: Iterable[str], state: Mapping[str, Any]) -> Models:
    """Every model that a reader can meet, by its place in the page instead of its random id.

    The place of a shown widget is "figure 1", of its first child "figure 1.children[0]". Buffers are
    decoded: tables are arrays, images images. The links between models are one more entry, "links".
    """
    places: dict[str, str] = {}
    for number, model_id in enumerate(shown, start=1):
        _give_places(model_id, f"figure {number}", state, places)
    found = {place: _named(_decoded(state[model_id]), places) for model_id, place in places.items()}
    links = [_link(m["state"], places) for m in state.values() if m["model_name"] == "LinkModel"]
    return found | ({"links": {"all": sorted(filter(None, links))}} if found else {})


def _give_places(model_id: str, place: str, state: Mapping[str, Any], places: dict[str, str]) -> None:
    """Name a model and everything below it."""
    if model_id not in state:
        raise ValueError(f"{place} is shown, but its state is not stored")
    if model_id not in places:
        places[model_id] = place
        for path, below in _references(state[model_id]["state"]):
            _give_places(below, place + path, state, places)


def _references(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a state names other models, and which."""
    if isinstance(value, str) and (match := REFERENCE.match(value)):
        yield path, match[1]
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _references(value[key], f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _references(item, f"{path}[{i}]")


def _named(value: Any, places: Mapping[str, str]) -> Any:
    """A copy of a state that names other models by their places."""
    if isinstance(value, str) and (match := REFERENCE.match(value)):
        return f"-> {places.get(match[1], 'nowhere')}"
    if isinstance(value, dict):
        return {key: _named(item, places) for key, item in value.items()}
    return [_named(item, places) for item in value] if isinstance(value, list) else value


def _link(state: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """A link as text, empty if it joins what is not shown."""
    ends = [(places.get(REFERENCE.match(model)[1]), trait) for model, trait in _ends(state)]
    return " to ".join(f"{place}.{trait}" for place, trait in ends) if all(p for p, _ in ends) else ""


def _ends(state: Mapping[str, Any]) -> list[list[str]]:
    return [state["source"], state["target"]]


# ---------------------------------------------------------------- what a model holds


def _decoded(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's state with its buffers back in place, without what depends on ipywidgets' version."""
    state = {k: copy.deepcopy(v) for k, v in model["state"].items() if not k.endswith("_version")}
    for buffer in model.get("buffers", []):
        *path, last = buffer["path"]
        holder = functools.reduce(operator.getitem, path, state)
        holder[last] = base64.b64decode(buffer["data"])
    if "data" in state:
        state["data"] = {name: _value(value) for name, value in state["data"].items()}
        if not state.get("reproducible", True):
            state["data"] = {name: _outline(value) for name, value in state["data"].items()}
    return state


def _value(value: Any) -> Any:
    """A table as an array, an image as an image, anything else as it is."""
    if isinstance(value, dict) and "dtype" in value:
        return np.frombuffer(value["bytes"], value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict) and "mime" in value:
        return Image.open(io.BytesIO(value["bytes"])).convert("RGB")
    return value


def _outline(value: Any) -> Any:
    """What stays the same when a network is trained anew: types, names, shapes."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str} {list(value.shape)}"
    if isinstance(value, Image.Image):
        return f"image {value.size}"
    if isinstance(value, dict):
        return {key: _outline(item) for key, item in value.items()}
    return type(value).__name__


# ---------------------------------------------------------------- in what two of them differ


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Yield a line for everything that is not the same, or not nearly the same, in two trees."""
    if isinstance(old, dict) and isinstance(new, dict):
        start = f"{at}." if at else ""
        yield from (f"{start}{key} is gone" for key in sorted(old.keys() - new.keys()))
        yield from (f"{start}{key} is new" for key in sorted(new.keys() - old.keys()))
        for key in sorted(old.keys() & new.keys()):
            yield from differences(old[key], new[key], start + key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{at}[{i}]")
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        yield from _table_differences(old, new, at)
    elif isinstance(old, Image.Image) and isinstance(new, Image.Image):
        yield from image_differences(old, new, at)
    elif not _alike(old, new):
        short = at.endswith(SCRIPTS)
        yield f"{at} is an older version" if short else f"{at} was {_brief(old)}, is {_brief(new)}"


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, int | float) and not isinstance(new, bool):
        return bool(np.isclose(new, old, rtol=RTOL, atol=ATOL, equal_nan=True))
    return type(old) is type(new) and old == new


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _table_differences(old: np.ndarray, new: np.ndarray, at: str) -> Iterator[str]:
    if old.dtype != new.dtype or old.shape != new.shape:
        yield f"{at} was {_outline(old)}, is {_outline(new)}"
        return
    floats = old.dtype.kind == "f"
    wrong = ~np.isclose(new, old, RTOL, ATOL, equal_nan=True) if floats else new != old
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        yield (
            f"{at}: {wrong.sum()} of {wrong.size} numbers differ, first at {list(first)}: "
            f"was {old[first]:.6g}, is {new[first]:.6g}"
        )


def image_differences(old: Image.Image, new: Image.Image, at: str, levels: float = LEVELS) -> Iterator[str]:
    """Yield a line when two images differ in size, or by more than so many levels on average."""
    if old.size != new.size:
        yield f"{at} was an image of {old.size}, is one of {new.size}"
        return
    distance = np.abs(np.asarray(old, np.float32) - np.asarray(new, np.float32)).mean()
    if distance > levels:
        yield f"{at}: the images differ by {distance:.1f} levels on average, {levels} are allowed"
