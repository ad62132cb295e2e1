"""The program ``python -m airflow_provider_openai_batches.devserver``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.server import DevServer
from airflow_provider_openai_batches.devserver.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_VARIABLE = "DEVSERVER_UPSTREAM_KEY"
OPTIONS = {"batch_seconds", "latency", "enqueued_token_limit", "api_keys"}
OTHER_SETTINGS = [name for name in Settings.__struct_fields__ if name not in OPTIONS]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m airflow_provider_openai_batches.devserver",
        description="An OpenAI Batch API on loopback. It prints its base URL once it is ready.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8089, help="port to listen on; 0 picks a free one")
    add(
        "--batch-seconds",
        type=float,
        default=20.0,
        help="seconds that a batch takes, from its creation to its end",
    )
    add("--upstream", help="base URL, with /v1, of a real API to send every request to")
    add("--upstream-key", help=f"API key of the upstream; it is safer to set {KEY_VARIABLE} instead")
    add("--concurrency", type=int, default=8, help="how many requests are sent to the upstream at a time")
    add("--latency", type=float, default=0.0, help="seconds to delay each answer")
    add("--data-dir", type=Path, help="where to keep files; by default, in a temporary folder")
    add("--enqueued-token-limit", type=int, help="a batch that exceeds it fails with token_limit_exceeded")
    add(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, its value as JSON, as in clock_speed=60; can be given several times",
    )
    add("--api-key", action="append", default=[], help="accept only this key; can be given several times")
    return parser


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name not in OTHER_SETTINGS:
        raise ArgumentTypeError(f"there is no setting {name!r}; there are {', '.join(OTHER_SETTINGS)}")
    try:
        given = {name: msgspec.json.decode(value)}
        msgspec.convert(given, Settings)
    except msgspec.MsgspecError as error:
        raise ArgumentTypeError(f"{name} cannot be {value!r}: {error}") from None
    return name, given[name]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    options = _parser().parse_args(argv)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = DevServer(
        host=options.host,
        port=options.port,
        data_dir=options.data_dir,
        upstream=options.upstream,
        upstream_key=options.upstream_key or os.environ.get(KEY_VARIABLE),
        concurrency=options.concurrency,
        batch_seconds=options.batch_seconds,
        latency=options.latency,
        enqueued_token_limit=options.enqueued_token_limit,
        api_keys=options.api_key,
        **dict(options.set),
    )
    try:
        server.start()
    except OSError as error:
        sys.stderr.write(f"Cannot listen on {options.host}:{options.port}: {error}. Choose another --port.\n")
        return 1
    with server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
