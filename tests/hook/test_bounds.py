"""Answers that are too large, too slow, too deep or compressed, read by both clients from a hostile host."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import logging
import socketserver
import threading
import time
import traceback
import tracemalloc
import zlib
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api import body, client, protocol
from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.client import BatchesSession, Download
from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEEP = b'{"id":"batch_1","x":' + b"[" * 100_000
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
GZIP = b"Content-Encoding: gzip\r\n"
Script = list["Iterable[bytes]"]


class Host(socketserver.ThreadingTCPServer):
    """Answers each connection with the next of its scripts, the last one again and again."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, scripts: Script) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.scripts = scripts
        self.heads: list[bytes] = []
        self.ended = threading.Event()

    def config(self, timeout: float) -> ClientConfig:
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        return ClientConfig(base_url=url, api_key="k", headers={}, timeout=timeout, max_attempts=1)


class Answering(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        host: Any = self.server
        host.heads.append(self.request.recv(65536))
        script = host.scripts.pop(0) if len(host.scripts) > 1 else host.scripts[0]
        try:
            for piece in script:
                self.request.sendall(piece)
        except OSError:
            return
        finally:
            host.ended.set()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    hosts = []

    def start(*scripts: Iterable[bytes]) -> Host:
        hosts.append(Host(list(scripts)))
        threading.Thread(target=hosts[-1].serve_forever, args=(0.02,), daemon=True).start()
        return hosts[-1]

    yield start
    for one in hosts:
        one.shutdown()
        one.server_close()


def ask(kind: str, host: Host, timeout: float = 10.0, config: ClientConfig | None = None) -> Any:
    """Retrieve a batch with one of the two clients."""
    config = config or host.config(timeout)
    if kind == "requests":
        session = BatchesSession(config, logging.getLogger("test"), time.sleep)
        return session.send(protocol.retrieve_batch("batch_1"), protocol.read_batch)

    async def retrieve() -> Any:
        asking = AsyncBatchesClient(config)
        try:
            return await asking.retrieve_batch("batch_1")
        finally:
            await asking.aclose()

    return asyncio.run(retrieve())


def drip(head: bytes, piece: bytes) -> Iterator[bytes]:
    """A piece now and then, for ten seconds; a read time-out never strikes."""
    yield head
    for _ in range(100):
        time.sleep(0.1)
        yield piece


CLIENTS = pytest.mark.parametrize("kind", ["requests", "httpx"])


@CLIENTS
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (OK + b"\r\n", b" "),
        (OK + b"Content-Length: 100000\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        (b"HTTP/1.1 500 No\r\n\r\n", b" "),
    ],
)
def test_an_answer_that_drips_ends_in_time(
    host: Callable[..., Host], kind: str, head: bytes, piece: bytes
) -> None:
    """Each byte begins the read time-out anew, so there is a time for the whole: headers, body and errors."""
    started = time.monotonic()
    with pytest.raises(OpenAIBatchesError, match=r"not complete after 0\.6 s|HTTP 500"):
        ask(kind, host(drip(head, piece)), timeout=0.3)
    assert time.monotonic() - started < 4


