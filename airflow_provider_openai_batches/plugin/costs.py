"""What the batches of an account cost, as far as a few pages of its list go back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_openai_batches.plugin.throttle import TooFastError
from airflow_provider_openai_batches.pricing.account import AccountCosts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.pricing.account import CostSum
    from airflow_provider_openai_batches.pricing.prices import Prices

# How many pages of the list are read at most, and how many groups are shown.
MAX_PAGES = 30
MAX_SHOWN = 20


class Walked(NamedTuple):
    """
    The newest batches.

    :param reached: how far back they go, in Unix seconds, if not far enough.
    :param is_whole: whether they go back far enough.
    """

    batches: list[Batch]
    reached: int | None
    is_whole: bool = True


async def newest(
    page: Callable[[str | None], Awaitable[BatchPage]],
    since: float,
    ends_with: tuple[type[Exception], ...] = (TooFastError,),
) -> Walked:
    """
    Return the batches created since then, or as many as the page may ask for.

    :param page: returns the page after a batch.
    :param ends_with: after these errors what was found before them is returned; they are raised if that is
        nothing.
    """
    batches: dict[str, Batch] = {}
    after, oldest = None, None
    for number in range(MAX_PAGES):
        try:
            found = await page(after)
        except ends_with:
            if number == 0:
                raise
            break
        known = len(batches)
        batches |= {
            batch.id: batch for batch in found.data if batch.created_at is None or batch.created_at >= since
        }
        times = [batch.created_at for batch in found.data if batch.created_at is not None]
        oldest = min(times, default=oldest)
        is_all = not found.has_more or (times and times[-1] < since) or len(batches) == known
        if is_all:
            return Walked(list(batches.values()), None)
        after = found.last_id or found.data[-1].id
    return Walked(list(batches.values()), oldest, is_whole=False)


def summed(batches: Iterable[Batch], by: str, prices: Prices) -> dict[str, Any]:
    """
    Return the sums as JSON, the groups that cost most first.

    :raises InvalidInputError: if ``by`` has an empty word.
    """
    costs = AccountCosts([by], prices)
    for batch in batches:
        costs.add(batch)
    groups, others = costs.groups(MAX_SHOWN)
    return {
        "columns": costs.columns,
        "groups": [{"names": names, **_shown(group)} for names, group in groups],
        "others": others and _shown(others),
        "total": _shown(costs.total),
    }


def _shown(group: CostSum) -> dict[str, Any]:
    return {**group.to_dict(), "cost": str(group)}
