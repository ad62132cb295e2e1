"""Run the OpenAI Batch API from Apache Airflow."""
