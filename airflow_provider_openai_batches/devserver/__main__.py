"""The program ``python -m airflow_provider_openai_batches.devserver``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.devserver.server import DevServer

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_VARIABLE = "DEVSERVER_UPSTREAM_KEY"


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
    add("--api-key", action="append", default=[], help="accept only this key; can be given several times")
    return parser


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
