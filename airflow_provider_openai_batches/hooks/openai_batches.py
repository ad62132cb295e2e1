"""The hook: it makes a requests session from an Airflow connection, and has a method for each operation."""

from __future__ import annotations

import time
from http import HTTPStatus
from itertools import islice, takewhile
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook, conf
from msgspec.structs import replace

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.api import protocol, retry
from airflow_provider_openai_batches.api.body import MultipartBody
from airflow_provider_openai_batches.api.client import BatchesSession, Download
from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID, ClientConfig
from airflow_provider_openai_batches.compat.supervisor import read_config
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.idempotency.cancel import REQUEST_SECONDS
from airflow_provider_openai_batches.idempotency.keys import KEY, one_time_key
from airflow_provider_openai_batches.idempotency.ledger import Search
from airflow_provider_openai_batches.idempotency.submit import Creation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from airflow_provider_openai_batches.api.client import HttpSession
    from airflow_provider_openai_batches.api.models import Batch, BatchPage, File

# How far the clocks of Airflow and the service may differ, in seconds.
CLOCK_SKEW = 900
# Pauses in seconds between looks at a batch that is over and whose file ids lag behind its status.
SETTLING_PAUSES = (1, 2, 4, 8, 15, 30)
# What a batch does not name so many seconds after its end, it does not have.
SETTLED_AFTER = 3600


