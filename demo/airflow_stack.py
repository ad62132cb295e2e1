"""
A real Airflow: API server, scheduler, DAG processor and triggerer, each a process, on SQLite.

Tasks use an API server of their own. With a single one, Airflow's audit log can block the event loop while it
waits for SQLite's lock, and the task's request that holds the lock waits for that event loop. Both hang until
SQLite gives up, and one of them fails.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

COMPONENTS = ("api-server", "execution-api", "scheduler", "dag-processor", "triggerer")
HEARTBEATS = ("scheduler", "dag_processor", "triggerer")  # as the health endpoint names them
OVER = frozenset({"success", "failed"})


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def settings(home: Path, dags: Path, url: str, execution_url: str) -> dict[str, str]:
    """Everything that differs from Airflow's defaults, as environment variables."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__ENABLE_XCOM_DESERIALIZE_SUPPORT": "True",  # Airflow 3.0 needs it
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{execution_url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__MP_START_METHOD": "fork",
        # The default of 5 seconds is too short when ten tasks begin at once on two cores.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=15",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }


class AirflowStack:
    """
    Starts, queries, kills and stops one Airflow.

    :param home: an empty directory; everything that Airflow writes stays below it.
    :param dags: the folder with the DAGs.
    :param environment: more variables for all its processes, for example connections.
    """

    def __init__(self, home: Path, dags: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.port, self.execution_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.execution_url = f"http://127.0.0.1:{self.execution_port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        ours = settings(home, dags, self.url, self.execution_url)
        self.environment = {**inherited, **ours, **(environment or {})}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def airflow(self, *arguments: str, check: bool = True) -> str:
        """Run one ``airflow`` command, and return what it prints."""
        command = [sys.executable, "-W", "ignore", "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, cwd=self.home
        )
        if check and done.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def migrate(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.airflow("db", "migrate")

    def start(self, seconds: float = 150) -> None:
        """Start everything, and wait until it is healthy."""
        try:
            self.migrate()
            for component in COMPONENTS:
                self.start_component(component)
            self.wait_until(self.is_healthy, seconds, "Airflow is healthy")
        except BaseException:
            self.stop()
            raise

    def start_component(self, component: str) -> None:
        with (self.home / f"{component}.log").open("ab") as log:
            self.processes[component] = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "airflow", *self._command(component)],
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self.home,
            )

    def _command(self, component: str) -> list[str]:
        if component == "api-server":
            return ["api-server", "--apps", "core", "--port", str(self.port)]
        if component == "execution-api":
            return ["api-server", "--apps", "execution", "--port", str(self.execution_port)]
        return [component]

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End one component and all its children, with SIGKILL unless told otherwise."""
        process = self.processes.pop(component)
        family = _family(process.pid)
        for member in family:
            _signal(member, number)
        process.wait(timeout=60)
        psutil.wait_procs(family, timeout=30)

    def task_processes(self) -> list[psutil.Process]:
        """The processes that run tasks now: the children of the executor's workers."""
        found = []
        scheduler = psutil.Process(self.processes["scheduler"].pid)
        for worker in scheduler.children():
            with suppress(psutil.Error):  # others serve the logs
                if any("LocalExecutor" in word for word in worker.cmdline()):
                    found += worker.children()
        return found

    def kill_tasks(self) -> None:
        """Send SIGKILL to the processes that run tasks, as the kernel does when memory runs out."""
        for process in self.task_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def is_healthy(self) -> bool:
        for component, process in self.processes.items():
            if process.poll() is not None:
                raise RuntimeError(
                    f"{component} ended with {process.returncode}:\n{self.log_tail(component)}"
                )
        try:
            health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
            httpx.get(f"{self.execution_url}/execution/health", timeout=5).raise_for_status()
        except (httpx.HTTPError, ValueError):
            return False
        return all((health.get(name) or {}).get("status") == "healthy" for name in HEARTBEATS)

    def log_tail(self, component: str, lines: int = 40) -> str:
        path = self.home / f"{component}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def stop(self) -> None:
        """Stop all processes that were started here: SIGTERM first, then SIGKILL."""
        everything = [member for process in self.processes.values() for member in _family(process.pid)]
        for process in self.processes.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
        for member in {*everything, *self._strays()}:
            _signal(member, signal.SIGKILL)
        for process in self.processes.values():
            process.wait(timeout=10)
        self.processes.clear()
        psutil.wait_procs(everything, timeout=10)

    def _strays(self) -> list[psutil.Process]:
        """Task processes leave their parent's process group; their AIRFLOW_HOME shows whose they are."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.pid == os.getpid():
            return False
        try:
            # Airflow overwrites the environment of some processes with their titles.
            if process.environ().get("AIRFLOW_HOME") == str(self.home):
                return True
            return bool(process.cwd() == str(self.home))
        except (psutil.Error, OSError):
            return False

    # -- its API -------------------------------------------------------------------------------------------

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


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process | subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(number)
