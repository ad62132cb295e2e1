"""Copies files of this machine to a store. What all uploads hold in memory together has a bound."""

from __future__ import annotations

import inspect
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Clients read a file, or a large piece of it, into memory before they send it, and their HTTP clients copy it
# again: four output files of 35 MB at a time took 280 MB.
BYTES_AT_ONCE = 48 << 20
# Clients send up to two pieces of this size as one. Each more is a request.
_PIECE = {"chunksize": BYTES_AT_ONCE // 2, "max_concurrency": 1}


class _Room:
    """A number of bytes that threads share."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until so much is free, and take it; what is larger than all there is takes all."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


_room = _Room(BYTES_AT_ONCE)


def put_file(fs: Any, source: str, target: str) -> None:
    """
    Copy a local file to a store, where it appears whole.

    :param fs: the store's client, fsspec's.
    """
    parameters = inspect.signature(getattr(type(fs), "_put_file", fs.put_file)).parameters
    options = {name: value for name, value in _PIECE.items() if name in parameters}
    with _room.taken(os.path.getsize(source)):  # noqa: PTH202 - a text is what clients take
        fs.put_file(source, target, **options)
