"""The text that answers a prompt. The same prompt always gets the same text."""

from __future__ import annotations

import re
from typing import Any
from zlib import crc32

from airflow_provider_openai_batches.devserver.schema import choose

OPTIONS = re.compile(r"answer with (?:exactly )?one of:?\s*([^\n.]+)", re.IGNORECASE)
QUOTED_CHARACTERS = 160


def texts_in(value: Any) -> list[str]:
    """All texts of a prompt: a string, a list of messages, or a list of their parts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part)]
    if isinstance(value, dict):
        return [text for name in ("content", "text") if name in value for text in texts_in(value[name])]
    return []


def reply(text: str) -> str:
    """One of the options if the prompt names some, otherwise a sentence that quotes the prompt's end."""
    if match := OPTIONS.search(text):
        options = [part for part in (option.strip(" \t'\"`") for option in match[1].split(",")) if part]
        if options:
            return str(choose(options, text[: match.start()] + text[match.end() :]))
    return f"Dev server answer {crc32(text.encode('utf-8', 'replace')):08x} to: {text[-QUOTED_CHARACTERS:]}"
