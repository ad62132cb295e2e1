"""
Replaces segments by others that hold some of their answers.

The new ones are written first and the old ones deleted last, so a reader or a death at any point loses
nothing. Between the two, the old ones must all be there still: if one is not, somebody else has replaced it
meanwhile, perhaps without answers that were to be forgotten, and the new ones are deleted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.answer_store.reading import Wanted, read_lines
from airflow_provider_openai_batches.answer_store.writing import SegmentsWriter
from airflow_provider_openai_batches.exceptions import BrokenSegmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow_provider_openai_batches.answer_store.folder import StoreFolder

WRITER = "compacted"


class StoredAnswer(NamedTuple):
    """An answer, and what is known of it."""

    digest: bytes
    group: segments.AnswerGroup
    body: bytes


@dataclass(frozen=True)
class Source:
    """
    A segment that is replaced.

    :param places: which of its answers are kept.
    """

    name: str
    index: segments.SegmentIndex
    places: Sequence[int]


class SpoiledError(Exception):
    """A segment that was to be read is broken (its reason is the cause), or was deleted by somebody else."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def answers_of(folder: StoreFolder, source: Source) -> Iterator[StoredAnswer]:
    """
    Yield answers of a segment.

    :raises SpoiledError: if one cannot be read.
    """
    firsts = segments.column_of("Q", source.index.firsts)
    seconds = segments.column_of("Q", source.index.seconds)
    numbers = segments.column_of("H", source.index.numbers)
    wanted = Wanted()
    wanted.extend(source.places, [(place, 0, seconds[place]) for place in source.places])
    try:
        for place, body in read_lines(folder, source.name, source.index, wanted):
            digest = segments.digest_bytes(firsts[place], seconds[place])
            yield StoredAnswer(digest, source.index.groups[numbers[place]], body)
    except (BrokenSegmentError, FileNotFoundError) as error:
        raise SpoiledError(source.name) from error


def replace(
    folder: StoreFolder,
    names: Sequence[str],
    load: Callable[[str], Source],
    keeps: Callable[[StoredAnswer], bool] = lambda _: True,
) -> int:
    """
    Write the answers of some segments anew, delete the segments, and return how many answers were written.

    :param load: gives a segment when its turn has come.
    :param keeps: whether an answer is written.
    :raises SpoiledError: if a segment cannot be read or is gone; then all is as before.
    """
    target = SegmentsWriter(folder, WRITER)
    try:
        with target:
            for name in names:
                for answer in answers_of(folder, load(name)):
                    if keeps(answer):
                        target.add(answer.digest, answer.group, answer.body)
        _check_presence(folder, names)
    except BaseException:
        delete_all(folder, target.written)
        raise
    delete_all(folder, names)
    return target.answers


def _check_presence(folder: StoreFolder, names: Iterable[str]) -> None:
    present = folder.sizes()
    for name in names:
        if segments.index_file(name) not in present:
            raise SpoiledError(name) from FileNotFoundError(name)


def delete_all(folder: StoreFolder, names: Iterable[str]) -> None:
    for name in names:
        segments.delete(folder, name)
