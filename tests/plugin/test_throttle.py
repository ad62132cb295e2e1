"""Whatever a viewer invents, the service gets few requests, and the page works for the other viewers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import create, made_by

from airflow_provider_openai_batches.plugin import throttle
from airflow_provider_openai_batches.plugin.throttle import Throttle, TooFastError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Connection = Callable[..., str]

BASE = "/openai-batches/api/batches"
CONN = {"conn_id": "openai_batches_default"}
MINE = made_by("mine", "run_1", "ask")
FEW = 4


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def turn(pace: Throttle, user: str) -> float | None:
    """How long a request waits; None if it is refused."""
    try:
        return pace.turn(user)
    except TooFastError:
        return None


# -- the pace ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 80), st.floats(0, 20)), max_size=15))
def test_no_time_has_more_requests_than_the_pace_allows(asked: list[tuple[str, int, float]]) -> None:
    """For each user and for all, from any request to any other, however they come."""
    clock = Clock()
    pace = Throttle(clock)
    sent: list[tuple[str, float]] = []
    for user, count, later in asked:
        for _ in range(count):
            wait = turn(pace, user)
            if wait is None:
                break
            assert 0 <= wait <= throttle.MAX_WAIT
            sent.append((user, clock.now + wait))
        clock.now += later
    within(sorted(time for _, time in sent), throttle.PER_SECOND)
    for user in "abcd":
        within(sorted(time for name, time in sent if name == user), throttle.PER_SECOND_AND_USER)


def within(times: list[float], per_second: float) -> None:
    """Between any two of the times are at most a burst and what the pace allows in between."""
    least = float("inf")
    for number, time in enumerate(times):
        least = min(least, number - per_second * time)
        assert number + 1 - per_second * time - least <= per_second * throttle.BURST_SECONDS + 1e-3


def test_one_user_leaves_something_to_the_others() -> None:
    pace = Throttle(Clock())
    assert None in [turn(pace, "flood") for _ in range(1_000)]
    assert [pace.turn("other") for _ in range(10)] == [0] * 10


def test_after_the_time_that_a_refusal_names_the_request_is_sent() -> None:
    clock = Clock()
    pace = Throttle(clock)
    while turn(pace, "a") is not None:
        pass
    with pytest.raises(TooFastError) as refused:
        pace.turn("a")
    clock.now += refused.value.seconds
    assert pace.turn("a") == pytest.approx(0, abs=1e-6)


async def _nothing() -> None:
    pass


def virtual(main: Callable[[Throttle, Callable[[], float]], Coroutine[Any, Any, None]]) -> None:
    """Run something with a pace whose clock is the loop's, in which minutes take no time."""

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        await main(Throttle(clock), clock)

    virtual_time.run(run())


async def many(pace: Throttle, user: str, count: int, at_once: int = 500) -> list[Any]:
    """Send requests of a user that may wait; return the refusals."""
    turns = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with turns:
            await pace.patiently(user, _nothing)

    ends = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    return [end for end in ends if end is not None]


def test_who_may_wait_is_not_refused() -> None:
    """As many as a job has batches, at the pace of one user, a few at a time."""

    async def main(pace: Throttle, clock: Callable[[], float]) -> None:
        assert await many(pace, "a", 250, at_once=4) == []
        burst = throttle.PER_SECOND_AND_USER * throttle.BURST_SECONDS
        assert clock() == pytest.approx((250 - burst) / throttle.PER_SECOND_AND_USER, abs=2)

    virtual(main)


def test_who_may_wait_does_not_wait_for_ever() -> None:
    """500 at once cannot all have their turn in time."""

    async def main(pace: Throttle, clock: Callable[[], float]) -> None:
        refused = await many(pace, "a", 500)
        assert {type(end) for end in refused} == {TooFastError}
        assert 0 < len(refused) < 500
        assert clock() <= throttle.MAX_PATIENCE + 1

    virtual(main)


@pytest.mark.parametrize("users", [1, 2, 12])
def test_who_may_wait_leaves_the_others_their_turns(users: int) -> None:
    """However many cancel a job at the same time: nothing is booked in advance, and who looks goes first."""

    async def main(pace: Throttle, clock: Callable[[], float]) -> None:
        cancels = [asyncio.ensure_future(many(pace, f"cancels {n}", 500)) for n in range(users)]
        waited = []
        while clock() < throttle.MAX_PATIENCE:
            await asyncio.sleep(0.7)
            waited += [pace.turn("looks"), pace.turn("looks too")]
        assert max(waited) < 1
        await asyncio.gather(*cancels)

    virtual(main)


def test_patient_requests_keep_the_pace() -> None:
    """Of each user, and of all."""

    async def main(pace: Throttle, clock: Callable[[], float]) -> None:
        sent: list[tuple[str, float]] = []

        async def one(user: str) -> None:
            async def note() -> None:
                sent.append((user, clock()))

            with suppress(TooFastError):
                await pace.patiently(user, note)

        await asyncio.gather(*(one(user) for user in "abc" for _ in range(200)))
        within(sorted(time for _, time in sent), throttle.PER_SECOND)
        for user in "abc":
            within(sorted(time for name, time in sent if name == user), throttle.PER_SECOND_AND_USER)

    virtual(main)


def test_who_is_quiet_is_forgotten() -> None:
    """An API server runs for months."""
    clock = Clock()
    pace = Throttle(clock)
    for number in range(1_000):
        pace.turn(f"user {number}")
        clock.now += 1
    assert len(pace._taken) < 20


# -- over HTTP -----------------------------------------------------------------------------------------------


