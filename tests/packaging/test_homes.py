"""
Each rule has one home, each name one meaning, and the public paths stay.

A pattern that is found nowhere fails too, so that the table cannot go stale.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from import_graph import DEVSERVER, FOLDER, PACKAGE, Source, house, no, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def strings_like(pattern: str) -> Callable[[Source], Iterator[int]]:
    """Lines with a string constant that matches as a whole; docstrings and parts of texts do not count."""

    def find(source: Source) -> Iterator[int]:
        return (line for text, line in source.strings() if re.fullmatch(pattern, text))

    return find


def names_like(pattern: str) -> Callable[[Source], Iterator[int]]:
    """Lines that use, import or define such a name."""

    def find(source: Source) -> Iterator[int]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name | ast.Attribute | ast.alias):
                name = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}[type(node)]
                if re.fullmatch(pattern, getattr(node, name)):
                    yield node.lineno

    return find


def calls_of(pattern: str) -> Callable[[Source], Iterator[int]]:
    """Lines that call such a function, method or class."""

    def find(source: Source) -> Iterator[int]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                called = node.func
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if re.fullmatch(pattern, name):
                    yield node.lineno

    return find


def comparisons_with(value: str) -> Callable[[Source], Iterator[int]]:
    """Lines that compare something with this."""

    def find(source: Source) -> Iterator[int]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Compare):
                values = {item.value for item in node.comparators if isinstance(item, ast.Constant)}
                if value in values:
                    yield node.lineno

    return find


ENDS = {"completed", "failed", "expired", "cancelled"}
STATUSES = ENDS | {"validating", "in_progress", "finalizing", "cancelling"}


def sets_of_ends(source: Source) -> Iterator[int]:
    """Lines with a list, set or tuple of several statuses that end a batch; statuses of rows do not count."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            values = {item.value for item in node.elts if isinstance(item, ast.Constant)}
            if values <= STATUSES and len(values & ENDS) > 2:
                yield node.lineno


HOMES: dict[str, tuple[Callable[[Source], Iterator[int]], str]] = {
    "codes that say there is no money": (
        strings_like("insufficient_quota|billing_hard_limit_reached|billing_not_active"),
        "api.retry",
    ),
    "codes of answers that may pass": (strings_like("server_error|rate_limit_exceeded"), "api.retry"),
    "names of the metadata that the provider adds": (
        strings_like("airflow_(key|dag_id|run_id|task_id|map_index)"),
        "idempotency.keys",
    ),
    "paths of endpoints": (
        strings_like("(/v1/.+|chat/completions|images/generations|images/edits)"),
        "api.endpoints",
    ),
    "which endpoint is what": (calls_of("EndpointSpec"), "api.endpoints"),
    "the statuses that end a batch": (sets_of_ends, "api.models"),
    "the words for secrets in logs": (strings_like(r"\*\*\*"), "api.redaction"),
    "masking of secrets": (names_like("mask_secret"), "compat.supervisor"),
    "reading of a connection": (calls_of("from_connection"), "compat.supervisor"),
    "task states after which no try follows": (strings_like("upstream_failed"), "idempotency.cancel"),
    "whether a batch can be cancelled": (comparisons_with("cancelling"), "api.models"),
}


@pytest.mark.parametrize("what", HOMES)
def test_a_rule_has_one_home(what: str) -> None:
    find, home = HOMES[what]
    lines = {(source.name, f"{source.file}:{line}") for source in house() for line in find(source)}
    no(
        f"Rule 4: the home of {what} is {home}:",
        (place for name, place in lines if name != home),
    )
    assert any(name == home for name, _ in lines), (
        f"Rule 4: {what}: nothing of the kind is in {home}; is the pattern stale?"
    )


# Rule 5: names.


@pytest.mark.parametrize("part", ["the package", DEVSERVER])
def test_no_two_public_classes_share_a_name(part: str) -> None:
    places = defaultdict(list)
    for source in sources().values():
        if (source.room == DEVSERVER) == (part == DEVSERVER):
            for node in source.tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(f"{source.file}:{node.lineno}")
    no(
        f"Rule 5: no two public classes of {part} share a name:",
        (f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1),
    )


# Rule 6: what DAGs, Airflow's database and other programs name.

PUBLIC = (
    "hooks.openai_batches.OpenAIBatchesHook",
    "operators.inference.OpenAIBatchInferenceOperator",
    "operators.openai_batches.OpenAICancelBatchOperator",
    "operators.openai_batches.OpenAICreateBatchOperator",
    "operators.openai_batches.OpenAIDownloadBatchResultsOperator",
    "operators.openai_batches.OpenAIListBatchesOperator",
    "operators.openai_batches.OpenAIRetrieveBatchOperator",
    "sensors.openai_batches.OpenAIBatchSensor",
    "triggers.openai_batches.OpenAIBatchTrigger",
    "triggers.batch_ended.OpenAIBatchEndedTrigger",
    "decorators.openai_batch.openai_batch_task",
    "transfers.openai_batch_results_to_sql.OpenAIBatchResultsToSqlOperator",
    "transfers.openai_batch_results_to_delta.OpenAIBatchResultsToDeltaOperator",
    "results.read_results",
    "links.OpenAIBatchJobLink",
    "links.OpenAIBatchLink",
    "devserver.DevServer",
    "devserver.pytest_plugin.openai_batches_server",
    "plugin.OpenAIBatchesPlugin",
    "get_provider_info.get_provider_info",
)
MAX_ROOT_MODULES = 8


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_stays(path: str) -> None:
    module, name = path.rsplit(".", 1)
    assert hasattr(importlib.import_module(f"{PACKAGE}.{module}"), name)


def test_the_root_holds_few_modules() -> None:
    root = sorted(path.name for path in FOLDER.glob("*.py"))
    assert len(root) <= MAX_ROOT_MODULES, f"A new module belongs in one of the rooms: {', '.join(root)}"
