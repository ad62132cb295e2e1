"""
An OpenAI Batch API on loopback, for demos, DAG tests and this project's own tests.

``python -m airflow_provider_openai_batches.devserver --port 8089`` prints its base URL when it is ready. In
a test::

    from airflow_provider_openai_batches.devserver import DevServer

    with DevServer(batch_seconds=0.2) as server:
        os.environ.update(server.environment)  # the connection openai_batches_default
        ...
        assert server.stats()["batches"]["stored"] == 1

or the fixture ``openai_batches_server`` of :mod:`~airflow_provider_openai_batches.devserver.pytest_plugin`.
:class:`DevServerClient` has the same control methods for a server in another process.

It speaks ``/v1/files`` and ``/v1/batches`` (also under ``/openai/v1`` and ``/openai``, with the header
``api-key``, as Azure does). Answers are made from the requests alone and say so; a prompt with "Answer with
one of: a, b, c" gets one of these, and a request with a JSON schema gets an instance of it.

**What a request can ask for**, in its body's ``metadata: {"devserver": ...}``: ``fail:429`` (or another
status), ``expire`` (the window ends before it is done, and the batch ends as expired), ``omit`` (done and
paid, but in neither file), ``refuse`` (a refusal instead of content), ``invalid_json`` (content that is cut
off). With ``*N`` at the end, as in ``fail:429*1``, only its first N runs are like that.

**Control routes**, under ``/_dev/`` and for this machine only; :class:`DevServer` has a method for each:

- ``POST /_dev/faults`` adds rules, ``DELETE /_dev/faults`` removes all. A rule is ``{"operation": ...,
  "action": ..., "times": 1 (null: always), "skip": 0, "probability": 1.0, "path": "part of a path"}``; of
  several that match, the first counts. Operations: create_batch, retrieve_batch, list_batches,
  cancel_batch, upload_file, retrieve_file, list_files, delete_file, download_file, or ``*``. Actions:

  - ``status``: answer with ``status`` (503), ``body`` (text or JSON), ``headers``, ``content_type``,
    ``code``; with ``"after": true`` the call is carried out first
  - ``drop_before``: cut the connection before anything is done; ``drop_after``: once it is done, without a
    byte of answer; ``drop_during``: after half of the answer
  - ``delay``: ``seconds`` later; ``half_body``: a whole answer with half of the JSON; ``invalid_json``:
    none at all
  - ``cut_download``: cut after ``bytes``; ``ignore_range``: answer 200 from the start; ``wrong_content``:
    other bytes
- ``POST /_dev/settings`` changes any of
  :class:`~airflow_provider_openai_batches.devserver.settings.Settings`: batch_seconds, window_seconds,
  latency, list_lag_seconds (new batches appear in the list that much later), output_id_lag_seconds (a batch
  that is over shows no file ids for that long), file_lag_seconds (a new file is unknown to create_batch for
  that long), enqueued_token_limit, api_keys, freeze (no batch moves), list_enabled, omit_nulls, seed (the
  order of the results; probabilities).
- ``GET /_dev/stats?metadata_key=K``: requests by operation, peak_in_flight, files, bytes_uploaded, batches
  stored, running and by status, batches by their metadata K, and how many request lines were executed, paid
  (succeeded), and executed or paid more than once; the same body and custom_id are the same line.
- ``GET /_dev/batches?metadata.K=V``: batches in full, oldest first.
- ``POST /_dev/batches/ID``: ``{"status": ..., "after": 0.5, "stuck": true, any field: any value}``. A
  terminal status is reached before the answer, with ``after`` of the requests done; any other is set as it
  is. ``stuck`` holds it.
- ``POST /_dev/seed``: ``{"count": 100000, "status": "completed", "metadata": {...}, "spread_seconds":
  3600}`` adds batches of others, which the counts and ``/_dev/batches`` leave out.
- ``POST /_dev/reset``: as new.
"""

from __future__ import annotations

from airflow_provider_openai_batches.devserver.client import DevServerClient
from airflow_provider_openai_batches.devserver.server import DevServer

__all__ = ["DevServer", "DevServerClient"]
