"""
The settings that both clients use, read from an Airflow connection.

Two connection types are read: this provider's ``openai_batches`` and the official provider's ``openai`` (with
its ``openai_client_kwargs``).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, quote_plus, urlsplit

import msgspec

from airflow_provider_openai_batches.api.redaction import in_base64, redact_logger, redacted
from airflow_provider_openai_batches.exceptions import InvalidConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The one host that gets OPENAI_API_KEY without being named for it in a connection.
OPENAI_HOST = "api.openai.com"
DEFAULT_BASE_URL = f"https://{OPENAI_HOST}/v1"
# No time-out or number of attempts is larger: four months, and less than any system's clock or timer takes.
MOST = 10_000_000
# Of a limit: the service has accounts that may have billions of tokens in line.
MOST_TOKENS = 10**15
DEFAULT_CONSOLE_URL = "https://platform.openai.com/batches"
FIELD_LIMITS = "enqueued_token_limits"
# What a price in the field "prices" may have; the first two must be there.
RATES = ("input", "output", "cached_input", "cache_write")
DEFAULT_CONN_ID = "openai_batches_default"


class ConnectionLike(Protocol):
    """The fields of an Airflow connection that are read."""

    conn_id: str
    host: str | None
    schema: str | None
    port: int | None
    password: str | None

    @property
    def extra_dejson(self) -> dict[str, Any]: ...


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    How to reach the service.

    :param base_url: without a slash at its end.
    :param headers: sent with every request; the key is among them.
    :param params: query parameters of every request (Azure's ``api-version``).
    :param connect_timeout: seconds to wait for a connection.
    :param timeout: seconds to wait for the next bytes of an answer; a whole one may take twice as long.
    :param console_url: where people look at batches; the batch's id is appended.
    :param max_attempts: how many times a request that may be repeated is sent at most.
    :param enqueued_token_limits: how many prompt tokens may be in line at the service, by model.
    :param prices: US dollars for a million tokens, by model and by the names of :data:`RATES`.
    :param batch_discount: the part of the price that a request in a batch costs.
    """

    base_url: str
    api_key: str
    headers: dict[str, str]
    params: dict[str, str] = {}
    connect_timeout: float = 10.0
    timeout: float = 60.0
    max_attempts: int = 6
    console_url: str = ""
    enqueued_token_limits: dict[str, int] = {}
    prices: dict[str, dict[str, float]] = {}
    batch_discount: float = 0.5

    def __repr__(self) -> str:
        return f"ClientConfig(base_url={self.base_url!r})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not appear in a message: the key, headers and parameters of each request."""
        values = (self.api_key, *self.headers.values(), *self.params.values())
        return tuple(dict.fromkeys(filter(None, values)))

    @property
    def masks(self) -> list[str]:
        """What must not appear in any log: the secrets as they are, encoded for URLs, and in base64."""
        version = self.params.get("api-version")  # a date, which may stand in the logs of others
        secrets = [secret for secret in self.secrets if secret != version]
        forms = [(secret, quote(secret, safe=""), quote_plus(secret)) for secret in secrets]
        return list(dict.fromkeys([*chain(*forms), *chain(*map(in_base64, secrets))]))

    def redact(self, text: str) -> str:
        """Return the text with the connection's secrets replaced by ``***``, also where they are encoded."""
        return redacted(text, self.secrets)

    def redact_log(self, name: str) -> None:
        """From now on, redact what a logger of an HTTP library says: it logs URLs with all parameters."""
        redact_logger(name, self.secrets)

    @property
    def answer_seconds(self) -> float:
        """How long a whole answer may take; of a file, each piece."""
        return 2 * self.timeout

    def batch_link(self, batch_id: str) -> str | None:
        """Return the address of a batch in the service's console; None if no console is known."""
        return f"{self.console_url.rstrip('/')}/{quote(batch_id, safe='')}" if self.console_url else None

    @classmethod
    def from_connection(cls, conn: ConnectionLike, environ: Mapping[str, str]) -> ClientConfig:
        """
        Read an Airflow connection.

        :param environ: where ``OPENAI_API_KEY`` is looked up when the connection has no key and leads to
            OpenAI, or says ``use_environment_key``.
        :raises InvalidConnectionError: if the connection has no key, a bad URL or a bad field.
        """
        return _read(conn, environ)


