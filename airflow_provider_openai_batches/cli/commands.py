"""What the commands do. Each ends with an exit code, and with a sentence if something went wrong."""

from __future__ import annotations

import functools
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_openai_batches.api.outcome import error_of
from airflow_provider_openai_batches.api.retry import is_refusal
from airflow_provider_openai_batches.api.validation import MAX_PAGE, check_id, result_file_name
from airflow_provider_openai_batches.cli import tables
from airflow_provider_openai_batches.cli.console import (
    PROBLEM,
    STRUCTURED,
    confirm,
    ending,
    fail,
    print_data,
    say,
)
from airflow_provider_openai_batches.cli.watching import Watch
from airflow_provider_openai_batches.exceptions import APIError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency.keys import Origin

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from typing import Literal

    from airflow_provider_openai_batches.api.models import Batch


class CommandLineHook(OpenAIBatchesHook):
    """Reads its connection from the metadata database too, because a command is not a task."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        return Connection.get_connection_from_secrets(conn_id)


def with_hook(command: Callable[[Namespace, OpenAIBatchesHook], int]) -> Callable[[Namespace], None]:
    """Give a command its hook, and an end in words."""

    @ending("Stopped. Running batches go on.")
    @functools.wraps(command)
    def run(args: Namespace) -> int:
        hook = CommandLineHook(args.conn_id)
        try:
            return command(args, hook)
        except AirflowNotFoundException:
            fail(f"There is no connection {args.conn_id!r}. Create it, or name another one with --conn-id.")
        except APIError as error:
            fail(_words(error, args))
        finally:
            hook.close()

    return run


def _words(error: APIError, args: Namespace) -> str:
    if is_refusal(error):
        return f"The service refuses the API key of connection {args.conn_id!r}. {error}"
    return str(error)


@with_hook
def list_batches(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches list``."""
    batches = list(islice(_matching(args, hook), args.limit))
    if args.output in STRUCTURED:
        print_data([batch.to_dict() for batch in batches], args.output)
    else:
        AirflowConsole().print_as([tables.line(batch) for batch in batches], args.output)
    return 0


def _matching(args: Namespace, hook: OpenAIBatchesHook) -> Iterator[Batch]:
    is_filtered = bool(args.status or args.dag_id or args.run_id)
    for batch in hook.iter_batches(limit=MAX_PAGE if is_filtered else min(MAX_PAGE, args.limit)):
        if args.status in {None, batch.status} and Origin.of(batch).is_within(args.dag_id, args.run_id):
            yield batch


@with_hook
def show_batch(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches show``."""
    batch = hook.retrieve_batch(args.batch_id)
    if args.output in STRUCTURED:
        print_data(batch.to_dict(), args.output)
    else:
        AirflowConsole().print_as(tables.properties(batch), args.output)
    return 0


@with_hook
def watch_batches(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches watch``."""
    ids = [check_id(batch_id, "ID") for batch_id in dict.fromkeys(args.batch_ids)]
    batches = (
        [hook.retrieve_batch(batch_id) for batch_id in ids]
        if ids
        else [batch for batch in hook.iter_batches() if not batch.is_over]
    )
    if not batches:
        say("No batch is running.")
        return 0
    over = Watch(hook, batches, args.interval, live=args.output == "table").run()
    over = [_settled(hook, batch) if batch.status == "completed" else batch for batch in over]
    if args.output in STRUCTURED:
        print_data([batch.to_dict() for batch in over], args.output)
    elif args.output == "plain":
        AirflowConsole().print_as([tables.line(batch) for batch in over], args.output)
    return PROBLEM if any(map(_has_problem, over)) else 0


def _settled(hook: OpenAIBatchesHook, batch: Batch) -> Batch:
    """Wait for file ids and counts that lag behind the status, and say so."""
    if batch.lacks_files:
        say(
            f"Batch {batch.id} is {batch.status} but does not name its files yet; looking for up to a minute."
        )
    return hook.settled(batch)


def _has_problem(batch: Batch) -> bool:
    return error_of(batch) is not None or batch.counts.failed > 0


@with_hook
def cancel_batches(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches cancel``."""
    ids = [check_id(batch_id, "ID") for batch_id in dict.fromkeys(args.batch_ids)]
    if len(ids) > 1 and not args.yes:
        confirm(
            f"Cancel {len(ids)} batches? Requests that are done by now are billed.",
            unasked=f"{len(ids)} batches would be cancelled",
            refused="Nothing was cancelled.",
        )
    batches = []
    refused = 0
    for batch_id in ids:
        before = hook.retrieve_batch(batch_id)
        if before.is_over:
            say(f"Batch {batch_id} is {before.status}: there is nothing left to cancel.")
            refused += 1
        batches.append(before if before.is_over else hook.cancel_batch(batch_id))
    if args.output in STRUCTURED:
        print_data([batch.to_dict() for batch in batches], args.output)
    else:
        AirflowConsole().print_as([tables.line(batch) for batch in batches], args.output)
    return PROBLEM if refused else 0


@with_hook
def download_results(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches results``."""
    batch = _settled(hook, hook.retrieve_batch(args.batch_id))
    if not batch.is_over:
        fail(
            f"Batch {batch.id} is {batch.status}; it will have results once it is over. "
            f"Wait for it with: airflow openai-batches watch {batch.id}"
        )
    if not (batch.output_file_id or batch.error_file_id):
        say(f"Batch {batch.id} is {batch.status} and has no files. {error_of(batch) or ''}".rstrip())
        return PROBLEM
    saved = []
    if batch.output_file_id:
        saved.append(_save(hook, batch, "output", batch.output_file_id, args.directory))
    if batch.error_file_id:
        saved.append(_save(hook, batch, "errors", batch.error_file_id, args.directory))
    print_data(saved, args.output) if args.output in STRUCTURED else AirflowConsole().print_as(
        saved, args.output
    )
    return PROBLEM if _has_problem(batch) else 0


def _save(
    hook: OpenAIBatchesHook, batch: Batch, kind: Literal["output", "errors"], file_id: str, directory: str
) -> dict[str, Any]:
    path = Path(directory, result_file_name(batch.id, kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    return {"file": str(path), "bytes": hook.download_file(file_id, path), "id": file_id}
