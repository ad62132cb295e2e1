"""What a job puts into XCom stays small, whatever the service says about the rows that failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support import ENDPOINT, run_task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

LONG = 900
FAILED = 40


def result(number: int) -> dict[str, Any]:
    """A row's line of results; all but the first failed, each with a code and a long message of its own."""
    error = {"code": f"code_{number:03}_{'c' * LONG}", "message": f"message {number:03} {'m' * LONG}"}
    message = {"role": "assistant", "content": "an answer"}
    response: dict[str, Any] = {"status_code": 400, "body": {"error": error}}
    if number == 0:
        response = {
            "status_code": 200,
            "body": {"choices": [{"message": message, "finish_reason": "length"}]},
        }
    return {"id": f"r{number}", "custom_id": f"k{number}", "response": response, "error": None}


def test_many_codes_and_long_messages_make_a_small_summary(server: DevServer, tmp_path: Path) -> None:
    """The most frequent codes, and the beginning of what each of them says; all of it is in the manifest."""
    lines = "".join(json.dumps(result(number)) + "\n" for number in range(FAILED + 1))
    server.faults([{"operation": "download_file", "action": "status", "status": 200, "body": lines}])
    operator = OpenAIBatchInferenceOperator(
        task_id="t",
        endpoint=ENDPOINT,
        model="gpt-5-mini",
        requests=[{"key": f"k{number}", "text": "hi"} for number in range(FAILED + 1)],
        id_column="key",
        body={"messages": [{"role": "user", "content": "{text}"}]},
        output_uri=str(tmp_path / "out"),
        fail_on="none",
        max_rounds=0,
        poll_interval=0.05,
    )
    summary = run_task(operator)
    assert summary["counts"]["succeeded"] == 1
    assert summary["errors_total"] == FAILED
    assert summary["truncated"] == 1
    assert 5 <= len(summary["errors"]) <= FAILED / 2
    for code, group in summary["errors"].items():
        assert group["message"].startswith(f"message {code[5:8]} mmm")
        assert max(map(len, (code, group["message"]))) < LONG / 2
    assert len(json.dumps(summary)) < 20_000
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert len(manifest["errors"]) == FAILED
