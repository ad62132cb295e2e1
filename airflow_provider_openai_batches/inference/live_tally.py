"""What came of rows that were asked live."""

from __future__ import annotations

import msgspec

from airflow_provider_openai_batches.api.usage import Usage


class Tally(msgspec.Struct):
    """
    What came of the rows that were asked, each of which has one line now.

    :param succeeded: rows with an answer.
    :param refused: rows that another request would not help.
    :param failed: rows whose failure may pass, but did not in as many tries as they had.
    :param requests: how many requests were sent.
    :param rate_limited: how many of them were answered 429.
    :param unsure: how many requests were sent again although the one before, whose answer was lost, may
        have been carried out and paid for: there is no way to ask.
    :param usage: the tokens of the answers.
    :param is_stopped: whether it was stopped before all rows were asked.
    :param is_out_of_money: whether rows were not asked because ``may_ask`` said so.
    """

    succeeded: int = 0
    refused: int = 0
    failed: int = 0
    requests: int = 0
    rate_limited: int = 0
    unsure: int = 0
    usage: Usage = msgspec.field(default_factory=Usage)
    is_stopped: bool = False
    is_out_of_money: bool = False

    @property
    def rows(self) -> int:
        """How many rows have a line now."""
        return self.succeeded + self.refused + self.failed
