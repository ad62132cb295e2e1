"""Which providers do which cases of the makespan benchmark, and how their tasks are set up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from environments import COMMON_AI, OFFICIAL, OURS, Side

if TYPE_CHECKING:
    from makespan_cases import Case

RETRY_DELAY = 300.0  # Airflow's default
NO_END = 1_000_000


class Way(NamedTuple):
    """
    A provider, and how its tasks are set up.

    :param words: what the table says of it besides the provider.
    :param options: for ``makespan_beside.py``, which says what they mean; ours needs none.
    """

    side: Side
    words: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it

    @property
    def title(self) -> str:
        return f"{self.side.title}{self.words and ', '}{self.words}"

    def command(self, python: Path, task: Path) -> list[str]:
        """What a job's process runs."""
        program = Path(__file__).with_name("makespan_beside.py" if self.side.packages else "makespan_side.py")
        return [str(python), "-W", "ignore", str(program), str(task), self.side.name]


def ways_of(case: Case, *, only_ours: bool = False) -> list[Way]:
    """Ours, which is told nothing of the limit, and the others, of which only a pool is told."""
    fits = int(case.limit or 0)
    beside = {
        "tail": [options("any number of retries")],
        "limit": [
            options("3 retries", retries=3),
            options("any number of retries"),
            options(f"in a pool of {fits}", at_once=fits),
        ],
    }
    given = [] if only_ours else beside.get(case.name, [])
    return [Way(OURS), *(Way(side, *each) for side in (OFFICIAL, COMMON_AI) for each in given)]


def options(words: str, retries: int = NO_END, at_once: int | None = None) -> tuple[str, dict[str, Any]]:
    return words, {"retries": retries, "retry_delay": RETRY_DELAY, "at_once": at_once}
