"""Get values from a model as a pydantic object; a row whose answer does not fit is asked again."""

from __future__ import annotations

# [START structured_extraction]
import os
from typing import Literal

from airflow.sdk import DAG
from pydantic import BaseModel, Field

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")


class Place(BaseModel):
    """What to find out about each row."""

    country: str = Field(description="The country's two-letter code")
    kind: Literal["international", "regional", "military", "private"]
    runways: int | None = Field(description="How many, if it is known")


with DAG("structured_extraction", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="extract",
        endpoint="/v1/responses",
        model="gpt-5-mini",
        input_uri=ROWS,
        id_column="iata",
        keep_columns=["name"],
        body={"instructions": "Say what you know of this airport.", "input": "{name}, {city} ({iata})"},
        output_schema=Place,
        retry_invalid=True,
        output_uri=f"{WORK}/places/{{{{ run_id }}}}",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END structured_extraction]
