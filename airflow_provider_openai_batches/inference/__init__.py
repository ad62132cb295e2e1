"""
From rows to results at the service: what stands between the operator and the data side of a job.

:mod:`~.plan` is what the operator was told, :mod:`~.rows` where the rows come from, :mod:`~.workplace` where
the job keeps its files and :mod:`~.records` what it knows of its batches. :mod:`~.flow` takes a job from its
rows to its manifest; in between :mod:`~.conductor` says what is done next: take up what is there
(:mod:`~.earlier`), fetch what is over (:mod:`~.collecting`), submit the rest (:mod:`~.submitting`).
:mod:`~.landing` makes parts, manifest and summary. The files themselves are the matter of
:mod:`airflow_provider_openai_batches.inference.data`.
"""
