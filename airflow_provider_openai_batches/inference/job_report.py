"""What an inference task reports of its job while it waits, and when it is over, in XCom."""

from __future__ import annotations

import msgspec

# The key of the XCom.
JOB_REPORT = "openai_batches_job"


class JobReport(msgspec.Struct):
    """
    How far a job is.

    :param state: ``waiting``, ``live``, ``complete`` or ``failed``.
    :param waits_for: a sentence, or nothing.
    :param batches: how many the job has planned; ``finished``: how many of them had ended.
    :param answered: rows, as ``failed``, without those of the batches in ``running``.
    :param running: the ids of the batches that are waited for, at most 200.
    :param cost: ``usd`` and ``is_known`` of what was spent so far; ``estimate``: of the whole job.
    :param at: when this was reported, in Unix seconds.
    :param error: at most 500 characters.
    """

    state: str = "waiting"
    conn_id: str = ""
    waits_for: str = ""
    batches: int = 0
    finished: int = 0
    rows: int = 0
    answered: int = 0
    failed: int = 0
    again: int = 0
    rounds: int = 0
    live: int = 0
    running: list[str] = []
    cost: dict[str, float | bool] | None = None
    estimate: dict[str, float | bool] | None = None
    at: float = 0.0
    error: str = ""
