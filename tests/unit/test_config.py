"""Connections are read, and bad ones refused with words that help."""

from __future__ import annotations

import base64
import json
import logging
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from airflow.providers.common.compat.sdk import BaseHook, Connection
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.exceptions import InvalidConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable


def read(
    extra: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **fields: Any
) -> ClientConfig:
    fields = {"conn_type": "openai_batches", "password": "sk-key", **fields}
    connection = Connection(conn_id="c", extra=json.dumps(extra or {}), **fields)
    return ClientConfig.from_connection(connection, environ or {})


def test_a_key_is_enough() -> None:
    """Everything else has a default."""
    config = read()
    assert config.base_url == "https://api.openai.com/v1"
    assert config.headers == {"Authorization": "Bearer sk-key"}
    assert (config.connect_timeout, config.timeout, config.max_attempts) == (10, 60, 6)
    assert config.console_url == "https://platform.openai.com/batches"


def test_every_field_arrives() -> None:
    """Each extra field has its effect."""
    config = read(
        {
            "organization": "org",
            "project": "proj",
            "timeout": "5",
            "connect_timeout": 2,
            "max_attempts": 3,
            "headers": {"X-Team": "a"},
            "console_url": "https://console.example/b",
        },
        host="https://gateway.example/openai/v1/",
    )
    assert config.base_url == "https://gateway.example/openai/v1"
    assert config.headers["OpenAI-Organization"] == "org"
    assert config.headers["OpenAI-Project"] == "proj"
    assert config.headers["X-Team"] == "a"
    assert (config.connect_timeout, config.timeout, config.max_attempts) == (2, 5, 3)
    assert config.console_url == "https://console.example/b"


def test_azure_sends_its_own_header() -> None:
    """The key goes into api-key, the version into the query."""
    config = read(
        {"api_type": "azure", "api_version": "2025-04-01"}, host="https://r.openai.azure.com/openai"
    )
    assert config.headers == {"api-key": "sk-key"}
    assert config.params == {"api-version": "2025-04-01"}
    assert config.console_url == ""


def test_the_official_providers_connection_works_as_it_is() -> None:
    """Its openai_client_kwargs are understood under their own names."""
    kwargs = {"api_key": "sk-theirs", "base_url": "https://x.example/v1", "organization": "o", "timeout": 9}
    kwargs |= {"max_retries": 2, "default_headers": {"X-A": "b"}, "default_query": {"q": "1"}}
    config = read({"openai_client_kwargs": kwargs}, conn_type="openai", password=None)
    assert config.api_key == "sk-theirs"
    assert config.base_url == "https://x.example/v1"
    assert config.headers == {"Authorization": "Bearer sk-theirs", "OpenAI-Organization": "o", "X-A": "b"}
    assert config.params == {"q": "1"}
    assert (config.timeout, config.max_attempts) == (9, 3)


def test_the_environment_serves_where_the_connection_has_no_key() -> None:
    """OPENAI_API_KEY is used only then."""
    assert read(password=None, environ={"OPENAI_API_KEY": "sk-env"}).api_key == "sk-env"
    assert read(environ={"OPENAI_API_KEY": "sk-env"}).api_key == "sk-key"


@pytest.mark.parametrize(
    ("host", "extra", "gets_it"),
    [
        (None, {}, True),
        ("https://api.openai.com/v1", {}, True),
        ("https://API.OpenAI.com:443/v1/", {}, True),
        ("api.openai.com", {}, True),
        ("http://api.openai.com/v1", {"allow_http": True}, False),
        ("https://gateway.example/v1", {}, False),
        ("https://api.openai.com.evil.example/v1", {}, False),
        ("https://evil.example/api.openai.com/v1", {}, False),
        ("https://r.openai.azure.com/openai/v1", {"api_type": "azure"}, False),
        ("http://127.0.0.1:8089/v1", {}, False),
        ("https://gateway.example/v1", {"use_environment_key": False}, False),
        ("https://gateway.example/v1", {"use_environment_key": "no"}, False),
        ("https://gateway.example/v1", {"use_environment_key": [1]}, False),
        ("https://gateway.example/v1", {"use_environment_key": True}, True),
        ("https://gateway.example/v1", {"use_environment_key": "true"}, True),
    ],
)
def test_the_key_of_the_environment_goes_to_openai_alone(
    host: str | None, extra: dict[str, Any], *, gets_it: bool
) -> None:
    """Whoever may edit a connection could otherwise send it anywhere."""
    environ = {"OPENAI_API_KEY": "sk-env"}
    if gets_it:
        assert read(extra, environ, password=None, host=host).api_key == "sk-env"
    else:
        with pytest.raises(InvalidConnectionError, match=r"no API key.*password.*use_environment_key"):
            read(extra, environ, password=None, host=host)


