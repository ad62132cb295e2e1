"""
Who may import whom, over the source and over real imports.

Each failure names the rule, the file and the line.
The rooms and why they are as they are: ``docs/architecture.md``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from import_graph import (
    DEVSERVER,
    PACKAGE,
    Source,
    circles,
    foreign_imports,
    house,
    no,
    own_imports,
    sources,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# From the lowest floor up. A file may import from its own room and from rooms on lower floors.
FLOORS = (
    {"", "exceptions", "get_provider_info"},
    {"api", "storage"},
    {"answer_store", "idempotency.keys"},
    {"pricing"},
    {"compat"},
    {"inference.data", "observability"},
    {"results"},
    {"idempotency", "lakes", "polling", "sql"},
    {"hooks", "inference", "links", "triggers"},
    {"operators"},
    {"cli", "decorators", "plugin", "sensors", "transfers"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

WITHOUT_AIRFLOW = {
    "answer_store",
    "exceptions",
    "get_provider_info",
    "api",
    "pricing",
    "idempotency",
    "idempotency.keys",
    "inference.data",
    "results",
}
HTTP_LIBRARIES = {"requests", "urllib3", "httpx"}
HTTP_FILES = {"api.client", "api.async_client"}


# Rule 1: the rooms below Airflow.


def test_rooms_below_airflow_never_import_it() -> None:
    no(
        "Rule 1: the rooms below Airflow do not import it, not even for types:",
        (
            f"{source.file}:{item.line} -> {item.target}"
            for source in house()
            if source.room in WITHOUT_AIRFLOW
            for item in foreign_imports(source)
            if item.target.partition(".")[0] == "airflow"
        ),
    )


def test_http_libraries_are_imported_in_the_clients_alone() -> None:
    """Their exceptions, timeouts and sessions are translated there, and nobody else needs to know them."""
    no(
        f"Rule 1: {', '.join(sorted(HTTP_LIBRARIES))} are imported in {', '.join(sorted(HTTP_FILES))} alone:",
        (
            f"{source.file}:{item.line} -> {item.target}"
            for source in house()
            if source.name not in HTTP_FILES
            for item in foreign_imports(source)
            if item.target.partition(".")[0] in HTTP_LIBRARIES
        ),
    )


# Imports the modules that are named in its arguments, and fails where one of them needs a forbidden library.
IMPORT_WITHOUT = """
import importlib, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Forbidden())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def import_without(libraries: set[str], modules: Iterable[str]) -> subprocess.CompletedProcess[str]:
    code = f"FORBIDDEN = {libraries!r}\n{IMPORT_WITHOUT}"
    names = [f"{PACKAGE}.{name}".rstrip(".") for name in modules]
    return subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)


def test_rooms_below_airflow_run_without_it() -> None:
    """Checked in a process of its own, so that indirect imports count too."""
    rooms = WITHOUT_AIRFLOW | {"storage"}
    done = import_without({"airflow"}, (source.name for source in house() if source.room in rooms))
    assert done.returncode == 0, f"Rule 1: no Airflow below the hook.\n{done.stderr}"


def test_what_is_called_pure_needs_neither_airflow_nor_an_http_library() -> None:
    """The logic of requests, answers and keys; and each module whose docstring says so."""
    pure = [
        source.name
        for source in house()
        if source.room in {"answer_store", "exceptions", "inference.data"}
        or (source.room == "api" and source.name not in HTTP_FILES)
        or (ast.get_docstring(source.tree) or "").startswith("PURE")
    ]
    done = import_without({"airflow", *HTTP_LIBRARIES}, pure)
    assert done.returncode == 0, f"Rule 1: pure modules import neither.\n{done.stderr}"


def test_the_metadata_of_the_provider_imports_nothing() -> None:
    """Airflow's discovery calls it in every process."""
    done = import_without({"airflow", *HTTP_LIBRARIES, "msgspec"}, ["get_provider_info"])
    assert done.returncode == 0, f"Rule 1: get_provider_info imports nothing.\n{done.stderr}"


# Rule 2: the order of the rooms.


def test_each_room_has_its_floor() -> None:
    rooms = {source.room for source in house()}
    no("Rule 2: a new room needs a floor in FLOORS:", rooms - set(FLOOR_OF))


