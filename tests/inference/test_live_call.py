"""Rows that are asked live: how fast, what their lines say, what ends a run, and what a kill leaves."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import pathlib
import re
import tempfile
import threading
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager, suppress
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import httpcore
import msgspec
import pytest
import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_service import (
    CONFIG,
    ENDPOINT,
    Limit,
    LiveService,
    Written,
    answer_body,
    error_body,
    request_line,
    request_lines,
    uneven,
)
from virtual_time import run

from airflow_provider_openai_batches.api import live as api_live
from airflow_provider_openai_batches.api import protocol, retry
from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.protocol import HttpReply
from airflow_provider_openai_batches.exceptions import APIError, NoLiveEndpointError, TransportError
from airflow_provider_openai_batches.inference import live, live_files
from airflow_provider_openai_batches.inference.data.lines import classify, read_line
from airflow_provider_openai_batches.inference.data.requests import Request
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.inference.live_files import LiveFiles
from airflow_provider_openai_batches.inference.live_pace import (
    Left,
    LivePace,
    asked_pause,
    left_of,
    seconds_of,
)
from airflow_provider_openai_batches.inference.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.api.protocol import HttpRequest
    from airflow_provider_openai_batches.devserver import DevServer
    from airflow_provider_openai_batches.inference.live_tally import Tally

LOG = logging.getLogger("live")
SPEC = spec_of(ENDPOINT)


class Result(NamedTuple):
    tally: Tally
    written: Written
    seconds: float


def asked(service: Any, lines: Iterable[bytes] | int, **kwargs: Any) -> Result:
    """Ask all of them in virtual time."""
    count = lines if isinstance(lines, int) else None
    given = request_lines(lines) if isinstance(lines, int) else lines
    written = Written()

    async def main() -> Result:
        tally = await live.ask(service, ENDPOINT, given, written, log=LOG, total=count, **kwargs)
        return Result(tally, written, asyncio.get_running_loop().time())

    return run(main())


def outcome(line: dict[str, Any]) -> tuple[str, bool]:
    read = read_line(json.dumps(line).encode())
    assert read is not None
    found = classify(read, SPEC)
    return found.status, found.retryable


# How fast.


@pytest.mark.parametrize("says_left", [True, False], ids=["headers", "no headers"])
@pytest.mark.parametrize(
    ("limit", "count", "seconds", "least"),
    [
        (Limit(300), 1_200, 0.5, 0.95),
        (Limit(300), 1_200, 0.02, 0.9),
        (Limit(300), 1_500, uneven(5, 10), 0.85),
        (Limit(1_000), 2_000, 0.3, 0.95),
        (Limit(300, windows=True), 1_200, 0.5, 0.9),
        (Limit(3), 15, 0.5, 0.9),
        (Limit(1), 5, 0.5, 0.9),
    ],
)
def test_a_limit_of_requests_is_used(
    limit: Limit, count: int, seconds: float, least: float, *, says_left: bool
) -> None:
    """Over minutes, and hardly a request is refused where the service says what is left."""
    limit = Limit(limit.limit, windows=limit._windows)
    service = LiveService(seconds, requests=limit, says_left=says_left)
    found = asked(service, count)
    assert found.tally.succeeded == count
    least -= 0 if says_left else 0.05
    assert (count - limit.limit) * 60 / limit.limit >= least * found.seconds
    if says_left:
        assert found.tally.rate_limited <= 10
    assert service.most_under_way <= live.MAX_UNDER_WAY


def test_a_limit_of_tokens_is_used() -> None:
    """Rows of any length; the limit is in the service's tokens, which are not ours."""
    lines = [request_line(number, "word " * (number % 50)) for number in range(800)]
    tokens = sum(len(json.dumps(json.loads(line)["body"])) / 4 for line in lines)
    service = LiveService(0.5, tokens=Limit(10_000), requests=Limit(100_000))
    found = asked(service, lines)
    assert found.tally.succeeded == 800
    assert (tokens - 10_000) * 60 / 10_000 >= 0.9 * found.seconds
    assert found.tally.rate_limited <= 40  # of 800; chance moves the pauses


def test_what_a_service_says_of_its_limits_stops_nobody_for_days() -> None:
    """It says that nothing is left for a year, and answers all the same."""
    names = {"limit": "100", "remaining": "0", "reset": "365d"}
    headers = {f"x-ratelimit-{name}-requests": text for name, text in names.items()}
    found = asked(answering(200, b'{"choices": []}', headers), 12)
    assert found.tally.rows == 12
    assert found.seconds <= 12 * 301


