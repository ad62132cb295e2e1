"""How fast the page sends requests to the service, whatever its viewers ask for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Requests in a second for all viewers of a connection, and for one of them: one viewer gets only a part, so
# that the page still works for the others.
PER_SECOND = 10.0
PER_SECOND_AND_USER = 5.0
# So many seconds' worth of requests may be sent at once.
BURST_SECONDS = 10.0
MAX_WAIT = 2.0
# How long a request waits that nobody looks at a page for.
MAX_PATIENCE = 30.0
# The shortest sleep between two attempts of such a request.
LEAST_SLEEP = 0.01


class TooFastError(OpenAIBatchesError):
    """
    The page may not send this request now.

    :param seconds: how long to wait before asking again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many requests; try again in {seconds:.1f} s")
        self.seconds = seconds


class Throttle:
    """
    Lets requests through at a bounded pace: others wait a moment, or are refused if they would wait longer.

    :param clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Until when the requests so far take the whole pace: of each user, and of all of them (None).
        self._taken: dict[str | None, float] = {}
        # The patient requests of each user stand in a line; a line that is empty is forgotten.
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, user: str, most: float = MAX_WAIT) -> float:
        """
        Book a request, and return how many seconds it has to wait.

        :param most: how long it may wait.
        :raises TooFastError: if that would be too long; nothing is booked then.
        """
        now = self._clock()
        self._taken = {name: until for name, until in self._taken.items() if until > now}
        shares = {None: PER_SECOND, user: PER_SECOND_AND_USER}
        taken = {name: self._taken.get(name, now) + 1 / rate for name, rate in shares.items()}
        wait = max(0.0, max(taken.values()) - now - BURST_SECONDS)
        if wait > most:
            raise TooFastError(wait)
        self._taken |= taken
        return wait

    def paced(self, user: str, call: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """
        Return the call in its turn; see :meth:`turn`.

        A refusal is raised when it is called, not when it is awaited, so that a cache does not keep it.
        """
        return lambda: _after(self.turn(user), call)

    async def patiently(self, user: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """
        Call as soon as a turn is free, and book none before: all others, who do not wait long, go first.

        :raises TooFastError: if none was free for ``MAX_PATIENCE``.
        """
        until = self._clock() + MAX_PATIENCE
        line = self._lines.setdefault(user, asyncio.Lock())
        async with line:
            await self._free_turn(user, until)
        return await call()

    async def _free_turn(self, user: str, until: float) -> None:
        while True:
            try:
                self.turn(user, 0.0)
            except TooFastError as error:
                if self._clock() + error.seconds > until:
                    raise
                await asyncio.sleep(max(error.seconds, LEAST_SLEEP))
            else:
                return


async def _after(seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
    if seconds:
        await asyncio.sleep(seconds)
    return await call()
