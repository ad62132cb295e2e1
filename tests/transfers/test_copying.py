"""The text form of COPY, without a server: what PostgreSQL reads is what was given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_openai_batches.sql import copying

TEXTS = st.text("\\\t\n\rnrtN a\u00fc", max_size=12)
MEANS = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}


def read(field: str) -> str | None:
    """Read a field as PostgreSQL's documentation of COPY says."""
    if field == r"\N":
        return None
    signs = iter(field)
    return "".join(MEANS[next(signs)] if sign == "\\" else sign for sign in signs)


@settings(derandomize=True, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, st.none() | TEXTS), max_size=8))
def test_texts_of_any_signs(rows: list[tuple[str, str | None]]) -> None:
    block = b"".join(copying._blocks(rows)).decode()
    lines = block.split("\n")[:-1]
    assert [tuple(map(read, line.split("\t"))) for line in lines] == rows


@pytest.mark.parametrize(
    ("value", "field"), [(True, "t"), (False, "f"), (1, "1"), (0.1, "0.1"), (None, r"\N"), (r"\N", r"\\N")]
)
def test_other_values(value: Any, field: str) -> None:
    assert list(copying._blocks([[value, "x"]])) == [f"{field}\tx\n".encode()]
