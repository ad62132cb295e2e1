"""What each provider's process does in a benchmark: report in lines of JSON, and discard its logs."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any


def report(what: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(what) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def quiet_logs() -> None:
    """Format log lines as a worker does, and discard them."""
    from airflow.sdk.log import configure_logging  # noqa: PLC0415 - Airflow is imported when it is measured

    discarded = Path(os.devnull).open("wb")  # noqa: SIM115 - until the process ends
    configure_logging(json_output=True, output=discarded, log_level="INFO", sending_to_supervisor=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
