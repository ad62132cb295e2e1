"""
For any times, faults, deaths and ways out: one result for each row, in order, and what is kept is paid once.

Some rows are asked live: the first ones, those that are left at some time, or all of them. A death costs no
more than what was under way at that moment.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import tenacity
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from inferencekit import Crash, MortalHook, MortalOperator, job
from support import run_task, task_context

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.api import retry
from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.exceptions import BatchFailed, TaskKilled
from airflow_provider_openai_batches.inference import live_pace, workspace
from airflow_provider_openai_batches.inference.live_files import LiveFiles
from airflow_provider_openai_batches.inference.records import Records
from airflow_provider_openai_batches.inference.schedule import Schedule
from airflow_provider_openai_batches.operators.inference_faults import LastingError
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

# What the dev server does with a request, and how many further requests it takes until it succeeds.
MARKERS = {"": 0, "fail:429*1": 1, "fail:500*2": 2, "fail:400": None, "refuse": None, "invalid_json*1": 1}
PAID_TWICE = "invalid_json*1"
MODELS = ("gpt-5-mini", "gpt-5-nano")
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
BODY = {
    "model": "{model}",
    "messages": [{"role": "user", "content": "{text}"}],
    "metadata": {"devserver": "{marker}"},
}
CALLS = ("upload_file", "create_batch", "retrieve_batch", "download_file", "cancel_batch", "save")
LIVE_DEATHS = {"ask": ("before", "after", "kill"), "write": ("before", "after", "half")}
OF_LIVE_CALLS = [(call, when) for call, whens in LIVE_DEATHS.items() for when in whens]
DEATHS = [*((call, when) for call in CALLS for when in ("before", "after")), *OF_LIVE_CALLS * 3]
NEVER = 1_000


class Try(NamedTuple):
    """
    How one try ends.

    :param death: the operation, when, and at which call of it the process dies; "kill": the task is stopped.
    :param late_at: at which look at the clock the time of answer_by is up.
    """

    death: tuple[str, str, int]
    with_its_disk: bool
    late_at: int
    is_cleared: bool


TRIES = st.builds(
    lambda death, nth, *more: Try((*death, nth), *more),
    st.sampled_from(DEATHS),
    st.sampled_from([1, 1, 2, 3, 5]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([0, 2, 4, 7, 11, NEVER, NEVER]),
    st.booleans(),
)
JOBS = st.fixed_dictionaries(
    {
        "max_requests_per_batch": st.integers(1, 5),
        "max_active_batches": st.integers(1, 4),
        "max_rounds": st.integers(0, 3),
        "canary": st.sampled_from([0, 0, 1, 3, 20]),
        "then": st.sampled_from(["live", "live", "live", "fail", "keep"]),
        "mode": st.sampled_from(["batch", "batch", "batch", "live"]),
        "id_column": st.sampled_from([None, "key"]),
        "output_schema": st.sampled_from([None, SCHEMA]),
        "retry_invalid": st.booleans(),
    }
)
PLACES = st.sampled_from(["disk", "store", "full store"])


class World:
    """The processes of a job, the clock that they look at, and what was under way whenever one died."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun = self.settled = self.written = 0
        self.lost = self.kept = 0
        self.is_dead = False
        self.looks, self.late_at = 0, NEVER
        self.call, self.moment, self.left = "", "", 0
        self._patch = patch
        self._patch_live()
        self._patch_records()

    def begin(self, each: Try) -> None:
        self.is_dead = False
        self.begun = self.settled = self.written = 0
        self.call, self.moment, self.left = each.death
        MortalHook.doom = each.death
        self.late_at = each.late_at
        if each.is_cleared:
            self.looks = 0

    def end(self) -> None:
        self.lost += max(0, self.begun - self.settled - self.written)
        self.kept += self.written

    def reach(self, call: str, moment: str) -> bool:
        """Whether the process dies here."""
        if self.is_dead:
            raise Crash
        if self.call != call or self.moment != moment:
            return False
        self.left -= 1
        return not self.left

    def die(self, call: str, moment: str) -> None:
        if self.reach(call, moment):
            self.is_dead = True
            raise Crash

    def _patch_live(self) -> None:
        ask, write, put = AsyncBatchesClient.ask, LiveFiles.write, LiveFiles._put

        async def asked(client: Any, *given: Any, **named: Any) -> Any:
            self.die("ask", "before")
            self.begun += 1
            reply = await ask(client, *given, **named)
            self.settled += reply.status != 200
            self.die("ask", "after")
            if self.reach("ask", "kill"):
                MortalHook.latest.stop()
            return reply

        async def written(files: Any, line: bytes) -> None:
            self.die("write", "before")
            if self.reach("write", "half") and files._place.is_local:
                files._append([line[: len(line) // 2]])
                self.is_dead = True
                raise Crash
            await write(files, line)
            self.written += json.loads(line)["response"] is not None and b'"status_code":200' in line
            self.die("write", "after")

        def stored(files: Any, lines: list[bytes]) -> None:
            if not self.is_dead:
                put(files, lines)

        self._patch.setattr(AsyncBatchesClient, "ask", asked)
        self._patch.setattr(LiveFiles, "write", written)
        self._patch.setattr(LiveFiles, "_put", stored)
        self._patch.setattr(live_pace, "FIRST_PAUSE", 0.01)
        self._patch.setattr(retry, "_backoff", tenacity.wait_fixed(0.01))

    def _patch_records(self) -> None:
        save = Records.save

        def saved(records: Any, folder: Any) -> None:
            if isinstance(sys.exc_info()[1], Crash):
                raise Crash
            self.die("save", "before")
            save(records, folder)
            self.die("save", "after")

        def is_late(schedule: Any) -> bool:
            if schedule.answer_time is None:
                return False
            self.looks += 1
            return self.looks > self.late_at

        self._patch.setattr(Records, "save", saved)
        self._patch.setattr(Schedule, "is_late", property(is_late))


def remove(place: str) -> None:
    path = as_path(place)
    if storage.local(path):
        shutil.rmtree(place, ignore_errors=True)
    elif path.exists():
        path.fs.rm(path.path, recursive=True)


def one_try(world: World, operator: Any, number: int, each: Try, **changes: Any) -> str:
    """Run a try, and say how it ended."""
    renewed = type(operator)(**{**operator._BaseOperator__init_kwargs, **changes})
    world.begin(each)
    context = task_context(renewed, try_number=number, max_tries=number - 1 if each.is_cleared else 0)
    try:
        run_task(renewed, context)
    except (Crash, TaskKilled):
        return "dead"
    except LastingError as error:
        return "canary" if "canary" in str(error) else "late"
    except BatchFailed:
        return "failed"
    finally:
        world.end()
    return "good"


def live(world: World, operator: Any, tries: list[Try], place: str) -> str:
    """As many tries as it takes; return how the last one ended."""
    for number, each in enumerate(tries, 1):
        ended = one_try(world, operator, number, each)
        if ended in {"good", "canary"}:
            return ended
        if each.with_its_disk:
            remove(place)
            world.lost, world.kept = world.lost + world.kept, 0
    last = Try(("", "", 0), False, world.late_at, is_cleared=False)
    ended = one_try(world, operator, len(tries) + 1, last)
    if ended != "late":
        return ended
    return one_try(world, operator, len(tries) + 2, last, answer_by=None, then=None)


def allowed(marker: str, given: dict[str, Any]) -> set[str]:
    """The statuses that a row may have in the end."""
    needed = MARKERS[marker]
    found = {"failed"} if needed is None else {"succeeded"}
    if marker == PAID_TWICE and given["output_schema"]:
        needed = needed if given["retry_invalid"] else NEVER
        found |= {"invalid_output"} if needed > given["max_rounds"] else set()
    elif needed is not None and needed > given["max_rounds"]:
        found |= {"failed"}
    if given["then"] != "keep":
        return found
    is_cut_short = {"invalid_output" if marker == PAID_TWICE else "failed"} if needed else set()
    return found | {"expired"} | is_cut_short


def check_rows(found: list[dict[str, Any]], markers: list[str], given: dict[str, Any]) -> None:
    names = "k{}" if given["id_column"] else "row-{}"
    assert [row["custom_id"] for row in found] == [names.format(n) for n in range(len(markers))]
    for number, (row, marker) in enumerate(zip(found, markers, strict=True)):
        assert row["status"] in allowed(marker, given), row
        if not (marker or given["output_schema"] or row["status"] != "succeeded"):
            assert row["output"].endswith(f"row {number}")


def answered(row: dict[str, Any], marker: str) -> bool:
    """Whether there was an answer to pay for."""
    is_refused = marker == "refuse" and row["status"] == "failed"
    return row["status"] in {"succeeded", "invalid_output"} or is_refused


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
@given(
    markers=st.lists(
        st.tuples(st.sampled_from([*MARKERS, "", ""]), st.sampled_from(MODELS)), min_size=2, max_size=12
    ),
    options=JOBS,
    seconds=st.lists(st.sampled_from([0.02, 0.1, 0.4]), max_size=5),
    limit=st.sampled_from([None, None, 100, 300]),
    tries=st.lists(TRIES, min_size=1, max_size=4),
    kind=PLACES,
)
def test_each_row_has_one_result(  # noqa: PLR0917
    server: DevServer,
    markers: list[tuple[str, str]],
    options: dict[str, Any],
    seconds: list[float],
    limit: int | None,
    tries: list[Try],
    kind: str,
) -> None:  # fmt: skip
    """And what was written is not paid for again."""
    server.reset()
    server.settings(batch_seconds=0.02, batch_seconds_by_number=seconds, enqueued_token_limit=limit)
    rows = [
        {"key": f"k{n}", "text": f"row {n}", "marker": marker, "model": model}
        for n, (marker, model) in enumerate(markers)
    ]
    given = {**options, "retry_invalid": options["retry_invalid"] and options["output_schema"] is not None}
    if given["mode"] == "live":
        given["then"] = None
    else:
        given["answer_by"] = 3_600.0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        place = f"{folder}/out" if kind == "disk" else f"memory://live/{uuid.uuid4().hex}"
        if kind == "full store":
            patch.setattr(workspace, "SPARE_BYTES", 0)
        operator = job(place, MortalOperator, requests=rows, body=BODY, poll_interval=0.02, **given)
        world = World(patch)
        ended = live(world, operator, tries, place)
        parts = sorted(as_path(place).glob("part-*.jsonl")) if as_path(place).exists() else []
        found = [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]
        if ended == "good":
            assert not list(as_path(place).rglob("live-*"))
        remove(place)
    stats = server.stats()
    assert stats["batches"]["running"] == 0
    only = [marker for marker, _ in markers]
    if ended == "canary":
        assert server.batches() == []
        assert not set(only[: given["canary"]]) & {"", "fail:429*1", "fail:500*2"}
        return
    check_rows(found, only, given)
    count = sum(map(answered, found, only))
    more = 2 * only.count(PAID_TWICE) if given["retry_invalid"] else 0
    assert count <= stats["request_lines_paid"] + stats["live"]["paid"] <= count + world.lost + more
