"""The requests session of workers, with its uploads and downloads: it sends what :mod:`.protocol` builds."""

from __future__ import annotations

import functools
import re
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

import tenacity

from airflow_provider_openai_batches.api import protocol, retry
from airflow_provider_openai_batches.api.body import ACCEPTED, Bounded, Decoder, Watchdog, Withheld
from airflow_provider_openai_batches.exceptions import APIError, TaskKilled, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import requests

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.retry import Log

T = TypeVar("T")
HttpSession: TypeAlias = "requests.Session"
# The operations that spend money or store something; a task that is being killed begins none of them.
SPENDING = frozenset({"create_batch", "upload_file"})
# Bytes; a broken connection loses one piece at most.
PIECE = 64 * 1024


class BatchesSession:
    """
    One keep-alive session.

    :param sleep: waits between attempts, in seconds.
    """

    def __init__(self, config: ClientConfig, log: Log, sleep: Callable[[float], None]) -> None:
        import requests  # noqa: PLC0415 - takes 50 ms, and parsing a DAG does not need it

        self.config = config
        self.stopped = False
        self._log = log
        self._sleep = sleep
        self.http = requests.Session()
        self.http.headers.update(config.headers)
        # Otherwise an entry for the host in .netrc would replace the key.
        self.http.auth = _unchanged
        # No redirect is followed: it could lead the headers to another host, and its body is read whole.
        self.http.get_redirect_target = _no_target  # type: ignore[method-assign]
        config.redact_log("urllib3.connectionpool")
        self._current = threading.local()
        for scheme in ("https://", "http://"):
            self.http.mount(scheme, _watched_adapter(self._current))

    def send(
        self,
        request: protocol.HttpRequest,
        read: Callable[[protocol.HttpReply], T],
        max_attempts: int | None = None,
    ) -> T:
        """
        Send a request and read its reply; both are repeated where that is safe.

        :raises APIError: if the service answers with an error.
        :raises TransportError: if no answer comes, or one that cannot be read.
        """
        return self.retrying(request.operation, max_attempts)(lambda: read(self.send_once(request)))

    def retrying(self, operation: str, max_attempts: int | None = None) -> tenacity.Retrying:
        attempts = max_attempts or self.config.max_attempts
        return tenacity.Retrying(sleep=self._sleep, **retry.policy(operation, attempts, self._log))

    def send_once(
        self,
        request: protocol.HttpRequest,
        body: Iterable[bytes] | None = None,
        content_type: str = "application/json",
    ) -> protocol.HttpReply:
        """Send a request once; ``body`` is streamed in place of the request's own JSON."""
        data: Any = body if body is not None else request.json
        if request.operation in SPENDING:
            data = Withheld(data, lambda: self._refuse_if_stopped(request))
        headers = {"Accept-Encoding": ACCEPTED} | ({} if data is None else {"Content-Type": content_type})
        with self._answer(request, data=data, headers=headers) as answer:
            return answer.reply(request)

    @contextmanager
    def stream(self, request: protocol.HttpRequest, offset: int) -> Iterator[OpenAnswer]:
        """
        Yield an answer to read piece by piece, from byte ``offset`` on if the service can do that.

        :raises TransportError: also if the connection breaks while the answer is read.
        """
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._answer(request, headers=headers) as answer:
            yield answer

    @property
    def _network_errors(self) -> tuple[type[Exception], ...]:
        import requests  # noqa: PLC0415 - not before a session is made
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - likewise

        return (requests.RequestException, HTTPError)

    @contextmanager
    def _answer(self, request: protocol.HttpRequest, **kwargs: Any) -> Iterator[OpenAnswer]:
        self._refuse_if_stopped(request)
        watchdog = self._current.watchdog = Watchdog(self.config.answer_seconds)
        try:
            response = self.http.request(
                request.method,
                f"{self.config.base_url}{request.path}",
                params={**self.config.params, **request.params},
                timeout=(self.config.connect_timeout, self.config.timeout),
                allow_redirects=False,
                stream=True,
                **kwargs,
            )
            with response:
                answer = OpenAnswer(response, watchdog, self.config)
                if not retry.is_success(answer.status_code):
                    failed = answer.reply(request, is_error=True)
                    protocol.raise_failure(failed, self.config, time.time())
                yield answer
            if watchdog.has_cut:
                raise protocol.too_slow(self.config, request)
        except self._network_errors as error:
            raise (
                protocol.too_slow(self.config, request) if watchdog.has_cut else self._lost(request, error)
            ) from None
        finally:
            watchdog.stop()
            self._current.watchdog = None

    def _refuse_if_stopped(self, request: protocol.HttpRequest) -> None:
        if self.stopped and request.operation in SPENDING:
            raise TaskKilled(f"The task is being stopped: {request.operation} was not sent.")

    def _lost(self, request: protocol.HttpRequest, error: Exception) -> TransportError:
        return TransportError(protocol.no_answer(self.config, request, error), sent=not _never_sent(error))


