"""A download that continues where its connection broke."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import IO, TYPE_CHECKING

from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.exceptions import TransportError

if TYPE_CHECKING:
    import requests

    from airflow_provider_openai_batches.api.client import BatchesSession
    from airflow_provider_openai_batches.api.retry import Log

# Bytes; a broken connection loses one piece at most.
PIECE = 64 * 1024


class Download:
    """
    Writes one file's content to one sink, to which it only appends.

    :param sink: a binary file object to write to.
    """

    def __init__(self, session: BatchesSession, file_id: str, sink: IO[bytes], log: Log) -> None:
        self._session = session
        self._request = protocol.download_file(file_id)
        self._sink = sink
        self._log = log
        self.written = 0

    def run(self) -> int:
        """
        Download it all.

        :return: the size in bytes.
        :raises TransportError: if attempt after attempt brings nothing new.
        """
        self._session.retrying(self._request.operation)(self._attempt)
        return self.written

    def _attempt(self) -> None:
        """Continue while each connection brings something; one that brings nothing is a failed attempt."""
        while True:
            before = self.written
            try:
                self._receive()
            except TransportError as error:
                if self.written == before:
                    raise
                self._log.warning("download broke at byte %d, going on from there: %s", self.written, error)
            else:
                return

    def _receive(self) -> None:
        with self._session.stream(self._request, self.written) as answer:
            position = _position(answer, self.written)
            announced = answer.headers.get("Content-Length")
            end = position + int(announced) if announced and announced.isdigit() else None
            for chunk in answer.iter_content(PIECE):
                self._write(chunk, position)
                position += len(chunk)
        if end is not None and position != end:
            raise TransportError(f"{self._request.path} ended at byte {position} of {end}.")

    def _write(self, chunk: bytes, position: int) -> None:
        """Skip what is there already: a service that ignores ``Range`` starts over."""
        new = chunk[max(0, self.written - position) :]
        self._sink.write(new)
        self.written += len(new)


def _position(answer: requests.Response, asked: int) -> int:
    """Return the byte at which the answer starts (RFC 9110, 14.4)."""
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    start = int(found[1]) if found else asked
    if start > asked:
        raise TransportError(f"The service left out bytes {asked} to {start}.")
    return start