@CLIENTS
@pytest.mark.parametrize("members", [1, 3])
def test_a_gzip_bomb_is_refused(host: Callable[..., Host], kind: str, members: int) -> None:
    """Before it has become what it would be: 128 MB from an eighth of a megabyte."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = press.compress(b"\0" * (128 << 20)) + press.flush()
    bombs = [gzip.compress(b" " * 1_000_000)] * (members - 1) + [bomb]
    with pytest.raises(TransportError, match="larger than 8,388,608 bytes"):
        ask(kind, host([OK + GZIP + b"\r\n", *bombs]))


@CLIENTS
def test_an_endless_answer_is_refused(host: Callable[..., Host], kind: str) -> None:
    """The rest of it is not read."""
    endless = host([OK + b"\r\n", *[b" " * (1 << 20)] * 200])
    with pytest.raises(TransportError, match="larger than"):
        ask(kind, endless)


@CLIENTS
def test_a_compressed_answer_is_read(host: Callable[..., Host], kind: str) -> None:
    text = gzip.compress(b'{"id":"batch_1",') + gzip.compress(b'"status":"completed"}')
    assert ask(kind, host([OK + GZIP + b"\r\n", text])).status == "completed"


@CLIENTS
@pytest.mark.parametrize("end", [-10, 12])
def test_half_a_compressed_answer_is_none(host: Callable[..., Host], kind: str, end: int) -> None:
    with pytest.raises(TransportError, match="middle of its compressed body"):
        ask(kind, host([OK + GZIP + b"\r\n", gzip.compress(b'{"id":"batch_1"}')[:end]]))


@CLIENTS
@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"\r\n", b"x" * 1_000_000),
        (GZIP + b"\r\n", gzip.compress(b"x" * 100_000_000, mtime=0)),
        (GZIP + b"\r\n", b"no gzip"),
        (b"Content-Encoding: br\r\n\r\n", b"no br"),
        (b"\r\n", DEEP),
        (b"\r\n", b"[" * 60_000),
    ],
)
def test_an_error_is_an_error_whatever_its_body(
    host: Callable[..., Host], kind: str, head: bytes, text: bytes
) -> None:
    """Its beginning is enough."""
    with pytest.raises(APIError, match="HTTP 404"):
        ask(kind, host([b"HTTP/1.1 404 No\r\n" + head, text]))


@CLIENTS
@pytest.mark.parametrize(
    ("head", "text", "said"),
    [
        (b"\r\n", DEEP, "not a Batch"),
        (b"\r\n", b'{"id":' + b"[" * 100_000, "not a Batch"),
        (b"Content-Encoding: br\r\n\r\n", b"x", "compressed as 'br'"),
        (GZIP + b"\r\n", b"no gzip", "compression is broken"),
    ],
)
def test_what_cannot_be_read_is_no_answer(
    host: Callable[..., Host], kind: str, head: bytes, text: bytes, said: str
) -> None:
    """Never a RecursionError, or an error of a library."""
    with pytest.raises(TransportError, match=said):
        ask(kind, host([OK + head, text]))


@given(
    depth=st.integers(1, 2_000_000), opening=st.sampled_from([b"[", b'{"a":', b"[["]), is_error=st.booleans()
)
def test_no_depth_breaks_the_reading(depth: int, opening: bytes, *, is_error: bool) -> None:
    text = opening * (depth // len(opening))
    reply = protocol.HttpReply(500 if is_error else 200, {}, text)
    if is_error:
        config = ClientConfig(base_url="http://127.0.0.1", api_key="k", headers={})
        assert isinstance(protocol.failure(reply, config, 0.0), APIError)
    else:
        with pytest.raises(TransportError):
            protocol.read_page(reply)


@given(
    st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50), st.sampled_from(["gzip", "deflate"])
)
def test_any_text_comes_through_in_any_pieces(texts: list[bytes], size: int, encoding: str) -> None:
    """Several members of gzip too, and an empty body."""
    pressed = b"".join(map(gzip.compress, texts)) if encoding == "gzip" else zlib.compress(b"".join(texts))
    decoder = body.Decoder(encoding)
    pieces = [pressed[start : start + size] for start in range(0, len(pressed), size)]
    decoded = [part for piece in pieces for part in decoder.feed(piece)]
    decoder.finish()
    assert b"".join(decoded) == b"".join(texts)


# -- downloads -----------------------------------------------------------------------------------------------


def download(host: Host, timeout: float = 10.0, attempts: int = 1) -> bytes:
    config = ClientConfig(
        base_url=host.config(0).base_url, api_key="k", headers={}, timeout=timeout, max_attempts=attempts
    )
    session = BatchesSession(config, logging.getLogger("test"), lambda _: None)
    sink = io.BytesIO()
    Download(session, "file-1", sink, logging.getLogger("test")).run()
    return sink.getvalue()


CONTENT = b"".join(b'{"custom_id":"%d"}\n' % number for number in range(100_000))


def test_a_compressed_download_is_decoded(host: Callable[..., Host]) -> None:
    """Some servers and proxies compress, although they were asked not to."""
    pressed = gzip.compress(CONTENT)
    length = b"Content-Length: %d\r\n" % len(pressed)
    assert download(host([OK + GZIP + length + b"\r\n", pressed])) == CONTENT


def test_a_broken_compressed_download_starts_over(host: Callable[..., Host]) -> None:
    """A range of compressed bytes cannot be decoded, so it is not asked for; nothing is written twice."""
    pressed = gzip.compress(CONTENT)
    head = OK + GZIP + b"Content-Length: %d\r\n\r\n" % len(pressed)
    one = host([head, pressed[: len(pressed) // 2]], [head, pressed])
    assert download(one, attempts=2) == CONTENT
    assert [b"range:" in request.lower() for request in one.heads] == [False, False]


def test_a_download_that_drips_ends(host: Callable[..., Host]) -> None:
    """Also if each connection brings some bytes: less than a piece is a failed attempt."""
    started = time.monotonic()
    head = OK + b"Content-Length: 1000000\r\n\r\n"
    one = host(drip(head, b"x"), drip(head, b"x"))
    with pytest.raises(TransportError, match="not complete"):
        download(one, timeout=0.3, attempts=2)
    assert time.monotonic() - started < 6
    assert len(one.heads) == 2


def test_a_slow_download_that_goes_on_is_let_go_on(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time begins anew with each piece: a large file may take as long as it takes."""
    monkeypatch.setattr(client, "PIECE", 1000)
    head = OK + b"Content-Length: 20000\r\n\r\n"

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(20):
            time.sleep(0.1)
            yield b"x" * 1000

    assert download(host(pieces()), timeout=0.4) == b"x" * 20_000


