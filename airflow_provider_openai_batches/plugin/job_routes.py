"""The routes for a whole job: all batches of a task in a DAG run. ``app.py`` says what they ask for."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.xcom import XCOM_RETURN_KEY
from fastapi import APIRouter, Depends, HTTPException, Query, Request

from airflow_provider_openai_batches.compat.dag_tables import audit, run_began, task_states, xcoms
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import CLOCK_SKEW
from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.plugin import costs
from airflow_provider_openai_batches.plugin.access import rights_in
from airflow_provider_openai_batches.plugin.http_errors import failure, service_error
from airflow_provider_openai_batches.plugin.job_summary import MAX_SUMMARY, summary_in
from airflow_provider_openai_batches.plugin.jobs import UNREADABLE, jobs_of, task_in
from airflow_provider_openai_batches.plugin.serving import (
    ConnId,
    Text,
    cancel_entry,
    client_of,
    page_after,
    row_of,
    same_site,
)
from airflow_provider_openai_batches.plugin.throttle import TooFastError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.compat.dag_tables import TaskKey
    from airflow_provider_openai_batches.plugin.access import Rights
    from airflow_provider_openai_batches.plugin.clients import CachedClient

# How many batches are cancelled by one request: as many as take less than a minute, at the page's pace.
MAX_CANCELS = 250
CANCELS_AT_ONCE = 4
# In how many seconds a user may ask for another cancel, while one is at work.
ASK_AGAIN = 10
MAX_INDEX = 10**9
# How many tasks one request asks about.
MAX_TASKS = 100

jobs_api = APIRouter(prefix="/api/jobs", dependencies=[Depends(requires_access_dag("GET"))])


def _origin(
    dag_id: Text,
    run_id: Text,
    task_id: Text,
    map_index: Annotated[int, Query(ge=-1, lt=MAX_INDEX)] = -1,
) -> Origin:
    return Origin(dag_id, run_id, task_id, map_index)


OriginDep = Annotated[Origin, Depends(_origin)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class AskedTask(msgspec.Struct, frozen=True):
    """A task whose job the page shows."""

    dag_id: Name
    run_id: Name
    task_id: Name
    map_index: Annotated[int, msgspec.Meta(ge=-1, lt=MAX_INDEX)] = -1


class AskedTasks(msgspec.Struct, frozen=True):
    """The tasks that a request asks about."""

    tasks: Annotated[list[AskedTask], msgspec.Meta(max_length=MAX_TASKS)]


async def _asked(request: Request) -> list[TaskKey]:
    try:
        asked = msgspec.json.decode(await request.body(), type=AskedTasks)
    except UNREADABLE as error:
        raise failure(HTTPStatus.UNPROCESSABLE_ENTITY, f"The request cannot be read. {error}.") from None
    return [(task.dag_id, task.run_id, task.task_id, task.map_index) for task in asked.tasks]


TasksDep = Annotated[list[tuple[str, str, str, int]], Depends(_asked)]


@jobs_api.get("/summary")
async def show_summary(user: GetUserDep, conn_id: ConnId, origin: OriginDep) -> dict[str, Any]:
    """What the task returned when its job was complete; None where that is no summary, or not there yet."""
    dag_id, run_id, *_ = task = task_in(origin)
    allowed = await _allowed_in(user, conn_id, dag_id, of_jobs=True)
    if dag_id not in allowed.dags_with_xcoms:
        raise failure(HTTPStatus.FORBIDDEN, f"You may not read the XComs of DAG {dag_id!r}.")
    if await asyncio.to_thread(run_began, dag_id, run_id) is None:
        raise failure(HTTPStatus.NOT_FOUND, f"This Airflow has no run {run_id!r} of DAG {dag_id!r}.")
    stored = (await asyncio.to_thread(xcoms, [task], XCOM_RETURN_KEY, MAX_SUMMARY)).get(task)
    summary = await asyncio.to_thread(summary_in, stored) if stored else None
    return {"summary": summary, "now": time.time()}


@jobs_api.post("/tasks", dependencies=[Depends(same_site)])
async def show_tasks(user: GetUserDep, conn_id: ConnId, tasks: TasksDep) -> dict[str, Any]:
    """
    How tasks are, and what they report, from Airflow's database alone.

    A task can end although none of its batches changes. Tasks whose DAG the user may not read are left out.
    """
    allowed = await asyncio.to_thread(rights_in, user, conn_id, {task[0] for task in tasks}, of_jobs=True)
    return {"jobs": await asyncio.to_thread(jobs_of, tasks, allowed), "now": time.time()}


@jobs_api.post("/cancel", dependencies=[Depends(same_site)])
async def cancel_job(
    request: Request, user: GetUserDep, conn_id: ConnId, origin: OriginDep
) -> dict[str, Any]:
    """
    Cancel all batches of a task that are running; Airflow's audit log records who asked for it.

    ``complete`` is false if there may be more of them: ask again. A task that is at work is not touched: it
    would ask again for what is cancelled.
    """
    dag_id, run_id, *_ = task_in(origin)
    allowed = await _allowed_in(user, conn_id, dag_id)
    if dag_id not in allowed.editable_dags:
        raise failure(HTTPStatus.FORBIDDEN, f"You may not edit the tasks of DAG {dag_id!r}.")
    await asyncio.to_thread(_refuse_if_at_work, origin)
    began = await asyncio.to_thread(run_began, dag_id, run_id)
    async with client_of(request, user, conn_id) as client:
        with _alone(client, conn_id):
            page = partial(page_after, client, conn_id, now=True)
            since = began - CLOCK_SKEW if began else 0
            found = await costs.newest(page, since, (OpenAIBatchesError, HTTPException))
            running = [batch for batch in found.batches if _is_cancelled(batch, origin, allowed)]
            some = running[:MAX_CANCELS]
            if some:
                # Before the cancels, because they may succeed although their answers are lost.
                await asyncio.to_thread(_audit, user, conn_id, origin, some)
            ends = await _cancelled(client, conn_id, some)
    return {
        "batches": [row_of(client, batch, allowed) for batch in ends.cancelled],
        "problems": ends.problems,
        "complete": found.is_whole and some == running and not ends.is_cut,
        "now": time.time(),
    }


@contextmanager
def _alone(client: CachedClient, conn_id: str) -> Iterator[None]:
    """Let each user cancel one job of a connection at a time, because all users share its pace."""
    if client.user in client.cancelling:
        raise failure(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"Another job of connection {conn_id!r} is being cancelled for you. Wait until that is done, and "
            "try again.",
            {"Retry-After": str(ASK_AGAIN)},
        )
    client.cancelling.add(client.user)
    try:
        yield
    finally:
        client.cancelling.discard(client.user)


async def _allowed_in(user: Any, conn_id: str, dag_id: str, *, of_jobs: bool = False) -> Rights:
    allowed = await asyncio.to_thread(rights_in, user, conn_id, [dag_id], of_jobs=of_jobs)
    if dag_id not in allowed.readable_dags:
        # One sentence for both, so that it does not say which DAGs there are.
        raise failure(HTTPStatus.FORBIDDEN, f"This Airflow has no DAG {dag_id!r}, or you may not read it.")
    return allowed


def _refuse_if_at_work(origin: Origin) -> None:
    """Blocks."""
    task = task_in(origin)
    found = task_states([task]).get(task)
    if found is not None and found.is_at_work:
        index = "" if origin.map_index < 0 else f" [{origin.map_index}]"
        state = str(found.state).replace("_", " ") if found.state else "about to run"
        raise failure(
            HTTPStatus.CONFLICT,
            f"Task {origin.task_id!r}{index} is {state}: it would ask again. Set it to failed first; nothing "
            "was cancelled.",
        )


def _is_cancelled(batch: Batch, origin: Origin, allowed: Rights) -> bool:
    """Whether a batch is one of those that a cancel of the task is about."""
    is_of_task = Origin.of(batch) == origin and allowed.knows_dag(batch)
    return is_of_task and batch.can_be_cancelled and allowed.may_cancel(batch)


def _audit(user: Any, conn_id: str, origin: Origin, batches: Iterable[Batch]) -> None:
    entries = [cancel_entry(conn_id, batch.id) for batch in batches]
    job = {"conn_id": conn_id, "batches": str(len(entries)), "method": "POST"}
    audit(user, ("cancel_openai_job", job), *entries, task=msgspec.structs.asdict(origin))


class _Ends(NamedTuple):
    """
    What became of batches.

    :param cancelled: those that do not run on.
    :param problems: what is wrong with others.
    :param is_cut: whether some were not tried, because no turn was free for long.
    """

    cancelled: list[Batch]
    problems: list[dict[str, str]]
    is_cut: bool


async def _cancelled(client: CachedClient, conn_id: str, batches: Iterable[Batch]) -> _Ends:
    """Cancel batches, a few at a time, until no turn is free for long."""
    turns, is_cut = asyncio.Semaphore(CANCELS_AT_ONCE), False
    problems: list[dict[str, str]] = []

    async def cancel(batch: Batch) -> Batch | None:
        nonlocal is_cut
        async with turns:
            if is_cut:
                return None
            try:
                return await client.cancel_in_turn(batch.id)
            except TooFastError:
                is_cut = True
                return None
            except OpenAIBatchesError as error:
                sentence = service_error(error, conn_id, client.config).detail
                problems.append({"batch_id": batch.id, "message": sentence})
                return None

    done = await asyncio.gather(*map(cancel, batches))
    return _Ends([batch for batch in done if batch is not None], problems, is_cut)