class OpenAIBatchesHook(BaseHook):
    """
    The Batch API and the files it needs. https://developers.openai.com/api/reference/resources/batches

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
        self._settled, self._in_vain = set[str](), 0.0
        self._uploaded: set[str] = set()
        self.sleep = sleep
        self._config: ClientConfig | None = None
        self._session: BatchesSession | None = None
        self._lock = Lock()  # several threads may download at the same time

    # -- the connection ------------------------------------------------------------------------------------

    @property
    def config(self) -> ClientConfig:
        """The connection's settings, read once."""
        if self._config is None:
            self._config = read_config(self.openai_conn_id, self.get_connection)
        return self._config

    @property
    def recovery_seconds(self) -> float:
        given = self._recovery_seconds
        return conf.getfloat("openai_batches", "recovery_seconds", fallback=30.0) if given is None else given

    @property
    def session(self) -> BatchesSession:
        """One session with keep-alive; it carries the key."""
        with self._lock:
            if self._session is None:
                self._session = BatchesSession(self.config, self.log, self.sleep)
                self._session.stopped = self._stopped
            return self._session

    def get_conn(self) -> HttpSession:
        """Return the requests session, for calls that this hook has no method for."""
        return self.session.http

    def close(self) -> None:
        """Close the session; the next call opens a new one."""
        if self._session is not None:
            self._session.http.close()
            self._session = None

    def stop(self) -> None:
        """Create and upload nothing from now on: the task is being killed."""
        self._stopped = True
        if self._session is not None:
            self._session.stopped = True

    def sibling(self) -> OpenAIBatchesHook:
        """Return another hook on the same connection, for a kill that has interrupted a call of this one."""
        other = OpenAIBatchesHook(self.openai_conn_id, sleep=self.sleep)
        timeout = min(self.config.timeout, REQUEST_SECONDS)
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
            if retry.is_refusal(error):
                return False, f"The service refuses the API key. {error}"
            if retry.has_no_batch_api(error):
                return False, f"No Batch API at {self.config.base_url}: check the base URL. {error}"
            return False, f"The service was reached but answered with an error. {error}"
        except TransportError as error:
            what = "There is no Batch API behind the base URL" if error.sent else "The host cannot be reached"
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
        is_own_file: bool = False,
    ) -> Batch:
        """
        Create a batch, once.

        A create whose answer is lost is not repeated blindly: the newest batches are searched for the key
        that this one carries in its metadata (a one-time key unless the caller gives ``airflow_key``).

        :param input_file_id: the id of a file that was uploaded for batches.
        :param endpoint: such as ``/v1/responses``; the ``url`` of all lines of the file.
        :param metadata: up to 15 pairs of strings.
        :param output_expires_after: seconds, or ``{"anchor": "created_at", "seconds": …}``.
        :param older: ids of batches that already carry the same ``airflow_key``, and are not this one.
        :param is_own_file: whether no other batch is made of the input file, which then is the second key; it
            need not be said of a file that this hook has just uploaded.
        :raises InvalidInputError: if an argument is not valid, before anything is sent.
        :raises CreateUncertainError: if it remains unknown whether the batch was stored.
        :raises UnknownBatchError: if a batch was stored and cannot be recognized.
        :raises APIError: if the service refuses it.
        """
        tagged = {KEY: one_time_key(), **(metadata or {})}
        request = protocol.create_batch(
            input_file_id, endpoint, completion_window, tagged, output_expires_after
        )
        is_own_file = is_own_file or input_file_id in self._uploaded
        batch = Creation(
            lambda: self.session.send(request, protocol.read_batch),
            lambda: Search(self, tagged[KEY], older, input_file_id, is_own_file=is_own_file),
            self.config.max_attempts,
            self.log,
        ).run()
        self._uploaded.discard(input_file_id)
        return batch

    def retrieve_batch(self, batch_id: str) -> Batch:
        """Retrieve a batch."""
        return self.session.send(protocol.retrieve_batch(batch_id), protocol.read_batch)

    def list_batches(self, after: str | None = None, limit: int = 20) -> BatchPage:
        """
        Return one page of batches, newest first.

        :param after: the id of the last batch of the page before.
        :param limit: 1 to 100.
        """
        return self.session.send(protocol.list_batches(after, limit), protocol.read_page)

    def iter_batches(self, limit: int = 100) -> Iterator[Batch]:
        """Yield all batches, newest first; each once, even if the service ignores the cursor."""
        return _walk(lambda after: self.list_batches(after, limit))

    def iter_batches_since(self, since: float) -> Iterator[Batch]:
        """Yield the batches created at ``since`` (Unix seconds) or later, newest first."""
        return _created_since(self.iter_batches(), since)

    def settled(self, batch: Batch) -> Batch:
        """
        Return the batch once its file ids have caught up with its status, or as it is after a minute.

        A batch without files is waited for once, and not at all an hour after its end; one that was over
        before another wait in vain has had that time too, and is looked at once.
        """
        now = time.time()
        ended = batch.ended_at or now
        is_new = batch.id not in self._settled and now - ended < SETTLED_AFTER
        pauses = SETTLING_PAUSES if ended >= self._in_vain else (0,)
        for pause in pauses if is_new else ():
            if not batch.lacks_files:
                break
            self._settled.add(batch.id)
            self.log.info("Batch %s is %s but names no files yet; asking again", batch.id, batch.status)
            self.sleep(pause)
            batch = self.retrieve_batch(batch.id)
        if is_new and pauses is SETTLING_PAUSES and batch.lacks_files:
            self._in_vain = now
        return batch

    def cancel_batch(self, batch_id: str) -> Batch:
        """
        Cancel a batch; one that is already over, or that is being cancelled, is returned as it is.

        :raises APIError: if there is no such batch.
        """
        request = protocol.cancel_batch(batch_id)

        def send() -> Batch:
            try:
                return protocol.read_batch(self.session.send_once(request))
            except APIError as error:
                if not retry.may_be_over(error):
                    raise
                batch = protocol.read_batch(self.session.send_once(protocol.retrieve_batch(batch_id)))
                if batch.can_be_cancelled:
                    raise
                return batch

        return self.session.retrying(request.operation)(send)

    # -- files ---------------------------------------------------------------------------------------------

    def upload_file(
        self,
        source: storage.Location,
        filename: str | None = None,
        expires_after: int | Mapping[str, Any] | None = None,
    ) -> File:
        """
        Upload an input file; it is streamed, whatever its size.

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

            uploaded: File = self.session.retrying("upload_file")(send)
        self._uploaded.add(uploaded.id)
        return uploaded

    def retrieve_file(self, file_id: str) -> File:
        """Retrieve what the service knows about a file."""
        return self.session.send(protocol.retrieve_file(file_id), protocol.read_file)

    def iter_files(self, purpose: str = "batch", limit: int = 100) -> Iterator[File]:
        """Yield the files of one purpose, newest first."""
        read = protocol.read_file_page
        return _walk(lambda after: self.session.send(protocol.list_files(purpose, after, limit), read))

    def iter_files_since(self, since: float) -> Iterator[File]:
        """Yield the input files uploaded at ``since`` (Unix seconds) or later, newest first."""
        return _created_since(self.iter_files(), since)

    def delete_file(self, file_id: str) -> None:
        """Delete a file; it is not an error if the file no longer exists."""
        try:
            self.session.send(protocol.delete_file(file_id), protocol.read_nothing)
        except APIError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def download_file(self, file_id: str, destination: storage.Location) -> int:
        """
        Download a file's content; if the connection breaks, the download continues where it stopped.

        :param destination: a path or a URI, where the file appears whole or not at all, or a binary file.
        :return: the size in bytes.
        """
        with storage.whole(destination) as sink:
            return Download(self.session, file_id, sink, self.log).run()

    def first_lines(self, file_id: str, count: int = 10) -> list[bytes]:
        """Return the first lines of a file, without downloading the rest."""
        with self.session.stream(protocol.download_file(file_id), 0) as answer:
            return list(islice(answer.iter_lines(), count))

    # -- lineage -------------------------------------------------------------------------------------------

    def note_inputs(self, *locations: storage.Location) -> None:
        """Tell Airflow's lineage which paths and URIs were read through this hook."""
        for location in locations:
            self._lineage.add_input_asset(context=self, uri=storage.uri_of(location))

    def note_outputs(self, *locations: storage.Location) -> None:
        """Tell Airflow's lineage which paths and URIs were written through this hook."""
        for location in locations:
            self._lineage.add_output_asset(context=self, uri=storage.uri_of(location))

    @property
    def _lineage(self) -> Any:
        from airflow.providers.common.compat.sdk import get_hook_lineage_collector  # noqa: PLC0415 - not when a DAG is parsed

        return get_hook_lineage_collector()


def _walk(fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the items of all pages, each once; ``fetch`` takes the cursor of a page."""
    seen: set[str] = set()
    after = None
    while True:
        page = fetch(after)
        fresh = [item for item in page.data if item.id not in seen]
        yield from fresh
        seen.update(item.id for item in fresh)
        if not page.has_more or not fresh:
            return
        after = page.data[-1].id


def _created_since(newest_first: Iterator[Any], since: float) -> Iterator[Any]:
    oldest = since - CLOCK_SKEW
    return takewhile(lambda item: item.created_at is None or item.created_at >= oldest, newest_first)
