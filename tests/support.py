"""What the tests that talk to a dev server have in common."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Callable

ENDPOINT = "/v1/chat/completions"


def request_lines(count: int = 3, prefix: str = "") -> bytes:
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
    lines = [
        {"custom_id": f"{prefix}{n}", "method": "POST", "url": ENDPOINT, "body": body} for n in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def short_sleep(seconds: float) -> None:
    """A fiftieth of the real wait."""
    time.sleep(seconds / 50)


def until(condition: Callable[[], object], within: float = 15) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class FakeTaskInstance:
    """The part of a task instance that an operator uses; XComs are kept in ``xcoms``."""

    def __init__(self, task_id: str, try_number: int, map_index: int, run_id: str) -> None:
        self.dag_id, self.run_id, self.task_id = "dag", run_id, task_id
        self.try_number, self.map_index = try_number, map_index
        self.xcoms: dict[str, Any] = {}
        self.max_tries: int = 0

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)  # an XCom value must be plain JSON
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)


class FakeDagRun:
    def __init__(self, run_after: datetime) -> None:
        self.run_after = run_after


def task_context(
    operator: Any, try_number: int = 1, map_index: int = -1, run_id: str = "run", max_tries: int | None = None
) -> Any:
    """Stand in for Airflow's ``Context``, with only the entries that the operators read."""
    ti = FakeTaskInstance(operator.task_id, try_number, map_index, run_id)
    if max_tries is not None:
        ti.max_tries = max_tries
    return {"ti": ti, "dag_run": FakeDagRun(datetime.now(UTC))}


def run_task(operator: Any, context: Any = None) -> Any:
    """Run a task as Airflow does: when it defers, run the trigger and resume on a new object."""
    context = context or task_context(operator)
    deferral = None
    while True:
        try:
            if deferral is None:
                return operator.execute(context)
            resumed, event = fresh(operator), asyncio.run(first_event(rebuilt(deferral.trigger)))
            known = {**(deferral.kwargs or {}), "event": event}
            return resumed.resume_execution(deferral.method_name, known, context)
        except TaskDeferred as raised:
            deferral = raised


def resume(
    operator: Any,
    context: Any,
    event: dict[str, Any],
    kwargs: dict[str, Any] | None = None,
    method_name: str = "execute_complete",
) -> Any:
    """Go on after a deferral that carried these, as Airflow does."""
    return operator.resume_execution(method_name, {**(kwargs or {}), "event": event}, context)


def fresh(operator: Any) -> Any:
    """Make another object of the same task, as Airflow does to resume it."""
    return type(operator)(**operator._BaseOperator__init_kwargs)


def rebuilt(trigger: Any) -> Any:
    """Make the trigger from its serialized form, as the triggerer does."""
    path, kwargs = trigger.serialize()
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))


async def first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger fired no event")


def as_stored(dag: Any) -> str:
    """The DAG as Airflow puts it into its database."""
    module = importlib.import_module("airflow.serialization.serialized_objects")
    # Airflow 3.0 and 3.1 have it under another name.
    serialization = getattr(module, "DagSerialization", None) or module.SerializedDAG
    return json.dumps(serialization.to_dict(dag))
