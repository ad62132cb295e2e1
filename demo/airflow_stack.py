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
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import psutil
from airflow_api import AirflowApi

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

HEARTBEATS = ("scheduler", "dag_processor", "triggerer")  # as the health endpoint names them


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
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }


class Component(NamedTuple):
    """
    One process of Airflow.

    :ivar arguments: those of ``airflow`` that start it.
    :ivar folder: where it runs, if that is not the stack's ``home``; it must be below it.
    :ivar environment: variables of this component alone.
    """

    arguments: list[str]
    folder: Path | None = None
    environment: Mapping[str, str] = {}


class AirflowStack(AirflowApi):
    """
    Starts, queries, kills and stops one Airflow.

    :param home: an empty directory; everything that Airflow writes stays below it.
    :param dags: the folder with the DAGs.
    :param environment: more variables for all its processes, for example connections.

    :ivar components: what it consists of, by name; more can be added before it starts.
    """

    def __init__(self, home: Path, dags: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.port, self.execution_port = free_ports(2)
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.execution_url = f"http://127.0.0.1:{self.execution_port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        ours = settings(home, dags, self.url, self.execution_url)
        self.environment = {**inherited, **ours, **(environment or {})}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.components = {
            "api-server": Component(["api-server", "--apps", "core", "--port", str(self.port)]),
            "execution-api": Component(
                ["api-server", "--apps", "execution", "--port", str(self.execution_port)]
            ),
            **{name: Component([name]) for name in ("scheduler", "dag-processor", "triggerer")},
        }

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
            for component in self.components:
                self.start_component(component)
            self.wait_until(self.is_healthy, seconds, "Airflow is healthy")
        except BaseException:
            self.stop()
            raise

    def start_component(self, component: str) -> None:
        arguments, folder, environment = self.components[component]
        with (self.home / f"{component}.log").open("ab") as log:
            self.processes[component] = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "airflow", *arguments],
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=folder or self.home,
            )

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
            places = {process.environ().get("AIRFLOW_HOME", ""), process.cwd()}
            return any(Path(place).is_relative_to(self.home) for place in places)
        except (psutil.Error, OSError):
            return False


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process | subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(number)
