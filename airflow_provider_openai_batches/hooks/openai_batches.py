"""The hook: an Airflow connection becomes a requests session, and the session the endpoints."""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook, conf
from msgspec.structs import replace

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.api.client import BatchesSession, MultipartBody
from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID, ClientConfig
from airflow_provider_openai_batches.api.download import Download
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.idempotency.create import Creation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    import requests

    from airflow_provider_openai_batches.api.models import Batch, BatchPage, File

# Seconds that one request may take while a task is being killed: there must be time for the next one.
KILL_TIMEOUT = 2.0


class OpenAIBatchesHook(BaseHook):
    """
    The Batch API and the files it needs.

    https://developers.openai.com/api/reference/resources/batches

    :param openai_conn_id: an Airflow connection of type ``openai_batches`` or ``openai``.
    :param recovery_seconds: how long a batch is looked for after the answer to its creation was lost;
        default: the option ``[openai_batches] recovery_seconds``, 30.
    :param sleep: waits between attempts, in seconds.
    """

    conn_name_attr = "openai_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "openai_batches"
    hook_name = "OpenAI Batches"

    def __init__(
        self,
        openai_conn_id: str = default_conn_name,
        *,
        recovery_seconds: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.openai_conn_id = openai_conn_id
        self._recovery_seconds = recovery_seconds
        self._stopped = False
        self.sleep = sleep
        self._config: ClientConfig | None = None
        self._session: BatchesSession | None = None

    # -- the connection ------------------------------------------------------------------------------------

    @property
    def config(self) -> ClientConfig:
        """The connection's settings, read once."""
        if self._config is None:
            from airflow.providers.common.compat.sdk import mask_secret  # noqa: PLC0415 - at run time only

            self._config = ClientConfig.from_connection(self.get_connection(self.openai_conn_id), os.environ)
            for secret in self._config.secrets:
                mask_secret(secret)
        return self._config

    @property
    def recovery_seconds(self) -> float:
        if self._recovery_seconds is not None:
            return self._recovery_seconds
        return float(conf.getfloat("openai_batches", "recovery_seconds", fallback=30.0))

    @property
    def session(self) -> BatchesSession:
        """One session with keep-alive; it carries the key."""
        if self._session is None:
            self._session = BatchesSession(self.config, self.log, self.sleep)
            self._session.stopped = self._stopped
        return self._session

    def get_conn(self) -> requests.Session:
        """The requests session below, for calls that this hook does not know."""
        return self.session.http

    def close(self) -> None:
        """Close the session; the next call opens a new one."""
        if self._session is not None:
            self._session.http.close()
            self._session = None

    def stop(self) -> None:
        """From now on nothing is created or uploaded: the task is being killed."""
        self._stopped = True
        if self._session is not None:
            self._session.stopped = True

    def sibling(self) -> OpenAIBatchesHook:
        """Another hook on the same connection, for the few seconds of a kill that interrupts this one."""
        other = OpenAIBatchesHook(self.openai_conn_id, sleep=self.sleep)
        timeout = min(self.config.timeout, KILL_TIMEOUT)
        other._config = replace(self.config, connect_timeout=timeout, timeout=timeout, max_attempts=1)
        return other

    @property
    def stopped(self) -> bool:
        return self._stopped

    def test_connection(self) -> tuple[bool, str]:
        """Ask for one batch, and say what is wrong with the connection if that fails."""
        try:
            self.session.send(protocol.list_batches(limit=1), protocol.read_page, max_attempts=1)
        except APIError as error:
            if error.status in {401, 403}:
                return False, f"The service refuses the API key. {error}"
            if error.status in {404, 405} or 300 <= error.status < 400:  # noqa: PLR2004 - HTTP
                return False, f"No Batch API at {self.config.base_url}: check the base URL. {error}"
            return False, f"The service was reached but did not answer well. {error}"
        except TransportError as error:
            known = not error.sent
            what = "The host cannot be reached" if known else "There is no Batch API behind the base URL"
            return False, f"{what}: {error}"
        except OpenAIBatchesError as error:
            return False, str(error)
        return True, f"Connected to {self.config.base_url}."

    # -- batches -------------------------------------------------------------------------------------------

    def create_batch(
        self,
        input_file_id: str,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | Mapping[str, Any] | None = None,
        *,
        older: Collection[str] = (),
    ) -> Batch:
        """
        Create a batch, once.

        A create whose answer is lost is not repeated blindly: the newest batches are searched for the key
        that this one carries in its metadata (a one-time key unless the caller gives ``airflow_key``).

        :param output_expires_after: seconds, or ``{"anchor": "created_at", "seconds": …}``.
        :param older: ids of batches that carry the same ``airflow_key`` already, and are not this one.
        :raises InvalidInputError: before anything is sent.
        :raises CreateUncertainError: if it cannot be found out whether the batch was stored.
        :raises APIError: if the service refuses it.
        """
        tagged = {keys.KEY: keys.one_time_key(), **(metadata or {})}
        request = protocol.create_batch(
            input_file_id, endpoint, completion_window, tagged, output_expires_after
        )
        creation = Creation(
            self.session,
            self.iter_batches_since,
            patience=self.recovery_seconds,
            sleep=self.sleep,
            log=self.log,
            older=older,
        )
        return creation.run(request, tagged[keys.KEY])

    def retrieve_batch(self, batch_id: str) -> Batch:
        """Retrieve a batch."""
        return self.session.send(protocol.retrieve_batch(batch_id), protocol.read_batch)

    def list_batches(self, after: str | None = None, limit: int = 20) -> BatchPage:
        """
        One page of batches, newest first.

        :param after: the id of the last batch of the page before.
        :param limit: 1 to 100.
        """
        return self.session.send(protocol.list_batches(after, limit), protocol.read_page)

    def iter_batches(self, limit: int = 100) -> Iterator[Batch]:
        """All batches, newest first; each once, whatever the service makes of the cursor."""
        seen: set[str] = set()
        after = None
        while True:
            page = self.list_batches(after, limit)
            fresh = [batch for batch in page.data if batch.id not in seen]
            yield from fresh
            seen.update(batch.id for batch in fresh)
            if not page.has_more or not fresh:
                return
            after = page.data[-1].id

    def iter_batches_since(self, since: float) -> Iterator[Batch]:
        """The batches created at ``since`` (Unix seconds) or later, newest first."""
        for batch in self.iter_batches():
            if batch.created_at is not None and batch.created_at < since - keys.CLOCK_SKEW:
                return
            yield batch

    def cancel_batch(self, batch_id: str) -> Batch:
        """
        Cancel a batch; one that is already over, or that is being cancelled, is returned as it is.

        :raises APIError: if there is no such batch.
        """
        try:
            return self.session.send(protocol.cancel_batch(batch_id), protocol.read_batch)
        except APIError as error:
            if error.status not in {400, 409}:
                raise
            batch = self.retrieve_batch(batch_id)
            if batch.is_over or batch.status == "cancelling":
                return batch
            raise

    # -- files ---------------------------------------------------------------------------------------------

    def upload_file(
        self,
        source: storage.Location,
        filename: str | None = None,
        expires_after: int | Mapping[str, Any] | None = None,
    ) -> File:
        """
        Upload an input file; it streams, whatever its size.

        :param source: a path, any URI that Airflow's ``ObjectStoragePath`` knows, or a binary file object.
        :param expires_after: seconds, or ``{"anchor": "created_at", "seconds": …}``.
        """
        fields = protocol.upload_fields(expires_after)
        name = filename or storage.name_of(source)
        with storage.opened(source) as file:
            start = file.tell()

            def send() -> File:
                file.seek(start)
                body = MultipartBody(file, name, fields)
                reply = self.session.send_once(protocol.upload_file(), body, body.content_type)
                return protocol.read_file(reply)

            return self.session.retrying("upload_file")(send)

    def retrieve_file(self, file_id: str) -> File:
        """Retrieve what the service knows of a file."""
        return self.session.send(protocol.retrieve_file(file_id), protocol.read_file)

    def iter_files(self, purpose: str = "batch", limit: int = 100) -> Iterator[File]:
        """The files of one purpose, newest first."""
        seen: set[str] = set()
        after = None
        while True:
            page = self.session.send(protocol.list_files(purpose, after, limit), protocol.read_file_page)
            fresh = [file for file in page.data if file.id not in seen]
            yield from fresh
            seen.update(file.id for file in fresh)
            if not page.has_more or not fresh:
                return
            after = page.data[-1].id

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is no error."""
        try:
            self.session.send(protocol.delete_file(file_id), protocol.read_nothing)
        except APIError as error:
            if error.status != 404:  # noqa: PLR2004 - HTTP
                raise

    def download_file(self, file_id: str, destination: storage.Location) -> int:
        """
        Download a file's content; a broken connection is taken up again where it broke.

        :param destination: a path, a URI (which appear whole or not at all), or a binary file object.
        :return: the size in bytes.
        """
        with storage.whole(destination) as sink:
            return Download(self.session, file_id, sink, self.log).run()

    def first_lines(self, file_id: str, count: int = 10) -> list[bytes]:
        """The first lines of a file, without downloading the rest."""
        with self.session.stream(protocol.download_file(file_id), 0) as answer:
            return list(islice(answer.iter_lines(), count))
