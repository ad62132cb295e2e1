"""Airflow's REST API, for programs that trigger runs and watch them."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OVER = frozenset({"success", "failed"})


class AirflowApi:
    """
    The API at one URL, of an Airflow that lets everyone in.

    :param url: where its API server listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._token = ""

    def api(self, method: str, path: str, prefix: str = "/api/v2", **kwargs: Any) -> Any:
        """
        Call the REST API; ``prefix`` goes before ``path``.

        :raises httpx.HTTPStatusError: if it answers with an error.
        """
        for _ in range(2):
            if not self._token:
                self._token = httpx.get(f"{self.url}/auth/token", timeout=30).json()["access_token"]
            headers = {"Authorization": f"Bearer {self._token}"}
            answer = httpx.request(method, f"{self.url}{prefix}{path}", headers=headers, timeout=60, **kwargs)
            if answer.status_code != HTTPStatus.UNAUTHORIZED:
                break
            self._token = ""
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def wait_for_dag(self, dag_id: str, seconds: float = 90) -> None:
        def known() -> bool:
            try:
                return bool(self.api("GET", f"/dags/{dag_id}"))
            except httpx.HTTPStatusError:
                return False

        self.wait_until(known, seconds, f"DAG {dag_id} is parsed")

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Unpause a DAG, start a run, and return its id."""
        self.wait_for_dag(dag_id)
        self.api("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {})}
        if run_id:
            body["dag_run_id"] = run_id
        answer = self.api("POST", f"/dags/{dag_id}/dagRuns", json=body)
        return str(answer["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")
        return answer

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        answer = self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000")
        found: list[dict[str, Any]] = answer["task_instances"]
        return found

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task as the UI's buttons do."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.api("PATCH", path, json={"new_state": state})

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        if task_ids:
            body["task_ids"] = list(task_ids)
        self.api("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        return self.api("GET", path)["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}?full_content=true"
        lines = self.api("GET", path)["content"]
        return "\n".join(
            str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in lines
        )

    def wait_for_run(self, dag_id: str, run_id: str, seconds: float = 180) -> str:
        self.wait_until(lambda: self.run_state(dag_id, run_id) in OVER, seconds, f"run {run_id} is over")
        return self.run_state(dag_id, run_id)

    def wait_for_task(
        self, dag_id: str, run_id: str, task_id: str, *states: str, seconds: float = 120
    ) -> str:
        state = ""

        def reached() -> bool:
            nonlocal state
            state = str(self.task(dag_id, run_id, task_id)["state"])
            return state in states

        self.wait_until(reached, seconds, f"task {task_id} is {' or '.join(states)}", lambda: state)
        return state

    def wait_until(
        self,
        condition: Callable[[], bool],
        seconds: float,
        what: str,
        seen: Callable[[], str] = lambda: "",
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"This did not happen in {seconds:.0f} s: {what} (last: {seen()}).")
            time.sleep(0.3)