@pytest.fixture
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may send FEW requests, all together three times as many; then nothing for a long time."""
    monkeypatch.setattr(throttle, "PER_SECOND", 3 * FEW / 1_000)
    monkeypatch.setattr(throttle, "PER_SECOND_AND_USER", FEW / 1_000)
    monkeypatch.setattr(throttle, "BURST_SECONDS", 1_000)


def keep_answers(seconds: float) -> None:
    from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin

    clients = OpenAIBatchesPlugin.fastapi_apps[0]["app"]._app.state.clients
    clients._seconds = clients._configs._seconds = seconds


def requests(server: DevServer, operation: str) -> int:
    count: int = server.stats()["requests"].get(operation, 0)
    return count


@pytest.mark.usefixtures("_slow")
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/cancel")])
def test_invented_batches(login: Login, server: DevServer, method: str, path: str) -> None:
    """The service hears of a few; then the answer says when to ask again. Another user is still served."""
    keep_answers(600)
    server.settings(freeze=True)
    batch_id = create(server, metadata=MINE)

    def ask(role: str, name: str) -> httpx.Response:
        body: dict[str, str] | None = None if method == "GET" else {}
        return login(role).request(method, f"{BASE}/{name}{path}", params=CONN, json=body)

    answers = [ask("user", f"batch_invented{number}") for number in range(20)]
    assert [answer.status_code for answer in answers] == [404] * FEW + [429] * (20 - FEW)
    assert requests(server, "retrieve_batch") == FEW
    seconds = answers[-1].headers["retry-after"]
    assert f"Try again in {seconds} s." in answers[-1].json()["detail"]
    assert ask("admin", batch_id).status_code == 200


@pytest.mark.usefixtures("_slow")
def test_a_refusal_is_not_shown_to_the_others(login: Login, server: DevServer) -> None:
    """It is not kept in the cache; what is kept there costs no request, and is shown to all."""
    keep_answers(600)
    batch_id = create(server, metadata=MINE)
    for number in range(FEW + 1):
        login("user").get(f"{BASE}/batch_invented{number}", params=CONN)
    path = f"{BASE}/{batch_id}"
    assert login("user").get(path, params=CONN).status_code == 429
    assert login("admin").get(path, params=CONN).status_code == 200
    assert login("user").get(path, params=CONN).status_code == 200


@pytest.mark.usefixtures("_slow")
def test_invented_connections(login: Login) -> None:
    """Each is looked up in the database, and perhaps in a secrets backend that has its price."""
    keep_answers(600)
    statuses = [
        login("viewer").get(BASE, params={"conn_id": f"invented_{number}"}).status_code for number in range(9)
    ]
    assert statuses == [404] * FEW + [429] * (9 - FEW)


# -- cursors -------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_out(login: Login, server: DevServer) -> str:
    """The cursor of the second page."""
    server.seed(250, metadata=MINE)
    return str(login("viewer").get(BASE, params=CONN).json()["next"])


def test_only_cursors_that_were_handed_out_go_to_the_service(
    login: Login, server: DevServer, connection: Connection, handed_out: str
) -> None:
    """Not a batch's id, nor a cursor with another signature, nor one of another connection."""
    connection("other", host=server.base_url)
    batch_id, _, signature = handed_out.rpartition(".")
    other_id = login("viewer").get(BASE, params=CONN).json()["batches"][7]["id"]
    wrong = [
        batch_id,
        f"{batch_id}.",
        f"{other_id}.{signature}",
        f"{handed_out}0",
        handed_out[:-1],
        "\u202e.",
    ]
    before = requests(server, "list_batches")
    for cursor in wrong:
        answer = login("admin").get(BASE, params={**CONN, "after": cursor})
        assert answer.status_code == 400
        assert "no page of it had that cursor" in answer.json()["detail"]
    elsewhere = login("admin").get(BASE, params={"conn_id": "other", "after": handed_out})
    assert elsewhere.status_code == 400
    assert requests(server, "list_batches") == before
    assert login("viewer").get(BASE, params={**CONN, "after": handed_out}).status_code == 200
    assert requests(server, "list_batches") == before + 1


@pytest.mark.parametrize("private_key", [False, True])
def test_another_api_server_takes_the_cursor(monkeypatch: pytest.MonkeyPatch, *, private_key: bool) -> None:
    """By the secret that API servers share; where a private key signs sessions, that is another one."""
    from airflow_provider_openai_batches.plugin.cursors import batch_before, cursor_after

    shared, own = ("API__SECRET_KEY", "API_AUTH__JWT_SECRET")[:: 1 if private_key else -1]
    if private_key:
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH", "key.pem")
    monkeypatch.setenv(f"AIRFLOW__{shared}", "shared")
    cursor = cursor_after("c", "batch_1")
    monkeypatch.setenv(f"AIRFLOW__{own}", "of this server alone")
    assert batch_before("c", cursor) == "batch_1"
    monkeypatch.setenv(f"AIRFLOW__{shared}", "of another Airflow")
    assert batch_before("c", cursor) is None


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.text())
def test_a_cursor_leads_to_its_own_page_alone(conn_id: str, batch_id: str, other: str, junk: str) -> None:
    from airflow_provider_openai_batches.plugin.cursors import batch_before, cursor_after

    cursor: Any = cursor_after(conn_id, batch_id)
    assert batch_before(conn_id, cursor) == batch_id
    assert (batch_before(other, cursor) is None) is (other != conn_id)
    assert batch_before(conn_id, junk) is None
    assert batch_before(conn_id, f"{cursor}{junk}") == (None if junk else batch_id)
