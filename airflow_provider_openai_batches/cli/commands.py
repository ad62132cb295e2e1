"""What the commands do. They end with an exit code, and with a sentence where something is amiss."""

from __future__ import annotations

import functools
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.cli.simple_table import AirflowConsole
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.utils.cli import suppress_logs_and_warning

from airflow_provider_openai_batches.api.outcome import error_of
from airflow_provider_openai_batches.api.validation import check_id
from airflow_provider_openai_batches.cli import tables
from airflow_provider_openai_batches.cli.watching import Watch
from airflow_provider_openai_batches.exceptions import APIError, InvalidInputError, OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.api.models import Batch

AMISS = 1
ERROR = 2
STOPPED = 130
STRUCTURED = ("json", "yaml")


class CommandLineHook(OpenAIBatchesHook):
    """Outside a task, connections are read from the metadata database too."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        return Connection.get_connection_from_secrets(conn_id)


def _say(text: str) -> None:
    print(tables.clean(text), file=sys.stderr)  # noqa: T201 - a command's way to speak


def _fail(text: str) -> NoReturn:
    _say(f"Error: {text}")
    raise SystemExit(ERROR)


def _speaking(command: Callable[[Namespace, OpenAIBatchesHook], int]) -> Callable[[Namespace], None]:
    """Give a command its hook, and make sentences and exit codes of what it returns and raises."""

    @functools.wraps(command)
    def run(args: Namespace) -> None:
        hook = CommandLineHook(args.conn_id)
        try:
            code = command(args, hook)
        except AirflowNotFoundException:
            _fail(f"There is no connection {args.conn_id!r}. Create it, or name another one with --conn-id.")
        except APIError as error:
            _fail(_words(error, args))
        except (OpenAIBatchesError, OSError) as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _say("Stopped. Batches that run go on.")
            code = STOPPED
        finally:
            hook.close()
        if code:
            raise SystemExit(code)

    wrapped: Callable[[Namespace], None] = suppress_logs_and_warning(run)
    return wrapped


def _words(error: APIError, args: Namespace) -> str:
    if error.status in {401, 403}:
        return f"The service refuses the API key of connection {args.conn_id!r}. {error}"
    return str(error)


@_speaking
def list_batches(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches list``."""
    batches = list(islice(_matching(args, hook), args.limit))
    if args.output in STRUCTURED:
        _print([batch.to_dict() for batch in batches], args.output)
    else:
        AirflowConsole().print_as([tables.line(batch) for batch in batches], args.output)
    return 0


def _matching(args: Namespace, hook: OpenAIBatchesHook) -> Iterator[Batch]:
    wanted = {
        name: value
        for name, value in (("airflow_dag_id", args.dag_id), ("airflow_run_id", args.run_id))
        if value is not None
    }
    for batch in hook.iter_batches(limit=min(100, args.limit) if not (wanted or args.status) else 100):
        metadata = batch.metadata or {}
        if args.status in {None, batch.status} and all(metadata.get(k) == v for k, v in wanted.items()):
            yield batch


def _print(data: Any, output: str) -> None:
    console = AirflowConsole()
    console.print_as_json(data) if output == "json" else console.print_as_yaml(data)


@_speaking
def show_batch(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches show``."""
    batch = hook.retrieve_batch(args.batch_id)
    if args.output in STRUCTURED:
        _print(batch.to_dict(), args.output)
    else:
        AirflowConsole().print_as(tables.properties(batch), args.output)
    return 0


@_speaking
def watch_batches(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches watch``."""
    ids = [check_id(batch_id, "ID") for batch_id in dict.fromkeys(args.batch_ids)]
    batches = (
        [hook.retrieve_batch(batch_id) for batch_id in ids]
        if ids
        else [batch for batch in hook.iter_batches() if not batch.is_over]
    )
    if not batches:
        _say("No batch runs.")
        return 0
    over = Watch(hook, batches, args.interval, live=args.output == "table").run()
    if args.output in STRUCTURED:
        _print([batch.to_dict() for batch in over], args.output)
    elif args.output == "plain":
        AirflowConsole().print_as([tables.line(batch) for batch in over], args.output)
    return AMISS if any(map(_is_amiss, over)) else 0


def _is_amiss(batch: Batch) -> bool:
    return error_of(batch) is not None or batch.counts.failed > 0


@_speaking
def cancel_batches(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches cancel``."""
    ids = [check_id(batch_id, "ID") for batch_id in dict.fromkeys(args.batch_ids)]
    if len(ids) > 1 and not args.yes:
        _confirm(len(ids))
    batches = []
    refused = 0
    for batch_id in ids:
        before = hook.retrieve_batch(batch_id)
        if before.is_over:
            _say(f"Batch {batch_id} is {before.status}: there is nothing left to cancel.")
            refused += 1
        batches.append(before if before.is_over else hook.cancel_batch(batch_id))
    if args.output in STRUCTURED:
        _print([batch.to_dict() for batch in batches], args.output)
    else:
        AirflowConsole().print_as([tables.line(batch) for batch in batches], args.output)
    return AMISS if refused else 0


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        _fail(f"{count} batches would be cancelled, and there is nobody to ask. Add --yes to do it.")
    answer = input(f"Cancel {count} batches? What is done by now is paid for. [y/N] ")
    if answer.strip().lower() not in {"y", "yes"}:
        _fail("Nothing was cancelled.")


@_speaking
def download_results(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches results``."""
    batch = hook.retrieve_batch(args.batch_id)
    if not batch.is_over:
        _fail(
            f"Batch {batch.id} is {batch.status}; its results come when it is over. "
            f"Wait for it with: airflow openai-batches watch {batch.id}"
        )
    named = {"output": batch.output_file_id, "errors": batch.error_file_id}
    if not any(named.values()):
        _say(f"Batch {batch.id} is {batch.status} and has no files. {error_of(batch) or ''}".rstrip())
        return AMISS
    saved = [
        _save(hook, batch.id, kind, file_id, args.directory) for kind, file_id in named.items() if file_id
    ]
    _print(saved, args.output) if args.output in STRUCTURED else AirflowConsole().print_as(saved, args.output)
    return AMISS if _is_amiss(batch) else 0


def _save(hook: OpenAIBatchesHook, batch_id: str, kind: str, file_id: str, directory: str) -> dict[str, Any]:
    if Path(batch_id).name != batch_id:
        raise InvalidInputError(f"The service names the batch {batch_id!r}, which cannot be a file's name.")
    Path(directory).mkdir(parents=True, exist_ok=True)
    path = Path(directory, f"{batch_id}_{kind}.jsonl")
    return {"file": str(path), "bytes": hook.download_file(file_id, path), "id": file_id}
