"""What a job's time depends on: durations, the token limit, failures that pass, a clock that runs faster."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from devserver_api import Api, Clock, wait_until
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.devserver import DevServer, DevServerClient
from airflow_provider_openai_batches.devserver.clock import BatchClock
from airflow_provider_openai_batches.devserver.validation import PassingFailures

CLOCK, BATCH_SECONDS = Clock, 100
TOKENS = 20  # of each line that ``line`` makes
STATUSES = [500, 429]


def line(custom_id: str, model: str = "m") -> dict[str, Any]:
    """A request of so many tokens, whatever its model."""
    made = Api.line(custom_id, model=model, messages=[])
    bare = len(f'{{"messages": [], "model": "{model}", "user": ""}}')
    made["body"] = {"messages": [], "model": model, "user": "x" * (TOKENS * 4 - bare)}
    return made


def read(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch, once the server has read its input file."""
    return api.wait(batch["id"], lambda seen: seen["model"] is not None)


def code_of(batch: dict[str, Any]) -> str | None:
    return batch["errors"]["data"][0]["code"] if batch["errors"] else None


# -- durations -----------------------------------------------------------------------------------------------


def test_durations_by_number(server: DevServer, api: Api, clock: Clock) -> None:
    """The first batches take the times that are listed for them, and all others batch_seconds."""
    server.settings(batch_seconds_by_number=[400, None, 50])
    ids = [read(api, api.create([line(f"r{number}")]))["id"] for number in range(4)]
    for seconds, over in ((50, {2}), (50, {1, 2, 3}), (300, {0, 1, 2, 3})):
        clock.now += seconds
        for number in over:
            assert api.wait(ids[number])["status"] == "completed"
        assert {number for number in range(4) if api.get(ids[number])["completed_at"]} == over
    spans = server.timeline()
    assert [(seen["number"], seen["seconds"]) for seen in spans] == [(1, 400), (2, 100), (3, 50), (4, 100)]
    server.reset()
    server.settings(batch_seconds_by_number=[7])
    read(api, api.create([line("again")]))
    clock.now += 7
    assert api.wait(server.batches()[0]["id"])["status"] == "completed"


def test_seconds_per_request(server: DevServer, api: Api, clock: Clock) -> None:
    """A batch takes longer the more requests it has."""
    server.settings(batch_seconds=10, seconds_per_request=5)
    ids = [read(api, api.create([line(f"r{n}") for n in range(count)]))["id"] for count in (1, 4)]
    clock.now += 15
    api.wait(ids[0])
    assert api.get(ids[1])["status"] == "in_progress"
    clock.now += 15
    api.wait(ids[1])
    assert [seen["seconds"] for seen in server.timeline()] == [15, 30]


@pytest.mark.parametrize(("validating", "seconds"), [(60, 60), (None, 10), (0, 0)])
def test_a_rejection_takes_its_time(
    server: DevServer, api: Api, clock: Clock, validating: float | None, seconds: float
) -> None:
    """A batch is validating for as long as it is told to, and only then rejected or begun."""
    server.settings(validating_seconds=validating, enqueued_token_limit=TOKENS)
    ids = [read(api, api.create([line(name)]))["id"] for name in ("a", "b")]
    if seconds:
        clock.now += seconds - 1
        assert [api.get(batch_id)["status"] for batch_id in ids] == ["validating"] * 2
        clock.now += 1
    assert [api.get(batch_id)["status"] for batch_id in ids] == ["in_progress", "failed"]
    begun, rejected = server.timeline()
    assert begun["started"] - begun["created"] == rejected["seconds"] == seconds
    assert (begun["rejected"], rejected["rejected"]) == (None, "token_limit_exceeded")
    assert (rejected["requests"], rejected["tokens"], rejected["started"]) == (1, TOKENS, None)


# -- the token limit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("commas", "number"), [(True, "1,210"), (False, "1210")])
def test_the_words_of_a_rejection(server: DevServer, api: Api, commas: bool, number: str) -> None:
    """They are those of the service."""
    server.settings(
        validating_seconds=0, enqueued_token_limits={"gpt-5-mini": 1210}, limit_with_commas=commas
    )
    batch = api.run([line(f"r{n}", "gpt-5-mini") for n in range(61)])
    assert batch["errors"]["data"] == [
        {
            "code": "token_limit_exceeded",
            "line": None,
            "message": "Enqueued token limit reached for gpt-5-mini in organization org-devserver. Limit: "
            f"{number} enqueued tokens. Please try again once some in_progress batches have been completed.",
            "param": None,
        }
    ]


