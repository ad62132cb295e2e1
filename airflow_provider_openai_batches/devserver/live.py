"""
The endpoints themselves: a request is answered at once, as its line in a batch would be.

Their limits are buckets that fill up evenly, and every answer says how full they are:
https://developers.openai.com/api/docs/guides/rate-limits#rate-limits-in-headers
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from airflow_provider_openai_batches.devserver.answers import SyntheticAnswer, answer
from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS
from airflow_provider_openai_batches.devserver.errors import ApiError, error_body
from airflow_provider_openai_batches.devserver.input_lines import InputLine, estimated_tokens
from airflow_provider_openai_batches.devserver.lifecycle import ORGANIZATION
from airflow_provider_openai_batches.devserver.settings import Settings
from airflow_provider_openai_batches.devserver.validation import PassingFailures

DEPLOYMENT = "/deployments/{deployment}"
_SECOND = 1_000  # in milliseconds


class _Head(msgspec.Struct):
    model: str | None = None
    metadata: Any = None


class Bucket:
    """How much of a limit is left. It is full at first, and fills up evenly in ``seconds``."""

    def __init__(self) -> None:
        self._used = 0.0
        self._seen_at = 0.0

    def left(self, now: float, limit: int, seconds: float) -> float:
        self._used = max(0.0, self._used - (now - self._seen_at) * limit / seconds)
        self._seen_at = now
        return limit - self._used

    def take(self, cost: float) -> None:
        self._used += cost


class LiveService:
    """
    Answers requests one by one.

    :param clock: the wall clock, in Unix seconds.
    :param forwards: whether batches are sent to a real API, which then has to be asked itself.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float], *, forwards: bool) -> None:
        self._settings, self._clock, self._forwards = settings, clock, forwards
        self.reset()

    def reset(self) -> None:
        self._buckets = {"requests": Bucket(), "tokens": Bucket()}
        self._rate_limited = 0
        self._executed: Counter[bytes] = Counter()
        self._paid: Counter[bytes] = Counter()

    def stats(self) -> dict[str, int]:
        """Requests with the same body count as the same."""
        return {
            "rate_limited": self._rate_limited,
            "executed": self._executed.total(),
            "executed_distinct": len(self._executed),
            "paid": self._paid.total(),
            "paid_distinct": len(self._paid),
            "paid_more_than_once": sum(count > 1 for count in self._paid.values()),
        }

    async def ask(self, path: str, body: bytes, model: str | None = None) -> Response:
        """
        Answer one request.

        :param path: the endpoint, as in :data:`.endpoints.ENDPOINTS`.
        :param model: the deployment in an address of Azure.
        """
        if not self._settings.live or self._forwards:
            text = f"This server has no live form of {path}, only batches."
            raise ApiError(HTTPStatus.NOT_FOUND, text, code="unknown_url")
        head = _read(body, path, model)
        if model and head.model is None:
            body = msgspec.json.encode({**msgspec.json.decode(body), "model": model})
            head.model = model
        costs = {"requests": 1, "tokens": estimated_tokens(msgspec.Raw(body))}
        if refusal := self._take(costs, head.model):
            return refusal
        made = self._answer(path, body, head)
        if self._settings.live_seconds:
            await asyncio.sleep(self._settings.live_seconds)
        return _json(made.status, made.body, self._headers())

    def _answer(self, path: str, body: bytes, head: _Head) -> SyntheticAnswer:
        key = blake2b(body, digest_size=12).digest()
        runs = self._executed[key]
        self._executed[key] += 1
        line = InputLine("", "POST", path, msgspec.Raw(body))
        made = answer(line, path, int(self._clock()), self._quirk(head, key, runs))
        if made.status == HTTPStatus.OK:
            self._paid[key] += 1
        return made

    def _quirk(self, head: _Head, key: bytes, runs: int) -> str:
        """Return what the request asks to happen, or a failure that falls to this run of it."""
        settings = self._settings
        asked = head.metadata.get("devserver") if isinstance(head.metadata, dict) else None
        quirk, _, times = str(asked or "").partition("*")
        if quirk and (not times.isdecimal() or runs < int(times)):
            return quirk
        failures = PassingFailures(settings.live_failing, [settings.live_failure_status], settings.seed)
        return failures.quirk(key.hex(), runs)

    def _limits(self) -> dict[str, int]:
        settings = self._settings
        limits = {"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}
        return {kind: limit for kind, limit in limits.items() if limit is not None}

    def _take(self, costs: dict[str, int], model: str | None) -> Response | None:
        """Count a request, or return the refusal if it exceeds a limit."""
        now, seconds = self._clock(), self._settings.minute_seconds
        limits = self._limits()
        for kind, limit in limits.items():
            left = self._buckets[kind].left(now, limit, seconds)
            if costs[kind] > left:
                self._rate_limited += 1
                return self._refusal(kind, costs[kind], limit, left, model)
        for kind in limits:
            self._buckets[kind].take(costs[kind])
        return None

    def _refusal(self, kind: str, cost: int, limit: int, left: float, model: str | None) -> Response:
        short = {"requests": "RPM", "tokens": "TPM"}[kind]
        where = f"for {model} in organization {ORGANIZATION} on {kind} per min ({short})"
        headers = self._headers()
        if cost > limit:
            text = (
                f"Request too large {where}: Limit {limit}, Requested {cost}. The input or output tokens "
                "must be reduced in order to run successfully."
            )
        else:
            wait = (cost - left) * self._settings.minute_seconds / limit
            text = (
                f"Rate limit reached {where}: Limit {limit}, Used {limit - math.floor(left)}, Requested "
                f"{cost}. Please try again in {duration(wait)}."
            )
            headers |= {
                "retry-after": str(math.ceil(wait)),
                "retry-after-ms": str(math.ceil(wait * _SECOND)),
            }
        body = error_body(HTTPStatus.TOO_MANY_REQUESTS, text)
        body["error"]["type"] = kind
        return _json(HTTPStatus.TOO_MANY_REQUESTS, body, headers)

    def _headers(self) -> dict[str, str]:
        """Return what is left of each limit now, and when it is full again."""
        if not self._settings.rate_limit_headers:
            return {}
        now, seconds, headers = self._clock(), self._settings.minute_seconds, {}
        for kind, limit in self._limits().items():
            left = self._buckets[kind].left(now, limit, seconds)
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(math.floor(left))
            headers[f"x-ratelimit-reset-{kind}"] = duration((limit - left) * seconds / limit)
        return headers


def _read(body: bytes, path: str, model: str | None) -> _Head:
    """:raises ApiError: 400 if the body is no request."""
    try:
        head = msgspec.json.decode(body, type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = "We could not parse the JSON body of your request."
        raise ApiError(HTTPStatus.BAD_REQUEST, text) from None
    if head.model is None and model is None and ENDPOINTS[path].needs_model:
        text = "you must provide a model parameter"
        raise ApiError(HTTPStatus.BAD_REQUEST, text, param="model", code="missing_required_parameter")
    return head


def duration(seconds: float) -> str:
    """Write a duration as the service does: ``20ms``, ``1.5s``, ``6m0s``, ``1h0m2.5s``."""
    thousandths = math.ceil(round(seconds * _SECOND, 3))
    if thousandths < _SECOND:
        return f"{thousandths}ms"
    whole, part = divmod(thousandths, _SECOND)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    last = f"{whole}.{part:03}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{last}" if hours else f"{minutes}m{last}" if minutes else last


def _json(status: int, body: Any, headers: dict[str, str]) -> Response:
    """Answer with JSON over several lines, as the service does."""
    content = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return Response(content, status_code=status, media_type="application/json", headers=headers)


class LiveRoutes:
    def __init__(self, live: LiveService) -> None:
        self._live = live

    def add_to(self, app: FastAPI) -> None:
        for endpoint in ENDPOINTS:
            path = endpoint.removeprefix("/v1")
            app.add_api_route(path, self.ask, methods=["POST"], response_model=None)
            app.add_api_route(DEPLOYMENT + path, self.ask, methods=["POST"], response_model=None)

    async def ask(self, request: Request, deployment: str = "") -> Response:
        path = request.scope["path"].removeprefix(f"/deployments/{deployment}")
        return await self._live.ask(f"/v1{path}", await request.body(), deployment or None)
