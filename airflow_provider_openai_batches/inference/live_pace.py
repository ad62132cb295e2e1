"""
How many live requests may be under way, and when the next one may be sent. It knows no clock of its own.

The number under way grows with the answers, and shrinks where the service is overloaded. A service that says
what is left of its limits is asked no faster than they fill up:
https://developers.openai.com/api/docs/guides/rate-limits#rate-limits-in-headers
"""

from __future__ import annotations

import re
from math import inf, isfinite
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_openai_batches.api.protocol import retry_after
from airflow_provider_openai_batches.api.retry import MAX_RETRY_AFTER

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_UNDER_WAY = 4.0
# By how much an answer raises it at first, if the service says what is left of its limits; otherwise by one.
QUICKLY = 4.0
# After an overload the number under way is cut to this share, and soon grows again to that one.
CUT_TO, BACK_TO = 0.5, 0.75
# Seconds; for services that do not say when to come again.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# After so many failures in a row the service counts as overloaded.
STRIKES = 10
# The share of a limit that is not used up, because others' clocks are never exact.
RESERVE = 0.01
KINDS = ("requests", "tokens")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d*)?)s)?(?:(\d+(?:\.\d*)?)ms)?")
_UNITS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)


def seconds_of(text: str) -> float | None:
    """Read a duration as services write it: ``6m0s``, ``20ms``, ``1.5s``, or a plain number of seconds."""
    try:
        number = float(text)
    except ValueError:
        found = _DURATION.fullmatch(text.strip())
        if not found or not text.strip():
            return None
        number = sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part)
    return number if isfinite(number) and number >= 0 else None


class Left(NamedTuple):
    """What an answer says of a limit: how large it is, what is left, and in how many seconds it is full."""

    limit: float
    left: float
    full_in: float


def left_of(kind: str, headers: Mapping[str, str]) -> Left | None:
    """Read the headers about ``requests`` or ``tokens``; None if they do not say all."""
    said = (headers.get(f"x-ratelimit-{name}-{kind}", "") for name in ("limit", "remaining", "reset"))
    limit, left, full_in = (seconds_of(text) for text in said)
    if limit is None or left is None or full_in is None or limit < 1:
        return None
    return Left(limit, min(left, limit), full_in)


def asked_pause(headers: Mapping[str, str], now: float) -> float | None:
    """
    Return for how many seconds an answer asks for a pause; None if it does not.

    :param now: Unix seconds, for a ``Retry-After`` that is a date.
    """
    exact = seconds_of(headers.get("retry-after-ms", ""))
    asked = retry_after(headers.get("retry-after"), now) if exact is None else exact / 1_000
    return None if asked is None else min(asked, MAX_RETRY_AFTER)


class Ticket(NamedTuple):
    """
    A request that was sent.

    :param spent: what all requests up to this one have cost, by kind.
    """

    number: int
    sent_at: float
    spent: tuple[float, ...]


class Allowance:
    """What is left of one limit, which is taken for a bucket that fills up evenly."""

    def __init__(self) -> None:
        self._number = -1
        self._known = Left(inf, inf, 0.0)
        self._since: list[tuple[float, float]] = []
        self._refill = 0.0

    @property
    def is_known(self) -> bool:
        return self._number >= 0

    def hear(self, ticket: Ticket, said: Left, *since: tuple[float, float]) -> None:
        """
        Note what an answer says; what answers to later requests said is newer.

        :param since: times at which it may have been true, each with what had been spent by then.
        """
        if ticket.number < self._number:
            return
        self._number, self._known, self._since = ticket.number, said, list(since)
        if said.left < said.limit and said.full_in > 0:
            self._refill = (said.limit - said.left) / said.full_in

    def wait(self, now: float, spent: float, cost: float) -> float:
        """Return in how many seconds there is room for a request of this cost; 0: now."""
        limit, left, _ = self._known
        if not self._refill:
            return 0.0
        left = min(
            min(limit, left + self._refill * (now - at)) - (spent - by_then) for at, by_then in self._since
        )
        short = min(limit, cost + max(1.0, RESERVE * limit)) - left
        return max(0.0, short / self._refill)


class LivePace:
    """
    Says when the next request may be sent.

    :param most: how many may be under way.
    """

    def __init__(self, most: int) -> None:
        self.under_way = 0
        self._most = float(most)
        self._window = min(FIRST_UNDER_WAY, self._most)
        self._threshold = inf  # below it, the window grows quickly
        self._allowances = [Allowance() for _ in KINDS]
        self._spent = [0.0 for _ in KINDS]
        self._sent = 0
        self._begun_at = inf
        self._cut_at = self._full_at = -1
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._paused_until = -inf

    def has_room(self) -> bool:
        """Whether a further request may be under way. Call it when there is one."""
        if self.under_way < int(self._window):
            return True
        self._full_at = self._sent
        return False

    def wait(self, now: float, tokens: float) -> float:
        """Return in how many seconds a request may be sent, if there is room for it then."""
        costs = zip(self._allowances, self._spent, (1.0, tokens), strict=True)
        waits = (allowance.wait(now, spent, cost) for allowance, spent, cost in costs)
        seconds = max(self._paused_until - now, 0.0, *waits)
        # Now and then one is sent in any case: what was said may be wrong, or not true any more.
        return min(seconds, max(0.0, self._begun_at + MAX_RETRY_AFTER - now))

    def begin(self, now: float, tokens: float) -> Ticket:
        """Count a request that is being sent."""
        self.under_way += 1
        self._sent += 1
        self._begun_at = now
        self._spent[0] += 1
        self._spent[1] += tokens
        return Ticket(self._sent, now, tuple(self._spent))

    def end(self) -> None:
        """Count a request that is over, whatever came of it."""
        self.under_way -= 1

    def hear(self, ticket: Ticket, headers: Mapping[str, str], now: float) -> None:
        """Note what an answer says of the limits: as they were when its request came, or as they are now."""
        for kind, allowance, before, spent in zip(
            KINDS, self._allowances, ticket.spent, self._spent, strict=True
        ):
            if said := left_of(kind, headers):
                allowance.hear(ticket, said, (ticket.sent_at, before), (now, spent))

    def answered(self, ticket: Ticket) -> None:
        """Allow for more under way, if there was no room for one since the request was sent."""
        self._pause = FIRST_PAUSE
        self._failures = 0
        if self._full_at >= ticket.number:
            # What is left of its limits protects a service that says so, however quickly this grows.
            quickly = QUICKLY if any(allowance.is_known for allowance in self._allowances) else 1.0
            more = quickly if self._window < self._threshold else 1.0 / self._window
            self._window = min(self._most, self._window + more)

    def failed(self, ticket: Ticket, now: float) -> None:
        """Note a failure that is no overload; many without an answer in between are one."""
        self._failures += 1
        if self._failures >= STRIKES:
            self.overloaded(ticket, now, None)

    def overloaded(self, ticket: Ticket, now: float, asked: float | None) -> None:
        """
        Allow for fewer, and pause. Requests that were under way together count once.

        :param asked: for how many seconds the service asks for a pause.
        """
        if asked is not None:
            self._paused_until = max(self._paused_until, now + asked)
        if ticket.number <= self._cut_at:
            return
        self._cut_at = self._sent
        self._threshold = max(1.0, self._window * BACK_TO)
        self._window = max(1.0, self._window * CUT_TO)
        if asked is None:
            self._paused_until = max(self._paused_until, now + self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
