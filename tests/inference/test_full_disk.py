"""A disk that is full, by a limit on the size of files: what is safe, and what the next try does."""

from __future__ import annotations

import resource
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from inferencekit import again, job, results, waits
from support import until

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

ROWS = 100
LETTERS = 5_000  # in each row, so that its request and its part of the results are larger than its answer


@contextmanager
def no_room_above(size: int) -> Iterator[None]:
    """Fail each write that makes a file larger than this, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "fails_after"),
    [
        pytest.param(200_000, 0, id="request files"),
        pytest.param(50_000, 1, id="a result file"),
        pytest.param(200_000, 1, id="a part of the results"),
    ],
)
def test_a_full_disk(server: DevServer, out: Path, size: int, fails_after: int) -> None:
    """
    The error says that nothing is lost; nothing looks whole; the next try goes on and pays nothing twice.

    :param fails_after: how many waits end before the disk is full.
    """
    texts = [{"text": f"{number} {'x' * LETTERS}", "marker": ""} for number in range(ROWS)]
    operator = job(out, requests=texts, keep_columns=["text"])
    run = waits(operator)
    for _ in range(fails_after):
        next(run)
        until(lambda: server.batches()[-1]["status"] == "completed")  # the server writes to the same disk
    with no_room_above(size), pytest.raises(OpenAIBatchesError, match="Nothing is lost") as raised:
        deque(run, maxlen=0)  # a wait or two more, if the batch was not seen in time
    assert "another try continues from here and pays nothing twice" in str(raised.value)
    assert not (out / "manifest.json").exists()
    assert list(out.glob("part-*")) == []
    assert len(server.batches()) == fails_after
    assert again(operator)["counts"]["succeeded"] == ROWS
    assert [row["text"] for row in results(out)] == [row["text"] for row in texts]
    assert server.stats()["paid_more_than_once"] == 0
    assert len(server.batches()) == 1
