"""
Controls a job: the code between the operator and the data of the job.

:mod:`~.settings` is what the user asked for, :mod:`~.query` reads rows from a database, :mod:`~.workspace` is
where the job keeps its files, and :mod:`~.records` what it knows about batches. :mod:`~.runner` decides what
is done next; :mod:`~.submit` gives each shard its batch, and :mod:`~.results` turns what the batches answered
into results. The files themselves are read and written by
:mod:`airflow_provider_openai_batches.inference.data`.
"""