def test_limits_by_model(server: DevServer, api: Api) -> None:
    """Each model has its own limit and its own line; the plain limit is that of all other models."""
    server.settings(
        validating_seconds=0, enqueued_token_limits={"a": 2 * TOKENS}, enqueued_token_limit=TOKENS
    )
    made = [
        read(api, api.create([line(f"{n}{model}", model)])) for n, model in enumerate("aaabbcc") if n != 4
    ]
    found = [(batch["model"], code_of(api.get(batch["id"]))) for batch in made]
    rejected = "token_limit_exceeded"
    assert found == [("a", None), ("a", None), ("a", rejected), ("b", None), ("c", None), ("c", rejected)]


def test_a_batch_counts_until_it_is_over(server: DevServer, api: Api, clock: Clock) -> None:
    """While validating, in progress, and finalizing; a rejected one never does."""
    server.settings(validating_seconds=10, enqueued_token_limits={"m": TOKENS})
    first = read(api, api.create([line("first")]))
    for step, status in ((5, "validating"), (25, "in_progress"), (65, "finalizing")):
        clock.now += step
        assert api.get(first["id"])["status"] == status
        read(api, api.create([line(status)]))
    clock.now += 10
    assert api.wait(first["id"])["status"] == "completed"
    second = read(api, api.create([line("second")]))
    clock.now += 10
    assert api.get(second["id"])["status"] == "in_progress"
    rejected = "token_limit_exceeded"
    assert [seen["rejected"] for seen in server.timeline()] == [None, rejected, rejected, rejected, None]


# -- failures that pass --------------------------------------------------------------------------------------


def test_requests_fail_in_passing(server: DevServer, api: Api) -> None:
    """About that fraction fails, with the statuses that are given; most of them succeed when asked again."""
    server.settings(batch_seconds=0, failing_share=0.2, failing_statuses=STATUSES)
    names = {f"r{number}" for number in range(200)}
    first = api.run([line(name) for name in sorted(names)])
    failed = api.results(first["error_file_id"])
    assert 20 < len(failed) < 60
    assert first["request_counts"] == {"total": 200, "completed": 200 - len(failed), "failed": len(failed)}
    assert {found["response"]["status_code"] for found in failed.values()} == set(STATUSES)
    second = api.run([line(name) for name in failed])
    assert 0 < second["request_counts"]["completed"] < len(failed)
    left = set(api.results(second["error_file_id"]))
    assert left < set(failed)
    assert server.answers(at_least=2) == []
    assert {seen["custom_id"] for seen in server.answers()} == names - left
    assert {
        seen["custom_id"]: (seen["executed"], seen["answered"]) for seen in server.answers(at_least=0)
    } == {name: (2 if name in failed else 1, int(name not in left)) for name in names}
    api.run([line("r0")] if "r0" not in failed else [line("r1")])
    assert [seen["answered"] for seen in server.answers(at_least=2)] == [2]


def test_shares_by_number(server: DevServer, api: Api) -> None:
    """Some batches can have more failures than others, or none."""
    server.settings(batch_seconds=0, failing_share=1.0, failing_share_by_number=[0, None, 0.0])
    failed = [api.run([line(str(number))])["request_counts"]["failed"] for number in range(4)]
    assert failed == [0, 1, 0, 1]


def test_other_quirks_come_first(server: DevServer, api: Api) -> None:
    """A request that says what happens to it does not fail for another reason."""
    server.settings(batch_seconds=0, failing_share=1.0, failing_statuses=[500])
    batch = api.run([api.line("a", quirk="refuse"), api.line("b")])
    assert list(api.results(batch["output_file_id"])) == ["a"]
    assert list(api.results(batch["error_file_id"])) == ["b"]


@given(st.integers(), st.text(), st.integers(0, 5), st.floats(0, 1))
def test_a_failure_depends_on_seed_custom_id_and_run_alone(
    seed: int, custom_id: str, run: int, share: float
) -> None:
    """And what fails with a smaller share fails with a larger one too."""

    def quirk(fraction: float) -> str:
        return PassingFailures(fraction, STATUSES, seed).quirk(custom_id, run)

    assert quirk(share) == quirk(share)
    assert quirk(share) in {"", "fail:500", "fail:429"}
    assert not quirk(share) or quirk(1.0) == quirk(share)
    assert (quirk(0.0), bool(quirk(1.0))) == ("", True)


