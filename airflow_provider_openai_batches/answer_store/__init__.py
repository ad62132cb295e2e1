"""
A store of answers that jobs share, so that no question is paid for twice.

It is a directory, or a prefix of an object store, with nothing but segments. A segment is a file of answers
and its index, which is written last. Both have a name of their own and never change, so writers and readers
need no locks. This room knows files alone: no Airflow, no network, and nothing of jobs.
"""
