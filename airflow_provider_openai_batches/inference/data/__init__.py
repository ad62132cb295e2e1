"""
Rows in, request files out; unordered results in, ordered parts out: the data side of a job. No network.

:mod:`~.readers` read rows, :mod:`~.requests` turns them into requests (:mod:`~.output_schema`),
:mod:`~.shards` writes them as files within the limits of the service, :mod:`~.index` notes where each row's
result is, :mod:`~.followup` writes what must be asked again, :mod:`~.results` and :mod:`~.outcomes` say what
a result line means, :mod:`~.merge` writes the ordered parts with one of the :mod:`~.writers`, and
:mod:`~.manifest` marks them as complete.

A job lives in one work directory (:mod:`~.job`). ``job.json`` (its shards), ``rows.jsonl`` (custom_id and
kept columns, in the order of the input), ``shard-NNNNN.jsonl`` (the request files) and
``shard-NNNNN.ids.jsonl`` (which row each of their lines is for) are all that a later process needs.
"""