def _read(conn: ConnectionLike, environ: Mapping[str, str]) -> ClientConfig:
    extra = _extra(conn)
    azure = _choice(conn, extra, "api_type", ("openai", "azure")) == "azure"
    base_url = _base_url(conn, extra)
    api_key = _api_key(conn, extra, base_url, environ)
    headers = {"api-key": api_key} if azure else {"Authorization": f"Bearer {api_key}"}
    for field, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
        if extra.get(field):
            headers[header] = str(extra[field])
    headers |= _text_map(conn, extra, "headers")
    params = _text_map(conn, extra, "params")
    if extra.get("api_version"):
        params |= _text_map(conn, {"api_version": {"api-version": extra["api_version"]}}, "api_version")
    console_url = str(
        extra.get("console_url") or (DEFAULT_CONSOLE_URL if base_url == DEFAULT_BASE_URL else "")
    )
    if console_url and not console_url.startswith(("https://", "http://")):
        shown = _without_secrets(console_url)
        raise _bad(conn, f"extra field 'console_url' is {shown!r}; it must be an http or https address")
    return ClientConfig(
        base_url=base_url,
        api_key=api_key,
        headers={name: _header_value(conn, name, value) for name, value in headers.items()},
        params=params,
        connect_timeout=_number(conn, extra, "connect_timeout", 10.0),
        timeout=_number(conn, extra, "timeout", 60.0),
        max_attempts=max(1, int(_number(conn, extra, "max_attempts", 6))),
        console_url=console_url,
        enqueued_token_limits={
            model: int(_number(conn, {FIELD_LIMITS: limit}, FIELD_LIMITS, 1.0, 1.0, MOST_TOKENS))
            for model, limit in _text_map(conn, extra, FIELD_LIMITS).items()
            if limit
        },
        prices={model: _price(conn, model, given) for model, given in _map(conn, extra, "prices").items()},
        batch_discount=_number(conn, extra, "batch_discount", 0.5, 0.0, 1),
    )