def test_without_a_limit_the_number_under_way_is_one() -> None:
    """It begins with a few, and grows to the most."""
    service = LiveService(1.0)
    found = asked(service, 1_500, most=50)
    assert service.most_under_way == 50
    assert found.seconds < 50
    assert found.tally.requests == 1_500


def test_an_overloaded_service_gets_less() -> None:
    """Many at a time are too many for this one: it serves thirty, and refuses the others."""
    service = LiveService(1.0, answer=lambda _request, _times: 503 if service.under_way > 30 else None)
    found = asked(service, 1_000)
    assert found.tally.failed == 0
    assert found.tally.requests < 1_300
    assert found.seconds < 300


@pytest.mark.parametrize("status", [500, 503, 0])
def test_an_outage_of_minutes_loses_no_row(status: int) -> None:
    """And costs few requests."""
    service = LiveService(
        requests=Limit(300),
        answer=lambda _request, _times: (
            status if 30 < asyncio.get_running_loop().time() < 210 and status is not None else None
        ),
    )
    found = asked(service, 600)
    assert [found.tally.succeeded, found.tally.failed] == [600, 0]
    assert found.tally.requests < 750


def test_few_lines_are_read_ahead() -> None:
    """Memory is bounded by what is under way, not by the job."""
    service = LiveService(1.0)
    ahead = []

    def lines() -> Iterable[bytes]:
        for number in range(500):
            ahead.append(number - len(service.paid))
            yield request_line(number)

    asked(service, lines(), most=20)
    assert max(ahead) <= 20


def test_few_large_answers_are_held() -> None:
    """From their beginning until they are stored, also if some are asked again."""
    held: set[bytes] = set()
    most = []

    class Large(LiveService):
        async def ask(self, request: HttpRequest, before_large: Any = None) -> HttpReply:
            body = request.json or b""
            await asyncio.sleep(0.5)
            await before_large()
            held.add(body)
            most.append(len(held))
            await asyncio.sleep(0.5)
            reply = await super().ask(request)
            if reply.status != 200:
                held.discard(body)
            return reply

    async def sink(line: bytes) -> None:
        await asyncio.sleep(1)
        held.discard(
            json.dumps(json.loads(request_line(int(json.loads(line)["custom_id"][4:])))["body"]).encode()
        )

    service = Large(answer=lambda _request, times: 500 if times == 1 else None)
    tally = run(live.ask(service, ENDPOINT, request_lines(100), sink, log=LOG))
    assert tally.succeeded == 100
    assert max(most) == live.MAX_LARGE
    assert not held


# What the lines say.


def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> Any:
    class Service(LiveService):
        async def _carry_out(self, request: HttpRequest) -> HttpReply:
            self.sent[request.json or b""] += 1
            return HttpReply(
                status, headers or {}, body, redact=lambda text: text.replace("secret-key", "***")
            )

    return Service()


def test_an_answer_is_a_line_of_a_batchs_output() -> None:
    """On one line, although the service's own answers have several; otherwise as it came."""
    body = b'{\n  "id": "x",\n  "n": 1.00,\n  "choices": [{"message": {"content": "\xc3\xa9\\n"}}]\n}\n'
    line = asked(answering(200, body, {"x-request-id": "req_1"}), 1).written.lines[0]
    assert set(line) == {"id", "custom_id", "response", "error"}
    assert line["custom_id"] == "row-0"
    assert line["error"] is None
    assert line["response"] == {"status_code": 200, "request_id": "req_1", "body": json.loads(body)}
    assert b'"n":1.00' in live_files.line_of("a", HttpReply(200, {}, body))


