"""``cost`` and ``estimate``: sums of an account, and of a file; worked out by hand."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from scene import create, made_by
from support import until

from airflow_provider_openai_batches.cli import _since

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

    Run = Callable[..., Any]

CONN = "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"
# gpt-5-mini: https://developers.openai.com/api/docs/pricing
MINI = {"input": 0.25, "cached_input": 0.025, "output": 2.0}
DAY = 86_400


@pytest.fixture
def priced(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> DevServer:
    """A dev server in which nothing changes, and whose connection has a price."""
    connection = json.loads(os.environ[CONN])
    monkeypatch.setenv(
        CONN, json.dumps({**connection, "extra": json.dumps({"prices": {"gpt-5-mini": MINI}})})
    )
    return server


def add(
    server: DevServer,
    *,
    given: int = 1_000_000,
    ago: float = 60,
    status: str = "completed",
    metadata: dict[str, str] | None = None,
    **fields: Any,
) -> None:
    """Add a batch; one of a million input tokens costs an eighth of a dollar."""
    batch_id = create(server, metadata=metadata)
    until(
        lambda: any(batch["id"] == batch_id and batch["status"] == "completed" for batch in server.batches())
    )
    if status != "completed":
        server.force(batch_id, status=status, stuck=True)
    shown = {
        "usage": {"input_tokens": given, "output_tokens": 0, "total_tokens": given},
        "request_counts": {"total": 10, "completed": 10, "failed": 0},
        "created_at": int(time.time() - ago),
    }
    server.force(batch_id, **{**shown, **fields})


def cost(run: Run, *arguments: str) -> Any:
    done = run("cost", "--output", "json", *arguments)
    assert done.code == 0
    return json.loads(done.out)


def test_by_dag(run: Run, priced: DevServer) -> None:
    """The one that cost most comes first, and batches of nobody are a group; the last line is the total."""
    for _ in range(2):
        add(priced, metadata=made_by("reviews", "r", "ask"))
    add(priced, given=4_000_000, metadata=made_by("products", "r", "embed"))
    add(priced)
    done = run("cost")
    assert done.code == 0
    header, _, *lines = done.out.splitlines()
    assert [word.strip() for word in header.split("|")] == [
        "dag_id", "batches", "completed", "failed", "input", "cached", "output", "cost"
    ]  # fmt: skip
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.strip()]
    assert cells == [
        ["products", "1", "10", "0", "4,000,000", "0", "0", "$0.50"],
        ["reviews", "2", "20", "0", "2,000,000", "0", "0", "$0.25"],
        ["-", "1", "10", "0", "1,000,000", "0", "0", "$0.12"],
        ["total", "4", "40", "0", "7,000,000", "0", "0", "$0.88"],
    ]
    assert "manifest.json" in done.err


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_exact_numbers(run: Run, priced: DevServer, output: str, read: Callable[[str], Any]) -> None:
    """For programs, in full."""
    add(priced, given=1_000_001, metadata=made_by("reviews", "r", "ask"))
    found = read(run("cost", "--output", output).out)
    total = found["total"]
    assert (total["tokens"]["input"], total["cost_usd"], total["is_known"]) == (1_000_001, 0.125000125, True)
    assert found["groups"] == [{"group": {"dag_id": "reviews"}, **total}]
    assert found["others"] is None


def test_by_several_and_by_metadata(run: Run, priced: DevServer) -> None:
    """Words with commas and words given again, and a key with the name of a column."""
    add(priced, metadata={**made_by("reviews", "r", "ask"), "team": "red", "cost": "c1"})
    for arguments in (("--by", "team,model"), ("--by", "team", "--by", "model")):
        groups = cost(run, *arguments)["groups"]
        assert [group["group"] for group in groups] == [{"team": "red", "model": "gpt-5-mini"}]
    assert [group["group"] for group in cost(run, "--by", "task")["groups"]] == [
        {"dag_id": "reviews", "task_id": "ask"}
    ]
    done = run("cost", "--by", "cost", "--output", "plain")
    assert done.out.split()[0] == "metadata.cost"
    assert "c1" in done.out
    assert "$0.12" in done.out


def test_since(run: Run, priced: DevServer) -> None:
    """Seven days by default; what is older is not counted, also where pages have it."""
    add(priced, ago=30 * DAY)
    add(priced, ago=3 * DAY)
    add(priced, ago=3 * DAY)
    add(priced, ago=300)
    assert cost(run)["total"]["batches"] == 3
    assert cost(run, "--since", "1d")["total"]["batches"] == 1
    assert cost(run, "--since", "5w")["total"]["batches"] == 4
    assert cost(run, "--since", "2020-01-01")["total"]["batches"] == 4
    in_the_way = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 200))
    assert cost(run, "--since", in_the_way)["total"]["batches"] == 0


def test_times() -> None:
    """Lengths of time, days and times; those without a zone are UTC."""
    assert _since("36h") == pytest.approx(time.time() - 36 * 3600, abs=60)
    assert _since("2026-01-01") == 1_767_225_600
    assert _since("2026-01-01T02:00:00+02:00") == 1_767_225_600
    assert _since("9999999w") == 0


@pytest.mark.parametrize("text", ["7", "d", "-7d", "7 days", "yesterday", "2026-13-01", "", "٣d"])
def test_bad_times(run: Run, text: str) -> None:
    """They are refused before anything is asked."""
    done = run("cost", f"--since={text}")
    assert done.code == 2
    assert "such as 36h, 7d or 4w" in done.err


def test_a_bad_group(run: Run, priced: DevServer) -> None:
    """Nothing is asked of the service."""
    done = run("cost", "--by", "dag,")
    assert (done.code, priced.stats()["requests"]) == (2, {})
    assert "An empty word groups nothing" in done.err


def test_what_is_missing(run: Run, priced: DevServer) -> None:
    """Models without a price, batches without usage and running ones are counted, and said."""
    add(priced)
    add(priced, model="mine")
    add(priced, usage=None)
    for _ in range(2):
        add(priced, status="in_progress", usage=None)
    done = run("cost", "--output", "plain")
    assert "≥ $0.12" in done.out
    assert "Batches that still run, and cost more by their end: 2." in done.err
    assert "do not say what they used: 1." in done.err
    assert "Without a price: mine. To have one: enter them in the connection's field 'prices'" in done.err
    total = cost(run)["total"]
    assert (total["running"], total["without_usage"], total["is_known"]) == (2, 1, False)


def test_the_limit_is_of_groups(run: Run, priced: DevServer) -> None:
    """All others are one line, and the total has them."""
    for team, given in (("a", 1_000_000), ("b", 2_000_000), ("c", 3_000_000)):
        add(priced, given=given, metadata={"team": team})
    found = cost(run, "--by", "team", "--limit", "1")
    assert [group["group"]["team"] for group in found["groups"]] == ["c"]
    assert (found["others"]["batches"], found["total"]["batches"]) == (2, 3)
    assert "all others" in run("cost", "--by", "team", "--limit", "1").out


def test_hostile_metadata(run: Run, priced: DevServer) -> None:
    """A terminal gets no control characters."""
    add(priced, metadata={"team": "[red]x[/red]\x1b[2J\u202e"}, model="m\x1b[2J")
    done = run("cost", "--by", "team")
    assert "\x1b" not in done.out + done.err
    assert "[red]x" in done.out


def requests_in(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "x" * 4_000}], **more}


def estimated(run: Run, *arguments: str) -> Any:
    done = run("estimate", "--output", "json", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_estimate(run: Run, priced: DevServer, tmp_path: Path) -> None:
    """Two bodies with a limit of 100,000 output tokens each: 200,000 x 2 live, and half of it in batches."""
    file = requests_in(tmp_path / "in.jsonl", *[body(max_completion_tokens=100_000)] * 2)
    found = estimated(run, file)
    assert (found["rows"], found["batches"], found["output_tokens"], found["basis"]) == (
        2,
        1,
        200_000,
        "most",
    )
    assert 2_000 < found["input_tokens"] < 2_100
    usd = (found["input_tokens"] * 0.25 + 200_000 * 2) / 1e6
    assert found["cost_usd"]["live"] == pytest.approx(usd)
    assert found["cost_usd"]["batch"] == pytest.approx(usd / 2)
    assert found["is_known"]
    done = run("estimate", file)
    assert "the most that the requests allow" in done.out
    assert "Nothing was sent." in done.err
    assert priced.stats()["requests"] == {}


def test_every_kind_of_row(run: Run, priced: DevServer, tmp_path: Path) -> None:
    """Prompts, bodies and whole lines, with a blank line between; and a number of output tokens for each."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body()}
    file = tmp_path / "in.jsonl"
    requests_in(file, "a prompt", body(model="other"), line)
    file.write_text(file.read_text().replace("\n", "\n\n", 1))
    found = estimated(run, str(file), "--model", "gpt-5-mini", "--output-tokens", "500")
    assert (found["rows"], found["batches"], found["output_tokens"], found["basis"]) == (3, 2, 1_500, "given")
    assert found["models_without_price"] == ["other"]
    assert not found["is_known"]
    assert (
        "--output-tokens for each request" in run("estimate", str(file), "--model=m", "--output-tokens=5").out
    )


