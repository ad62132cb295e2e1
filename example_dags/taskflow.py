"""A function yields prompts, one after the other; the task sends them all."""

from __future__ import annotations

# [START taskflow]
import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("taskflow", schedule=None, tags=["openai"], doc_md=__doc__):

    @task.openai_batch(
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        output_uri=f"{WORK}/slogans/{{{{ run_id }}}}",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
    def slogans(path: str) -> Iterator[str]:
        """However long the file is, only one of its rows is in memory at a time."""
        with Path(path).open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                yield f"A slogan for {row['city']}, in five words, please."

    @task
    def report(summary: dict[str, Any]) -> str:
        """How many slogans there are, and how many tokens they took."""
        tokens = summary["usage"]["total_tokens"]
        return f"{summary['counts']['succeeded']} of {summary['rows']} slogans for {tokens} tokens"

    report(slogans(ROWS))
# [END taskflow]
