"""What earlier tries left at the service: found again by its keys, taken up, or cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.idempotency import keys

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.idempotency.ledger import Ledger
    from airflow_provider_openai_batches.inference.attempt import Attempt
    from airflow_provider_openai_batches.inference.data.job import Shard

_RANK = {"completed": 3, "cancelling": 1, "expired": 1, "cancelled": 1}


def take_up(attempt: Attempt) -> None:
    """
    Find the batches of the shards that have none yet.

    A batch that ended early is taken up too: what it has done is paid. An earlier try may have died just now,
    and the list may lag.
    """
    ledger = attempt.submitter.ledger
    if ledger is None:
        return
    _refresh(attempt, ledger)
    _match(attempt, ledger)
    while attempt.open_shards and ledger.look_again():
        _match(attempt, ledger)


def cancel_outdated(attempt: Attempt) -> None:
    """Whatever else this task has running is for rows that it does not ask any more."""
    if attempt.records.since is not None:
        attempt.submitter.cancel_outdated({attempt.key(shard) for shard in attempt.job.shards})


def _refresh(attempt: Attempt, ledger: Ledger) -> None:
    """What is known of running batches may be of long ago."""
    listed = {batch.id: batch for batch in ledger.batches}
    for shard in attempt.job.shards:
        record = attempt.records.of(shard.index)
        if record.is_active and record.batch_id in listed:
            _adopt(attempt, shard, listed[record.batch_id])


def _match(attempt: Attempt, ledger: Ledger) -> None:
    """Of a rejected batch nothing is left but its input file."""
    listed: dict[str | None, list[Batch]] = {}
    for batch in ledger.batches:
        listed.setdefault(keys.key_of(batch), []).append(batch)
    for shard in attempt.open_shards:
        record = attempt.records.of(shard.index)
        while found := listed.get(attempt.key(shard)):
            usable = [batch for batch in found if batch.status != "failed"]
            if usable:
                batch = max(usable, key=_worth)
                attempt.log.info(
                    "Shard %d has batch %s of before, it is %s", shard.index, batch.id, batch.status
                )
                _adopt(attempt, shard, batch)
                break
            record.attempt += 1
            record.input_file_id = found[0].input_file_id


def _adopt(attempt: Attempt, shard: Shard, batch: Batch) -> None:
    record = attempt.records.of(shard.index)
    record.saw(batch)
    if batch.status in {"cancelling", "cancelled"}:
        attempt.records.cut.add(shard.round)
    attempt.watch([record])


def _worth(batch: Batch) -> tuple[int, int]:
    """A completed batch before one that runs, before one that was ended."""
    return _RANK.get(batch.status, 2), batch.counts.completed
