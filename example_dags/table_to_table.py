"""From table to table: the fields of a model become columns, and new rows join or replace older ones."""

from __future__ import annotations

# [START table_to_table]
import os
from typing import Literal

from airflow.sdk import DAG
from pydantic import BaseModel, Field

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

WORK = os.environ.get("EXAMPLE_WORK", "include")
DATABASE = "warehouse"


class Airport(BaseModel):
    """What to find out about each row; lists become JSON."""

    country: str = Field(description="The country's two-letter code")
    kind: Literal["international", "regional", "military", "private"]
    runways: int | None = Field(description="How many, if it is known")
    languages: list[str]


with DAG("table_to_table", schedule=None, tags=["openai"], doc_md=__doc__):
    airports = OpenAIBatchInferenceOperator(
        task_id="describe_places",
        endpoint="/v1/responses",
        model="gpt-5-mini",
        sql="SELECT iata, name, city FROM places ORDER BY iata",
        sql_conn_id=DATABASE,
        id_column="iata",
        keep_columns=["city"],
        body={"instructions": "Say what you know of this airport.", "input": "{name}, {city} ({iata})"},
        output_schema=Airport,
        retry_invalid=True,
        output_uri=f"{WORK}/airports/{{{{ run_id }}}}",
        output_format="parquet",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

    OpenAIBatchResultsToSqlOperator(
        task_id="write_airports",
        results=airports.output,
        conn_id=DATABASE,
        table="airports",
        columns={
            "iata": "custom_id",
            "city": "city",
            "country": "output.country",
            "kind": "output.kind",
            "runways": "output.runways",
            "languages": "output.languages",
        },
        key="iata",
        output_schema=Airport,
        retries=3,
    )
# [END table_to_table]