def test_no_file_imports_upward() -> None:
    """Hook, inference and trigger do not know each other; metrics know the wire and its keys alone."""
    no(
        "Rule 2: a file imports its own room and lower floors alone, also under TYPE_CHECKING:",
        (
            f"{source.file}:{line} -> {target.file}"
            for source in house()
            for target, line in own_imports(source)
            if target.room not in {source.room, DEVSERVER} and FLOOR_OF[target.room] >= FLOOR_OF[source.room]
        ),
    )


def test_the_dev_server_stands_apart() -> None:
    """A test server that shared the client's code would agree with its mistakes."""
    no(
        "Rule 2: the dev server and the rest of the package do not import each other:",
        (
            f"{source.file}:{line} -> {target.file}"
            for source in sources().values()
            for target, line in own_imports(source)
            if (source.room == DEVSERVER) != (target.room == DEVSERVER)
        ),
    )


def test_no_files_import_each_other() -> None:
    no("Rule 2: no circles, also not under TYPE_CHECKING:", map(" <-> ".join, circles()))


# Imports the modules that are named in its arguments in turn, and prints what each of them loads.
LOADED_BY = """
import importlib, sys
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    print(name, *(set(sys.modules) - before))
"""


def test_importing_a_floor_loads_nothing_from_above() -> None:
    """What the source does not show: imports by name, and those that Airflow makes."""
    ground_up = sorted(
        (source for source in house() if source.name), key=lambda source: FLOOR_OF[source.room]
    )
    names = [
        f"{PACKAGE}.{source.name}" for source in ground_up if source.name != "__main__"
    ]  # it is a program
    command = [sys.executable, "-W", "ignore", "-c", LOADED_BY, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    no("Rule 2: nothing of a higher floor is loaded:", _upward(done.stdout.splitlines()))


def _upward(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(PACKAGE):  # a line of Airflow's own log
            continue
        name, *loaded = (word.removeprefix(f"{PACKAGE}.") for word in line.split())
        room = sources()[name].room
        for other in loaded:
            is_parent = name.startswith(f"{other}.")
            if other in sources() and not is_parent and not _may_load(room, sources()[other].room):
                yield f"{name} loads {other}"


def _may_load(room: str, other: str) -> bool:
    return room == other or (other != DEVSERVER and FLOOR_OF[other] < FLOOR_OF[room])


# Rule 3: what differs between the versions of Airflow.

VERSION_NAMES = re.compile(r"AIRFLOW_V_.*|AIRFLOW_VERSION|airflow_version")


def test_airflow_versions_are_told_apart_in_compat_alone() -> None:
    no(
        "Rule 3: a check of Airflow's version stands in compat/ alone:",
        (
            f"{source.file}:{line}: {what}"
            for source in house()
            if source.room != "compat"
            for line, what in _version_checks(source)
        ),
    )


def _version_checks(source: Source) -> Iterator[tuple[int, str]]:
    from_airflow = _names_from_airflow(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Try) and _expects_import_error(node):
            for line in _lines_of_airflow_imports(node.body):
                yield line, "an import from Airflow that may fail"
        elif isinstance(node, ast.Call) and _asks_for_a_name(node) and _names(node.args[0]) & from_airflow:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr == "__version__" and "airflow" in _names(node):
            yield node.lineno, "airflow.__version__"
        elif isinstance(node, ast.Name) and VERSION_NAMES.fullmatch(node.id):
            yield node.lineno, node.id
    for item in foreign_imports(source):
        if item.target.startswith(("packaging.", "airflow.version", "airflow.__version__")):
            yield item.line, item.target


def _asks_for_a_name(node: ast.Call) -> bool:
    """``hasattr(...)``, or ``getattr(...)`` with a name that is known beforehand."""
    function = node.func.id if isinstance(node.func, ast.Name) else ""
    return function == "hasattr" or (function == "getattr" and isinstance(node.args[1], ast.Constant))


def _names_from_airflow(source: Source) -> set[str]:
    return {
        alias.asname or alias.name
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "airflow"
        for alias in node.names
    }


def _names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def _expects_import_error(node: ast.Try) -> bool:
    caught = {name for handler in node.handlers if handler.type for name in _names(handler.type)}
    return bool(caught & {"ImportError", "ModuleNotFoundError"})


def _lines_of_airflow_imports(body: list[ast.stmt]) -> Iterator[int]:
    for found in (found for node in body for found in ast.walk(node)):
        if isinstance(found, ast.Import | ast.ImportFrom):
            modules = (
                [found.module or ""]
                if isinstance(found, ast.ImportFrom)
                else [alias.name for alias in found.names]
            )
            if any(module.partition(".")[0] == "airflow" for module in modules):
                yield found.lineno