def _extra(conn: ConnectionLike) -> dict[str, Any]:
    """Return the extra, with the official provider's ``openai_client_kwargs`` under this provider's names."""
    try:
        found: Any = conn.extra_dejson or {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _bad(conn, "extra is not a JSON object")
    extra = dict(found)
    theirs = extra.pop("openai_client_kwargs", None)
    if not theirs:
        return extra
    if not isinstance(theirs, dict):
        raise _bad(conn, "extra field 'openai_client_kwargs' is not a JSON object")
    renames = {"default_headers": "headers", "default_query": "params"}
    read: dict[Any, Any] = {
        renames.get(name, name): value for name, value in theirs.items() if value is not None
    }
    if "max_retries" in read:
        read["max_attempts"] = 1 + _number(conn, read, "max_retries", 2.0, 0.0)
    return read | extra


def _bad(conn: ConnectionLike, what: str) -> InvalidConnectionError:
    return InvalidConnectionError(f"Connection {conn.conn_id!r}: {what}.")


def _api_key(conn: ConnectionLike, extra: dict[str, Any], base_url: str, environ: Mapping[str, str]) -> str:
    key = str(extra.get("api_key") or conn.password or "").strip()
    is_openai = base_url.startswith("https://") and urlsplit(base_url).hostname == OPENAI_HOST
    if not key and (is_openai or _is_true(extra.get("use_environment_key"))):
        key = (environ.get("OPENAI_API_KEY") or "").strip()
        elsewhere = "set OPENAI_API_KEY where Airflow's workers and triggerer run"
    else:
        elsewhere = (
            f"set the extra field 'use_environment_key' to true if {urlsplit(base_url).hostname} may have "
            f"the key in OPENAI_API_KEY, which otherwise goes to {OPENAI_HOST} alone"
        )
    if not key:
        raise _bad(
            conn,
            f"it has no API key. Put the key into the connection's password (API key) field, or {elsewhere}",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise _bad(
            conn, "the API key has characters that no key has (a line break, a space?). Enter it again"
        )
    return key


def _base_url(conn: ConnectionLike, extra: dict[str, Any]) -> str:
    url = str(extra.get("base_url") or conn.host or DEFAULT_BASE_URL).strip()
    shown = _without_secrets(url)
    try:
        url = (url if "://" in url else _from_host(conn, url.rstrip("/"))).rstrip("/")
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise _bad(conn, f"the base URL {shown!r} cannot be read: check its host and port") from None
    if not url.isprintable() or " " in url or "\\" in url:
        raise _bad(conn, f"the base URL {shown!r} has a space, a backslash or a line break")
    if "@" in url or parts.query or parts.fragment:
        raise _bad(conn, "the base URL must have no user, query or fragment; use the extra field 'params'")
    if parts.scheme not in {"http", "https"} or not host:
        raise _bad(
            conn, f"the base URL {shown!r} is not an http or https address, such as {DEFAULT_BASE_URL}"
        )
    if parts.scheme == "http" and not _is_loopback(host) and not _is_true(extra.get("allow_http")):
        raise _bad(
            conn,
            f"the base URL {shown!r} is plain http, so the API key would be sent unencrypted. Use https, "
            "or set the extra field 'allow_http' to true if you trust the network",
        )
    return url


def _without_secrets(url: str) -> str:
    """Return a URL to show: without what may be a password in it, wherever it was put."""
    return re.sub(r"(?s)[?#].*", "?***", re.sub(r"(?s)^([^/@]*//)?.*@", r"\1***@", url))


def _from_host(conn: ConnectionLike, host: str) -> str:
    """Rebuild the URL: Airflow splits a connection that is given as a URI into host, port and schema."""
    schema = conn.schema or ""
    scheme = schema if schema in {"http", "https"} else ("http" if _is_loopback(host) else "https")
    path = "v1" if schema in {"", "http", "https"} else schema.strip("/")
    port = f":{conn.port}" if conn.port else ""
    return f"{scheme}://{host}{port}" if "/" in host else f"{scheme}://{host}{port}/{path}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_true(value: object) -> bool:
    return value in {True, "true", "True"} if isinstance(value, bool | str) else False


def _choice(conn: ConnectionLike, extra: dict[str, Any], field: str, choices: tuple[str, ...]) -> str:
    value = str(extra.get(field) or choices[0]).lower()
    if value not in choices:
        raise _bad(conn, f"extra field {field!r} is {value!r}; it must be one of {', '.join(choices)}")
    return value


def _number(  # noqa: PLR0917 - short calls
    conn: ConnectionLike,
    extra: dict[str, Any],
    field: str,
    default: float,
    least: float | None = None,
    most: int = MOST,
) -> float:
    """:param least: None: it must be above 0."""
    value = extra.get(field)
    if value is None or value == "":
        return default
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not ((number > 0 if least is None else number >= least) and number <= most):
        allowed = "above 0" if least is None else f"of at least {least:g}"
        raise _bad(
            conn,
            f"extra field {field!r} is {value!r:.80}; it must be a number {allowed}, and at most {most:,}",
        )
    return number


def _map(conn: ConnectionLike, extra: dict[str, Any], field: str, of: str = "objects") -> dict[str, Any]:
    value = extra.get(field) or {}
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise _bad(conn, f"extra field {field!r} is not a JSON object of {of}")
    return {str(name): inner for name, inner in value.items() if inner is not None}


def _text_map(conn: ConnectionLike, extra: dict[str, Any], field: str) -> dict[str, str]:
    texts = {name: str(text) for name, text in _map(conn, extra, field, "strings").items()}
    for name, text in texts.items():
        if re.search("[\ud800-\udfff]", name + text):  # JSON can hold half a character, and no request can
            raise _bad(conn, f"extra field {field!r} has half a character in {name!r}: enter it again")
    return texts


def _price(conn: ConnectionLike, model: str, given: Any) -> dict[str, float]:
    """Read the price of a model."""
    where = f"prices: {model:.80}"
    form = "input and output, and where they differ cached_input and cache_write, in US dollars for a million"
    if not model or not isinstance(given, dict):
        what = f"extra field {where!r} is {given!r:.80}"
        raise _bad(conn, f"{what}; it must be a model's name, and an object with {form} tokens")
    missing, unknown = {"input", "output"} - set(given), set(given) - set(RATES)
    for rates, problem in ((missing, "is missing"), (unknown, "is no price")):
        if rates:
            field = f"{where}.{min(rates):.80}"
            raise _bad(conn, f"extra field {field!r} {problem}; a model has prices for {form} tokens")
    fields = {f"{where}.{rate}": value for rate, value in given.items()}
    for field, value in fields.items():
        if value is None or value == "":
            raise _bad(conn, f"extra field {field!r} is {value!r}; it must be a number of at least 0")
    return {rate: _number(conn, fields, f"{where}.{rate}", 0.0, 0.0) for rate in given}


def _header_value(conn: ConnectionLike, name: str, value: str) -> str:
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise _bad(conn, f"the header name {name!r} is not allowed")
    if not value.isprintable() or not value.isascii():
        raise _bad(conn, f"the value of header {name!r} has a line break or a character outside ASCII")
    return value
