"""
An OpenAI Batch API on loopback, for demos, DAG tests and this project's own tests.

``python -m airflow_provider_openai_batches.devserver --port 8089`` prints its base URL when it is ready. In
a test::

    from airflow_provider_openai_batches.devserver import DevServer

    with DevServer(batch_seconds=0.2) as server:
        os.environ.update(server.environment)  # the connection openai_batches_default
        ...
        assert server.stats()["batches"]["stored"] == 1

or use the fixture ``openai_batches_server`` of
:mod:`~airflow_provider_openai_batches.devserver.pytest_plugin`. :class:`DevServerClient` has the same control
methods for a server in another process.

The server speaks ``/v1/files`` and ``/v1/batches``, and answers each endpoint that a batch can have, such as
``/v1/responses``, live. For clients of Azure it does so under ``/openai/v1`` and
``/openai`` too, and takes the header ``api-key``. It makes up its answers from the requests alone, and each
answer says so. A prompt with "Answer with one of: a, b, c" gets one of these, and a request with a JSON
schema gets an instance of it.

**What a request can ask for**, in its body's ``metadata: {"devserver": ...}``:

- ``fail:429`` (or another status): the request fails
- ``expire``: the request is not executed in time, and the batch ends as expired
- ``omit``: the request is executed and paid for, but its result is in neither file
- ``refuse``: the answer is a refusal
- ``invalid_json``: the content of the answer is incomplete JSON

With ``*N`` at the end, as in ``fail:429*1``, this applies to the first N runs of the request only. A live
request cannot ask for ``expire`` and ``omit``: it is answered as if it did not say that.

**Control routes** are under ``/_dev/``, and can only be used from the server's own machine.
:class:`DevServer` has a method for each:

- ``POST /_dev/faults`` adds rules, ``DELETE /_dev/faults`` removes all of them. A rule is ``{"operation":
  ..., "action": ..., "times": 1 (null: always), "skip": 0, "probability": 1.0, "path": "part of a path"}``.
  If several rules match a call, the first one applies. Operations: create_batch, retrieve_batch,
  list_batches, cancel_batch, upload_file, retrieve_file, list_files, delete_file, download_file, live, or
  ``*``.
  Actions:

  - ``status``: answer with ``status`` (503), ``body`` (text or JSON), ``headers``, ``content_type`` and
    ``code``; with ``"after": true`` the call is carried out first
  - ``drop_before``: cut the connection before the call is carried out; ``drop_after``: carry it out, and cut
    the connection without sending anything; ``drop_during``: cut it after half of the answer
  - ``delay``: answer ``seconds`` later
  - ``half_body``: send half of the JSON as a complete answer; ``invalid_json``: send something that is not
    JSON
  - ``cut_download``: cut the connection after ``bytes``; ``ignore_range``: answer 200, from the start of the
    file; ``wrong_content``: send other bytes
- ``POST /_dev/settings`` changes any of
  :class:`~airflow_provider_openai_batches.devserver.settings.Settings`: batch_seconds, window_seconds,
  latency, list_lag_seconds (new batches appear in the list that much later), output_id_lag_seconds (a batch
  that is over shows no file ids for that long), file_lag_seconds (create_batch does not find a new file for
  that long), enqueued_token_limit, api_keys, freeze (no batch changes its status), list_enabled, omit_nulls,
  seed (decides the order of the results, when a fault with a probability applies, and which live requests
  fail). For live requests: live (false: 404), live_seconds (how long each takes), live_failing (which share
  of the runs fails) with live_failure_status (500), requests_per_minute and tokens_per_minute (limits, with
  the service's headers; beyond them the answer is 429), minute_seconds (how long the minute of these limits
  is) and rate_limit_headers (false: only a 429 has headers about its limit).
- ``GET /_dev/stats?metadata_key=K``: requests by operation, peak_in_flight, files, bytes_uploaded, batches
  stored, running and by status, batches by the value of their metadata K, and how many request lines were
  executed, paid for (succeeded), and executed or paid for more than once. Lines with the same body and
  custom_id count as the same. The counts of live requests are under ``live``; there, the same body counts as
  the same.
- ``GET /_dev/batches?metadata.K=V``: full batches, oldest first.
- ``GET /_dev/timeline``: of each batch its number, status, model, metadata, requests and tokens; when it was
  created, started and over, and after how many seconds; and the code with which it was rejected.
- ``GET /_dev/answers?at_least=2``: custom_id, executed and answered (how often) of each request line that
  was answered twice or more often; the default is once, and 0 gives all that were executed.
- ``POST /_dev/batches/ID``: ``{"status": ..., "after": 0.5, "stuck": true, any field: any value}``. A
  terminal status is reached before the route answers, with the fraction ``after`` of the requests executed;
  any other status is set as it is. ``stuck`` keeps the status.
- ``POST /_dev/seed``: ``{"count": 100000, "status": "completed", "metadata": {...}, "spread_seconds":
  3600}`` adds batches as if somebody else had created them. The counts and ``/_dev/batches`` leave them out.
- ``POST /_dev/reset`` forgets everything, and restores the initial settings.

**Settings for the time that a job takes.** On the command line they are given as ``--set NAME=VALUE``, with
the value as JSON, as are all settings that have no option of their own.

- batch_seconds is the time from the creation of a batch to its end. batch_seconds_by_number: the first batch
  created takes the first of these, and so on; batches beyond them, and those with null, take batch_seconds.
  ``[12]`` makes one slow batch among quick ones. seconds_per_request: each request of a batch adds as much.
- validating_seconds: how long each batch is ``validating`` before it goes on, or is rejected; null: a tenth
  of its time.
- enqueued_token_limits: ``{"model": tokens}``; enqueued_token_limit is that of the other models. All batches
  of a model that are not over count, in the order in which their files are read, and one that does not fit
  is rejected. A token is four bytes of a request's body. limit_with_commas: whether the error says 90,000
  or 90000.
- failing_share: the fraction of requests that fail in passing, with one of failing_statuses; not with an
  upstream. Which ones depends on seed, custom_id and how often the request was executed before: asked again,
  it may succeed. failing_share_by_number has other fractions for the first batches.
- clock_speed: the server's clock, by which batches age and which stamps them, runs that many times faster
  than real time. ``now`` in the stats is its time. Only latency stays in real seconds.
"""

from __future__ import annotations

from airflow_provider_openai_batches.devserver.client import DevServerClient
from airflow_provider_openai_batches.devserver.server import DevServer

__all__ = ["DevServer", "DevServerClient"]