@pytest.mark.parametrize(
    ("status", "body", "outcomes", "tries"),
    [
        pytest.param(200, b'{"choices": [{"logprob": NaN}]}', ("succeeded", False), 1, id="NaN"),
        pytest.param(200, b"<html>Sign in</html>", ("failed", True), 4, id="page"),
        pytest.param(200, b"", ("failed", True), 4, id="nothing"),
        pytest.param(200, b'{"choices": [{"mess', ("failed", False), 1, id="cut"),
        pytest.param(200, b"data: {}\n\n", ("failed", False), 1, id="stream"),
        pytest.param(200, b"[" * 200_000, ("failed", False), 1, id="deep"),
        pytest.param(200, b'{"status": "queued"}', ("failed", False), 1, id="job"),
        pytest.param(200, b'{"x": "queued"}', ("succeeded", False), 1, id="no job"),
        pytest.param(
            200, b'{"error": {"message": "overloaded", "code": 503}}', ("failed", True), 4, id="error in 200"
        ),
        pytest.param(400, error_body("bad"), ("failed", False), 1, id="400"),
        pytest.param(404, error_body("model_not_found"), ("failed", False), 1, id="no model"),
        pytest.param(408, error_body(None), ("failed", True), 4, id="408"),
        pytest.param(409, error_body(None), ("failed", True), 4, id="409"),
        pytest.param(502, b"<html>Bad gateway</html>", ("failed", True), 4, id="502"),
        pytest.param(
            429,
            error_body("rate_limit_exceeded", "Request too large for m on tokens per min (TPM): Limit 1"),
            ("failed", False),
            1,
            id="too large",
        ),
        pytest.param(429, error_body("rate_limit_exceeded"), ("failed", True), 20, id="429"),
    ],
)
def test_what_is_no_answer(status: int, body: bytes, outcomes: tuple[str, bool], tries: int) -> None:
    """What may pass is tried again, and is a line in the end; what was paid for is not asked again."""
    service = answering(status, body)
    found = asked(service, 1)
    (line,) = found.written.lines
    assert outcome(line) == outcomes
    assert sum(service.sent.values()) >= tries
    assert tries == 20 or sum(service.sent.values()) == tries
    assert line["response"] is None or line["response"]["status_code"] in {status, 503}
    counts = (found.tally.succeeded, found.tally.refused, found.tally.failed)
    assert counts == (outcomes[0] == "succeeded", outcomes == ("failed", False), outcomes[1])


def test_no_key_is_in_a_line() -> None:
    """Whatever repeats it."""
    page = b'{"error": {"message": "bad request of secret-key", "code": "secret-key"}}'
    for status, body in ((400, page), (502, b"<p>secret-key</p>"), (200, b"<p>secret-key</p>")):
        text = json.dumps(asked(answering(status, body), 1).written.lines)
        assert "secret-key" not in text
        assert "***" in text


def test_requests_that_may_be_paid_twice_are_counted() -> None:
    """A request whose answer was lost is sent again; there is no way to ask what became of it."""
    service = LiveService(0.1, answer=lambda _request, times: {1: 0, 2: 500}.get(times))
    tally = asked(service, 10).tally
    assert (tally.succeeded, tally.requests, tally.unsure) == (10, 30, 10)
    assert tally.usage.total_tokens == 250

    class NotReached(LiveService):
        async def _carry_out(self, request: HttpRequest) -> HttpReply:
            raise TransportError("refused", sent=False)

    lost = asked(NotReached(), 2)
    assert (lost.tally.failed, lost.tally.unsure) == (2, 0)
    assert [outcome(line) for line in lost.written.lines] == [("failed", True)] * 2


def test_progress(caplog: pytest.LogCaptureFixture) -> None:
    """A line every half minute and one at the end; not one for each failure."""
    service = LiveService(
        requests=Limit(600),
        answer=lambda request, times: 500 if times == 1 and b'7"' in (request.json or b"") else None,
    )
    with caplog.at_level("INFO"):
        asked(service, 1_200)
    texts = [record.getMessage() for record in caplog.records if record.name == "live"]
    assert 2 <= len(texts) <= 5
    assert texts[0].startswith(f"{ENDPOINT} live: ")
    assert " of 1,200 rows answered" in texts[0]
    assert re.search(r" a minute, [\d,]+ tokens", texts[0])
    assert texts[-1] == f"{ENDPOINT} live: 1,200 of 1,200 rows answered, 30,000 tokens"


# What ends a run.


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, error_body("invalid_api_key", "Incorrect API key."), APIError, "Incorrect API key. The live"),
        (403, error_body(None, "Not for this project."), APIError, "Not for this project. The live requests"),
        (402, error_body(None, "Pay."), APIError, "Pay."),
        (429, error_body("insufficient_quota", "No money."), APIError, "insufficient_quota"),
        (404, error_body("unknown_url", "Invalid URL"), NoLiveEndpointError, f"no live form of {ENDPOINT}"),
        (404, b'{"detail": "Not Found"}', NoLiveEndpointError, "Not Found"),
        (404, b"404 page not found", NoLiveEndpointError, "no live form"),
        (405, b"", NoLiveEndpointError, "no live form"),
        (307, b"", NoLiveEndpointError, "redirects are not followed"),
    ],
)
def test_what_ends_a_run(status: int, body: bytes, kind: type[APIError], words: str) -> None:
    """At once, with what the service says; no other row is asked."""
    service, written = answering(status, body), Written()
    with pytest.raises(kind, match="no other row is asked") as raised:
        run(live.ask(service, ENDPOINT, request_lines(1_000), written, log=LOG))
    assert words in str(raised.value)
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert sum(service.sent.values()) <= 4
    assert not written.lines
    assert not retry.is_passing(raised.value)


