"""Requests that are answered at once, and the limits on how many of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from devserver_api import CHAT, Api, Clock

from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS
from airflow_provider_openai_batches.devserver.live import duration

if TYPE_CHECKING:
    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

CLOCK = Clock  # it stands still: limits fill up only when a test says so
CONTENT = {spec.path: spec.content for spec in ENDPOINTS.values()}


def ask(api: Api, path: str = CHAT, **body: Any) -> httpx.Response:
    content = [{"role": "user", "content": "hi"}] if path == CHAT else "hi"
    text = json.dumps({"model": "m", CONTENT[path]: content, **body})
    return api.http.post(path.removeprefix("/v1"), content=text)


def ids_removed(answer: dict[str, Any]) -> dict[str, Any]:
    """The ids of answers are made from the request line, and live there is none."""
    text = json.dumps({name: value for name, value in answer.items() if name != "id"})
    found = answer.get("id", "-").rpartition("_")[2].rpartition("-")[2]
    return dict(json.loads(text.replace(found, "ID") if found else text))


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_live_answer_is_that_of_a_batch(api: Api, clock: Clock, path: str) -> None:
    """Whatever the endpoint."""
    live = ask(api, path)
    assert live.status_code == 200
    assert b"\n" in live.content, "the service's own answers have several lines"
    body = json.loads(live.request.content)
    created = api.create([{"custom_id": "a", "method": "POST", "url": path, "body": body}], path)
    clock.now += 1
    batch = api.wait(created["id"])
    line = api.results(batch["output_file_id"])["a"]
    assert ids_removed(line["response"]["body"]) == ids_removed(live.json())


def test_addresses_of_azure(server: DevServer, api: Api) -> None:
    """The newer one, and the older one that names a deployment."""
    root = server.base_url.removesuffix("/v1")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    old = f"{root}/openai/deployments/mine/chat/completions?api-version=1"
    assert api.http.post(old, json=body).json()["model"] == "mine"
    assert api.http.post(f"{root}/openai/v1/chat/completions", json=body).status_code == 400
    assert api.http.post(f"{root}/openai/v1/chat/completions", json={**body, "model": "m"}).status_code == 200


def test_what_a_request_asks_for(server: DevServer, api: Api) -> None:
    """As in a batch; and each run of it counts."""
    quirk: dict[str, Any] = {"metadata": {"devserver": "fail:503*2"}}
    assert [ask(api, **quirk).status_code for _ in range(3)] == [503, 503, 200]
    assert ask(api, metadata={"devserver": "refuse"}).json()["choices"][0]["message"]["refusal"]
    assert api.http.post("/chat/completions", content=b"{").status_code == 400
    ask(api)
    ask(api)
    stats = server.stats()["live"]
    assert stats == {
        "rate_limited": 0,
        "executed": 6,
        "executed_distinct": 3,
        "paid": 4,
        "paid_distinct": 3,
        "paid_more_than_once": 1,
    }
    server.reset()
    assert server.stats()["live"]["executed"] == 0


def test_a_limit_of_requests(server: DevServer, api: Api, clock: Clock) -> None:
    """Each answer says what is left, and a 429 when to come again."""
    server.settings(requests_per_minute=3)
    first = ask(api).headers
    assert first["x-ratelimit-limit-requests"] == "3"
    assert [first["x-ratelimit-remaining-requests"], first["x-ratelimit-reset-requests"]] == ["2", "20s"]
    ask(api)
    assert ask(api).headers["x-ratelimit-reset-requests"] == "1m0s"
    over = ask(api)
    assert over.status_code == 429
    assert over.json()["error"]["code"] == "rate_limit_exceeded"
    assert over.json()["error"]["type"] == "requests"
    assert [over.headers[name] for name in ("retry-after", "retry-after-ms")] == ["20", "20000"]
    assert "Please try again in 20s" in over.json()["error"]["message"]
    clock.now += 20
    assert [ask(api).status_code for _ in range(2)] == [200, 429]
    assert server.stats()["live"]["rate_limited"] == 2
    assert server.stats()["requests"]["live"] == 6


def test_a_limit_of_tokens(server: DevServer, api: Api) -> None:
    """One that no wait can satisfy says so."""
    server.settings(tokens_per_minute=120, requests_per_minute=50)
    one = ask(api).headers
    assert 90 < int(one["x-ratelimit-remaining-tokens"]) < 110
    assert one["x-ratelimit-remaining-requests"] == "49"
    large = ask(api, metadata={"x": "x" * 600})
    assert large.status_code == 429
    assert large.json()["error"]["type"] == "tokens"
    assert "must be reduced" in large.json()["error"]["message"]
    assert "retry-after" not in large.headers
    assert ask(api).status_code == 200
    assert ask(api).headers["x-ratelimit-remaining-requests"] == "47", "a refusal counts for no limit"


def test_a_server_without_headers(server: DevServer, api: Api) -> None:
    """Only the 429 says something."""
    server.settings(requests_per_minute=1, rate_limit_headers=False)
    assert not [name for name in ask(api).headers if name.startswith("x-ratelimit")]
    over = ask(api)
    assert over.headers["retry-after-ms"] == "60000"
    assert "x-ratelimit-limit-requests" not in over.headers


def test_a_server_without_live_endpoints(server: DevServer, api: Api) -> None:
    """404, as for any unknown URL."""
    server.settings(live=False)
    missing = ask(api)
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "unknown_url"


def test_a_share_of_failures(server: DevServer, api: Api) -> None:
    """The same ones each time; asking again may succeed."""
    server.settings(live_failing=0.5, live_failure_status=502)
    seen = [ask(api, seed=number).status_code for number in range(40)]
    assert 8 < seen.count(502) < 32
    assert [ask(api, seed=number).status_code for number in range(40)] != seen
    server.reset()
    server.settings(live_failing=0.5, live_failure_status=502)
    assert [ask(api, seed=number).status_code for number in range(40)] == seen


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0ms"),
        (0.0199, "20ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3_602.5, "1h0m2.5s"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    """In the service's form."""
    assert duration(seconds) == words
