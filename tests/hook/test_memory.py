"""A file of 200 MB goes up and comes down within 16 MB of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 200_000_000
# In a process of its own, so that only the hook's memory is measured; warmed up with a small file.
PROGRAM = """
import re, sys
from pathlib import Path
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

def peak():
    # Not ru_maxrss: a child inherits its parent's.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

hook = OpenAIBatchesHook()
small, large, back = sys.argv[1:]
hook.download_file(hook.upload_file(small).id, back)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
start = peak()
file = hook.upload_file(large)
uploaded = peak() - start
size = hook.download_file(file.id, back)
print("RESULT", size, uploaded, peak() - start)
"""


@pytest.fixture
def process() -> Iterator[str]:
    """The base URL of a dev server in a process of its own."""
    command = [sys.executable, "-m", "airflow_provider_openai_batches.devserver", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        line = server.stdout.readline()
        yield line[line.index("http") :].split()[0]
        server.terminate()


def test_200_mb_need_less_than_16(process: str, tmp_path: Path) -> None:
    """Both ways, and every byte arrives."""
    small, large, back = tmp_path / "small", tmp_path / "large", tmp_path / "back"
    small.write_bytes(b"x" * 3_000_000)
    with large.open("wb") as file:
        for number in range(200):
            file.write(bytes([number]) * 1_000_000)
    connection = f'{{"conn_type": "openai_batches", "host": "{process}", "password": "k"}}'
    environment = {**os.environ, "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT": connection}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(small), str(large), str(back)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    result = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert result, done.stderr[-2000:]
    size, uploaded, downloaded = (float(text) for text in result[0].split()[1:])
    sys.stdout.write(f"peak growth of a 200 MB upload {uploaded:.1f} MB, download {downloaded:.1f} MB\n")
    assert size == SIZE
    assert back.read_bytes() == large.read_bytes()
    assert uploaded < 16
    assert downloaded < 16