def test_answers_under_way_at_the_end_are_kept() -> None:
    """They are paid for."""

    class NoMoney(LiveService):
        async def _carry_out(self, request: HttpRequest) -> HttpReply:
            number = int(json.loads(request.json or b"")["messages"][0]["content"].split()[1])
            await asyncio.sleep(5 + number)
            self.paid[request.json or b""] += number != 0
            return (
                HttpReply(429, {}, error_body("insufficient_quota")) if number == 0 else self._good(request)
            )

        def _good(self, request: HttpRequest) -> HttpReply:
            return HttpReply(200, {}, answer_body(request))

    service, written = NoMoney(), Written()
    with pytest.raises(APIError):
        run(live.ask(service, ENDPOINT, request_lines(100), written, log=LOG))
    assert sorted(written.ids) == ["row-1", "row-2", "row-3"]
    assert service.paid.total() == 3


@pytest.mark.parametrize("seconds", [0.5, 30.0])
def test_a_stop(seconds: float) -> None:
    """Nothing is begun any more, and what is not answered within a second is given up."""
    service, sent = LiveService(seconds), []

    async def main() -> tuple[Tally, float]:
        now = asyncio.get_running_loop().time

        def stop() -> bool:
            if now() >= 10:
                sent.append(service.sent.total())
            return now() >= 10

        lines = request_lines(100_000)
        return await live.ask(service, ENDPOINT, lines, Written(), log=LOG, stop=stop), now()

    tally, ended = run(main())
    assert tally.is_stopped
    assert ended <= 12
    assert sent[0] == service.sent.total()
    assert tally.succeeded == service.paid.total()
    assert service.under_way == 0


def test_a_stop_while_the_store_is_slow() -> None:
    """What is not stored within a second is given up too."""

    async def main() -> float:
        now = asyncio.get_running_loop().time
        lines = request_lines(1_000)
        tally = await live.ask(
            LiveService(), ENDPOINT, lines, lambda _: asyncio.sleep(600), log=LOG, stop=lambda: now() >= 10
        )
        assert (tally.is_stopped, tally.rows) == (True, 0)
        return now()

    assert run(main()) <= 12


def test_a_sink_that_fails_ends_the_run() -> None:
    """The disk is full: no more is asked than is under way."""
    service = LiveService()

    async def full(_line: bytes) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        run(live.ask(service, ENDPOINT, request_lines(1_000), full, log=LOG))
    assert service.sent.total() <= 8


# What a kill leaves.


