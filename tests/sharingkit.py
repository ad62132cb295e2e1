"""Rows whose text says who they are, and what the dev server was paid for each text."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from inferencekit import job
from support import run_task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.devserver import DevServer


def asking(texts: Iterable[str], markers: dict[str, str] | None = None) -> list[dict[str, str]]:
    """
    Rows for the usual body, each with an id of its own that says its text.

    :param markers: what the dev server does with the requests of a text.
    """
    known = markers or {}
    return [
        {"id": f"{text}#{number}", "text": text, "marker": known.get(text, "")}
        for number, text in enumerate(texts)
    ]


def sharing(
    where: Any, texts: Iterable[str], operator: type = OpenAIBatchInferenceOperator, **given: Any
) -> Any:
    """An operator that asks about each text."""
    rows = asking(texts, given.pop("markers", None))
    return job(where, operator, **{"requests": rows, "id_column": "id", **given})


def run(where: Any, texts: Iterable[str], **given: Any) -> dict[str, Any]:
    summary: dict[str, Any] = run_task(sharing(where, texts, **given))
    return summary


def outputs(output: Any) -> list[dict[str, Any]]:
    """The rows of a job's results, wherever they are."""
    parts = sorted(as_path(str(output)).glob("part-*.jsonl"), key=lambda path: path.name)
    return [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]


def sources(output: Any) -> list[str | None]:
    return [row["source"] for row in outputs(output)]


def check_own(output: Any, texts: list[str]) -> None:
    """Each row succeeded with the answer to its own text, in the order of the input."""
    found = outputs(output)
    assert [row["custom_id"] for row in found] == [f"{text}#{n}" for n, text in enumerate(texts)]
    assert {row["status"] for row in found} <= {"succeeded"}
    wrong = [row for row, text in zip(found, texts, strict=True) if not row["output"].endswith(text)]
    assert not wrong, wrong[:3]
    for row in found:
        assert (row["usage"] is None) == (row["source"] in {"store", "duplicate"})


def asked(server: DevServer) -> Counter[str]:
    """How often requests of each text were answered in batches."""
    counts: Counter[str] = Counter()
    for line in server.answers(0):
        counts[line["custom_id"].partition("#")[0]] += line["executed"]
    return counts


def paid(server: DevServer) -> int:
    """How many answers were paid for, in batches and live."""
    stats = server.stats()
    return int(stats["request_lines_paid"] + stats["live"]["paid"])