# -- the clock -----------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6),
            st.one_of(st.just("restart"), st.booleans(), st.sampled_from([0.5, 1.0, 60.0, 3600.0])),
        ),
        max_size=20,
    )
)
def test_a_clock_that_runs_faster(steps: list[tuple[float, Any]]) -> None:
    """Each real second counts as many as its speed says, batches do not age while it stands, and no leap."""
    real, frozen, speed = Clock(), False, 1.0
    clock = BatchClock(real)
    wall = age = real.now
    for seconds, change in steps:
        real.now += seconds
        wall += seconds * speed
        age += 0 if frozen else seconds * speed
        assert [clock.wall(), clock.now()] == pytest.approx([wall, age], rel=0, abs=0.01)
        if change == "restart":
            clock.restart()
            wall, age, frozen, speed = real.now, real.now, False, 1.0
        elif isinstance(change, bool):
            clock.freeze(frozen := change)
        else:
            clock.run(speed := change)
        assert [clock.wall(), clock.now()] == pytest.approx([wall, age], rel=0, abs=0.01)


def test_at_real_speed_the_time_is_exact() -> None:
    """A rounded time would be before the end of a batch that ends right then."""
    real = Clock()
    clock = BatchClock(real)
    for _ in range(100):
        real.now += 0.1
        assert clock.wall() == real.now


def test_a_day_in_a_second(api: Api) -> None:
    """Timers and the times that a batch shows follow the server's clock."""
    with DevServer(batch_seconds=86_000, window_seconds=90_000, clock_speed=86_400) as fast:
        api.http.base_url = fast.base_url
        made = api.create([line("a")])
        wait_until(lambda: not fast.service.lifecycle.running)  # nobody asks for the batch
        batch = api.get(made["id"])
        assert batch["expires_at"] - batch["created_at"] == 90_000
        assert batch["completed_at"] - batch["created_at"] >= 86_000 - 1  # both are rounded
        assert fast.stats()["now"] >= batch["completed_at"]
        fast.reset()
        assert fast.settings()["clock_speed"] == 86_400


# -- how they are set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"failing_share": 1.1},
        {"failing_share": -0.1},
        {"failing_share_by_number": [2]},
        {"failing_statuses": []},
        {"failing_statuses": [200]},
        {"clock_speed": 0},
        {"seconds_per_request": -1},
        {"validating_seconds": -1},
        {"batch_seconds_by_number": [-1]},
        {"enqueued_token_limits": {"m": "many"}},
        {"live_seconds": -1},
        {"live_failing": 2},
        {"live_failure_status": 200},
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
        {"minute_seconds": 0},
    ],
)
def test_settings_that_make_no_sense(server: DevServer, api: Api, changes: dict[str, Any]) -> None:
    """They are refused with the name of the setting, and on the command line too."""
    root = server.base_url.removesuffix("/v1")
    (name,) = changes
    answer = api.http.post(f"{root}/_dev/settings", json=changes)
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


def test_options(server: DevServer) -> None:
    """Each setting can be given on the command line; a wrong one is named and ends the program."""
    program = [sys.executable, "-m", "airflow_provider_openai_batches.devserver", "--port", "0"]
    given = ["--set", "clock_speed=60", "--set", 'enqueued_token_limits={"m": 9}']
    with subprocess.Popen([*program, *given], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            with DevServerClient(process.stdout.readline().strip()) as control:
                settings = control.settings()
                assert (control.timeline(), control.answers(at_least=2)) == ([], [])
        finally:
            process.terminate()
    assert (settings["clock_speed"], settings["enqueued_token_limits"]) == (60, {"m": 9})
    for wrong, words in (
        ("clock=1", "there is no setting 'clock'; there are "),
        ("clock_speed=0", "clock_speed cannot be '0'"),
        ("clock_speed=fast", "clock_speed cannot be 'fast'"),
        ("batch_seconds=1", "there is no setting 'batch_seconds'"),
    ):
        run = subprocess.run([*program, "--set", wrong], capture_output=True, text=True, check=False)
        assert run.returncode == 2
        assert words in run.stderr
