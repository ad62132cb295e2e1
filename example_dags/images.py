"""Have one image made for each row, and write each to a file of its own."""

from __future__ import annotations

# [START images]
import base64
import os
from typing import Any

from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.results import read_results

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("images", schedule=None, tags=["openai"], doc_md=__doc__):
    posters = OpenAIBatchInferenceOperator(
        task_id="posters",
        endpoint="/v1/images/generations",
        model="gpt-image-1",
        input_uri=ROWS,
        id_column="iata",
        body={"prompt": "A travel poster for {city}", "size": "1024x1024"},
        output_uri=f"{WORK}/posters/{{{{ run_id }}}}",
        # Each line of the output has a whole image in it.
        max_requests_per_batch=500,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

    @task
    def write_files(summary: dict[str, Any]) -> int:
        """An output is a list of images; those of the rows are read one after the other."""
        folder = ObjectStoragePath(summary["output_uri"]) / "images"
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for row in read_results(summary):
            if row["status"] == "succeeded":
                image = base64.b64decode(row["output"][0]["b64_json"])
                (folder / f"{row['custom_id']}.png").write_bytes(image)
                count += 1
        return count

    write_files(posters.output)
# [END images]
