"""Batches from memory and from disk: the same ones, errors as they were raised, and time as it was spent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from d2lmini.data import Synthetic, collate, load, sources
from d2lmini.data.annotated import AnnotatedImages
from d2lmini.data.entries import Entry, Object
from d2lmini.data.files import DataError
from d2lmini.data.samples import Batch, GroundTruth, Sample
from d2lmini.data.sources import (
    PREFETCH_FACTOR,
    InMemorySource,
    LoaderSource,
    as_source,
    faults_of,
    fits_in_memory,
    read_ahead,
)

ORDER = [torch.tensor(index) for index in ([3, 1], [0, 2, 4], [1, 1])]


def scenes(count: int = 5) -> Synthetic:
    return Synthetic("scenes", count=count, size=64)


def same(one: Batch, two: Batch) -> bool:
    """Equal images and objects; rows of padding may be more or fewer."""
    return len(one.images) == len(two.images) and all(
        torch.equal(a, b)
        for i in range(len(one.images))
        for a, b in zip(one.sample(i), two.sample(i), strict=True)
    )


def on_disk(root: Path, count: int, bad: tuple[int, ...] = ()) -> AnnotatedImages:
    """Grey images of one object each, some of which are no images."""
    entries = []
    for i in range(count):
        path = root / f"{i}.png"
        Image.new("RGB", (20, 20), (i, i, i)).save(path)
        if i in bad:
            path.write_bytes(b"no image")
        entries.append(Entry(path, (Object("cat", (1.0, 2.0, 9.0, 9.0)),), f"{i}.xml"))
    return AnnotatedImages(entries, ("cat",), size=16)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_disk_give_the_same_batches(workers):
    data = scenes()
    in_memory, loader = InMemorySource(load(data)), LoaderSource(data, workers)
    for order in (ORDER, ORDER[::-1], ORDER[:1]):
        batches = [list(source.batches(order)) for source in (in_memory, loader)]
        for index, one, two in zip(order, *batches, strict=True):
            assert same(one, two)
            assert same(one, collate([data[i] for i in index.tolist()]))
    assert isinstance(loader.ground_truth(), GroundTruth)
    for truth, expected in zip(loader.ground_truth(), load(data).ground_truth, strict=True):
        assert torch.equal(truth, expected)
    for truth, expected in zip(in_memory.ground_truth(), load(data).ground_truth, strict=True):
        assert torch.equal(truth, expected)
    assert len(in_memory) == len(loader) == 5
    assert in_memory.image_size == loader.image_size == (64, 64)
    assert loader.top_label == 5


def test_an_epoch_left_early_does_not_show_in_the_next():
    source = LoaderSource(scenes(), workers=2)
    for batch in source.batches(ORDER):
        assert len(batch.images) == 2
        break
    assert [len(batch.images) for batch in source.batches(ORDER[1:])] == [3, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_random_numbers_are_left_alone(workers):
    before = torch.get_rng_state()
    load(scenes(2), workers)
    list(LoaderSource(scenes(2), workers).in_order())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_becomes_a_source():
    in_memory = as_source(load(scenes(2)))
    assert isinstance(in_memory, InMemorySource)
    assert as_source(in_memory) is in_memory
    assert isinstance(as_source(scenes()), LoaderSource)
    with pytest.raises(ValueError, match="workers is -1"):
        LoaderSource(scenes(), workers=-1)


def test_waiting_is_the_time_that_the_source_took(monkeypatch):
    """A clock that the source and its consumer set forward."""
    clock = [0.0]
    monkeypatch.setattr(sources.time, "perf_counter", lambda: clock[0])

    class Slow(InMemorySource):
        def _batches(self, chosen):
            for index in chosen:
                clock[0] += 1
                yield self.batch.select(index)

    source = Slow(load(scenes(2), workers=0))
    assert source.loading_fraction == 0
    for _ in source.batches([torch.tensor([0])] * 4):
        clock[0] += 3
    assert (source.waited, source.worked) == (4, 12)
    assert source.loading_fraction == 0.25


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_one_line_whichever_thread_met_it(tmp_path, workers):
    data = on_disk(tmp_path, 30, bad=(27,))
    with pytest.raises(DataError, match=r"27\.png is not an image") as caught:
        load(data, workers=workers)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"27\.png is not an image"):
        list(LoaderSource(data, workers).batches([torch.tensor([1, 27])]))


@pytest.mark.parametrize("workers", [0, 2])
def test_all_faults_are_found(tmp_path, workers):
    found = faults_of(on_disk(tmp_path, 60, bad=(0, 26, 59)), workers)
    assert [(i, f"{i}.png" in str(error)) for i, error in found.items()] == [
        (0, True), (26, True), (59, True)
    ]  # fmt: skip


class Other(Synthetic):
    """Images of which one has another size."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return sample._replace(image=sample.image[:, 1:]) if index == 25 else sample


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(63, 64\).*resize"):
        load(Other("bananas", count=26, size=64), workers=0)


