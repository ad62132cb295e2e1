"""An account with batches of every kind, as a busy team would have it."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

from airflow_provider_openai_batches.idempotency.keys import TaskIdentity

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
HOUR = 3600
# The deployment_id of the Airflow whose tasks made the batches.
DEPLOYMENT = "production"


def body(endpoint: str, model: str, quirk: str | None) -> dict[str, Any]:
    content = {"input": "a"} if endpoint == EMBEDDINGS else {"messages": [{"role": "user", "content": "hi"}]}
    return {"model": model, **content, **({"metadata": {"devserver": quirk}} if quirk else {})}


def create(
    server: DevServer,
    *,
    endpoint: str = CHAT,
    model: str = "gpt-5-mini",
    quirks: tuple[str | None, ...] = (None, None, None),
    metadata: dict[str, str] | None = None,
) -> str:
    """Upload an input file and create its batch, as the provider does; its id."""
    lines = [
        {"custom_id": f"row-{n}", "method": "POST", "url": endpoint, "body": body(endpoint, model, quirk)}
        for n, quirk in enumerate(quirks)
    ]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with httpx.Client(
        base_url=server.base_url, headers={"Authorization": "Bearer k"}, trust_env=False
    ) as http:
        file = http.post("/files", data={"purpose": "batch"}, files={"file": ("requests.jsonl", content)})
        params = {"input_file_id": file.json()["id"], "endpoint": endpoint, "completion_window": "24h"}
        answer = http.post("/batches", json={**params, "metadata": metadata or {}})
    return str(answer.raise_for_status().json()["id"])


def made_by(dag: str, run: str, task: str, index: int = -1, deployment: str = DEPLOYMENT) -> dict[str, str]:
    """The metadata that this provider gives to a batch."""
    identity = TaskIdentity(deployment, dag, run, task, index)
    return identity.metadata(identity.key("input"))


def scheduled(now: int, days: int, hour: int) -> str:
    day = datetime.fromtimestamp(now, UTC).replace(hour=hour, minute=0, second=0) - timedelta(days=days)
    return f"scheduled__{day.isoformat()}"


def manual(seconds: int) -> str:
    return f"manual__{datetime.fromtimestamp(seconds, UTC).isoformat()}"


def usage(input_tokens: int, output_tokens: int, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


class Scene:
    """Makes batches and sets what they show; ``ids`` names them by that."""

    def __init__(self, server: DevServer) -> None:
        self.server = server
        self.now = int(time.time())
        self.ids: dict[str, str] = {}

    def add(
        self,
        name: str,
        status: str,
        counts: tuple[int, int, int],
        created: int,
        *,
        metadata: dict[str, str],
        used: dict[str, Any] | None = None,
        errors: list[dict[str, Any]] | None = None,
        model: str = "gpt-5-mini",
        endpoint: str = CHAT,
        quirks: tuple[str | None, ...] = (None, None, None),
        **ages: int,
    ) -> None:
        """``counts`` are total, completed, failed; ``created`` and ``ages`` are seconds ago."""
        batch_id = create(self.server, endpoint=endpoint, model=model, quirks=quirks, metadata=metadata)
        _wait(self.server, batch_id)
        if status in {"failed", "expired", "cancelled"}:
            self.server.force(batch_id, status=status)
        elif status != "completed":
            self.server.force(batch_id, status=status, stuck=True)
        times = {f"{what}_at": self.now - age for what, age in ages.items()}
        self.server.force(
            batch_id,
            model=model,
            usage=used,
            request_counts=dict(zip(("total", "completed", "failed"), counts, strict=True)),
            created_at=self.now - created,
            expires_at=self.now - created + 24 * HOUR,
            errors={"object": "list", "data": errors} if errors else None,
            **times,
        )
        self.ids[name] = batch_id


def arrange(server: DevServer) -> dict[str, str]:
    """Fill the account, oldest first; returns the ids by what they show."""
    scene = Scene(server)
    now = scene.now
    last_night = scheduled(now, 0, 2)

    def classify(run: str, index: int = -1) -> dict[str, str]:
        return made_by("classify_reviews", run, "classify", index)

    def summarise(days: int) -> dict[str, str]:
        return made_by("nightly_summaries", scheduled(now, days, 2), "summarise")

    def embed(days: int) -> dict[str, str]:
        return made_by("embed_products", scheduled(now, days, 0), "embed")

    large: Any = {"model": "text-embedding-3-large", "endpoint": EMBEDDINGS}
    bad_lines = [
        {"code": "invalid_json_line", "line": 17, "message": "This line is not parseable as valid JSON."},
        {
            "code": "duplicate_custom_id",
            "line": 241,
            "message": "This custom_id was used before in this file.",
        },
    ]
    # fmt: off
    failing = ("fail:400", "fail:429", None, "fail:500", None, None)
    scene.add(
        "expired", "expired", (20_000, 18_204, 0), 49 * HOUR, metadata=summarise(2), model="gpt-5",
        used=usage(31_200_400, 4_100_220, reasoning=901_000), expired=25 * HOUR,
    )
    scene.add(
        "embedded", "completed", (48_000, 48_000, 0), 26 * HOUR, metadata=embed(1), **large,
        used=usage(9_640_118, 0), completed=25 * HOUR,
    )
    scene.add(
        "invalid", "failed", (0, 0, 0), 20 * HOUR, metadata=classify(manual(now - 20 * HOUR)),
        errors=bad_lines, failed=20 * HOUR - 41,
    )
    scene.add(
        "cancelled", "cancelled", (20_000, 6_310, 0), 18 * HOUR, metadata=summarise(1), model="gpt-5",
        used=usage(10_804_000, 1_402_118), cancelled=17 * HOUR,
    )
    scene.add(
        "foreign", "completed", (3_000, 3_000, 0), 9 * HOUR, model="gpt-5-nano",
        metadata={"team": "search", "purpose": "query rewriting, autumn trial"},
        used=usage(1_204_000, 220_040), completed=8 * HOUR,
    )
    scene.add(
        "partly", "completed", (5_000, 4_962, 38), 6 * HOUR, quirks=failing,
        metadata={**classify(last_night, 0), "source": "s3://reviews/part-0.jsonl"},
        used=usage(3_402_118, 604_210, cached=1_200_000),
        in_progress=6 * HOUR - 90, finalizing=5 * HOUR + 60, completed=5 * HOUR,
    )
    scene.add(
        "whole", "completed", (5_000, 5_000, 0), 6 * HOUR - 2, metadata=classify(last_night, 1),
        used=usage(3_390_200, 611_900, cached=1_180_000), completed=5 * HOUR + 300,
    )
    scene.add(
        "finalizing", "finalizing", (48_000, 48_000, 0), 3 * HOUR, metadata=embed(0), **large,
        in_progress=3 * HOUR - 120, finalizing=60,
    )
    scene.add(
        "running", "in_progress", (20_000, 13_420, 17), 95 * 60, metadata=summarise(0), model="gpt-5",
        in_progress=90 * 60,
    )
    scene.add(
        "cancelling", "cancelling", (5_000, 1_804, 0), 41 * 60, metadata=classify(manual(now - 41 * 60)),
        in_progress=40 * 60, cancelling=120,
    )
    scene.add("validating", "validating", (0, 0, 0), 20, metadata=classify(manual(now - 30)))
    # fmt: on
    return scene.ids


# DAG, task, model, millions of tokens a day
DAILY = (
    ("nightly_summaries", "summarise", "gpt-5", 6.0),
    ("classify_reviews", "classify", "gpt-5-mini", 22.0),
    ("embed_products", "embed", "text-embedding-3-large", 30.0),
)


def fill_month(server: DevServer) -> None:
    """A batch of each DAG on each of the last 28 days, with what it used."""
    chance = random.Random(5)  # noqa: S311 - always the same
    last = int(time.time()) - 60
    made = [
        (made_by(dag, f"scheduled__{day}", task), model, last - day * 24 * HOUR, millions)
        for day in range(28)
        for dag, task, model, millions in DAILY
    ]
    server.seed(len(made), metadata=[metadata for metadata, *_ in made], spread_seconds=28 * 24 * HOUR)
    headers = {"Authorization": "Bearer k"}
    answer = httpx.get(f"{server.base_url}/batches?limit=100", headers=headers, trust_env=False)
    for batch, (_, model, created, millions) in zip(answer.json()["data"], made, strict=True):
        tokens = int(millions * 1_000_000 * chance.triangular(0.2, 2.0, 0.8))
        server.force(
            batch["id"],
            model=model,
            created_at=created,
            usage=usage(tokens, 0 if "embedding" in model else tokens // 9),
            request_counts={"total": tokens // 900, "completed": tokens // 900, "failed": 0},
        )


def _wait(server: DevServer, batch_id: str) -> None:
    """Wait until the server has done its work, so that it does not overwrite what is set afterwards."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if any(batch["id"] == batch_id and batch["status"] == "completed" for batch in server.batches()):
            return
        time.sleep(0.05)
    raise TimeoutError(f"Batch {batch_id} was not done in 10 s.")
