"""Live figures of speed: loops against batched code, and where the time of a training step goes.

Timings differ from run to run, so none is taken here: both figures draw what `python -m
benchmarks.curve` and `python -m benchmarks.anatomy` measured and left in `results/`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import traitlets

from d2lmini import plots
from d2lmini.widgets.base import RESULTS, Figure, Live, choice, pack, steps, whole


def measured(name: str) -> dict[str, Any]:
    """What a benchmark left for the page: "targets-curve", "step-anatomy", "floor", "growth-cpu"
    or "gpu".

    Raises ValueError naming those that exist.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in RESULTS.glob("*.json"))) or "none"
        raise ValueError(f"no measurement {name!r} comes with the package: choose from {there}")
    return json.loads(path.read_text("utf8"))


def where_and_when(result: dict[str, Any]) -> str:
    """Machine, threads and date of a measurement, and under them the versions."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    threads = f"{machine['threads']} thread{'s'[: machine['threads'] > 1]}"
    return f"{machine['cpu']}, {threads}; {result['date']}\nPython {machine['python']}, {versions}"


class Loops(Figure):
    """`data`: objects and batches (their values), and loops and batched (B, O), milliseconds a batch."""

    script = "loops.js"
    objects = traitlets.Int(10).tag(sync=True)
    batch = traitlets.Int(0).tag(sync=True)


def loops_against_batched(objects: int = 10, batch: int = 32) -> Live:
    """Time for the targets of a batch by number of objects: D2L's loops and `match`, as measured.

    `objects` in each image and images in a `batch` are those shown first. Raises ValueError for a
    number that was not measured.
    """
    result = measured("targets-curve")
    counts, batches = result["objects"], result["batches"]
    for name, value, known in (("objects", objects, counts), ("batch", batch, batches)):
        if value not in known:
            raise ValueError(f"{name} is {value}: choose from {', '.join(map(str, known))}")
    loops, batched = (np.array(result[key]) for key in ("d2l_ms", "ours_ms"))  # (B, O)
    figure = Loops(
        data={"counts": counts, "batches": batches, "loops": pack(loops), "batched": pack(batched)},
        alt="Milliseconds an image by number of objects, for loops and for batched code, and their ratio.",
    )
    names = ["1 image" if b == 1 else f"{b} images" for b in batches]
    last = len(batches) - 1
    ratios = dict(zip(names, loops / batched, strict=True))
    panels = {
        f"milliseconds for {names[last]}": {"loops": loops[last], "batched": batched[last]},
        "times as fast": ratios,
    }
    return Live(
        figure,
        {
            "objects": whole("objects in each", counts[0], counts[-1], objects),
            "batch": choice("batch of", names, batches.index(batch)),
        },
        caption=(
            "Targets by D2L's loops and by match. Alone, an image with one object gains nothing; "
            "a batch does, and the more, the more objects its images hold."
        ),
        fallback=plots.plot_panels(counts, panels, xlabel="objects in each image"),
    )


class Anatomy(Figure):
    """`data`: variants and parts (names), ms (V, P) of each part, and faults (V,), pages of memory that
    the kernel hands over in a step."""

    script = "anatomy.js"
    variant = traitlets.Int(0).tag(sync=True)


def step_anatomy(variant: int = 0) -> Live:
    """Where the time of one training step goes, from D2L's step to ours, one change at a time.

    `variant` is the index of the one looked at first. Raises ValueError for one that does not exist.
    """
    result = measured("step-anatomy")
    rows, parts = result["variants"], result["parts"]
    if not 0 <= variant < len(rows):
        raise ValueError(f"variant is {variant}: choose one from 0 to {len(rows) - 1}")
    names = [row["variant"] for row in rows]
    times = np.array([row["parts_ms"] for row in rows])  # (V, P)
    faults = [row["page_faults"] for row in rows]
    figure = Anatomy(
        data={"variants": names, "parts": parts, "ms": pack(times), "faults": pack(np.float32(faults))},
        alt="Five bars, one for each variant of a training step, split by kind of work.",
    )
    places = list(range(1, len(rows) + 1))
    key = ", ".join(f"{place} {name}" for place, name in zip(places, names, strict=True))
    panels = {
        "milliseconds a step": {"all": times.sum(1), parts[0]: times[:, 0]},
        "all but convolutions": {name: times[:, i] for i, name in enumerate(parts) if i},
    }
    fallback = plots.plot_panels(places, panels, xlabel="variant")
    for ax in fallback.axes:
        ax.set_xticks(places)
        ax.set_ylim(bottom=0)
    return Live(
        figure,
        {"variant": steps("variant", names, variant)},
        caption=(
            "Milliseconds of a training step by kind of work: "
            f"{key}. Other algorithms change little; keeping memory halves the step, layout and "
            "precision more than halve it again."
        ),
        fallback=fallback,
    )
