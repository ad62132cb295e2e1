"""
JSON that the strict reader refuses although its meaning is clear. It is entered only after that has failed.

A lone surrogate and a byte that is not UTF-8 become U+FFFD; ``NaN``, infinities and numbers that are too
large become null; a byte order mark is skipped.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

_MAX_DIGITS = 300  # of an integer; longer ones are no quantity of anything
_SURROGATE = re.compile("[\ud800-\udfff]")
# Only in front of the body, so that no text of the model is taken for a field of the line.
_ID = re.compile(rb'"custom_id"\s*:\s*(?:("(?:[^"\\]|\\.)*")|(-?\d+)\s*[,}])')
_STATUS = re.compile(rb'"status_code"\s*:\s*(\d{3})\s*[,}]')


class UnreadableError(ValueError):
    """The text is not JSON."""


def read_json(data: bytes | msgspec.Raw | str) -> Any:
    """
    Read one JSON value.

    :raises UnreadableError: if not even a tolerant reader can.
    """
    try:
        return msgspec.json.decode(data)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        problem = error
    text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
    try:
        value = json.loads(
            text.removeprefix("\ufeff"),
            strict=False,
            parse_float=_finite,
            parse_int=lambda digits: int(digits) if len(digits) < _MAX_DIGITS else None,
            parse_constant=lambda _name: None,
        )
        return msgspec.json.decode(_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise UnreadableError(str(problem)) from problem


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def clean(raw: msgspec.Raw) -> msgspec.Raw:
    """Return JSON as it is if it is UTF-8, which nobody checks in what is passed on unread; else mended."""
    data = bytes(raw)
    if data.isascii():
        return raw
    try:
        data.decode()
    except UnicodeDecodeError:
        return msgspec.Raw(data.decode("utf-8", "replace").encode())
    return raw


def glimpse(data: bytes) -> tuple[str, int | None] | None:
    """
    Find whose answer a line holds that is cut or garbled.

    :return: its ``custom_id``, and its HTTP status if it tells one; None if the line does not say whose it
        is, or ends before the answer begins.
    """
    head, has_answer, _ = data.partition(b'"body"')
    found = _ID.search(head)
    if not has_answer or found is None:
        return None
    text, digits = found.groups()
    try:
        custom_id = str(read_json(text)) if text else digits.decode()
    except UnreadableError:
        return None
    status = _STATUS.search(head)
    return custom_id, int(status[1]) if status else None
