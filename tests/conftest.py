"""What every test shares: repeatable examples, and one thread."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# "fixed" tries the same examples on every machine and every day: a failure is the fault of the
# change at hand. HYPOTHESIS_PROFILE=explore looks for new ones.
COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("fixed", derandomize=True, max_examples=60, **COMMON)
settings.register_profile("explore", derandomize=False, max_examples=2000, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # the tests run side by side, and every tensor here is small


@pytest.fixture
def anyones_folder() -> Iterator[Path]:
    """A folder that every user may read and write, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