@pytest.mark.parametrize("head", [b"", GZIP])
def test_the_start_of_a_file_is_read_in_bounds(host: Callable[..., Host], head: bytes) -> None:
    """The page shows it, and reads no more of it than it shows."""
    text = b"x" * 50_000_000

    async def start(config: ClientConfig) -> bytes:
        asking = AsyncBatchesClient(config)
        try:
            return await asking.read_file_start("file-1", 1000)
        finally:
            await asking.aclose()

    one = host([OK + head + b"\r\n", gzip.compress(text) if head else text])
    assert asyncio.run(start(one.config(10))) == b"x" * 1000


def test_the_first_lines_are_read_in_bounds(host: Callable[..., Host]) -> None:
    """A line without an end too."""
    session = BatchesSession(
        host([OK + b"\r\n", b"one\ntwo\n", *[b"x" * (1 << 20)] * 100]).config(10),
        logging.getLogger("test"),
        time.sleep,
    )
    with session.stream(protocol.download_file("file-1"), 0) as answer:
        lines = list(answer.iter_lines())
    assert lines[:2] == [b"one", b"two"]
    assert sum(map(len, lines)) <= body.MAX_ERROR_BYTES


def test_calls_of_ones_own_are_not_cut(host: Callable[..., Host]) -> None:
    """The session of get_conn() has the library's own time-outs."""
    session = BatchesSession(host([OK + b"\r\n", b"{}"]).config(0.1), logging.getLogger("test"), time.sleep)
    with pytest.raises(OpenAIBatchesError):
        session.send(protocol.retrieve_batch("batch_1"), protocol.read_batch)
    assert session.http.get(session.config.base_url, timeout=5).json() == {}


# -- connections ---------------------------------------------------------------------------------------------


class KeepingAlive(socketserver.BaseRequestHandler):
    """Answers as many requests as a connection brings, each with the next of the host's answers."""

    def handle(self) -> None:
        host: Any = self.server
        while head := self.request.recv(65536):
            host.heads.append(head)
            answer = host.scripts[len(host.heads) % len(host.scripts)]
            self.request.sendall(b"".join(answer))


def framed(status: bytes, text: bytes, *, chunked: bool = False, more: bytes = b"") -> list[bytes]:
    if chunked:
        parts = b"".join(
            b"%x\r\n%b\r\n" % (len(text[at : at + 7]), text[at : at + 7]) for at in range(0, len(text), 7)
        )
        return [
            b"HTTP/1.1 ",
            status,
            b"\r\nTransfer-Encoding: chunked\r\n",
            more,
            b"\r\n",
            parts,
            b"0\r\n\r\n",
        ]
    return [b"HTTP/1.1 ", status, b"\r\nContent-Length: %d\r\n" % len(text), more, b"\r\n", text]


BATCH = b'{"id":"batch_1","status":"completed"}'
FRAMES = [
    framed(b"200 OK", BATCH),
    framed(b"200 OK", BATCH, chunked=True),
    framed(b"200 OK", gzip.compress(BATCH), more=GZIP),
    framed(b"200 OK", gzip.compress(BATCH), more=GZIP, chunked=True),
    framed(b"404 No", b'{"error":{"message":"gone"}}'),
    framed(b"500 No", b"", chunked=True),
    framed(b"500 No", b""),
    framed(b"200 OK", b"no batch"),
    framed(b"302 Found", b"elsewhere", more=b"Location: http://127.0.0.2:9/v1\r\n"),
]


