"""The segments of a store, as those see them who keep it in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.answer_store.folder import StoreFolder
from airflow_provider_openai_batches.answer_store.rewriting import Source, SpoiledError
from airflow_provider_openai_batches.exceptions import BrokenSegmentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import Location


class GoodSegments:
    """
    The segments of a store that can be read.

    :param broken: those that cannot, and why.
    :param sizes: the sizes of all files, as they were listed last.
    """

    def __init__(self, uri: Location) -> None:
        self.folder = StoreFolder(uri)
        self.broken: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self._missed: set[str] = set()

    def indexes(self) -> Iterator[tuple[str, segments.SegmentIndex]]:
        """List the store, and yield the segments that are good."""
        self.sizes = self.folder.sizes()
        for name in segments.segments_in(self.sizes):
            if name not in self.broken and (index := self.load(name)) is not None:
                yield name, index

    def load(self, name: str) -> segments.SegmentIndex | None:
        try:
            return segments.load_index(self.folder, name, self.sizes)
        except (BrokenSegmentError, FileNotFoundError) as error:
            self.note(name, error)
        return None

    def note(self, name: str, error: BaseException | None) -> None:
        """Note a segment as broken, unless somebody else deleted or wrote it a moment ago."""
        if not isinstance(error, FileNotFoundError):
            self.broken[name] = str(error)
            return
        present = self.folder.sizes()
        is_lost = segments.data_file(name) not in present or name in self._missed
        self._missed.add(name)
        if segments.index_file(name) in present and is_lost:
            self.broken[name] = f"{segments.data_file(name)} is missing"

    def source(self, name: str, places: list[int]) -> Source:
        """
        Return a segment to be read.

        :raises SpoiledError: if that is not possible any more.
        """
        try:
            return Source(name, segments.load_index(self.folder, name, self.sizes), places)
        except (BrokenSegmentError, FileNotFoundError) as error:
            raise SpoiledError(name) from error
