"""``watch``: a live table on a terminal, and elsewhere a line for each change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from airflow_provider_openai_batches.api.retry import is_passing
from airflow_provider_openai_batches.cli.tables import age, clean
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.polling.progress import Seen, duration, time_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

# Up to this many running batches are retrieved one by one; for more of them, reading the list is cheaper.
FEW = 10
STYLES = {"completed": "green", "failed": "red", "expired": "yellow", "cancelled": "yellow"}


class Watch:
    """
    Poll the batches until all of them are over.

    :param interval: seconds between two rounds of requests.
    :param live: whether to show anything in the meantime.
    """

    def __init__(
        self,
        hook: OpenAIBatchesHook,
        batches: list[Batch],
        interval: float,
        *,
        live: bool,
        console: Console | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.hook = hook
        self.batches = {batch.id: batch for batch in batches}
        self.interval = interval
        self.live = live
        self.console = console or Console()
        self.sleep = sleep
        self.trouble = ""
        self._said: dict[str, str] = {}

    def run(self) -> list[Batch]:
        """Poll until all batches are over, and return them as they ended."""
        if not self.live:
            self._look_until_over(lambda: None)
        elif self.console.is_terminal:
            with Live(self.table(), console=self.console, auto_refresh=False) as live:
                self._look_until_over(lambda: live.update(self.table(), refresh=True))
        else:
            self._look_until_over(self._say_changes)
        return list(self.batches.values())

    def _look_until_over(self, show: Callable[[], None]) -> None:
        show()
        while any(not batch.is_over for batch in self.batches.values()):
            self.sleep(self.interval)
            self._look()
            show()

    def _look(self) -> None:
        """Poll the running batches once. Show an error that can go away by itself, and raise any other."""
        running = [batch for batch in self.batches.values() if not batch.is_over]
        try:
            found = self._in_list(running) if len(running) > FEW else {}
            for batch in running:
                self.batches[batch.id] = found.get(batch.id) or self.hook.retrieve_batch(batch.id)
            self.trouble = ""
        except OpenAIBatchesError as error:
            if not is_passing(error):
                raise
            self.trouble = str(error)

    def _in_list(self, running: list[Batch]) -> dict[str, Batch]:
        wanted = {batch.id for batch in running}
        oldest = min((batch.created_at or 0 for batch in running), default=0)
        found = {}
        for batch in self.hook.iter_batches():
            if batch.id in wanted:
                found[batch.id] = batch
            if len(found) == len(wanted) or (batch.created_at and batch.created_at < oldest):
                break
        return found

    def _say_changes(self) -> None:
        for batch in self.batches.values():
            counts = batch.counts
            said = f"{batch.id} {batch.status} {counts.completed}/{counts.total}"
            said += f", {counts.failed} failed" if counts.failed else ""
            if self._said.get(batch.id) != said:
                self._said[batch.id] = said
                self.console.print(Text(clean(said)), soft_wrap=True)
        if self.trouble:
            self.console.print(Text(clean(self.trouble)), soft_wrap=True)

    def table(self) -> Table:
        now = time.time()
        over = sum(batch.is_over for batch in self.batches.values())
        caption = (
            self.trouble or f"{over} of {len(self.batches)} over; Ctrl-C stops watching, not the batches"
        )
        table = Table(box=None, pad_edge=False, caption=Text(clean(caption)), caption_justify="left")
        for name in ("Batch", "Status", "Progress", "Done", "Failed", "Left", "Age", "Task"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for batch in self.batches.values():
            table.add_row(*self._cells(batch, now))
        return table

    def _cells(self, batch: Batch, now: float) -> list[Text | ProgressBar]:
        counts, origin = batch.counts, Origin.of(batch)
        task = "/".join(filter(None, (origin.dag_id, origin.task_id)))
        return [
            Text(clean(batch.id)),
            Text(clean(batch.status), STYLES.get(batch.status, "cyan")),
            ProgressBar(total=counts.total or 1, completed=counts.completed + counts.failed, width=24),
            Text(f"{counts.completed}/{counts.total}"),
            Text(str(counts.failed), "red" if counts.failed else ""),
            Text(_left(batch, now)),
            Text(age(batch, now)),
            Text(clean(task)),
        ]


def _left(batch: Batch, now: float) -> str:
    """The time left: an estimate from the pace so far, or else until the completion window closes."""
    if batch.is_over:
        return ""
    left = time_left([Seen.of(batch, now)], now)
    if left is not None:
        return f"≈ {duration(left)}"
    return f"≤ {duration(batch.expires_at - now)}" if batch.expires_at else ""