@pytest.mark.parametrize("field", ["base_url", "host"])
def test_the_official_connection_gets_no_key_of_the_environment_for_another_host(field: str) -> None:
    """Its base URL may be in openai_client_kwargs."""
    url = "https://gateway.example/v1"
    extra = {"openai_client_kwargs": {"base_url": url}} if field == "base_url" else {}
    with pytest.raises(InvalidConnectionError, match=r"gateway\.example may have"):
        read(extra, {"OPENAI_API_KEY": "sk-env"}, password=None, host=url if not extra else None)


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        ("openai-batches://:k@", "https://api.openai.com/v1"),
        ("openai-batches://:k@gateway.example", "https://gateway.example/v1"),
        ("openai-batches://:k@gateway.example:8443/v2", "https://gateway.example:8443/v2"),
        ("openai-batches://:k@127.0.0.1:8089", "http://127.0.0.1:8089/v1"),
        ("openai-batches://:k@localhost:8089/https", "https://localhost:8089/v1"),
    ],
)
def test_connections_given_as_uris(monkeypatch: pytest.MonkeyPatch, uri: str, base_url: str) -> None:
    """As in AIRFLOW_CONN_… variables."""
    monkeypatch.setenv("AIRFLOW_CONN_C", uri)
    config = ClientConfig.from_connection(BaseHook.get_connection("c"), {})
    assert (config.base_url, config.api_key) == (base_url, "k")


@pytest.mark.parametrize(
    ("extra", "fields", "said"),
    [
        ({}, {"password": None}, "no API key.*password"),
        ({}, {"password": "  "}, "no API key"),
        ({}, {"password": "sk-\nx"}, "characters that no key has"),
        ({}, {"host": "ftp://x"}, "not an http or https address"),
        ({}, {"host": "https://"}, "not an http or https address"),
        ({}, {"host": "https://x:port/v1"}, "cannot be read"),
        ({}, {"host": "https://user:pw@x/v1"}, "no user, query or fragment"),
        ({}, {"host": "https://x/v1?a=b"}, "no user, query or fragment"),
        ({}, {"host": "http://example.com/v1"}, "be sent unencrypted.*allow_http"),
        ({}, {"host": "http://127.0.0.1.example.com/v1"}, "be sent unencrypted"),
        ({}, {"host": "http://localhost.example.com/v1"}, "be sent unencrypted"),
        ({"allow_http": "false"}, {"host": "http://example.com/v1"}, "be sent unencrypted"),
        ({"timeout": "soon"}, {}, "'timeout' is 'soon'"),
        ({"max_attempts": 0}, {}, "'max_attempts' is 0"),
        ({"max_attempts": [1]}, {}, "'max_attempts' is"),
        ({"timeout": -1}, {}, "'timeout' is -1"),
        ({"max_attempts": -1}, {}, "'max_attempts' is -1"),
        ({"enqueued_token_limits": {"m": -1}}, {}, "'enqueued_token_limits' is '-1'.*of at least 1"),
        ({"enqueued_token_limits": {"m": 0.5}}, {}, "'enqueued_token_limits' is '0.5'"),
        ({"enqueued_token_limits": {"m": "90,000"}}, {}, "'enqueued_token_limits' is '90,000'"),
        ({"enqueued_token_limits": {"m": {"n": 1}}}, {}, "'enqueued_token_limits' is"),
        ({"max_attempts": "inf"}, {}, "'max_attempts' is 'inf'.*at most 10,000,000"),
        ({"max_attempts": "nan"}, {}, "'max_attempts' is 'nan'"),
        ({"timeout": 10**400}, {}, "'timeout' is 1000"),
        ({"timeout": "nan"}, {}, "'timeout' is 'nan'"),
        ({"connect_timeout": 1e10}, {}, "'connect_timeout' is 10000000000.0"),
        ({"openai_client_kwargs": {"max_retries": "many"}}, {}, "'max_retries' is 'many'.*of at least 0"),
        ({"openai_client_kwargs": {"max_retries": float("inf")}}, {}, "'max_retries' is inf"),
        ({"params": {"k": "\ud800"}}, {}, "'params' has half a character in 'k'"),
        ({"params": {"\ud800": "k"}}, {}, "'params' has half a character"),
        ({"api_version": "\ud800"}, {}, "'api_version' has half a character"),
        ({}, {"host": "https://exa mple.com"}, "a space, a backslash or a line break"),
        ({}, {"host": "https://example.com\n/v1"}, "a space, a backslash or a line break"),
        ({}, {"host": "https://\ud800.com"}, "a space, a backslash or a line break"),
        ({}, {"host": "https://x\\y/v1"}, "a space, a backslash or a line break"),
        ({"headers": "x"}, {}, "'headers' is not a JSON object"),
        ({"headers": {"A": "b\r\nC: d"}}, {}, "line break"),
        ({"headers": {"A b": "c"}}, {}, "not allowed"),
        ({"api_type": "aws"}, {}, "'api_type' is 'aws'"),
        ({"openai_client_kwargs": "x"}, {}, "openai_client_kwargs"),
        ({"console_url": "javascript:alert(1)"}, {}, "console_url"),
    ],
)
def test_a_bad_connection_is_refused(extra: dict[str, Any], fields: dict[str, Any], said: str) -> None:
    """With the connection's name, the field, and what to do."""
    with pytest.raises(InvalidConnectionError, match=rf"Connection 'c': .*{said}"):
        read(extra, **fields)


