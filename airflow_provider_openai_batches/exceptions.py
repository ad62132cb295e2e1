"""
All exceptions of this provider, in one hierarchy.

A message says what happened, to which batch, file or line, and what to do next. A key never appears in one.
"""

from __future__ import annotations

from typing import Protocol


class SeenBatch(Protocol):
    """The fields of a batch that its error needs; :class:`~.api.models.Batch` has all of them."""

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...


class OpenAIBatchesError(Exception):
    """The base class of all errors that this provider raises."""


class InvalidInputError(OpenAIBatchesError, ValueError):
    """Something was refused before anything was sent or spent. It is a ``ValueError`` too."""


class InvalidConnectionError(InvalidInputError):
    """The Airflow connection cannot be used: no key, a bad URL, or a key that would be sent unencrypted."""


class BrokenSegmentError(OpenAIBatchesError):
    """A segment of a store of answers is damaged; its message says in what way, not which segment it is."""


class NewerSegmentError(BrokenSegmentError):
    """A segment was written by a release of this provider that is newer than this one."""


class TransportError(OpenAIBatchesError):
    """
    The service sent no answer, or one that cannot be read.

    :param sent: False only when it is certain that the request never reached the service.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class APIError(OpenAIBatchesError):
    """
    The service answered with an error.

    :param status: the HTTP status.
    :param code: the service's own code, for example ``insufficient_quota``.
    :param param: the parameter that the service objects to.
    :param request_id: the ``x-request-id`` to quote to the service's support.
    :param retry_after: how many seconds the service asks the client to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        details = [
            f"{name} {value}"
            for name, value in (("code", self.code), ("param", self.param), ("request id", self.request_id))
            if value
        ]
        return f"HTTP {self.status}: {self.message}" + (f" ({', '.join(details)})" if details else "")


class NoLiveEndpointError(APIError):
    """The service has batches for an endpoint, but does not answer single requests to it."""


class AnswersLate(OpenAIBatchesError):
    """Rows had no answer by the time of ``answer_by``, and ``then`` says that this is a failure."""


class CanaryFailed(OpenAIBatchesError):
    """The first rows of a job were asked live, and their answers are not good enough for the rest."""


class CostLimitReached(OpenAIBatchesError):
    """The rest of a job would cost more than ``max_cost`` allows."""


class TaskKilled(OpenAIBatchesError):
    """The task is being stopped; the request that was about to be sent was not."""


class CreateUncertainError(OpenAIBatchesError):
    """The service may or may not have stored the batch, and the list could not be read to find out."""


class UnknownBatchError(OpenAIBatchesError):
    """The service may have stored the batch, and nothing that it gives back says which one it is."""


class BatchError(OpenAIBatchesError):
    """
    A batch ended without usable results, or did not end in time. The base of the four below.

    :param batch: the batch as last seen.
    """

    def __init__(self, message: str, batch: SeenBatch | None = None) -> None:
        super().__init__(message)
        self.batch = batch


class BatchFailed(BatchError):
    """The service rejected the input file (nothing ran, nothing is billed), or every request failed."""


class BatchExpired(BatchError):
    """The completion window ended; the answers up to then are in the output file, and are billed."""


class BatchCancelled(BatchError):
    """The batch was cancelled; the answers up to then are in the output file, and are billed."""


class BatchTimeout(BatchError):
    """The deadline passed while the batch was still running."""


class LoadFailed(OpenAIBatchesError):
    """Results were not written to a table; it is as it was before."""
