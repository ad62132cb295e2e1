"""Sends the requests of a batch to a real API, a few at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from airflow_provider_openai_batches.devserver.errors import NOT_JSON
from airflow_provider_openai_batches.devserver.input_lines import InputLines
from airflow_provider_openai_batches.devserver.results import BatchDropped
from airflow_provider_openai_batches.devserver.statuses import NOT_EXECUTED
from airflow_provider_openai_batches.devserver.token_usage import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver.input_lines import InputLine
    from airflow_provider_openai_batches.devserver.results import ResultWriter
    from airflow_provider_openai_batches.devserver.store import StoredBatch, WrittenResults

TIMEOUT = 600.0


class Upstream:
    """
    A real API.

    :param url: its base URL, with ``/v1``.
    :param concurrency: how many requests are sent to it at a time, for all batches together.
    """

    def __init__(self, url: str, key: str | None, concurrency: int) -> None:
        self.url = url.rstrip("/")
        self.headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {key}"} if key else {}
        )
        self.concurrency = concurrency
        self.gate = threading.BoundedSemaphore(concurrency)


def send_requests(record: StoredBatch, writer: ResultWriter, upstream: Upstream) -> WrittenResults:
    """
    Send each request of a batch, and record the answers.

    Once the batch is expired or cancelled, no more requests are sent. The answers to those that were already
    sent are still recorded.

    :raises BatchDropped: if the server was reset meanwhile.
    """
    check, source = record.check, record.input
    if check is None or source is None:
        return writer.close()
    order = iter(check.order)
    with (
        InputLines(source.path, check.offsets) as lines,
        httpx.Client(headers=upstream.headers, timeout=TIMEOUT, trust_env=False) as client,
    ):
        sender = _Sender(record, writer, upstream, client)
        threads = [
            threading.Thread(target=sender.work, args=(lines, order), daemon=True)
            for _ in range(min(upstream.concurrency, check.total))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if record.dropped:
        raise BatchDropped
    return writer.close()


class _Sender:
    """Sends requests of one batch; several threads :meth:`work` at the same time."""

    def __init__(
        self, record: StoredBatch, writer: ResultWriter, upstream: Upstream, client: httpx.Client
    ) -> None:
        self._record = record
        self._writer = writer
        self._upstream = upstream
        self._client = client

    def work(self, lines: InputLines, order: Iterator[int]) -> None:
        for index in order:
            line = lines[index]
            with self._upstream.gate:
                ending = self._record.ending
                if ending not in NOT_EXECUTED and not self._record.dropped:
                    self._send(line)
                    continue
            if ending is not None and not self._record.dropped:
                self._writer.not_executed(line, ending)

    def _send(self, line: InputLine) -> None:
        url = self._upstream.url + line.url.removeprefix("/v1")
        try:
            response = self._client.post(url, content=bytes(line.body))
        except httpx.HTTPError as error:
            text = f"The upstream did not answer: {type(error).__name__}: {error}"
            return self._writer.unreachable(line, text)
        try:
            body = msgspec.json.decode(response.content)
        except NOT_JSON:
            body = response.text
        return self._writer.executed(line, response.status_code, body, _usage(body), omit=False)


def _usage(body: Any) -> TokenUsage:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return TokenUsage()
    given = usage.get("input_tokens", usage.get("prompt_tokens"))
    made = usage.get("output_tokens", usage.get("completion_tokens"))
    return TokenUsage.of(given or 0, made or 0)
