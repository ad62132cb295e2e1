"""A process that runs a task as Airflow's task runner does, for tests to kill."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred
from support import task_context

from airflow_provider_openai_batches.compat import supervisor
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

# One process imports all that a task needs; the tasks' processes are forked from it.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["doomed"])
PAUSE = 0.4


@functools.cache
def prepare() -> None:
    """Start the fork server with this process's sys.path, which it needs for its first import."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)


class ExecutionTimeoutError(BaseException):
    """Stands in for Airflow's time-out, which is raised from a signal handler too."""


class SlowOperator(OpenAICreateBatchOperator):
    """Pauses at the place that ``slow`` names, and reports when it is there."""

    slow = ""
    pause = 0.0
    report: Connection

    def dawdle(self, place: str) -> None:
        if place == self.slow:
            self.report.send(place)
            time.sleep(self.pause)

    def _check_input(self) -> str:
        self.dawdle("input")
        return super()._check_input()


def live(report: Connection, environment: dict[str, str], plan: dict[str, Any]) -> None:
    """Run the task, and send its outcome as a word."""
    os.environ.update(environment)
    operator = SlowOperator(**plan["operator"])
    operator.slow, operator.pause, operator.report = plan["slow"], plan["pause"], report
    supervisor.ask_for_states = lambda *_: {"t": plan["state"]}
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    context = task_context(operator, try_number=plan["try_number"])
    context["ti"].max_tries = plan["max_tries"]
    push = context["ti"].xcom_push

    def push_slowly(key: str, value: Any) -> None:
        push(key, value)
        operator.dawdle("xcom")

    context["ti"].xcom_push = push_slowly
    operator.dawdle("start")
    try:
        _until_overdue(lambda: _run(operator, context, plan["event"]))
        word = "success"
    except TaskDeferred:
        word = "deferred"
    except ExecutionTimeoutError:
        report.send("overdue")
        operator.on_kill()
        word = "timeout"
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent wants to know
        word = type(error).__name__
    report.send(word)


def _run(operator: SlowOperator, context: Any, event: dict[str, Any] | None) -> None:
    if event:
        operator.execute_complete(context, event)
    else:
        operator.execute(context)


def _until_overdue(run: Callable[[], None]) -> None:
    def ring(*_: object) -> None:
        raise ExecutionTimeoutError

    signal.signal(signal.SIGALRM, ring)
    try:
        run()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


class Doomed:
    """
    A task in a process of its own.

    :param slow: where it pauses for ``pause`` seconds: ``start``, ``input`` or ``xcom``.
    :param event: the event with which the task is resumed; without one, it starts from the beginning.
    :param state: the state that Airflow reports for the task when it is killed.
    """

    def __init__(
        self,
        operator: dict[str, Any],
        *,
        try_number: int = 1,
        slow: str = "",
        pause: float = PAUSE,
        event: dict[str, Any] | None = None,
        state: str = "failed",
        max_tries: int = 0,
    ) -> None:
        plan = {
            "state": state,
            "max_tries": max_tries,
            "operator": operator,
            "try_number": try_number,
            "slow": slow,
            "pause": pause,
            "event": event,
        }
        prepare()
        self._words, report = _processes.Pipe()
        self.process = _processes.Process(target=live, args=(report, dict(os.environ), plan))
        self.process.start()
        report.close()

    def word(self, seconds: float = 20) -> str:
        """The next word that it sends."""
        if not self._words.poll(seconds):
            return "no word"
        try:
            return str(self._words.recv())
        except EOFError:
            return "died"

    def time_out(self) -> None:
        """End its execution_timeout now, by the signal with which Airflow's timer does it."""
        os.kill(self.process.pid or 0, signal.SIGALRM)

    def kill(self, seconds: float = 5) -> str:
        """Send SIGTERM, and SIGKILL five seconds later, as Airflow does; return the task's last word."""
        self.process.terminate()
        self.process.join(seconds)
        word = "no word"
        while self._words.poll() and (heard := self.word()) != "died":
            word = heard
        self.end()
        return word

    def end(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()
