"""Runs an event loop beside the thread that Airflow interrupts."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, wait
from contextvars import copy_context
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")
# Seconds that an interrupted coroutine has to end, and how often something is done meanwhile.
ENDS_WITHIN, MEANWHILE = 10.0, 60.0


def run_beside(
    main: Callable[[Callable[[], bool]], Coroutine[Any, Any, Result]],
    meanwhile: Callable[[], object] = lambda: None,
) -> Result:
    """
    Run a coroutine to its end, in a loop in a thread of its own.

    When ``execution_timeout`` has passed, Airflow raises an exception in the main thread, wherever that is. A
    loop there would log it and go on, without the callback that it hit.

    :param main: is given what says whether it has to end, because this thread was interrupted.
    :param meanwhile: is called once a minute, in this thread.
    """
    interrupted, future, context = Event(), Future[Result](), copy_context()

    def work() -> None:
        try:
            result = asyncio.run(main(interrupted.is_set))
        except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
            future.set_exception(error)
        else:
            future.set_result(result)

    thread = Thread(target=context.run, args=(work,), name="openai-batches-loop", daemon=True)
    thread.start()
    try:
        while not wait([future], MEANWHILE).done:
            meanwhile()
        return future.result()
    finally:
        interrupted.set()
        thread.join(ENDS_WITHIN)