@pytest.fixture(params=["disk", "store"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"memory://live/{uuid4().hex}"


def job_at(uri: str, count: int = 3) -> str:
    """Keep the files of a job there, and return its name."""
    place = Workspace(uri, "me")
    rows = (
        Request(number, f"row-{number}", {"model": "m", "messages": []}, {}, is_named=False)
        for number in range(count)
    )
    job = write_shards(rows, place.begin(), endpoint=ENDPOINT)
    place.keep(job, "digest")
    place.close()
    return place.name


def place_of(uri: str, name: str) -> Workspace:
    place = Workspace(uri, "me")
    assert place.open(name)
    return place


def answered(files: LiveFiles) -> set[str]:
    """Return whose answers earlier processes wrote, except for failures that may pass."""
    files.mend()
    lines = (line for name in files.names for line in (files._place.local / name).read_bytes().splitlines())
    found = (line for line in map(read_line, lines) if line and not classify(line, SPEC).retryable)
    return {line.custom_id for line in found}


def left(files: LiveFiles, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the request lines of the other rows."""
    known = answered(files)
    return (line for line in lines if json.loads(line)["custom_id"] not in known)


def kept_lines(place: Workspace) -> list[bytes]:
    """All lines in the job's place, in the order of their files."""
    files = LiveFiles(place, "00000")
    place.fetch(files.names)
    return [
        line for name in files.names for line in (place.local / name).read_bytes().splitlines(keepends=True)
    ]


def test_each_line_is_there_when_its_write_returns(uri: str) -> None:
    """And the next process goes on where this one was killed."""
    name = job_at(uri)

    async def write(*numbers: int) -> None:
        files = LiveFiles(place_of(uri, name), "00000")
        for number in numbers:
            line = live_files.line_of(f"row-{number}", HttpReply(200, {}, b"{}"))
            await files.write(line)
            assert kept_lines(place_of(uri, name))[-1] == line

    asyncio.run(write(0, 1))  # not closed, as by a kill
    asyncio.run(write(2))
    files = LiveFiles(place_of(uri, name), "00000")
    assert answered(files) == {"row-0", "row-1", "row-2"}
    assert [name.split("-")[3] for name in files.names] == ["0", "1"]
    assert LiveFiles(place_of(uri, name), "00001").names == []
    assert list(left(files, request_lines(5))) == list(islice(request_lines(5), 3, 5))


def test_a_store_gets_few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that come while an object is stored go into the next version of it together."""
    uri = f"memory://live/{uuid4().hex}"
    monkeypatch.setattr(live_files, "SEGMENT_BYTES", 4_000)
    place = place_of(uri, job_at(uri))
    puts: Counter[str] = Counter()
    store = place.store
    monkeypatch.setattr(place, "store", lambda names: (puts.update(names), store(names)))
    lines = [live_files.line_of(f"row-{n}", HttpReply(200, {}, b'{"n": "%d"}' % n)) for n in range(200)]

    async def main() -> None:
        files = LiveFiles(place, "00000")
        for begin in range(0, 200, 20):
            await asyncio.gather(*(files.write(line) for line in lines[begin : begin + 20]))
        await files.close()

    asyncio.run(main())
    assert kept_lines(place) == lines
    assert puts.total() <= 20
    assert 4 <= len(puts) <= 10


def test_a_store_that_fails_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A put is tried again; if that is no use, what was written is still stored at the end."""
    uri = f"memory://live/{uuid4().hex}"
    place = place_of(uri, job_at(uri))
    monkeypatch.setattr(live_files, "SEGMENT_BYTES", 10)
    store, failures = place.store, [True, False, True, True, True, True]

    def sometimes(names: Iterable[str]) -> None:
        if failures and failures.pop(0):
            raise OSError("the store is away")
        store(names)

    monkeypatch.setattr(place, "store", sometimes)
    monkeypatch.setattr(tenacity, "wait_exponential", lambda **_: tenacity.wait_none())
    first, second = (live_files.error_line(name, "x", "y") for name in ("a", "b"))

    async def main() -> None:
        files = LiveFiles(place, "00000")
        await files.write(first)
        with pytest.raises(OSError, match="away"):
            await files.write(second)
        await files.close()

    asyncio.run(main())
    assert kept_lines(place) == [first, second]


def test_a_write_that_is_given_up_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The put goes on, and the next one waits for it."""
    uri = f"memory://live/{uuid4().hex}"
    place = place_of(uri, job_at(uri))
    store, begun, go_on, calls = place.store, threading.Event(), threading.Event(), []

    def slow(names: Iterable[str]) -> None:
        calls.append(names)
        begun.set()
        assert go_on.wait(20)
        store(names)

    monkeypatch.setattr(place, "store", slow)
    lines = [live_files.error_line(name, "x", "y") for name in ("a", "b")]

    async def main() -> None:
        files = LiveFiles(place, "00000")
        first, second = (asyncio.ensure_future(files.write(line)) for line in lines)
        await asyncio.to_thread(begun.wait, 20)
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        closing = asyncio.ensure_future(files.close())
        await asyncio.sleep(0.2)
        assert len(calls) == 1
        go_on.set()
        await closing

    asyncio.run(main())
    assert kept_lines(place) == lines


def test_a_disk_that_is_full_in_the_middle_of_a_line(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines after it, for which there is room again, are not added to the half of it."""
    place = place_of(uri, job_at(uri))
    lines = [live_files.error_line(name, "x", "y") for name in ("a", "b", "c")]
    original, opened = pathlib.Path.open, []

    def is_full(path: pathlib.Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        opened.append(mode)
        if opened.count("ab") == 2 and mode == "ab":
            with original(path, mode) as file:
                file.write(lines[1][:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, mode, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", is_full)

    async def main() -> None:
        files = LiveFiles(place, "00000")
        await files.write(lines[0])
        with pytest.raises(OSError, match="No space left"):
            await files.write(lines[1])
        await files.write(lines[2])
        await files.close()

    asyncio.run(main())
    found = [line for line in kept_lines(place) if line.endswith(b"\n")]
    assert found == [lines[0], lines[2]]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_last_line_that_was_cut(tmp_path: Path, *, is_whole: bool) -> None:
    """It is as if it had not been written, also for those who read the files later."""
    uri = str(tmp_path / "out")
    name = job_at(uri)
    whole = [live_files.line_of(f"row-{n}", HttpReply(200, {}, b'{"a": 1}')) for n in range(2)]
    path = place_of(uri, name).local / "live-00000-0-0-00000000.jsonl"
    path.write_bytes(whole[0] + whole[1][: -1 if is_whole else -20])
    assert answered(LiveFiles(place_of(uri, name), "00000")) == (
        {"row-0", "row-1"} if is_whole else {"row-0"}
    )
    assert path.read_bytes() == (b"".join(whole) if is_whole else whole[0])


class Try(NamedTuple):
    """
    One process that asks.

    :param killed_at: when it dies without a word; None: it does not.
    :param stopped_at: when it is told to stop.
    :param cut: how many bytes of its last line are not there.
    """

    killed_at: float | None
    stopped_at: float | None
    cut: int


MOMENTS = st.none() | st.floats(0.1, 40)
TRIES = st.lists(st.builds(Try, MOMENTS, MOMENTS, st.integers(0, 60)), max_size=3)
# What a row's requests are answered, one after the other; None is an answer, 0 is none at all.
SCRIPTS = st.lists(st.sampled_from([None, 0, 400, 429, 500, 503]), max_size=5)


class Scripted(LiveService):
    """Answers each row as its script says, over all tries, and is down in the middle of it."""

    def __init__(self, scripts: list[list[int | None]], random: Random, limit: float) -> None:
        super().__init__(lambda: random.choice([0.1, 1, 9]), requests=Limit(limit), answer=self._scripted)
        self._scripts = [iter(script) for script in scripts]

    def _scripted(self, request: HttpRequest, _times: int) -> int | None:
        number = int(json.loads(request.json or b"")["messages"][0]["content"].split()[1])
        return next(self._scripts[number], None)


def final_answers(lines: Iterable[bytes]) -> Counter[str]:
    """Count each row's lines that say what became of it for good; the last one may be cut."""
    final: Counter[str] = Counter()
    for text in lines:
        with suppress(ValueError):
            line = json.loads(text)
            final[line["custom_id"]] += not outcome(line)[1]
    return +final


async def one_try(service: LiveService, place: Workspace, count: int, end: Try) -> bool:
    """Return whether it came to its end."""
    files, loop, stopped = LiveFiles(place, "00000"), asyncio.get_running_loop(), threading.Event()
    begun = loop.time()
    if end.stopped_at is not None:
        loop.call_later(end.stopped_at, stopped.set)
    work = live.ask(
        service,
        ENDPOINT,
        left(files, request_lines(count)),
        files.write,
        log=LOG,
        stop=stopped.is_set,
        most=8,
    )
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=end.killed_at)
    if task.done():
        assert not task.result().is_stopped or loop.time() - begun <= (end.stopped_at or 0) + 2
        await files.close()
        return not task.result().is_stopped
    for everything in asyncio.all_tasks() - {asyncio.current_task()}:
        everything.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if files._path is not None and files._path.exists():
        size = files._path.stat().st_size
        with files._path.open("rb+") as file:
            file.truncate(max(0, size - end.cut))
    return False


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    scripts=st.lists(SCRIPTS, min_size=1, max_size=25),
    tries=TRIES,
    seed=st.integers(0, 9),
    rate=st.sampled_from([20, 600]),
)
def test_each_row_is_answered_once(
    scripts: list[list[int | None]], tries: list[Try], seed: int, rate: float
) -> None:
    """For any failures, times, limits, stops and kills: a line, one answer, and only the rest asked again."""
    service = Scripted(scripts, Random(seed), rate)  # noqa: S311 - times, not secrets
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/out"
        name = job_at(uri)
        everyone = {f"row-{number}" for number in range(len(scripts))}

        async def main() -> None:
            for end in [*tries, Try(None, None, 0)]:
                place = place_of(uri, name)
                before = final_answers(kept_lines(place))
                sent = service.sent.copy()
                is_over = await one_try(service, place, len(scripts), end)
                for number in range(len(scripts)):
                    body = bytes(json.dumps(json.loads(request_line(number))["body"]), "ascii")
                    is_left = f"row-{number}" not in before
                    assert is_left if service.sent[body] > sent[body] else not (is_left and is_over)

        run(main())
        lines = kept_lines(place_of(uri, name))
        assert {json.loads(line)["custom_id"] for line in lines} == everyone
        assert set(final_answers(lines).values()) <= {1}


# Over the wire.


def client_of(server: DevServer, most: int = 50) -> AsyncBatchesClient:
    headers = {"Authorization": "Bearer key"}
    config = ClientConfig(base_url=server.base_url, api_key="key", headers=headers, params={"x": "y"})
    return AsyncBatchesClient(config, connections=most)


def ask_server(server: DevServer, count: int, written: Callable[[bytes], Any], **kwargs: Any) -> Tally:
    async def main() -> Tally:
        client = client_of(server)
        try:
            return await live.ask(
                client, ENDPOINT, request_lines(count), written, log=LOG, total=count, most=50, **kwargs
            )
        finally:
            await client.aclose()

    return asyncio.run(main())


def test_a_limit_of_the_dev_server(server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    """Its headers hold us back before it has to. No request has a line of its own in the log."""
    caplog.set_level("INFO")
    server.settings(requests_per_minute=100, minute_seconds=1.0, live_seconds=0.02)
    written = Written()
    tally = ask_server(server, 300, written)
    assert not [record.name for record in caplog.records if record.name == "httpx"]
    assert tally.succeeded == len(set(written.ids)) == 300
    stats = server.stats()["live"]
    assert stats["paid_more_than_once"] == 0
    assert stats["rate_limited"] == tally.rate_limited <= 30


def test_many_connections_cost_a_request_nothing(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all there, but when a request begins or ends, httpx looks at few of them."""
    looks: list[httpcore.AsyncHTTPConnection] = []
    is_idle = httpcore.AsyncHTTPConnection.is_idle

    def look(self: httpcore.AsyncHTTPConnection) -> bool:
        looks.append(self)
        return is_idle(self)

    monkeypatch.setattr(httpcore.AsyncHTTPConnection, "is_idle", look)

    async def main() -> None:
        client = client_of(server, 105)
        request = api_live.ask(ENDPOINT, b'{"model": "m"}', client.config)
        server.settings(live_seconds=30.0)
        asking = [asyncio.ensure_future(client.ask(request)) for _ in range(110)]
        async with asyncio.timeout(30):
            while server.stats()["in_flight"] < 105:  # noqa: ASYNC110 - it is the server that changes
                await asyncio.sleep(0.05)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        server.settings(live_seconds=0.2)
        await asyncio.gather(*(client.ask(request) for _ in range(105)))
        looks.clear()
        await asyncio.gather(*(client.ask(request) for _ in range(105)))
        await client.aclose()

    asyncio.run(main())
    assert len(set(map(id, looks))) == 105
    assert len(looks) < 500 * 105


@asynccontextmanager
async def host_of(body: bytes, status: int = 200) -> AsyncIterator[ClientConfig]:
    """Serve this answer to each request."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                writer.write(head)
                for begin in range(0, len(body), 1 << 16):
                    writer.write(memoryview(body)[begin : begin + (1 << 16)])
                    await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as host:
        port = host.sockets[0].getsockname()[1]
        yield ClientConfig(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", headers={}, timeout=1.0)


def test_the_memory_that_answers_take_together_is_bounded() -> None:
    """Not each by itself: two hundred answers of 64 MB would be 12.8 GB."""
    body = json.dumps({"data": "x" * (3 << 20)}).encode()

    async def main() -> int:
        async with host_of(body) as config:
            client = AsyncBatchesClient(config, connections=60)
            tracemalloc.start()
            try:
                await live.ask(client, ENDPOINT, request_lines(60), lambda _: asyncio.sleep(0.1), log=LOG)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                await client.aclose()

    assert asyncio.run(main()) < 20 * len(body)


def test_an_answer_that_waits_for_room_is_not_too_slow() -> None:
    """It was paid for. A small one does not wait, and of an error a part is enough."""
    waits = []

    async def room() -> None:
        waits.append(1)
        await asyncio.sleep(2.5)

    async def ask(body: bytes, status: int = 200) -> int:
        async with host_of(body, status) as config:
            client = AsyncBatchesClient(config)
            assert config.answer_seconds < 2.5
            request = msgspec.structs.replace(api_live.ask(ENDPOINT, b'{"model": "m"}', config), seconds=0.0)
            try:
                reply = await client.ask(request, room)
                assert reply.status == status
                return len(reply.body)
            finally:
                await client.aclose()

    assert asyncio.run(ask(b"x" * 1_000_000)) == 1_000_000
    assert waits == [1]
    assert asyncio.run(ask(b"x" * 100_000)) == 100_000
    assert asyncio.run(ask(b"x" * 1_000_000, 500)) == 64 << 10
    assert waits == [1]


def test_failures_of_the_dev_server(server: DevServer) -> None:
    """Each row is answered in the end, and once."""
    server.settings(live_failing=0.2, live_failure_status=500)
    server.faults([{"operation": "live", "action": "drop_before", "times": 3}])
    written = Written()
    tally = ask_server(server, 60, written)
    assert sorted(written.ids) == sorted(f"row-{n}" for n in range(60))
    assert tally.succeeded == 60
    assert tally.unsure == 3
    assert server.stats()["live"]["paid_more_than_once"] == 0


def test_a_service_without_live_endpoints(server: DevServer) -> None:
    server.settings(live=False)
    with pytest.raises(NoLiveEndpointError, match="no live form of /v1/chat/completions"):
        ask_server(server, 60, Written())


def test_a_kill_while_the_service_hangs(server: DevServer) -> None:
    """The requests that are under way are given up."""
    server.settings(live_seconds=30.0)
    stopped = threading.Event()
    timer = threading.Timer(0.5, stopped.set)
    timer.start()
    tally = ask_server(server, 60, Written(), stop=stopped.is_set)
    timer.join()
    assert (tally.is_stopped, tally.succeeded) == (True, 0)


@pytest.mark.parametrize(
    ("base_url", "headers", "path"),
    [
        ("https://api.openai.com/v1", {"Authorization": "Bearer k"}, "/chat/completions"),
        ("https://r.openai.azure.com/openai/v1", {"api-key": "k"}, "/chat/completions"),
        ("https://r.openai.azure.com/openai", {"api-key": "k"}, "/deployments/my%3Am/chat/completions"),
        ("https://api.groq.com/openai", {"Authorization": "Bearer k"}, "/chat/completions"),
    ],
)
def test_addresses(base_url: str, headers: dict[str, str], path: str) -> None:
    """What a line's url says follows the base URL; Azure's older addresses name the deployment."""
    config = ClientConfig(base_url=base_url, api_key="k", headers=headers)
    for endpoint in (ENDPOINT, "/chat/completions"):
        request = api_live.ask(endpoint, b'{"model": "my:m"}', config)
        assert request.path == path
    assert protocol.seconds_for(request, CONFIG) == api_live.LIVE_SECONDS


# What headers say.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1s", 1),
        ("8.64s", 8.64),
        ("1m30.5s", 90.5),
        ("1h0m2s", 3_602),
        ("1d2h", 93_600),
        ("2m59.56s", 179.56),
        ("7", 7),
        ("0s", 0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("5x", None),
        ("2026-11-25T12:00:00Z", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (seconds if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=20))
def test_any_header_can_be_read(text: str) -> None:
    found = seconds_of(text)
    assert found is None or found >= 0


def test_what_is_left_of_a_limit() -> None:
    """All three, or nothing: half of it says less than it seems to."""
    names = ("limit", "remaining", "reset")
    headers = {
        f"x-ratelimit-{name}-tokens": text for name, text in zip(names, ("100", "90", "6s"), strict=True)
    }
    assert left_of("tokens", headers) == Left(100, 90, 6)
    assert left_of("requests", headers) is None
    for name in headers:
        assert left_of("tokens", {**headers, name: "?"}) is None


@pytest.mark.parametrize(
    ("sent_meanwhile", "allowed"),
    [
        pytest.param(0, 10, id="it may be less than 26, because it was said at the end"),
        pytest.param(15, 5, id="it may be 11, because it was said at the beginning"),
    ],
)
def test_when_what_is_left_was_true(sent_meanwhile: int, allowed: int) -> None:
    """
    When the request came, or a second later when it was answered: services differ.

    Sixteen were left then, ten more come in each second, and six are the reserve.
    """
    pace = LivePace(100)
    ticket = pace.begin(0.0, 1.0)
    for _ in range(sent_meanwhile):
        pace.begin(0.5, 1.0)
    said = {"limit": "600", "remaining": "16", "reset": "58.4s"}
    pace.hear(ticket, {f"x-ratelimit-{name}-requests": text for name, text in said.items()}, 1.0)
    sent = 0
    while not pace.wait(1.0, 1.0):
        pace.begin(1.0, 1.0)
        sent += 1
    assert sent == allowed


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7", "retry-after-ms": "6500"}, 6.5),
        ({"retry-after": "100000"}, retry.MAX_RETRY_AFTER),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, 20),
        ({"retry-after-ms": "?"}, None),
        ({}, None),
    ],
)
def test_what_a_429_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_pause(headers, 10.0) == seconds
