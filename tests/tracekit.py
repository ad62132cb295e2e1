"""A collector of OpenTelemetry's traces on loopback, and the spans that it got."""

from __future__ import annotations

import gzip
import importlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from airflow.providers.common.compat.sdk import conf
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.util._once import Once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self


class Got(NamedTuple):
    """A span as it arrived; times are Unix seconds, ids are hexadecimal."""

    name: str
    span_id: str
    parent_id: str
    trace_id: str
    began: float
    ended: float
    is_error: bool
    attributes: dict[str, Any]


class Collector:
    """Takes what exporters send over HTTP; a context manager."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.flush: Callable[[], object] = lambda: None
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What an Airflow needs to send its traces here, for all versions."""
        port = self._server.server_port
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "AIRFLOW__TRACES__OTEL_HOST": "127.0.0.1",  # Airflow 3.0 and 3.1
            "AIRFLOW__TRACES__OTEL_PORT": str(port),
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",  # since Airflow 3.2
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{port}/v1/traces",
            "OTEL_SERVICE_NAME": "airflow-under-test",
        }

    @property
    def spans(self) -> list[Got]:
        """All spans that came, oldest first."""
        self.flush()
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        found = [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(map(_got, found), key=lambda span: span.began)

    def named(self, start: str) -> list[Got]:
        return [span for span in self.spans if span.name.startswith(start)]


def _got(span: Any) -> Got:
    return Got(
        span.name,
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.code == span.status.STATUS_CODE_ERROR,
        {item.key: _value(item.value) for item in span.attributes},
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(each) for each in found.values] if kind == "array_value" else found


@contextmanager
def configured(collector: Collector) -> Iterator[None]:
    """Configure this process as Airflow does when it starts; afterwards it sends nothing again."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        try:
            traces = importlib.import_module("airflow._shared.observability.traces")
        except ModuleNotFoundError:  # Airflow 3.0 and 3.1 configure each tracer when it is made
            yield
            return
        patch.setattr(trace, "_TRACER_PROVIDER", None)
        patch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        traces.configure_otel(conf)
        provider: Any = trace.get_tracer_provider()
        collector.flush = provider.force_flush
        try:
            yield
        finally:
            provider.shutdown()
            collector.flush = lambda: None