def test_the_token_limits_of_models() -> None:
    """Large accounts have billions; a field that was left empty says nothing."""
    given = {"large": 15_000_000_000, "small": "90000", "empty": "", "none": None}
    limits = read({"enqueued_token_limits": given}).enqueued_token_limits
    assert limits == {"large": 15_000_000_000, "small": 90_000}


PRICE = {"input": 0.25, "output": "2"}


@pytest.mark.parametrize("given", [{"m": PRICE}, json.dumps({"m": PRICE})])
def test_prices(given: Any) -> None:
    """Numbers may be text, and the field too; a model without a price is as if it were not there."""
    config = read({"prices": given, "batch_discount": "0.4"})
    assert config.prices == {"m": {"input": 0.25, "output": 2.0}}
    assert config.batch_discount == 0.4
    free = {"input": 0, "output": 0, "cached_input": 0, "cache_write": 0}
    assert read({"prices": {"n": None, "free": free}}).prices == {"free": free}
    assert (read().prices, read().batch_discount) == ({}, 0.5)
    assert [read({"batch_discount": edge}).batch_discount for edge in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ("[]", "'prices' is not a JSON object"),
        ("{", "'prices' is not a JSON object"),
        (["m"], "'prices' is not a JSON object"),
        (7, "'prices' is not a JSON object"),
        ({"m": 0.25}, "'prices: m' is 0.25; it must be a model's name, and an object"),
        ({"m": [1, 2]}, "'prices: m' is [1, 2]; it must be"),
        ({"m": json.dumps(PRICE)}, "'prices: m' is '{"),
        ({"": PRICE}, "'prices: ' is {"),
        ({"m": {}}, "'prices: m.input' is missing"),
        ({"m": {"input": 1}}, "'prices: m.output' is missing"),
        ({"m": {**PRICE, "cached": 1}}, "'prices: m.cached' is no price"),
        *(
            ({"m": {"output": 1, "input": bad}}, f"'prices: m.input' is {repr(bad)[:9]}")
            for bad in (-1, math.nan, math.inf, True, [1], {"a": 1}, "a lot", "", None, 10**400, "nan")
        ),
    ],
)
def test_bad_prices_are_refused(prices: Any, said: str) -> None:
    """The field is named down to the rate."""
    with pytest.raises(InvalidConnectionError, match=re.escape(said)):
        read({"prices": prices})


@pytest.mark.parametrize("bad", [-0.1, 1.1, 50, True, False, "half", [0.5], math.nan])
def test_a_bad_discount_is_refused(bad: Any) -> None:
    """It is a part of the price, not a percentage."""
    with pytest.raises(InvalidConnectionError, match="extra field 'batch_discount' is"):
        read({"batch_discount": bad})


@pytest.mark.parametrize("extra", [[1, 2], [["timeout", 5]], "text", 7])
def test_an_extra_that_is_no_object(extra: Any) -> None:
    with pytest.raises(InvalidConnectionError, match="extra is not a JSON object"):
        read(extra)


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), ("3", 4), (None, 6), ("", 3)])
def test_the_retries_of_the_official_connection(retries: Any, attempts: int) -> None:
    """The number of attempts is one more; null is the default here, and nothing is the default there."""
    assert read({"openai_client_kwargs": {"max_retries": retries}}).max_attempts == attempts


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:9/v1", "http://127.8.0.1/v1"]
)
def test_plain_http_is_fine_on_this_host(host: str) -> None:
    """The key does not leave the machine."""
    assert read(host=host).base_url == host


def test_plain_http_can_be_allowed() -> None:
    """On a private network."""
    assert read({"allow_http": True}, host="http://vllm.internal/v1").base_url == "http://vllm.internal/v1"


def test_a_config_does_not_show_its_key() -> None:
    """Not even in a traceback's repr."""
    config = read({"headers": {"X-Secret-Token": "hush"}})
    assert "sk-key" not in repr(config)
    assert "hush" not in repr(config)
    assert "hush" in config.secrets