class OpenAnswer:
    """An answer whose body has not been read yet."""

    def __init__(self, response: requests.Response, watchdog: Watchdog, config: ClientConfig) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self._raw = response.raw
        self._watchdog = watchdog
        self._config = config

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes, perhaps compressed; each piece has to arrive in time."""
        for piece in self._raw.stream(PIECE, decode_content=False):
            self._watchdog.feed()
            yield piece

    def iter_lines(self) -> Iterator[bytes]:
        """Yield the lines of the body, redacted; only the beginning of a large one."""
        body = Bounded(self.headers.get("Content-Encoding"), is_error=True)
        all(body.feed(piece) for piece in self.pieces())
        yield from self._config.redact(body.whole().decode("utf-8", "replace")).encode().splitlines()

    def reply(self, request: protocol.HttpRequest, *, is_error: bool = False) -> protocol.HttpReply:
        """Read the whole body, within the bounds of an answer that is JSON."""
        body = Bounded(self.headers.get("Content-Encoding"), is_error=is_error)
        all(body.feed(piece) for piece in self._raw.stream(PIECE, decode_content=False))
        return protocol.reply(request, self._config, self.status_code, self.headers, body.whole())


def _watched_adapter(current: threading.local) -> Any:
    """Return an adapter whose connections tell their thread's watchdog when a request was sent."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - not before a session is made

    @functools.cache
    def watched(kind: Any) -> Any:
        class Watched(kind):  # type: ignore[misc]
            def getresponse(self) -> Any:
                if watchdog := getattr(current, "watchdog", None):
                    watchdog.watch(self.sock)
                return super().getresponse()

        return Watched

    class WatchedAdapter(HTTPAdapter):
        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
            if "ConnectionCls" not in vars(pool):
                pool.ConnectionCls = watched(pool.ConnectionCls)
            return pool

    return WatchedAdapter()


def _unchanged(request: Any) -> Any:
    return request


def _no_target(resp: requests.Response) -> str | None:  # noqa: ARG001 - requests gives it by name or place
    return None


def _never_sent(error: BaseException | None) -> bool:
    """Whether no connection was made at all, judging by the errors that requests and urllib3 nest."""
    from urllib3 import exceptions as urllib3_errors  # noqa: PLC0415 - not before a session is made

    unsent = (urllib3_errors.NewConnectionError, urllib3_errors.ConnectTimeoutError)
    while error is not None:
        if isinstance(error, unsent):
            return True
        nested = (getattr(error, "reason", None), *error.args)
        error = next((inner for inner in nested if isinstance(inner, BaseException)), None)
    return False


class Download:
    """
    Writes the content of one file to a sink; it only appends.

    :param sink: a binary file object to write to.
    """

    def __init__(self, session: BatchesSession, file_id: str, sink: IO[bytes], log: Log) -> None:
        self._session = session
        self._request = protocol.download_file(file_id)
        self._sink = sink
        self._log = log
        self._needs_all = False
        self.written = 0

    def run(self) -> int:
        """
        Download the whole file.

        :return: the size in bytes.
        :raises TransportError: if repeated attempts bring next to nothing.
        """
        self._session.retrying(self._request.operation)(self._attempt)
        return self.written

    def _attempt(self) -> None:
        """Continue as long as each connection brings a piece; one that brings less is a failed attempt."""
        while True:
            before = self.written
            try:
                self._receive()
            except TransportError as error:
                if self.written - before < PIECE:
                    raise
                self._log.warning("download broke at byte %d, continuing there: %s", self.written, error)
            else:
                return

    def _receive(self) -> None:
        asked = 0 if self._needs_all else self.written
        try:
            self._receive_from(asked)
        except APIError as error:
            if not asked or error.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            self._needs_all = True
            raise TransportError(
                f"{self._request.path} has no byte {asked}; all is asked for again."
            ) from None

    def _receive_from(self, asked: int) -> None:
        with self._session.stream(self._request, asked) as answer:
            start = received = _position(answer, asked)
            decoder = Decoder(answer.headers.get("Content-Encoding"))
            self._needs_all |= decoder.is_needed  # of a compressed answer a range cannot be decoded
            if decoder.is_needed and start:
                raise TransportError(f"{self._request.path} goes on compressed; all is asked for again.")
            position = start
            for piece in answer.pieces():
                received += len(piece)
                for chunk in decoder.feed(piece):
                    self._write(chunk, position)
                    position += len(chunk)
        announced = answer.headers.get("Content-Length", "")
        if announced.isdigit() and received != start + int(announced):
            end = start + int(announced)
            raise TransportError(f"{self._request.path} ended at byte {received} of {end}.")
        decoder.finish()

    def _write(self, chunk: bytes, position: int) -> None:
        """Skip what is already written: a service that ignores ``Range`` starts over."""
        new = chunk[max(0, self.written - position) :]
        self._sink.write(new)
        self.written += len(new)


def _position(answer: OpenAnswer, asked: int) -> int:
    """Return the byte at which the answer starts (RFC 9110, 14.4)."""
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    start = int(found[1]) if found else asked
    if start > asked:
        raise TransportError(f"The service left out bytes {asked} to {start}.")
    return start
