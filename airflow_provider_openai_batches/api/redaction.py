"""Finds secrets in text and in logs, in every form that a library may have given them."""

from __future__ import annotations

import base64
import functools
import json
import logging
import re

# Shorter secrets are found as whole words alone, and shorter base64 is not looked for.
MIN_PART = 4
MIN_BASE64 = 8


@functools.lru_cache(64)
def _pattern_of(secrets: tuple[str, ...]) -> re.Pattern[str]:
    """Find secrets in text: as they are, encoded for a URL or as a JSON string, and within base64."""
    forms = []
    for secret in sorted(secrets, key=len, reverse=True):
        found = "".join(map(_any_form, secret))
        # A very short value is part of many words.
        forms.append(found if len(secret) >= MIN_PART else f"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])")
    cores = sorted({core for secret in secrets for core in in_base64(secret)}, key=len, reverse=True)
    forms += ["".join(map(_any_form, core)) for core in cores]
    return re.compile("|".join(forms) or "(?!)")


def _any_form(sign: str) -> str:
    """Return a pattern for one character, whatever a library has made of it."""
    if sign.isascii() and sign.isalnum():
        return sign
    in_url = "".join(f"%(?:25)*{byte:02x}" for byte in sign.encode("utf-8", "replace"))
    in_json = json.dumps(sign)[1:-1]
    others = {" ": r"|\+", "+": "|-", "/": "|_"}.get(sign, "")  # forms, and the base64 of URLs
    return rf"(?:\\*{re.escape(sign)}|(?i:{in_url})|{re.escape(in_json)}{others})"


def in_base64(secret: str) -> set[str]:
    """Return what base64 makes of a secret, whatever precedes and follows it; nothing for a short one."""
    data = secret.encode("utf-8", "replace")
    cores = set()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        cores.add(encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6])
    return {core for core in cores if len(core) >= MIN_BASE64}


class _Redacting(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.patterns: set[re.Pattern[str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for pattern in list(self.patterns):
            text = pattern.sub("***", text)
        record.msg, record.args = text, ()
        return True


_redacting = _Redacting()


def redacted(text: str, secrets: tuple[str, ...]) -> str:
    """Return the text with the secrets replaced by ``***``."""
    return _pattern_of(secrets).sub("***", text)


def redact_logger(name: str, secrets: tuple[str, ...]) -> None:
    """From now on, redact what a logger says."""
    _redacting.patterns.add(_pattern_of(secrets))
    logging.getLogger(name).addFilter(_redacting)