def test_unknown_output(run: Run, priced: DevServer, tmp_path: Path) -> None:
    """The cost is a lower bound, and it is said what to do."""
    done = run("estimate", requests_in(tmp_path / "in.jsonl", body()))
    assert "≥ $0.000" in done.out
    assert "Give --output-tokens for each request" in done.err


def test_embeddings_in_a_table(run: Run, priced: DevServer, tmp_path: Path) -> None:
    """Whatever input_uri takes, if its rows are bodies."""
    file = tmp_path / "in.csv"
    file.write_text("model,input\ntext-embedding-3-small,hello\n")
    found = estimated(run, str(file), "--endpoint", "/v1/embeddings")
    assert (found["rows"], found["output_tokens"]) == (1, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"a"\n{"model": 7, "messages": []}\n', "in.jsonl, line 2: Row 1: its model is 7"),
        ('"a"\n\n\n{"x": 1}\n"b"\n', "in.jsonl, line 4: Row 1: a body for chat/completions needs 'messages'"),
        ('"a"\n[1]\n', "in.jsonl, line 2: neither a prompt in quotes nor a JSON object: "),
        ('"a"\n{"x": \n', "in.jsonl, line 2: neither a prompt in quotes nor a JSON object: "),
        (b'"a"\n"\xff"\n', "in.jsonl, line 2: neither a prompt"),
        ("\n", "in.jsonl: The job has no rows"),
    ],
)
def test_bad_rows(run: Run, priced: DevServer, tmp_path: Path, content: str | bytes, said: str) -> None:
    """File and line are named."""
    file = tmp_path / "in.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("estimate", str(file), "--model", "gpt-5-mini")
    assert done.code == 2
    assert said in done.err


