"""How the tests of the page get axe-core."""

from __future__ import annotations

import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import axe
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = b"/* axe */"


def package() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/axe.min.js")
        member.size = len(SCRIPT)
        archive.addfile(member, io.BytesIO(SCRIPT))
    return content.getvalue()


class Registry(HTTPServer):
    """A registry with one file, or with what a test puts in its place."""

    def __init__(self) -> None:
        self.content = package()
        self.statuses: list[int] = []
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/npm"


class Answer(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def npm() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(npm: Registry, folder: Path) -> str:
    return axe.source(folder, {"npm_config_registry": npm.url}, integrity=axe._integrity(package()))


def test_it_is_fetched_once(npm: Registry, tmp_path: Path) -> None:
    assert [fetch(npm, tmp_path / "new") for _ in range(2)] == [SCRIPT.decode()] * 2
    assert npm.paths == [f"/npm/axe-core/-/axe-core-{axe.VERSION}.tgz"]
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".tgz"]


def test_a_file_that_was_cut_off_is_fetched_again(npm: Registry, tmp_path: Path) -> None:
    (tmp_path / f"axe-core-{axe.VERSION}.tgz").write_bytes(package()[:10])
    assert fetch(npm, tmp_path) == SCRIPT.decode()


def test_another_file_is_refused(npm: Registry, tmp_path: Path) -> None:
    npm.content = b"something else"
    with pytest.raises(axe.AxeMissingError, match="its digest is another one"):
        fetch(npm, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_registry_that_fails_for_a_moment(
    npm: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    npm.statuses = [503, 429]
    assert fetch(npm, tmp_path) == SCRIPT.decode()


@pytest.mark.parametrize("registry", ["http://127.0.0.1:1", "no address", "ftp://"])
def test_a_registry_that_is_not_there(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(axe.AxeMissingError, match="Set npm_config_registry to a registry that has it"):
        axe.source(tmp_path, {"npm_config_registry": registry})


def test_a_registry_without_it_is_asked_once(npm: Registry, tmp_path: Path) -> None:
    npm.statuses = [404]
    with pytest.raises(axe.AxeMissingError, match="404"):
        fetch(npm, tmp_path)
    assert len(npm.paths) == 1


def test_the_registry_is_npms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment comes first, as npm reads it, then the user's file, then npm's own word."""
    home = {"HOME": str(tmp_path)}
    program = tmp_path / "npm"
    program.write_text("#!/bin/sh\necho https://own/\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert axe.registry(home) == "https://own"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(axe.AxeMissingError, match="Set npm_config_registry"):
        axe.registry(home)
    (tmp_path / ".npmrc").write_text(
        'audit=false\n@ours:registry=https://ours\nregistry = "https://mirror/npm/"\n'
    )
    assert axe.registry(home) == "https://mirror/npm"
    assert axe.registry({**home, "NPM_CONFIG_REGISTRY": "https://other"}) == "https://other"
    (tmp_path / "own").write_text("registry=https://third\n")
    assert axe.registry({**home, "npm_config_userconfig": str(tmp_path / "own")}) == "https://third"
