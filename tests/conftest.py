"""What every test runs under: offline, one thread a process, nothing reported to anyone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Set before any test imports torch or a Hugging Face library: they read these once.
# With xdist each worker is a process, so one thread each keeps 2 cores busy without fighting, and torch's
# sums come out in the same order on every machine.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    DVC_NO_ANALYTICS="1",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
)

# A shell ignores Ctrl-C for what it starts in the background, and every process started from here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the clone; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which this machine does not have")
    return SHARED_DATA
