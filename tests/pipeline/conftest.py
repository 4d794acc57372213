from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.live import WAIT_S, pipeline_threads


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + WAIT_S
    while pipeline_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert pipeline_threads() == []