def test_an_id_that_occurs_twice(run: Run, priced: DevServer, tmp_path: Path) -> None:
    """It is found when all rows are read, so the last line is not to blame."""
    line = {"custom_id": "a", "body": body()}
    done = run("estimate", requests_in(tmp_path / "in.jsonl", line, line, body()))
    assert done.code == 2
    assert "in.jsonl: " in done.err


def test_a_missing_file(run: Run, priced: DevServer, tmp_path: Path) -> None:
    done = run("estimate", str(tmp_path / "no.jsonl"))
    assert (done.code, "no.jsonl does not exist" in done.err) == (2, True)
    assert done.err.count("no.jsonl") == 1


def test_before_there_is_a_connection(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's list prices; but a connection that was named must be there."""
    pytest.importorskip("genai_prices")
    monkeypatch.delenv(CONN, raising=False)
    file = requests_in(tmp_path / "in.jsonl", body(max_completion_tokens=100_000))
    done = run("estimate", file, "--output", "json")
    assert json.loads(done.out)["is_known"]
    assert "There is no connection 'openai_batches_default' yet: these are OpenAI's list prices." in done.err
    done = run("estimate", file, "--conn-id", "mine")
    assert (done.code, "There is no connection 'mine'" in done.err) == (2, True)


def test_nothing_stays_on_the_disk(
    run: Run, priced: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests may be data that nobody else is to see."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    estimated(run, requests_in(tmp_path / "in.jsonl", body()))
    run("estimate", requests_in(tmp_path / "bad.jsonl", body(), {"x": 1}))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("uri", ["s3://bucket/in.jsonl", "s3://bucket/in.csv", "nowhere://in.jsonl"])
def test_a_file_that_no_client_can_read(run: Run, priced: DevServer, uri: str) -> None:
    """The client of the store is not installed, or there is none for the scheme."""
    done = run("estimate", uri, "--model", "gpt-5-mini")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {uri} cannot be read: ")


@pytest.mark.parametrize("key", ["[red]team", "te\x1bam", "te\udcffam"])
def test_a_key_with_signs_that_a_terminal_cannot_show(run: Run, priced: DevServer, key: str) -> None:
    done = run("cost", "--by", key)
    assert done.code == 0
    assert (key if key.isprintable() else "te\N{REPLACEMENT CHARACTER}am") in done.out
