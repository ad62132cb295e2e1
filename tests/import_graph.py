"""The package's source as a graph: which file imports what, also inside functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

PACKAGE = "airflow_provider_openai_batches"
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / PACKAGE
# The dev server stands apart: it does not import the rest of the package, and the rest does not import it.
DEVSERVER = "devserver"
# Parts of a room that lie on a lower floor than the rest of it.
INNER_ROOMS = ("idempotency.keys", "inference.data")


@dataclass(frozen=True)
class Import:
    """An imported name, with its module, and the line where it stands."""

    target: str
    line: int


@dataclass(frozen=True, eq=False)
class Source:
    """One file; ``name`` is its dotted name without the package's, such as ``api.retry``."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def file(self) -> str:
        """The path as a reader would look for it."""
        return str(self.path.relative_to(FOLDER))

    @property
    def room(self) -> str:
        """The folder under the package's root, or the module itself where it stands in the root."""
        if self.name == "__main__":
            return "cli"
        inner = (room for room in INNER_ROOMS if f"{self.name}.".startswith(f"{room}."))
        return next(inner, self.name.partition(".")[0])

    def imports(self) -> Iterator[Import]:
        """All imports of the file, of this package and of others."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module, f"{self.file}:{node.lineno}: imports here are absolute"
                yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)

    def strings(self) -> Iterator[tuple[str, int]]:
        """All string constants but docstrings."""
        prose = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                yield node.value, node.lineno


@functools.cache
def sources() -> Mapping[str, Source]:
    """Every file of the package, by its name."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Source(name, path, ast.parse(path.read_text()))
    return found


def own_imports(source: Source) -> Iterator[tuple[Source, int]]:
    """Which files of the package a file imports, and in which line."""
    for item in source.imports():
        if item.target == PACKAGE or item.target.startswith(f"{PACKAGE}."):
            name = item.target[len(PACKAGE) + 1 :]
            target = sources().get(name) or sources()[name.rpartition(".")[0]]
            yield target, item.line


def foreign_imports(source: Source) -> Iterator[Import]:
    """What a file imports from outside the package."""
    return (item for item in source.imports() if item.target.partition(".")[0] != PACKAGE)


def circles() -> list[list[str]]:
    """Groups of files that import each other, directly or through others."""
    reached = {name: _reachable(name) for name in sources()}
    found: set[frozenset[str]] = set()
    for name, others in reached.items():
        if name in others:
            found.add(frozenset(other for other in others if name in reached[other]))
    return sorted(sorted(sources()[name].file for name in group) for group in found)


def _reachable(name: str) -> AbstractSet[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for target, _ in own_imports(sources()[waiting.pop()]):
            if target.name not in seen:
                seen.add(target.name)
                waiting.append(target.name)
    return seen


def house() -> list[Source]:
    """All files but the dev server's."""
    return [source for source in sources().values() if source.room != DEVSERVER]


def no(rule: str, offenders: Iterable[str]) -> None:
    """Fail with the rule and those who break it."""
    found = sorted(set(offenders))
    assert not found, "\n  ".join([rule, *found])
