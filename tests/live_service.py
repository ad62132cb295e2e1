"""A service with limits, in virtual time, for tests of what asks it live."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import httpx

from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.api.protocol import HttpReply
from airflow_provider_openai_batches.exceptions import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.api.protocol import HttpRequest

ENDPOINT = "/v1/chat/completions"
CONFIG = ClientConfig(base_url="http://127.0.0.1:1/v1", api_key="secret-key", headers={}, max_attempts=4)


def request_line(number: int, text: str = "hi") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": f"{text} {number}"}]}
    line = {"custom_id": f"row-{number}", "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


def request_lines(count: int) -> Iterator[bytes]:
    return (request_line(number) for number in range(count))


def answer_body(request: HttpRequest) -> bytes:
    content = json.loads(request.json or b"")["messages"][0]["content"]
    message = {"role": "assistant", "content": f"answer to {content}"}
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}, indent=1).encode()


def error_body(code: str | None, message: str = "no") -> bytes:
    return json.dumps(
        {"error": {"message": message, "type": "t", "param": None, "code": code}}, indent=1
    ).encode()


class Limit:
    """A limit a minute: a bucket that fills up evenly, or windows of a minute."""

    def __init__(self, limit: float, *, windows: bool = False) -> None:
        self.limit, self._windows = limit, windows
        self._used = self._at = 0.0

    def left(self, now: float) -> float:
        if self._windows:
            self._used *= now // 60 == self._at // 60
        else:
            self._used = max(0.0, self._used - (now - self._at) * self.limit / 60)
        self._at = now
        return self.limit - self._used

    def take(self, cost: float) -> None:
        self._used += cost

    def full_in(self, now: float) -> float:
        return 60 - now % 60 if self._windows else self._used * 60 / self.limit

    def wait(self, now: float, cost: float) -> float:
        return self.full_in(now) if self._windows else (cost - self.left(now)) * 60 / self.limit


class LiveService:
    """
    Stands for the client and the service behind it.

    :param seconds: how long an answer takes.
    :param answer: returns the status (0: no answer; None: 200), given the request and how often it was sent.
    :param says_left: whether its answers have headers about its limits.
    :param says_when: whether a 429 says when to come again.
    """

    def __init__(
        self,
        seconds: float | Callable[[], float] = 0.5,
        *,
        requests: Limit | None = None,
        tokens: Limit | None = None,
        answer: Callable[[HttpRequest, int], int | None] = lambda _request, _times: None,
        says_left: bool = True,
        says_when: bool = True,
    ) -> None:
        self.config = CONFIG
        self._seconds = seconds if callable(seconds) else lambda: seconds
        self._limits = {"requests": requests, "tokens": tokens}
        self._answer = answer
        self._says_left, self._says_when = says_left, says_when
        self.sent: Counter[bytes] = Counter()
        self.paid: Counter[bytes] = Counter()
        self.statuses: Counter[int] = Counter()
        self.under_way = self.most_under_way = 0

    async def ask(self, request: HttpRequest, before_large: Any = None) -> HttpReply:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            return await self._carry_out(request)
        finally:
            self.under_way -= 1

    async def _carry_out(self, request: HttpRequest) -> HttpReply:
        body = request.json or b""
        self.sent[body] += 1
        now = asyncio.get_running_loop().time()
        costs = {"requests": 1.0, "tokens": len(body) / 4}
        for kind, limit in self._limits.items():
            if limit and limit.left(now) < costs[kind]:
                self.statuses[429] += 1
                return self._full(limit.wait(now, costs[kind]))
        for kind, limit in self._limits.items():
            if limit:
                limit.take(costs[kind])
        headers = self._headers(now)
        status = self._answer(request, self.sent[body])
        self.statuses[status or 0] += 1
        await asyncio.sleep(self._seconds())
        if status == 0:
            raise TransportError("no answer")
        if status is None:
            self.paid[body] += 1
            return HttpReply(200, headers, answer_body(request))
        return HttpReply(status, headers, error_body(None))

    def _full(self, wait: float) -> HttpReply:
        headers = self._headers(asyncio.get_running_loop().time())
        if self._says_when:
            headers |= {"retry-after-ms": str(int(wait * 1_000) + 1)}
        return HttpReply(429, httpx.Headers(headers), error_body("rate_limit_exceeded"))

    def _headers(self, now: float) -> dict[str, str]:
        headers = {}
        for kind, limit in self._limits.items():
            if limit and self._says_left:
                headers[f"x-ratelimit-limit-{kind}"] = f"{limit.limit:.0f}"
                headers[f"x-ratelimit-remaining-{kind}"] = f"{int(limit.left(now))}"
                headers[f"x-ratelimit-reset-{kind}"] = f"{int(limit.full_in(now) * 1_000)}ms"
        return headers


class Written:
    """A sink that keeps the lines, and reads them as JSON."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    async def __call__(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        self.lines.append(json.loads(line))

    @property
    def ids(self) -> list[str]:
        return [line["custom_id"] for line in self.lines]


def uneven(low: float, high: float) -> Callable[[], float]:
    """Return different times, the same ones in each run."""
    random = Random(1)  # noqa: S311 - times, not secrets
    return lambda: random.uniform(low, high)
