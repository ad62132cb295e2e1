"""Uploads or downloads several files at once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")
# Downloads stream, and uploads share a bound (uploads.py); of a job in a store, the files are on the worker.
AT_ONCE = 4


def at_once(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """
    Yield the results in the order of the items; at most :data:`AT_ONCE` are begun and not yielded.

    An error is raised when its turn has come. Then, and if the caller stops early, no other item is begun.
    What is under way is waited for, unless the task is being ended.
    """
    if len(items) == 1:
        yield work(items[0])
        return
    pool, rest = ThreadPoolExecutor(AT_ONCE, "openai-batches"), iter(items)
    begun: deque[Future[Result]] = deque(pool.submit(work, item) for item in islice(rest, AT_ONCE))
    current: Future[Result] | None = None
    try:
        while begun:
            current = begun.popleft()
            result = current.result()
            begun.extend(pool.submit(work, item) for item in islice(rest, 1))
            yield result
    finally:
        # Whoever ends the task interrupts the wait for a result.
        pool.shutdown(wait=current is None or current.done(), cancel_futures=True)
