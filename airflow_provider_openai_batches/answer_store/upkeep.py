"""What keeps a store in order: what is in it, compaction, and forgetting."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.answer_store.compaction import Member, Plan
from airflow_provider_openai_batches.answer_store.good_segments import GoodSegments
from airflow_provider_openai_batches.answer_store.reading import good_places
from airflow_provider_openai_batches.answer_store.rewriting import (
    Source,
    SpoiledError,
    StoredAnswer,
    answers_of,
    replace,
)
from airflow_provider_openai_batches.exceptions import (
    BrokenSegmentError,
    InvalidInputError,
    NewerSegmentError,
)

if TYPE_CHECKING:
    from airflow_provider_openai_batches.storage import Location

_ABANDONED_SECONDS = 86_400.0  # after which a file of answers without an index is nobody's


class StoreStat(msgspec.Struct):
    """
    What is in a store.

    :param answers: all of them, also those of which there is a newer one.
    :param bytes: the size of all segments.
    :param oldest: when the oldest answer was stored, in Unix seconds; so is ``newest``.
    :param models: how many answers are of which model.
    :param broken: which segments cannot be read, and why.
    """

    segments: int = 0
    answers: int = 0
    bytes: int = 0
    oldest: float | None = None
    newest: float | None = None
    models: dict[str, int] = {}
    broken: dict[str, str] = {}


class Compaction(msgspec.Struct):
    """
    What a compaction did.

    :param before: how many segments there were; ``after`` how many there are.
    :param dropped: how many answers of which there is a newer or an equal one were deleted.
    :param abandoned: how many files of writers that died were deleted.
    :param broken: which segments cannot be read, and why; they were left alone.
    """

    before: int = 0
    after: int = 0
    dropped: int = 0
    abandoned: int = 0
    broken: dict[str, str] = {}


class Forgotten(msgspec.Struct):
    """
    What was forgotten, or would be.

    :param segments: how many segments had such answers.
    :param broken: which segments cannot be read, and why; they were left alone.
    """

    answers: int = 0
    segments: int = 0
    broken: dict[str, str] = {}


class Criteria(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which answers are to be forgotten: those to which all apply that are given.

    :param before: stored before this time, in Unix seconds.
    :param metadata: a pair of name and value.
    """

    before: float | None = None
    model: str | None = None
    metadata: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.before is None and self.model is None and self.metadata is None:
            raise InvalidInputError("Say which answers are to be forgotten: by age, model or metadata")

    def fits(self, group: segments.AnswerGroup) -> bool:
        return (
            (self.before is None or group.created < self.before)
            and (self.model is None or group.model == self.model)
            and (self.metadata is None or self.metadata in group.metadata)
        )


def stat(uri: Location) -> StoreStat:
    """Return what is in a store. Lines are not read, so broken ones are not found."""
    store, models, times = GoodSegments(uri), Counter[str](), set[float]()
    result = StoreStat(broken=store.broken)
    for name, index in store.indexes():
        result.segments += 1
        result.answers += len(index)
        result.bytes += index.data_size + store.sizes[segments.index_file(name)]
        for number, count in Counter(segments.column_of("H", index.numbers)).items():
            group = index.groups[number]
            models[group.model or ""] += count
            times.add(group.created)
    if times:
        result.oldest, result.newest = min(times), max(times)
    result.models = dict(models.most_common())
    return result


def compact(uri: Location) -> Compaction:
    """
    Put small segments together, and drop answers of which there is a newer one.

    Each answer keeps its time, model and metadata. Files that writers left a day ago when they died are
    deleted.
    """
    store = GoodSegments(uri)
    result = Compaction(broken=store.broken)
    while True:
        plan = Plan([Member(name, index) for name, index in store.indexes()])
        result.before = result.before or len(plan.members)
        if not plan.rewritten:
            break
        try:
            result.dropped = _carry_out(plan, store)
            break
        except SpoiledError as error:  # without it, the plan would be another one
            store.note(error.name, error.__cause__)
    result.after = sum(1 for _ in store.indexes())
    result.abandoned = _delete_abandoned(store)
    return result


def _carry_out(plan: Plan, store: GoodSegments) -> int:
    for member in plan.relied_on():
        for _ in answers_of(store.folder, store.source(member.name, list(member.trusted))):
            pass
    written: set[bytes] = set()

    def keeps(answer: StoredAnswer) -> bool:
        if answer.digest not in plan.ties:
            return True
        is_new = answer.digest not in written
        written.add(answer.digest)
        return is_new

    before = sum(len(plan.members[name].dropped) for name in plan.rewritten)
    return before - replace(
        store.folder, plan.rewritten, lambda name: store.source(name, plan.kept(name)), keeps
    )


def _delete_abandoned(store: GoodSegments) -> int:
    limit = time.time() - _ABANDONED_SECONDS
    left = [name for name in segments.incomplete_in(store.sizes) if store.folder.modified(name) < limit]
    for name in left:
        store.folder.remove(name)
    return len(left)


def forget(uri: Location, criteria: Criteria, *, only_count: bool = False) -> Forgotten:
    """
    Delete answers, and write the rest of their segments anew.

    Afterwards the store is looked through once more, because somebody else may have moved such answers. Files
    that dead writers left are deleted too.

    :param only_count: delete nothing.
    """
    store = GoodSegments(uri)
    result = Forgotten(broken=store.broken)
    is_over = False
    while not is_over:
        is_over = True
        for name, index in store.indexes():
            numbers = segments.column_of("H", index.numbers)
            fits = [criteria.fits(group) for group in index.groups]
            kept = [place for place, number in enumerate(numbers) if not fits[number]]
            if len(kept) == len(numbers):
                continue
            is_over = only_count
            try:
                if not only_count:
                    replace(store.folder, [name], partial(store.source, places=kept))
            except SpoiledError as error:
                store.note(error.name, error.__cause__)
                continue
            result.answers += len(numbers) - len(kept)
            result.segments += 1
    if not only_count:
        _delete_abandoned(store)
    return result


def forget_broken(uri: Location, *, only_count: bool = False) -> Forgotten:
    """
    Read each line of a store; delete those that are broken, and segments of which nothing can be read.

    The good lines of a segment are written anew. Segments of later releases are left alone.

    :param only_count: delete nothing.
    """
    store = GoodSegments(uri)
    result = Forgotten()
    store.sizes = store.folder.sizes()
    for name in segments.segments_in(store.sizes):
        try:
            lost = _without_broken(store, name, only_count=only_count)
        except NewerSegmentError as error:
            result.broken[name] = str(error)
        except (FileNotFoundError, SpoiledError):  # somebody else has deleted it
            continue
        else:
            result.answers += lost.answers
            result.segments += lost.segments
    return result


def _without_broken(store: GoodSegments, name: str, *, only_count: bool) -> Forgotten:
    """Delete what is broken of a segment, and return how much it was."""
    index: segments.SegmentIndex | None = None
    good: list[int] = []
    try:
        index = segments.read_index(store.folder, name, store.sizes)
        good = good_places(store.folder, name, index)
    except NewerSegmentError:
        raise
    except BrokenSegmentError:
        pass
    except FileNotFoundError:
        if segments.index_file(name) not in store.folder.sizes():
            raise
    count = 0 if index is None else len(index)
    is_whole = index is not None and store.sizes.get(segments.data_file(name)) == index.data_size
    if is_whole and len(good) == count:
        return Forgotten()
    if not only_count:
        if good and index is not None:
            source = Source(name, index, good)
            replace(store.folder, [name], lambda _: source)
        else:
            segments.delete(store.folder, name)
    return Forgotten(count - len(good), 1)
