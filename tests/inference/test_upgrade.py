"""A job that the release before has in flight is continued, although its follow-ups have other keys."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import again, job, results, rows
from support import ENDPOINT, fresh, resume, task_context

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.base import task_identity

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

ROUND_0 = """{
 "digest": "DIGEST",
 "endpoint": "/v1/chat/completions",
 "rows": 4,
 "limits": {
  "max_requests": 2,
  "max_bytes": 200000000,
  "max_embedding_inputs": 50000
 },
 "shards": [
  {
   "index": 0,
   "round": 0,
   "model": "gpt-5-mini",
   "first_row": 0,
   "last_row": 1,
   "requests": 2,
   "bytes": 357,
   "embedding_inputs": 0,
   "estimated_tokens": 53,
   "sha256": "SHA_0"
  },
  {
   "index": 1,
   "round": 0,
   "model": "gpt-5-mini",
   "first_row": 2,
   "last_row": 3,
   "requests": 2,
   "bytes": 347,
   "embedding_inputs": 0,
   "estimated_tokens": 50,
   "sha256": "SHA_1"
  }"""
ROUND_1 = """,
  {
   "index": 2,
   "round": 1,
   "model": "gpt-5-mini",
   "first_row": 0,
   "last_row": 0,
   "requests": 1,
   "bytes": 184,
   "embedding_inputs": 0,
   "estimated_tokens": 28,
   "sha256": "SHA_2"
  }"""
END = """
 ]
}
"""
RECORDS = (
    '{"digest":"RESULTS","started":STARTED,"first_started":0,"since":null,"salt":"","by_shard":{'
    '"0":{"shard":0,"batch_id":"BATCH_0","status":"completed","input_file_id":"FILE_0","created_at":STARTED,'
    '"expires_at":EXPIRES,"completed":1,"failed":1,"total":2,"files":["BATCH_0-output.jsonl",'
    '"BATCH_0-errors.jsonl"]},'
    '"1":{"shard":1,"batch_id":"BATCH_1","status":"completed","input_file_id":"FILE_1","created_at":STARTED,'
    '"expires_at":EXPIRES,"completed":2,"total":2,"files":["BATCH_1-output.jsonl"]},'
    '"2":{"shard":2,"batch_id":"BATCH_2","status":"validating","input_file_id":"FILE_2","created_at":STARTED,'
    '"expires_at":EXPIRES}},'
    '"cut":[],"active_limit":null,"not_before":0,"setbacks":0,"stuck_since":null}'
)


class InFlight:
    """
    A job of the old code whose follow-up runs.

    Its first round is submitted by this code: both write the same request files and give them the same keys.
    """

    def __init__(self, server: DevServer, out: Path) -> None:
        self.server, self.out = server, out
        self.operator = job(out, requests=rows(4, {0: "fail:500*1"}), max_requests_per_batch=2)
        context = task_context(self.operator)
        with pytest.raises(TaskDeferred) as raised:
            self.operator.execute(context)
        self.deferral = raised.value
        (self.folder,) = (path for path in (out / "_job").iterdir() if path.is_dir())
        self.hook = OpenAIBatchesHook()
        first = server.batches()
        for batch in first:
            server.force(batch["id"], status="completed")
            done = self.hook.retrieve_batch(batch["id"])
            for file_id, kind in ((done.output_file_id, "output"), (done.error_file_id, "errors")):
                if file_id:
                    self.hook.download_file(file_id, self.folder / f"{done.id}-{kind}.jsonl")
        self.sha256 = self._write_follow_up()
        key = task_identity(context).key(self.sha256, 2)
        self.follow_up = self._submit(key, context)
        self._write_state([*first, self.follow_up])

    def _write_follow_up(self) -> str:
        line = (self.folder / "shard-00000.jsonl").read_bytes().splitlines(keepends=True)[0]
        (self.folder / "shard-00002.jsonl").write_bytes(line)
        (self.folder / "shard-00002.ids.jsonl").write_text("[0,1]\n")
        return hashlib.sha256(line).hexdigest()

    def _submit(self, key: str, context: Any) -> dict[str, Any]:
        source = io.BytesIO((self.folder / "shard-00002.jsonl").read_bytes())
        file = self.hook.upload_file(source, f"airflow-{key}.jsonl")
        created = self.hook.create_batch(file.id, ENDPOINT, metadata=task_identity(context).metadata(key))
        return next(batch for batch in self.server.batches() if batch["id"] == created.id)

    def _write_state(self, batches: list[dict[str, Any]]) -> None:
        written = json.loads((self.folder / "job.json").read_bytes())
        known = json.loads((self.folder / "batches.json").read_bytes())
        names = {
            "DIGEST": written["digest"],
            "RESULTS": known["digest"],
            "STARTED": str(int(known["started"])),
            "EXPIRES": str(batches[0]["expires_at"]),
            "SHA_0": written["shards"][0]["sha256"],
            "SHA_1": written["shards"][1]["sha256"],
            "SHA_2": self.sha256,
            **{f"BATCH_{number}": batch["id"] for number, batch in enumerate(batches)},
            **{f"FILE_{number}": batch["input_file_id"] for number, batch in enumerate(batches)},
        }
        for name, text in (("job.json", ROUND_0 + ROUND_1 + END), ("batches.json", RECORDS)):
            path = self.folder / name
            path.write_text(text)
            for before, after in names.items():
                path.write_text(path.read_text().replace(before, after))

    def check(self) -> None:
        """Nothing was asked anew and nothing was cancelled."""
        assert [row["status"] for row in results(self.out)] == ["succeeded"] * 4
        stats = self.server.stats()
        assert stats["paid_more_than_once"] == 0
        assert "cancel_batch" not in stats["requests"]
        assert stats["requests"]["create_batch"] == 3


@pytest.mark.parametrize("lost", ["nothing", "batches.json", "all"])
@pytest.mark.parametrize("is_over", [False, True])
def test_a_retry_takes_up_the_follow_up(server: DevServer, out: Path, lost: str, *, is_over: bool) -> None:
    """Whether it runs or is over, and whatever is left of the job's directory."""
    in_flight = InFlight(server, out)
    if is_over:
        server.force(in_flight.follow_up["id"], status="completed")
    if lost == "batches.json":
        (in_flight.folder / "batches.json").unlink()
    elif lost == "all":
        shutil.rmtree(out)
    assert again(in_flight.operator)["counts"]["succeeded"] == 4
    in_flight.check()


