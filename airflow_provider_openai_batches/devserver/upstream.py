"""Sends the requests of a batch to a real API, a few at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.endpoints import Tokens
from airflow_provider_openai_batches.devserver.results import Dropped, Requests

if TYPE_CHECKING:
    import httpx

    from airflow_provider_openai_batches.devserver.results import ResultWriter
    from airflow_provider_openai_batches.devserver.store import BatchRecord, Results
    from airflow_provider_openai_batches.devserver.validation import Line

TIMEOUT = 600.0


class Upstream:
    """
    A real API.

    :param url: its base URL, with ``/v1``.
    :param concurrency: how many requests, of all batches together, it is given at a time.
    """

    def __init__(self, url: str, key: str | None, concurrency: int) -> None:
        self.url = url.rstrip("/")
        self.headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {key}"} if key else {}
        )
        self.concurrency = concurrency
        self.gate = threading.BoundedSemaphore(concurrency)


class Sender:
    """The sending of one batch; :meth:`run` takes as long as its requests take."""

    def __init__(self, record: BatchRecord, writer: ResultWriter, upstream: Upstream) -> None:
        self.writer = writer
        self._record = record
        self._upstream = upstream
        self._ending: str | None = None

    def stop(self, ending: str) -> None:
        """Send no more; what is under way may finish."""
        self._ending = ending

    def run(self) -> Results:
        import httpx  # noqa: PLC0415 - a server without an upstream starts faster without it

        check, source = self._record.check, self._record.input
        if check is None or source is None:
            return self.writer.close()
        order = iter(check.order)
        with (
            Requests(source.path, check) as requests,
            httpx.Client(headers=self._upstream.headers, timeout=TIMEOUT, trust_env=False) as client,
        ):
            threads = [
                threading.Thread(target=self._work, args=(client, requests, order), daemon=True)
                for _ in range(min(self._upstream.concurrency, check.total))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._record.dropped:
            raise Dropped
        return self.writer.close()

    def _work(self, client: httpx.Client, requests: Requests, order: Any) -> None:
        for index in order:
            line = requests[index]
            with self._upstream.gate:
                if self._ending is None and not self._record.dropped:
                    self._send(client, line)
                    continue
            if not self._record.dropped:
                self.writer.ended(line, self._ending or "cancelled")

    def _send(self, client: httpx.Client, line: Line) -> None:
        import httpx  # noqa: PLC0415 - as above

        url = self._upstream.url + line.url.removeprefix("/v1")
        try:
            response = client.post(url, content=bytes(line.body))
        except httpx.HTTPError as error:
            text = f"No answer from the upstream: {type(error).__name__}: {error}"
            return self.writer.skipped(line, "upstream_unreachable", text, failed=True)
        try:
            body = msgspec.json.decode(response.content)
        except msgspec.DecodeError:
            body = response.text
        return self.writer.ran(line, response.status_code, body, _tokens(body))


def _tokens(body: Any) -> Tokens:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return Tokens()
    given = usage.get("input_tokens", usage.get("prompt_tokens"))
    made = usage.get("output_tokens", usage.get("completion_tokens"))
    return Tokens(given or 0, made or 0)