def test_all_headers_and_parameters_are_secret() -> None:
    """Their names may look harmless; an empty value replaces nothing."""
    config = read({"headers": {"X-Team": "hush-1", "X-Empty": ""}, "params": {"tenant": "t-17"}})
    assert config.redact("hush-1 of t-17 with sk-key") == "*** of *** with ***"


def test_no_part_of_a_secret_remains_when_one_contains_another() -> None:
    """The longer one is replaced first."""
    config = read({"headers": {"X-Token": "sk-key-and-more"}})
    assert config.redact("sk-key-and-more, sk-key") == "***, ***"


def test_a_very_short_value_is_replaced_as_a_word_alone() -> None:
    """Otherwise no word would be left of a message."""
    config = read({"params": {"v": "1", "w": "no"}})
    assert config.redact("no: 1 of 100 notes, v=1") == "***: *** of 100 notes, v=***"


SECRETS = st.text(
    st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=7, max_size=40
)
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a path": quote,
    "in a query": quote_plus,
    "in a query, each sign": lambda text: quote(text, safe=""),
    "in a query, in small letters": lambda text: re.sub(
        "%..", lambda one: one[0].lower(), quote(text, safe="")
    ),
    "encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "in JSON": json.dumps,
    "in base64": lambda text: base64.b64encode(text.encode()).decode(),
    "in base64 of a login": lambda text: base64.b64encode(f"user:{text}:x".encode()).decode(),
    "in base64 for URLs": lambda text: base64.urlsafe_b64encode(f"u:{text}".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
@given(secret=SECRETS)
def test_a_secret_is_found_in_every_form(form: str, secret: str) -> None:
    """As libraries, proxies and services repeat it: as it is, in a URL, in JSON and in base64."""
    config = ClientConfig(base_url="https://x", api_key="k" * 30, headers={}, params={"p": secret})
    said = FORMS[form](secret)
    redacted = config.redact(f"wrong <{said}>")
    assert "***" in redacted
    assert said not in redacted
    assert len(redacted) <= len("wrong <***>") + 14  # base64 shares signs with the login beside it


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hush@x.example/v1",
        "https://hush@x.example:port/v1",
        "https://user:hu/hush@x.example/v1",
        "https://user:hu#hush@x.example/v1",
        "ftp://user:hush@x.example/v1",
        "https:/user:hush@x.example/v1",
        "user:hush@x.example",
        "hush@[x.example",
        "https://user:hush@[x/v1",
        "https://x.example:port/v1?key=hush",
        "http://x.example/v1#hush",
    ],
)
@pytest.mark.parametrize("field", ["base_url", "console_url"])
def test_a_bad_url_does_not_show_a_password(url: str, field: str) -> None:
    """It may have one wherever somebody has put it."""
    try:
        config = read({field: url})
    except InvalidConnectionError as error:
        assert "hush" not in str(error) + repr(error.__cause__)  # noqa: PT017 - not each console URL is refused
    else:
        assert field == "console_url"
        assert "hush" not in repr(config)


@pytest.mark.parametrize("name", ["httpx", "urllib3.connectionpool", "httpcore.http11"])
def test_what_http_libraries_log_is_redacted(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """They log each URL: httpx at INFO, urllib3 at DEBUG."""
    config = read({"params": {"code": "hush hush"}, "api_version": "2025-04-01"})
    for _ in range(2):
        config.redact_log(name)
    with caplog.at_level("DEBUG", logger=name):
        logging.getLogger(name).info("HTTP Request: %s %s", "GET", "https://x/v1?code=hush+hush&a=2025-04-01")
    assert caplog.messages == ["HTTP Request: GET https://x/v1?code=***&a=***"]


def test_the_masks_for_all_logs() -> None:
    """With the forms in which a secret is sent; a version of Azure's API is a date, which others log too."""
    config = read({"params": {"code": "hush hush"}, "api_version": "2025-04-01"}, password="sk-longer-key")
    masks = config.masks
    assert {"sk-longer-key", "Bearer sk-longer-key", "hush hush", "hush%20hush", "hush+hush"} < set(masks)
    assert base64.b64encode(b"sk-longer-key").decode()[:17] in masks
    assert "2025-04-01" not in masks


@pytest.mark.parametrize("console", ["https://console.example/b", "https://console.example/b/"])
def test_a_link_to_a_batch(console: str) -> None:
    """The id is one step of the path, whatever is in it."""
    config = read({"console_url": console})
    assert config.batch_link("batch_1") == "https://console.example/b/batch_1"
    assert config.batch_link("../?") == "https://console.example/b/..%2F%3F"


def test_no_link_without_a_console() -> None:
    """If a gateway has such a page, its address is not known."""
    assert read(host="https://gateway.example/v1").batch_link("batch_1") is None