@CLIENTS
def test_one_connection_serves_all_small_answers(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each answer is read to its end, also one that is an error, so that the connection can be used again."""
    one = host(*FRAMES)
    connections: list[Any] = []
    accept = one.get_request

    def count_and_accept() -> Any:
        connections.append(accept())
        return connections[-1]

    monkeypatch.setattr(one, "RequestHandlerClass", KeepingAlive)
    monkeypatch.setattr(one, "get_request", count_and_accept)
    request = protocol.retrieve_batch("batch_1")
    if kind == "requests":
        session = BatchesSession(one.config(10), logging.getLogger("test"), time.sleep)
        for _ in range(20):
            with contextlib.suppress(OpenAIBatchesError):
                session.send(request, protocol.read_batch)
        session.http.close()
    else:

        async def ask_often() -> None:
            asking = AsyncBatchesClient(one.config(10))
            for _ in range(20):
                with contextlib.suppress(OpenAIBatchesError):
                    await asking.retrieve_batch("batch_1")
            await asking.aclose()

        asyncio.run(ask_often())
    assert len(one.heads) == 20
    assert len(connections) == 1


def open_sockets() -> int:
    gc.collect()
    return sum(link.startswith("socket:") for link in map(_target, Path("/proc/self/fd").iterdir()))


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:  # that of the directory itself
        return ""


BAD_ENDS: dict[str, Callable[[], Iterable[bytes]]] = {
    "whole": lambda: [OK + b"\r\n", BATCH],
    "too large": lambda: [OK + b"\r\n", *[b" " * (1 << 20)] * 20],
    "too large an error": lambda: [b"HTTP/1.1 500 No\r\n\r\n", b"x" * 1_000_000],
    "too slow": lambda: drip(OK + b"\r\n", b" "),
    "slow headers": lambda: drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
    "cut": lambda: [OK + b"Content-Length: 999\r\n\r\n", b"{"],
    "no HTTP": lambda: [b"hello\r\n\r\n"],
    "silent": lambda: [b""],
    "odd compression": lambda: [OK + b"Content-Encoding: br\r\n\r\n", b"x"],
    "broken compression": lambda: [OK + GZIP + b"\r\n", b"x" * 1000],
    "redirect": lambda: [b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", b"x" * 1_000_000],
    "not a batch": lambda: [OK + b"\r\n", b"[]"],
}


@CLIENTS
@pytest.mark.parametrize("end", BAD_ENDS)
def test_no_end_of_an_answer_leaves_a_socket_open(host: Callable[..., Host], kind: str, end: str) -> None:
    """The client of a kind stays open, as it does in a triggerer, and holds no useless connection."""
    one = host(BAD_ENDS[end]())
    config = one.config(0.3)
    request = protocol.retrieve_batch("batch_1")
    before = open_sockets()
    if kind == "requests":
        session = BatchesSession(config, logging.getLogger("test"), time.sleep)
        with contextlib.suppress(OpenAIBatchesError):
            session.send(request, protocol.read_batch)
        assert one.ended.wait(15)
        assert _settled(before)
        return

    async def retrieve() -> None:
        asking = AsyncBatchesClient(config)
        before = open_sockets()
        with contextlib.suppress(OpenAIBatchesError):
            await asking.retrieve_batch("batch_1")
        assert await asyncio.to_thread(one.ended.wait, 15)
        assert await asyncio.to_thread(_settled, before)
        await asking.aclose()

    asyncio.run(retrieve())


def _settled(count: int) -> bool:
    """Whether there are as many sockets as before, once the host has noticed too."""
    for _ in range(100):
        if open_sockets() <= count:
            return True
        time.sleep(0.05)
    return False


def test_a_client_closes_all_its_connections_also_while_it_is_cancelled(host: Callable[..., Host]) -> None:
    """A triggerer that ends cancels each task, and so does the last wait: twice in the middle of closing."""
    one = host(FRAMES[0])
    one.RequestHandlerClass = KeepingAlive

    async def waits() -> None:
        asking = AsyncBatchesClient(one.config(10))
        before = open_sockets()
        await asyncio.gather(*(asking.retrieve_batch("batch_1") for _ in range(5)))
        assert open_sockets() > before
        closing = asyncio.ensure_future(asking.aclose())
        for _ in range(3):
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert await asyncio.to_thread(_settled, before)

    asyncio.run(waits())


@pytest.mark.parametrize("calls", range(1, 12))
def test_a_request_that_is_cancelled_leaves_no_socket(host: Callable[..., Host], calls: int) -> None:
    """At whatever step: while it connects, sends, waits or reads."""
    one = host(drip(OK + b"\r\n", b" "))

    async def waits() -> None:
        asking = AsyncBatchesClient(one.config(10))
        before = open_sockets()
        request = asyncio.ensure_future(asking.retrieve_batch("batch_1"))
        for _ in range(calls):
            await asyncio.sleep(0 if calls < 8 else 0.02)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert await asyncio.to_thread(_settled, before)
        await asking.aclose()

    asyncio.run(waits())


# -- redirects -----------------------------------------------------------------------------------------------


@CLIENTS
@pytest.mark.parametrize(
    "location", [b"http://127.0.0.1:%d/v1/x", b"//127.0.0.1:%d", b"\xff\xfe%d", b"http://[%d"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(host: Callable[..., Host], kind: str, location: bytes, status: int) -> None:
    """The key stays with its host, the body is read within bounds, and an odd address is an error."""
    other = host([OK + b"\r\n", BATCH])
    head = b"HTTP/1.1 %d Moved\r\nLocation: " % status + location % other.server_address[1] + b"\r\n"
    bomb = gzip.compress(b"\0" * 1_000_000)
    with pytest.raises(OpenAIBatchesError):
        ask(kind, host([head + GZIP + b"\r\n", bomb]))
    assert not other.heads


def test_the_body_of_a_redirect_is_read_in_bounds(host: Callable[..., Host]) -> None:
    """The library would read it whole, and decompress it: a megabyte can hold a gigabyte."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = press.compress(b"\0" * (128 << 20)) + press.flush()
    tracemalloc.start()
    with pytest.raises(APIError, match="redirects are not followed"):
        ask("requests", host([b"HTTP/1.1 302 Found\r\nLocation: /x\r\n" + GZIP + b"\r\n", bomb]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_calls_of_ones_own_follow_no_redirect_either(host: Callable[..., Host]) -> None:
    """The library takes only one header away on the way to another host."""
    other = host([OK + b"\r\n", b"{}"])
    address = b"http://localhost:%d/" % other.server_address[1]
    one = host([b"HTTP/1.1 302 Found\r\nLocation: " + address + b"\r\n\r\n"])
    session = BatchesSession(one.config(10), logging.getLogger("test"), time.sleep)
    assert session.http.get(session.config.base_url, timeout=5).status_code == 302
    assert not other.heads


# -- what a hostile host says --------------------------------------------------------------------------------


@CLIENTS
@pytest.mark.parametrize(
    "form",
    [lambda key: key, lambda key: quote(key, safe=""), lambda key: b64encode(b"x" + key.encode()).decode()],
)
@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 400 No\r\n\r\n{"error":{"message":"KEY","code":"KEY","param":"KEY","type":"KEY"}}',
        b'HTTP/1.1 400 No\r\n\r\n{"error":{"type":"KEY"}}',
        b"HTTP/1.1 400 No\r\nx-request-id: KEY\r\n\r\nKEY",
        b'HTTP/1.1 200 OK\r\n\r\n{"error":{"message":"KEY","code":"KEY","param":"KEY"}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"id":"KEY"}',
        b'HTTP/1.1 200 OK\r\n\r\n{"id":"a/KEY"}',
        b"HTTP/1.1 200 OK\r\n\r\nKEY",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: KEY\r\n\r\nx",
        b"HTTP/1.1 302 Found\r\nLocation: http://KEY\r\n\r\nKEY",
        b"HTTP/1.1 KEY\r\n\r\n",
        b"KEY\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: KEY\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nKEY\r\n",
    ],
)
def test_no_answer_brings_the_key_into_an_error(
    host: Callable[..., Host],
    kind: str,
    form: Callable[[str], str],
    answer: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the text of the error, in its fields, in the trace with all its causes, and in any library's log."""
    caplog.set_level("DEBUG")
    key = "sk-Ab/9+key_of=mine"
    shown = form(key)
    one = host([answer.replace(b"KEY", shown.encode())])
    config = msgspec.structs.replace(one.config(5), api_key=key)
    with pytest.raises(OpenAIBatchesError) as caught:
        ask(kind, one, config=config)
    error = caught.value
    text = "".join(traceback.format_exception(error)) + repr(vars(error)) + str(error)
    core = shown if form(key) != b64encode(b"x" + key.encode()).decode() else shown[3:-4]
    text += caplog.text
    assert core not in text
    assert key not in text
