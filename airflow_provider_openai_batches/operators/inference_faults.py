"""Faults of an inference task that a retry cannot mend, and a warning of results that others cannot see."""

from __future__ import annotations

import gzip
import re
import socket
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_openai_batches.exceptions import (
    AnswersLate,
    CanaryFailed,
    CostLimitReached,
    InvalidInputError,
    NoLiveEndpointError,
    OpenAIBatchesError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.api.retry import Log

_LASTING = (
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    gzip.BadGzipFile,
)
_STORES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"})
_NO_RIGHTS = re.compile("credential|authentication|unauthorized|forbidden|denied", re.IGNORECASE)
_NO_RIGHTS_CODES = {401, 403, 404}  # gcsfs has one class for all answers, with the status as its code


class LastingError(OpenAIBatchesError, AirflowFailException):
    """Another try would end in the same way, so none follows."""


class UnusableInputError(InvalidInputError, AirflowFailException):
    """The task was refused before anything was spent. Another try would be refused too, so none follows."""


def fail_for_good(error: Exception) -> None:
    """
    Fail a task that its next try would fail for the same reason.

    :raises UnusableInputError: for bad input, and for a store that this worker has no rights to.
    :raises LastingError: for an end of a job that another try would only meet again.
    """
    if isinstance(error, InvalidInputError):
        if not _may_pass(error.__cause__):
            raise UnusableInputError(str(error)) from error
    elif isinstance(error, CanaryFailed | AnswersLate | CostLimitReached | NoLiveEndpointError):
        raise LastingError(str(error)) from error
    elif _lacks_rights(error):
        message = f"A store refused this worker ({type(error).__name__}: {error}). Check its credentials."
        raise UnusableInputError(message) from error


def _may_pass(cause: BaseException | None) -> bool:
    """Whether a store or disk may answer differently in the next try."""
    if cause is None or isinstance(cause, _LASTING) or _lacks_rights(cause):
        return False
    return isinstance(cause, OSError) or type(cause).__module__.partition(".")[0] in _STORES


def _lacks_rights(error: BaseException) -> bool:
    kind = type(error)
    is_of_store = kind.__module__.partition(".")[0] in _STORES
    return is_of_store and (
        bool(_NO_RIGHTS.search(kind.__name__)) or getattr(error, "code", None) in _NO_RIGHTS_CODES
    )


def warn_of_local_output(output: Path, log: Log) -> None:
    """Say on which worker the results are, where other workers may have other disks."""
    log.warning(
        "output_uri %s is a directory on this worker, %s: %s. Other workers, and the tasks that follow, "
        "see the results only if they share that disk. Set output_uri to a URI that all can reach, such as "
        "s3://bucket/results/{{ run_id }}, or to the absolute path of a shared disk",
        output,
        socket.gethostname(),
        output.absolute(),
    )
