"""The lines of a batch's input file: one request each."""

from __future__ import annotations

import mmap
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LINES_PER_TURN = 32


class InputLine(msgspec.Struct):
    """https://developers.openai.com/api/docs/guides/batch#1-prepare-your-batch-file"""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


decode_line = msgspec.json.Decoder(InputLine).decode


def digest(line: InputLine) -> bytes:
    """Two lines with the same digest are the same request."""
    return blake2b(line.custom_id.encode() + b"\0" + bytes(line.body), digest_size=12).digest()


def estimated_tokens(body: msgspec.Raw) -> int:
    """An estimate of the prompt tokens of a request: one token for every four bytes of its body."""
    return max(1, len(memoryview(body)) // 4)


def let_others_run(number: int) -> None:
    """Give way to the other threads every few lines, so that the server answers while it handles a file."""
    if number % LINES_PER_TURN == 0:
        time.sleep(0)


class InputLines:
    """
    Random access to the request lines of an input file.

    :param offsets: where each line begins.
    """

    def __init__(self, path: Path, offsets: Sequence[int]) -> None:
        self._offsets = offsets
        with path.open("rb") as source:
            self._map = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def __getitem__(self, index: int) -> InputLine:
        start = self._offsets[index]
        end = self._map.find(b"\n", start)
        return decode_line(self._map[start : end if end >= 0 else len(self._map)])
