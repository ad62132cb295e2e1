"""Operators, rows and results for the tests of a job, and an operator that dies where it is told to."""

from __future__ import annotations

import asyncio
import json
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support import ENDPOINT, first_event, fresh, rebuilt, resume, run_task, short_sleep, task_context

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = {"messages": [{"role": "user", "content": "{text}"}], "metadata": {"devserver": "{marker}"}}


def rows(count: int, markers: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """Rows for ``BODY``; a marker tells the dev server what to do with the request."""
    markers = markers or {}
    return [{"key": f"k{n}", "text": f"row {n}", "marker": markers.get(n, "")} for n in range(count)]


def job(output_uri: Path | str, operator: type = OpenAIBatchInferenceOperator, **kwargs: Any) -> Any:
    """An operator that asks a chat model about each row."""
    given = {
        "task_id": "t",
        "endpoint": ENDPOINT,
        "model": "gpt-5-mini",
        "output_uri": str(output_uri),
        "poll_interval": 0.05,
    }
    if "body" not in kwargs and not {"input_uri", "sql"} & set(kwargs):
        given["body"] = BODY
    return operator(**{**given, **kwargs})


def again(operator: Any, try_number: int = 2, map_index: int = -1, **changes: Any) -> Any:
    """Run the next try of a task to its end, on a new object, with changes as if its DAG was edited."""
    renewed = fresh(operator)
    for name, value in changes.items():
        setattr(renewed, name, value)
    return run_task(renewed, task_context(renewed, try_number=try_number, map_index=map_index))


def waits(operator: Any, **context: Any) -> Iterator[TaskDeferred]:
    """Run a task to its end, with a new object for each resume; yield each deferral before its wait."""
    given = task_context(operator, **context)
    run: Callable[[], Any] = partial(operator.execute, given)
    while True:
        try:
            run()
        except TaskDeferred as wait:
            yield wait
            event = asyncio.run(first_event(rebuilt(wait.trigger)))
            run = partial(resume, fresh(operator), given, event, wait.kwargs, wait.method_name)
        else:
            return


def results(output: Path | str) -> list[dict[str, Any]]:
    parts = sorted(Path(output).glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]


def manifest(output: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(output) / "manifest.json").read_bytes())
    return found


class Crash(BaseException):
    """The process is gone."""


class MortalHook(OpenAIBatchesHook):
    """Dies before or after the Nth call of an operation: ``create_batch``, ``before``, 2."""

    doom: tuple[str, str, int] = ("", "", 0)
    latest: MortalHook

    def _live(self, name: str, call: Any) -> Any:
        operation, moment, count = self.doom
        if name != operation:
            return call()
        MortalHook.doom = (operation, moment, count - 1)
        if moment == "before" and count == 1:
            raise Crash
        answer = call()
        if moment == "after" and count == 1:
            raise Crash
        return answer

    def create_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self._live("create_batch", lambda: super(MortalHook, self).create_batch(*args, **kwargs))

    def upload_file(self, *args: Any, **kwargs: Any) -> Any:
        return self._live("upload_file", lambda: super(MortalHook, self).upload_file(*args, **kwargs))

    def retrieve_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self._live("retrieve_batch", lambda: super(MortalHook, self).retrieve_batch(*args, **kwargs))

    def download_file(self, *args: Any, **kwargs: Any) -> Any:
        return self._live("download_file", lambda: super(MortalHook, self).download_file(*args, **kwargs))

    def cancel_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self._live("cancel_batch", lambda: super(MortalHook, self).cancel_batch(*args, **kwargs))

    def delete_file(self, *args: Any, **kwargs: Any) -> Any:
        return self._live("delete_file", lambda: super(MortalHook, self).delete_file(*args, **kwargs))


class MortalOperator(OpenAIBatchInferenceOperator):
    @cached_property
    def hook(self) -> OpenAIBatchesHook:
        MortalHook.latest = MortalHook(self.openai_conn_id, sleep=short_sleep)
        return MortalHook.latest


def killed(operator: Any, operation: str, moment: str, count: int) -> None:
    """Run a try of a mortal operator that dies as its hook is told to; those after it live."""
    MortalHook.doom = (operation, moment, count)
    with pytest.raises(Crash):
        run_task(operator)
    MortalHook.doom = ("", "", 0)
