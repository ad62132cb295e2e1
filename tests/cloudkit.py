"""Object stores on loopback: S3 (moto), GCS (gcp-storage-emulator) and Azure Blob (Azurite)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Refusal = Callable[[str, str], bool]

BUCKET = "bucket"
# The one that everybody's Azurite has, https://learn.microsoft.com/azure/storage/common/storage-use-azurite
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class MotoStore:
    """
    moto's S3 over HTTP, in a thread of this process.

    ``requests`` has what came, as method and path (with a ``?list`` for listings); ``denied`` says which of
    it is refused, as to a user without the right to it.
    """

    def __init__(self) -> None:
        moto, serving = map(import_module, ("moto.moto_server.werkzeug_app", "werkzeug.serving"))
        methods = {"protocol_version": "HTTP/1.1", "log": lambda *_: None}
        quiet = type("Quiet", (serving.WSGIRequestHandler,), methods)
        self.requests: list[str] = []
        self.denied: Refusal = lambda _method, _path: False
        self._app = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._server = serving.make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"])
        query = environ.get("QUERY_STRING", "")
        said = f"{path}?list" if method == "GET" and ("list-type" in query or "prefix=" in query) else path
        said += "?delete" if method == "POST" and query.startswith("delete") else ""
        if not path.startswith("/moto-api"):
            self.requests.append(f"{method} {said}")
            if self.denied(method, said):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start("403 Forbidden", [("Content-Type", "text/xml"), ("Content-Length", str(len(_DENIED)))])
                return [_DENIED]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer

    def counts(self) -> Counter[str]:
        return Counter(request.split(" ", 1)[0] for request in self.requests)

    @property
    def connection(self) -> dict[str, Any]:
        extra = {"endpoint_url": self.url, "region_name": "us-east-1"}
        return {"conn_type": "aws", "login": "someone", "password": "of-the-tests", "extra": extra}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Emulator:
    """A store of another project's, in a process of its own."""

    def __init__(self, command: list[str], port: int, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        with (directory / "emulator.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        end = time.monotonic() + 60
        while not _listens(port):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((directory / "emulator.log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def gcs_emulator(directory: Path) -> Emulator:
    port = free_port()
    options = ["start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--default-bucket", BUCKET]
    return Emulator(
        [sys.executable, "-W", "ignore", "-m", "gcp_storage_emulator", *options, "-q"], port, directory
    )


def azurite_program() -> str | None:
    """Where `make test-stores` puts it; None where there is no Node."""
    found = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    return str(found) if found.exists() and shutil.which("node") else None


def azurite(directory: Path) -> Emulator:
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent"]
    skipped = ["--skipApiVersionCheck", "--disableTelemetry"]
    return Emulator([str(azurite_program()), *options, *skipped], port, directory)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def gcs_connection(url: str) -> dict[str, Any]:
    extra = {"is_anonymous": True, "project": "tests", "gcs.endpoint": url}
    return {"conn_type": "google_cloud_platform", "extra": extra}


def azure_connection(url: str) -> dict[str, Any]:
    account = f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY}"
    said = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={url}/devstoreaccount1;"
    return {"conn_type": "wasb", "extra": {"connection_string": said}}
