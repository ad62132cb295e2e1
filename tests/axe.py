"""
axe-core, which finds faults of accessibility, as it is in the npm registry.

The tests of the page fetch it themselves, without npm: one file of a fixed version, checked against its
digest, and kept in a folder that git ignores. It is fetched from the registry that npm is set to use here.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "4.14.1"
# What `npm view axe-core@4.14.1 dist.integrity` says.
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
FOLDER = Path(__file__).parents[1] / ".axe"
TRIES = 4
SECONDS = 30  # of silence, after which a request is given up
PAUSE = 1.0  # before the second try; longer before each later one


class AxeMissingError(Exception):
    """axe-core is not here and cannot be fetched; the message says why and what to do."""


def registry(environment: Mapping[str, str] = os.environ) -> str:
    """
    The registry that npm would use: of its environment, else of the user's file, else what npm itself says.

    :raises AxeMissingError: if none of them says it.
    """
    settings = {name.lower(): value for name, value in environment.items() if value}
    home = Path(settings.get("home", "~")).expanduser()
    file = Path(settings.get("npm_config_userconfig") or home / ".npmrc")
    lines = file.read_text(errors="replace") if file.is_file() else ""
    found = re.findall(r"""^\s*registry\s*=\s*["']?([^\s"']+)""", lines, re.MULTILINE)
    chosen = settings.get("npm_config_registry") or (found[-1] if found else _of_npm())
    if not chosen:
        raise AxeMissingError(
            f"The tests of accessibility need axe-core {VERSION}, and nothing says where npm packages are. "
            f"Set npm_config_registry, install npm, or put axe-core-{VERSION}.tgz into {FOLDER}."
        )
    return chosen.rstrip("/")


def _of_npm() -> str:
    npm = shutil.which("npm")
    if npm is None:
        return ""
    words = [npm, "config", "get", "registry"]
    asked = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS)
    return asked.stdout.strip()


def source(
    folder: Path = FOLDER, environment: Mapping[str, str] = os.environ, *, integrity: str = INTEGRITY
) -> str:
    """
    Return the script of axe-core; fetch it if it is not in the folder.

    :raises AxeMissingError: if it cannot be had, or is not what it was when this version was chosen.
    """
    kept = folder / f"axe-core-{VERSION}.tgz"
    if not kept.is_file() or _integrity(kept.read_bytes()) != integrity:
        _keep(kept, _fetched(f"{registry(environment)}/axe-core/-/axe-core-{VERSION}.tgz", integrity))
    with tarfile.open(fileobj=io.BytesIO(kept.read_bytes())) as package:
        script = package.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def _fetched(url: str, integrity: str, pause: float = 1.0) -> bytes:
    """Try a few times, because a registry may fail for a moment."""
    problem: Exception | None = None
    for number in range(TRIES):
        time.sleep(PAUSE * number)
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - the registry's own URL
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            problem = error
            if error.code in {401, 403, 404}:
                break
        except (OSError, ValueError, http.client.HTTPException) as error:  # a bad URL is a ValueError
            problem = error
        else:
            if _integrity(content) == integrity:
                return content
            raise AxeMissingError(f"What {url} gives is not axe-core {VERSION}: its digest is another one.")
    raise AxeMissingError(
        f"The tests of accessibility need axe-core {VERSION}; it cannot be fetched from {url}: {problem}. "
        f"Set npm_config_registry to a registry that has it, or put this file into {FOLDER}."
    )


def _keep(path: Path, content: bytes) -> None:
    """Write it whole or not at all: several runs may fetch it at the same time."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


def _integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