def test_who_stops_early_waits_for_nothing_and_nobody():
    """Only what was begun is read to its end, and no thread stays."""
    read = []
    batches = read_ahead(lambda i: read.append(i) or i, range(1000), workers=2)
    assert next(batches) == 0
    batches.close()
    assert len(read) <= 2 * PREFETCH_FACTOR + 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_reading_ahead_needs_no_shared_memory(monkeypatch):
    """A container has 64 MB of it, or none: nothing goes through there."""
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", lambda *_: pytest.fail("shared"))
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", lambda *_: pytest.fail("shared"))
    assert len(load(scenes(30), workers=2).images) == 30


def test_threads_leave_the_callers_number_of_threads_alone():
    before = torch.get_num_threads()
    within = list(read_ahead(lambda _: torch.get_num_threads(), range(3), workers=2))
    after = list(read_ahead(lambda _: torch.get_num_threads(), range(1), workers=0))
    assert (within, after) == ([1] * 3, [before])


def test_warnings_are_as_before_whatever_threads_opened(tmp_path):
    before = list(warnings.filters)
    list(LoaderSource(on_disk(tmp_path, 60), workers=4).in_order(1))
    assert warnings.filters == before


SLOW = """
import time, torch
from d2lmini.data import LoaderSource, Synthetic
data = LoaderSource(Synthetic("bananas", count=40, size=64), workers=1)
caught = False
for step, batch in enumerate(data.batches(torch.arange(40).split(1))):
    try:
        if step == 0:
            print("begun", flush=True)
            time.sleep(60)  # until the signal comes
    except KeyboardInterrupt:
        caught = True
print(step + 1, caught, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_is_for_the_consumer():
    """Threads that read images go on: it decides whether to stop."""
    command = [sys.executable, "-c", SLOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "40 True\n"


def test_cores_are_those_that_the_process_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert sources.usable_cores(str(tmp_path)) == 8
    (tmp_path / "cpu").mkdir()
    for quota, expected in (("-1", 8), ("150000", 2), ("50000", 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert sources.usable_cores(str(tmp_path)) == expected
    for limit, expected in (("400000 100000\n", 4), ("max 100000\n", 1), ("1600000 100000\n", 8)):
        (tmp_path / "cpu.max").write_text(limit)  # without one of its own, the older file's
        assert sources.usable_cores(str(tmp_path)) == expected


# ------------------------------------------------------------------------------------------- memory


def test_what_fits_depends_on_the_free_memory(monkeypatch):
    data = scenes(10)  # 10 × 64 × 64 × 3 bytes
    free = 2 * 10 * 64 * 64 * 3
    monkeypatch.setattr(sources, "free_memory", lambda: free)
    assert fits_in_memory(data)
    assert not fits_in_memory(data, others=1)
    monkeypatch.setattr(sources, "free_memory", lambda: free - 2)
    assert not fits_in_memory(data)
    monkeypatch.setattr(sources, "free_memory", lambda: None)  # nobody knows: as ever
    assert fits_in_memory(data)


def test_free_memory_is_what_the_container_leaves(tmp_path, monkeypatch):
    assert sources._container_memory(str(tmp_path)) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("900\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("200\n")
    assert sources._container_memory(str(tmp_path)) == 700
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert sources._container_memory(str(tmp_path)) == 700  # no limit of its own
    (tmp_path / "memory.max").write_text("600\n")
    assert sources._container_memory(str(tmp_path)) == 100
    for system, container, expected in ((5, 3, 3), (5, None, 5), (None, None, None)):
        monkeypatch.setattr(sources, "_system_memory", lambda value=system: value)
        monkeypatch.setattr(sources, "_container_memory", lambda value=container: value)
        assert sources.free_memory() == expected
