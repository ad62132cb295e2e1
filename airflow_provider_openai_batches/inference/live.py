"""
Asks request lines live: each is sent to its endpoint itself, many at a time, and answered within seconds.

An answer becomes a line as in a batch's output file the moment it is there:
https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import tenacity

from airflow_provider_openai_batches.api import protocol, retry
from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.errors import status_within
from airflow_provider_openai_batches.api.usage import Usage, usage_of
from airflow_provider_openai_batches.api.validation import check_count, check_endpoint
from airflow_provider_openai_batches.exceptions import APIError, NoLiveEndpointError, TransportError
from airflow_provider_openai_batches.inference.data.lines import classify, read_line
from airflow_provider_openai_batches.inference.data.outcomes import MISSING, SUCCEEDED, Outcome
from airflow_provider_openai_batches.inference.live_files import NO_ANSWER, error_line, line_of
from airflow_provider_openai_batches.inference.live_pace import LivePace, asked_pause
from airflow_provider_openai_batches.inference.live_request import LiveRow
from airflow_provider_openai_batches.inference.live_tally import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.protocol import HttpReply, HttpRequest
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.inference.live_pace import Ticket

# How many requests may be under way; the client needs as many connections.
MAX_UNDER_WAY = 200
# A row that is answered 429 is given up after so many tries in so many seconds; after other failures the
# connection's max_attempts counts. The pace holds all rows back then, so a single one pauses only briefly.
MAX_LIMITED, LIMITED_SECONDS, LIMITED_PAUSE = 20, 300.0, 5.0
# Seconds. After a kill, and after an answer that ends the run, those under way may still be answered.
KILL_GRACE, END_GRACE = 1.0, 60.0
# How many large answers may be held, from their beginning until they are stored; each is at most 64 MB, and
# each of the others at most 128 kB. So all that are under way have about 256 MB together.
MAX_LARGE = 3
LOOK, SHORTEST_SLEEP, LONGEST_SLEEP, REPORT_EVERY = 0.2, 0.001, 1.0, 30.0
# How much the latest answer counts in what is known of the tokens of a request.
LATEST = 0.05


class LiveClient(Protocol):
    """What is used of :class:`.AsyncBatchesClient`, which needs a connection for each that is under way."""

    @property
    def config(self) -> ClientConfig: ...
    async def ask(
        self, request: HttpRequest, before_large: Callable[[], Awaitable[None]] | None = None
    ) -> HttpReply: ...


async def ask(
    client: LiveClient,
    endpoint: str,
    lines: Iterable[bytes],
    sink: Callable[[bytes], Awaitable[object]],
    *,
    log: Log,
    stop: Callable[[], bool] = lambda: False,
    may_ask: Callable[[int], bool] = lambda _: True,
    total: int | None = None,
    most: int = MAX_UNDER_WAY,
) -> Tally:
    """
    Ask each row, and pass a line with what came of it to ``sink``.

    :param lines: request lines as in a batch's input file; as few are read ahead as are asked.
    :param sink: returns when the line is stored. The row's place among ``most`` is free then.
    :param stop: looked at five times a second. Once it says True, nothing new is begun, and what is not
        answered within a second is given up.
    :param may_ask: is told how many rows have no answer yet; once it says False although none is left, no
        other row is begun.
    :param total: how many lines there are, for the log.
    :param most: how many requests may be under way.
    :raises APIError: if the service refuses the key, has no money to take, or has no such endpoint
        (:class:`NoLiveEndpointError`). What was answered by then was passed to ``sink``; no other row was
        asked.
    """
    check_endpoint(endpoint)
    check_count(most, "most")
    run = _Run(client, endpoint, lines, sink, log=log, stop=stop, may_ask=may_ask, total=total, most=most)
    return await run.run()


class _EndedError(Exception):
    """Nothing new may be begun."""


class _Found(NamedTuple):
    """What came of one request, as a line of a batch's output file."""

    line: bytes
    outcome: Outcome
    usage: Usage | None


