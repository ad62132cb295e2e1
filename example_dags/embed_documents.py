"""Turn a directory of texts into a Parquet file of embeddings, then find the texts nearest to the first."""

from __future__ import annotations

# [START embed_documents]
import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("embed_documents", schedule=None, tags=["openai"], doc_md=__doc__):
    embeddings = OpenAIBatchInferenceOperator(
        task_id="embed",
        endpoint="/v1/embeddings",
        model="text-embedding-3-small",
        input_uri=f"{WORK}/documents",
        id_column="path",
        body={"input": "{text}"},
        output_uri=f"{WORK}/embeddings/{{{{ run_id }}}}",
        output_format="parquet",
        fail_on="any",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

    @task
    def nearest(summary: dict[str, Any], count: int = 3) -> list[str]:
        """Compare by the inner product, because the embeddings have length 1."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - not when the DAG is parsed

        files = [str(Path(summary["output_uri"]) / part) for part in summary["parts"]]
        rows = pq.ParquetDataset(files).read(["custom_id", "output"]).to_pylist()
        first = rows[0]["output"]
        score = {row["custom_id"]: sum(map(float.__mul__, first, row["output"])) for row in rows[1:]}
        return sorted(score, key=lambda name: -score[name])[:count]

    nearest(embeddings.output)
# [END embed_documents]
