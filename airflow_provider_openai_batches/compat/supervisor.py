"""
What tasks and triggers ask Airflow's supervisor for: connections, and the states of tasks.

Each question has a form that blocks, for a task's process, and one that does not, for the triggerer's event
loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.exceptions import InvalidConnectionError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
READ_SECONDS = 30.0
# The tasks of a run are stopped together: one question covers all that are stopped within this many seconds.
GATHER_SECONDS = 0.2
# A task that was cleared has no state.
NO_STATE = "none"
_STATES = "airflow.sdk.execution_time.task_runner"

_warm: list[str] = []
_open: set[asyncio.Task[Any]] = set()
_asking: dict[tuple[Any, ...], asyncio.Task[dict[str, str | None]]] = {}

# -- connections ---------------------------------------------------------------------------------------------


def read_config(conn_id: str, lookup: Callable[[str], Any]) -> ClientConfig:
    """
    Read a connection, and have its secrets masked in all logs.

    :param lookup: returns Airflow's connection with this id, by whatever way works where this runs.
    :raises InvalidConnectionError: if it cannot be used.
    """
    from airflow.providers.common.compat.sdk import mask_secret  # noqa: PLC0415 - not when a DAG is parsed

    config = ClientConfig.from_connection(lookup(conn_id), os.environ)
    for text in config.masks:
        mask_secret(text)
    return config


async def aread_config(conn_id: str) -> ClientConfig:
    """
    Read a connection on an event loop without blocking it, and have its secrets masked in all logs.

    :raises InvalidConnectionError: if it does not exist, or cannot be used.
    :raises TransportError: if Airflow did not answer in time.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException  # noqa: PLC0415 - only in a triggerer

    try:
        return await uncut(_aread(conn_id), READ_SECONDS)
    except AirflowNotFoundException:
        raise InvalidConnectionError(
            f"Airflow has no connection {conn_id!r}, or could not look it up. Create it, or correct the "
            "task's openai_conn_id."
        ) from None
    except InvalidConnectionError:
        raise
    except TimeoutError:
        raise TransportError(
            f"Airflow did not hand over the connection {conn_id!r} within {READ_SECONDS:.0f} s", sent=False
        ) from None
    except Exception as error:  # Airflow's releases differ in what they raise when their API server is away
        raise TransportError(
            f"Airflow could not hand over the connection {conn_id!r} ({type(error).__name__})", sent=False
        ) from error


async def _aread(conn_id: str) -> ClientConfig:
    from airflow.providers.common.compat.connection import (  # noqa: PLC0415 - only in a triggerer
        get_async_connection,
        get_async_extra_dejson,
    )
    from asgiref.sync import sync_to_async  # noqa: PLC0415 - only in a triggerer

    conn = await get_async_connection(conn_id)
    # The connection's own extra_dejson tells the supervisor about secrets in a way that blocks the loop.
    fields = SimpleNamespace(
        conn_id=conn_id,
        host=conn.host,
        schema=conn.schema,
        port=conn.port,
        password=conn.password,
        extra_dejson=await get_async_extra_dejson(conn),
    )
    return await sync_to_async(read_config)(conn_id, lambda _: fields)


# -- states of tasks -----------------------------------------------------------------------------------------


def task_state(ti: Any, seconds: float) -> str | None:
    """
    Ask for the state of a task instance that is being stopped.

    :param seconds: how long to wait for the answer.
    :return: Airflow's name for the state, ``none`` for no state, ``removed`` for a task that was deleted;
        None if no answer came.
    """
    answers: list[dict[str, str | None]] = []

    def ask() -> None:
        try:
            answers.append(ask_for_states(ti.dag_id, ti.run_id, ti.task_id))
        except Exception:  # noqa: BLE001 - Airflow's releases differ in what they raise; none of it is an answer
            return

    # In a thread, because the call that the stop has interrupted may hold the lock that asking needs.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return _state_among(answers[0], ti) if answers else None


async def atask_state(ti: Any, seconds: float) -> str | None:
    """Do the same as :func:`task_state` for a trigger; ``ti`` is what the triggerer gave it, or None."""
    if ti is None:
        return None
    try:
        states = await uncut(_gathered_states(ti.dag_id, ti.run_id, ti.task_id), seconds)
        return _state_among(states, ti)
    except Exception:  # noqa: BLE001 - Airflow's releases differ in what they raise; none of it is an answer
        return None


def warm_up(ti: Any) -> None:
    """
    Ask for a state, once and in the background, to load what a kill needs for that question.

    It is a module here and an API in the supervisor, which take ten seconds and more in a fresh triggerer.

    :param ti: as for :func:`atask_state`.
    """
    if _warm:
        return
    _warm.append(_STATES)
    loop = asyncio.get_running_loop()

    def ask() -> None:
        task = loop.create_task(atask_state(ti, READ_SECONDS))
        _open.add(task)
        task.add_done_callback(_done)

    def load() -> None:
        import_module(_STATES)
        with suppress(RuntimeError):  # the triggerer is ending, and has closed its loop
            loop.call_soon_threadsafe(ask)

    threading.Thread(target=load, daemon=True, name="warm up").start()


def ask_for_states(dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
    """Return the states of a task in a run; those of mapped tasks are called ``task_id_map_index``."""
    # Not before a kill, or before the first wait of a triggerer.
    runs = import_module(_STATES).RuntimeTaskInstance.get_task_states(
        dag_id=dag_id, task_ids=[task_id], run_ids=[run_id]
    )
    states: dict[str, str | None] = runs.get(run_id, {})
    return states


def _state_among(states: dict[str, str | None], ti: Any) -> str:
    is_mapped = ti.map_index is not None and ti.map_index >= 0
    name = f"{ti.task_id}_{ti.map_index}" if is_mapped else str(ti.task_id)
    return states.get(name, "removed") or NO_STATE


async def _gathered_states(*which: str) -> dict[str, str | None]:
    """Ask once for all task instances of a run that are stopped together."""
    key = (asyncio.get_running_loop(), *which)
    if key not in _asking:
        _asking[key] = asyncio.get_running_loop().create_task(_ask_soon(key))
    return await _asking[key]


async def _ask_soon(key: tuple[Any, ...]) -> dict[str, str | None]:
    from asgiref.sync import sync_to_async  # noqa: PLC0415 - only in a triggerer

    try:
        await asyncio.sleep(GATHER_SECONDS)
    finally:
        # A trigger that asks later needs a new answer, because this one may be older than its kill.
        del _asking[key]
    return await sync_to_async(ask_for_states)(*key[1:])


# -- on an event loop ----------------------------------------------------------------------------------------


async def uncut(question: Coroutine[Any, Any, T], seconds: float) -> T:
    """
    Await an answer, and let the exchange finish even if the caller is cancelled.

    Up to Airflow 3.1 all triggers ask the supervisor over one stream, in turn. If one of them is cancelled
    between its question and the answer, the next one reads an answer that is not its own, and the whole
    triggerer ends.

    :param seconds: how long to wait for the answer.
    :raises TimeoutError: if it did not come by then.
    """
    task = asyncio.get_running_loop().create_task(question)
    _open.add(task)
    task.add_done_callback(_done)
    async with asyncio.timeout(seconds):
        return await asyncio.shield(task)


def _done(task: asyncio.Task[Any]) -> None:
    _open.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not complain when nobody waited for it
