"""
Bodies: those of requests are sent piece by piece, those of answers are read within bounds.

An answer is decoded piece by piece up to a size, and has to arrive within a time.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
import zlib
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.exceptions import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A file is read in pieces of this size while it is uploaded.
UPLOAD_BYTES = 1 << 20
# A page of a hundred batches with all the metadata that they may have is about 6 MB at most.
MAX_JSON_BYTES = 8 << 20
MAX_ERROR_BYTES = 64 << 10
# A compressed piece becomes pieces of at most this size.
DECODED_BYTES = 256 << 10
# What the clients ask for; no other compression is understood here.
ACCEPTED = "gzip"
# Compressions that an error names; a header with any other value could hold anything.
_KNOWN = frozenset({"br", "compress", "gzip", "zstd"})
_EITHER_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class Withheld:
    """
    A body that is sent piece by piece, and not at all once the task is stopped.

    A kill can come while the connection is still being made; without its body a request has no effect.
    """

    def __init__(self, body: Any, check: Callable[[], None]) -> None:
        self._parts = [body] if isinstance(body, bytes) else body
        self._length = len(body)
        self._check = check

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self._check()
            yield part


class MultipartBody:
    """
    One file and some text fields, as a body that requests sends piece by piece.

    :param source: a seekable binary file; it is read from its present position.
    """

    def __init__(self, source: IO[bytes], filename: str, fields: Mapping[str, str]) -> None:
        boundary = uuid.uuid4().hex
        head, tail = protocol.multipart(fields, filename, boundary)
        start = source.tell()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._length = len(head) + source.seek(0, os.SEEK_END) - start + len(tail)
        self._parts: list[bytes | IO[bytes]] = [head, source, tail]
        source.seek(start)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                while chunk := part.read(UPLOAD_BYTES):
                    yield chunk


class Decoder:
    """
    Undoes ``Content-Encoding`` a bounded piece at a time: a megabyte of gzip can hold a gigabyte.

    :param encoding: the header's value.
    :param keeps_unknown: leave a body as it is whose compression was not asked for.
    :raises TransportError: if it is a compression that was not asked for.
    """

    def __init__(self, encoding: str | None, *, keeps_unknown: bool = False) -> None:
        names = {name.strip().lower() for name in (encoding or "").split(",")} - {"", "identity"}
        is_unknown = bool(names - {"gzip", "x-gzip", "deflate"}) or len(names) > 1
        if is_unknown and keeps_unknown:
            names = set()
        elif is_unknown:
            kind = ", ".join(sorted(names & _KNOWN)) or "something unknown"
            raise TransportError(f"The answer is compressed as {kind!r}, which was not asked for.")
        self.is_needed = bool(names)
        self._inflate = zlib.decompressobj(_EITHER_GZIP_OR_ZLIB)
        self._has_begun = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the content of a piece of the body."""
        if not self.is_needed:
            yield piece
            return
        while piece:
            self._has_begun = True
            try:
                decoded = self._inflate.decompress(piece, DECODED_BYTES)
            except zlib.error as error:
                raise TransportError(f"The answer's compression is broken: {error}.") from None
            piece = self._inflate.unconsumed_tail
            if self._inflate.eof:  # gzip may have several members
                piece = self._inflate.unused_data
                self._inflate = zlib.decompressobj(_EITHER_GZIP_OR_ZLIB)
                self._has_begun = False
            if decoded:
                yield decoded

    def finish(self) -> None:
        """
        Note that the body has ended.

        :raises TransportError: if the compressed body is only a part.
        """
        if self._has_begun:
            raise TransportError("The answer ended in the middle of its compressed body.")


class Bounded:
    """
    Gathers a body that is read whole.

    :param is_error: whether it is an error, of which only the beginning is kept.
    :raises TransportError: if it is compressed in a way that was not asked for.
    """

    def __init__(self, encoding: str | None, *, is_error: bool) -> None:
        self._is_error = is_error
        self._limit = MAX_ERROR_BYTES if is_error else MAX_JSON_BYTES
        self._body = bytearray()
        self._decoder = Decoder(encoding, keeps_unknown=is_error)

    def feed(self, piece: bytes) -> bool:
        """
        Take a piece, and return whether more is wanted.

        :raises TransportError: if the body is larger than any answer of the API.
        """
        try:
            for decoded in self._decoder.feed(piece):
                self._body += decoded
                if len(self._body) > self._limit:
                    raise self._too_large()
        except TransportError:
            if not self._is_error:
                raise
            return False
        return True

    def _too_large(self) -> TransportError:
        return TransportError(
            f"The answer is larger than {self._limit:,} bytes, so it does not come from a Batch API. "
            "If this does not go away, check the connection's base URL."
        )

    def whole(self) -> bytes:
        """
        Return the body.

        :raises TransportError: if it is compressed and incomplete.
        """
        if not self._is_error:
            self._decoder.finish()
        return bytes(self._body[: self._limit])


class Watchdog:
    """
    Cuts the connection of a blocking request whose answer does not arrive in time.

    A read time-out is not enough: it begins anew with every byte.

    :param seconds: for the whole answer, or until the next :meth:`feed`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cut: Callable[[], object] | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._fed_at = 0.0
        self.has_cut = False

    def watch(self, connected: Any) -> None:
        """Begin: the request was sent over this socket."""
        # Not its own method: that of a TLS socket is not made to be called from another thread.
        self._cut = lambda: socket.socket.shutdown(connected, socket.SHUT_RDWR)
        self._fed_at = 0.0
        self.feed()

    def feed(self) -> None:
        """Begin anew: something arrived."""
        now = time.monotonic()
        if self._cut is None or now - self._fed_at < self._seconds / 10:
            return
        self.stop()
        self._fed_at = now
        self._timer = threading.Timer(self._seconds, self._bite)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None

    def _bite(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread() or self._cut is None:
                return  # it was stopped, or fed, at this very moment
            self.has_cut = True
            try:
                self._cut()
            except (OSError, TypeError):
                return  # it is closed already, or is not a socket of the standard library