def test_a_wait_ends_with_the_new_code(server: DevServer, out: Path) -> None:
    """The task waits for the follow-up while Airflow is upgraded."""
    in_flight = InFlight(server, out)
    context = task_context(in_flight.operator)
    batch_id = in_flight.follow_up["id"]
    server.force(batch_id, status="completed")
    event = {"status": "finished", "message": "", "batches": {batch_id: "completed"}}
    summary = resume(fresh(in_flight.operator), context, event, in_flight.deferral.kwargs)
    assert summary["counts"]["succeeded"] == 4
    in_flight.check()


def test_rounds_that_were_stopped_do_not_count(server: DevServer, out: Path) -> None:
    """The old records name the rounds and not the shards."""
    operator = job(out, requests=rows(2), max_rounds=0)
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(task_context(operator))
    (batch_id,) = raised.value.trigger.batch_ids
    server.force(batch_id, status="cancelled")
    (folder,) = (path for path in (out / "_job").iterdir() if path.is_dir())
    known = json.loads((folder / "batches.json").read_bytes())
    (folder / "batches.json").write_text(
        f'{{"digest":"{known["digest"]}","started":{known["started"]},"first_started":0,"since":null,"salt":"",'
        f'"by_shard":{{"0":{{"shard":0,"batch_id":"{batch_id}","status":"cancelled","created_at":{known["started"]},'
        '"total":2,"files":[]}},"cut":[0],"active_limit":null,"not_before":0,"setbacks":0,"stuck_since":null}'
    )
    assert again(operator)["counts"]["succeeded"] == 2
    assert server.stats()["requests"]["create_batch"] == 2