class _Run:
    def __init__(
        self,
        client: LiveClient,
        endpoint: str,
        lines: Iterable[bytes],
        sink: Callable[[bytes], Awaitable[object]],
        *,
        log: Log,
        stop: Callable[[], bool],
        may_ask: Callable[[int], bool],
        total: int | None,
        most: int,
    ) -> None:
        self._client, self._endpoint, self._lines, self._sink = client, endpoint, iter(lines), sink
        self._log, self._stop, self._may_ask, self._total, self._most = log, stop, may_ask, total, most
        self._begun = 0  # rows without an answer
        self._spec = spec_of(endpoint)
        self._clock = asyncio.get_running_loop().time
        self._pace = LivePace(most)
        self._in_turn = asyncio.Lock()  # those who wait for it come in their order
        self._changed = asyncio.Event()
        self._places = asyncio.Semaphore(MAX_LARGE)
        self._token_ratio = 1.0
        self._end: Exception | None = None
        self._is_ending = False
        self._storing = 0
        self.tally = Tally()

    async def run(self) -> Tally:
        count = self._most if self._total is None else max(1, min(self._most, self._total))
        workers = [asyncio.create_task(self._work()) for _ in range(count)]
        helpers = [asyncio.create_task(work) for work in (self._watch(workers), self._report())]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                if not worker.cancelled():
                    worker.result()
        finally:
            for task in (*workers, *helpers):
                task.cancel()
            await asyncio.gather(*workers, *helpers, return_exceptions=True)
            self._say()
        if self._end is not None:
            raise self._end
        self.tally.is_stopped = self._is_ending
        return self.tally

    async def _work(self) -> None:
        for data in self._lines:
            row = LiveRow(data, self._endpoint, self._client.config, self._places)
            try:
                await self._afford()
                await self._answer(row)
            except _EndedError:
                return
            finally:
                row.release()

    async def _afford(self) -> None:
        """Wait until one row more may be paid for."""
        while not self._may_ask(self._begun):
            if not self._begun:
                self.tally.is_out_of_money = True
            if self.tally.is_out_of_money or self._is_ending:
                raise _EndedError
            await asyncio.sleep(LOOK)

    async def _answer(self, row: LiveRow) -> None:
        """Ask a row until its answer is final, and pass it on."""
        self._begun += 1
        try:
            await self._ask_until_final(row)
        finally:
            self._begun -= 1

    async def _ask_until_final(self, row: LiveRow) -> None:
        found: _Found = await tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            retry=tenacity.retry_if_result(lambda found: found.outcome.retryable),
            stop=lambda _: self._is_out_of_tries(row),
            wait=lambda state: min(retry.wait(state), LIMITED_PAUSE) if row.is_limited else retry.wait(state),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )(self._ask, row)
        self._storing += 1
        try:
            await self._sink(found.line)
        finally:
            self._storing -= 1
        self._count(row, found)

    def _is_out_of_tries(self, row: LiveRow) -> bool:
        """Whether a row's failure is final; a 429 says more of all rows than of this one."""
        is_long = row.limited >= MAX_LIMITED and self._clock() - row.limited_at >= LIMITED_SECONDS
        return is_long or row.failures >= self._client.config.max_attempts

    async def _ask(self, row: LiveRow) -> _Found:
        """Send a row's request once."""
        tokens = row.tokens * self._token_ratio
        ticket = await self._turn(tokens)
        self.tally.requests += 1
        self.tally.unsure += row.is_unsure
        try:
            reply = await self._client.ask(row.request, row.enlarge)
        except TransportError as error:
            return self._lost(row, error, ticket)
        else:
            return self._read(row, ticket, reply)
        finally:
            self._pace.end()
            self._changed.set()

    async def _turn(self, tokens: float) -> Ticket:
        """Wait until a request may be sent."""
        async with self._in_turn:
            while not self._is_ending:
                seconds = self._pace.wait(self._clock(), tokens)
                if seconds > 0:
                    await asyncio.sleep(min(max(seconds, SHORTEST_SLEEP), LONGEST_SLEEP))
                elif self._pace.has_room():
                    return self._pace.begin(self._clock(), tokens)
                else:
                    self._changed.clear()
                    await self._changed.wait()
        raise _EndedError

    def _read(self, row: LiveRow, ticket: Ticket, reply: HttpReply) -> _Found:
        """Learn from an answer what the service allows, and make a line of it."""
        now, status = time.time(), reply.status
        self._pace.hear(ticket, reply.headers, self._clock())
        row.is_limited = status == HTTPStatus.TOO_MANY_REQUESTS
        row.is_unsure = status == HTTPStatus.GATEWAY_TIMEOUT
        self.tally.rate_limited += row.is_limited
        if retry.is_overload(status):
            self._pace.overloaded(ticket, self._clock(), asked_pause(reply.headers, now))
        elif retry.is_server_error(status):
            self._pace.failed(ticket, self._clock())
        else:
            self._pace.answered(ticket)
        if retry.is_success(status) and (within := status_within(reply.body)):
            reply = msgspec.structs.replace(reply, status=within)
        if error := protocol.failure(reply, self._client.config, now):
            self._check_end(error)
        return self._found(row, line_of(row.custom_id, reply))

    def _lost(self, row: LiveRow, error: TransportError, ticket: Ticket) -> _Found:
        """Make a line of a request that got no answer."""
        self._pace.failed(ticket, self._clock())
        row.is_limited, row.is_unsure = False, error.sent
        return self._found(row, error_line(row.custom_id, NO_ANSWER, str(error)))

    def _found(self, row: LiveRow, line: bytes) -> _Found:
        """Judge what came, and count the tries of its row."""
        read = read_line(line)
        outcome = MISSING if read is None else classify(read, self._spec)
        if outcome.retryable:
            row.release()  # while it waits for its turn, others must be able to end theirs
        if outcome.retryable and row.is_limited:
            row.limited_at = row.limited_at if row.limited else self._clock()
            row.limited += 1
        elif outcome.retryable:
            row.failures += 1
        return _Found(line, outcome, usage_of(read.response.body) if read and read.response else None)

    def _check_end(self, error: APIError) -> None:
        """:raises _EndedError: if every other row would be refused too."""
        kind, why = APIError, f"{error.message} The live requests to {self._endpoint} were stopped"
        if not retry.refuses_all(error):
            if self.tally.succeeded or not retry.has_no_such_endpoint(error):
                return
            kind, why = (
                NoLiveEndpointError,
                f"This service has no live form of {self._endpoint}: {error.message}",
            )
        said = {name: getattr(error, name) for name in ("status", "code", "param", "request_id")}
        self._end = self._end or kind(f"{why} (what was answered is kept, no other row is asked)", **said)
        self._is_ending = True
        raise _EndedError

    def _count(self, row: LiveRow, found: _Found) -> None:
        """Count a row whose line is stored."""
        self.tally.succeeded += found.outcome is SUCCEEDED
        self.tally.failed += found.outcome.retryable
        self.tally.refused += found.outcome is not SUCCEEDED and not found.outcome.retryable
        if found.usage is not None and found.outcome is SUCCEEDED:
            self.tally.usage.add(found.usage)
            change = found.usage.total_tokens / row.tokens - self._token_ratio
            self._token_ratio += change * max(LATEST, 1 / self.tally.succeeded)

    async def _watch(self, workers: list[asyncio.Task[None]]) -> None:
        """Give up what is under way some time after the end."""
        while not self._is_ending and not self._stop():
            await asyncio.wait(workers, timeout=LOOK)  # a signal handler sets no event of a loop
        self._is_ending = True
        self._changed.set()
        until = self._clock() + (KILL_GRACE if self._end is None else END_GRACE)
        while (self._pace.under_way or self._storing) and self._clock() < until:
            await asyncio.sleep(LOOK)
            if self._stop():
                until = min(until, self._clock() + KILL_GRACE)
        for worker in workers:
            worker.cancel()

    async def _report(self) -> None:
        """Say now and then how far it is."""
        while True:
            before = self.tally.rows
            await asyncio.sleep(REPORT_EVERY)
            self._say(f", {(self.tally.rows - before) * 60 / REPORT_EVERY:,.0f} a minute")

    def _say(self, speed: str = "") -> None:
        tally, of_all = self.tally, "" if self._total is None else f" of {self._total:,}"
        counts = {
            "tokens": tally.usage.total_tokens,
            "under way": self._pace.under_way,
            "refused": tally.refused,
            "failed": tally.failed,
            "times asked to slow down": tally.rate_limited,
            "sent again after an answer was lost": tally.unsure,
        }
        more = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
        self._log.info(
            "%s live: %s%s rows answered%s%s", self._endpoint, f"{tally.rows:,}", of_all, speed, more
        )
