"""The provider's metadata: a literal that imports nothing, so that Airflow's discovery stays quick."""

from __future__ import annotations

from typing import Any

NAME = "OpenAI Batches"
PACKAGE = "airflow_provider_openai_batches"


def get_provider_info() -> dict[str, Any]:
    return {
        "package-name": "airflow-provider-openai-batches",
        "name": NAME,
        "description": "Run the `OpenAI Batch API <https://developers.openai.com/api/docs/guides/batch>`__.",
        "integrations": [
            {
                "integration-name": NAME,
                "external-doc-url": "https://developers.openai.com/api/docs/guides/batch",
                "tags": ["ai", "ai-inference", "llm", "openai"],
            }
        ],
        "hooks": [{"integration-name": NAME, "python-modules": [f"{PACKAGE}.hooks.openai_batches"]}],
        "operators": [
            {
                "integration-name": NAME,
                "python-modules": [
                    f"{PACKAGE}.operators.openai_batches",
                    f"{PACKAGE}.operators.inference",
                ],
            }
        ],
        "transfers": [
            {
                "source-integration-name": NAME,
                "target-integration-name": "Common SQL",
                "python-module": f"{PACKAGE}.transfers.openai_batch_results_to_sql",
            },
            {
                "source-integration-name": NAME,
                "target-integration-name": "Delta Lake",
                "python-module": f"{PACKAGE}.transfers.openai_batch_results_to_delta",
            },
        ],
        "sensors": [{"integration-name": NAME, "python-modules": [f"{PACKAGE}.sensors.openai_batches"]}],
        "triggers": [
            {
                "integration-name": NAME,
                "python-modules": [f"{PACKAGE}.triggers.openai_batches", f"{PACKAGE}.triggers.batch_ended"],
            }
        ],
        "task-decorators": [
            {
                "name": "openai_batch",
                "class-name": f"{PACKAGE}.decorators.openai_batch.openai_batch_task",
            }
        ],
        "extra-links": [f"{PACKAGE}.links.OpenAIBatchLink", f"{PACKAGE}.links.OpenAIBatchJobLink"],
        "cli": [f"{PACKAGE}.cli.get_commands"],
        "connection-types": [_connection_type()],
        "config": _config(),
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "openai_batches",
        "hook-class-name": f"{PACKAGE}.hooks.openai_batches.OpenAIBatchesHook",
        "hook-name": NAME,
        "ui-field-behaviour": {
            "hidden-fields": ["login", "schema", "port"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {
                "host": "https://api.openai.com/v1",
                "password": "if empty: OPENAI_API_KEY of the worker and triggerer, for api.openai.com",
            },
        },
        "conn-fields": {
            "organization": _field("Organization", "Sent as OpenAI-Organization."),
            "project": _field("Project", "Sent as OpenAI-Project."),
            "timeout": _field(
                "Read time-out", "Seconds to wait for the next bytes of an answer; 60 if empty.", "number"
            ),
            "connect_timeout": _field(
                "Connect time-out", "Seconds to wait for a connection; 10 if empty.", "number"
            ),
            "max_attempts": _field(
                "Attempts", "How many times a request is sent at most; 6 if empty.", "integer"
            ),
            "enqueued_token_limits": _field(
                "Enqueued-token limits",
                "A JSON object of the tokens that may be in line at the service, by model. Learnt if empty.",
                "object",
            ),
            "prices": _field(
                "Prices",
                'A JSON object of US dollars for a million tokens, by model: {"my-model": {"input": 0.25, '
                '"cached_input": 0.025, "output": 2}}. OpenAI\'s list prices if empty.',
                "object",
            ),
            "batch_discount": _field(
                "Batch discount", "The part of the price that a batch costs; 0.5 if empty.", "number"
            ),
            "headers": _field("Headers", "A JSON object of extra headers, for a gateway.", "object"),
            "params": _field(
                "Query parameters", "A JSON object of parameters for every request, for a gateway.", "object"
            ),
            "api_type": {
                "label": "API type",
                "description": "azure sends the key as api-key.",
                "schema": {"type": ["string", "null"], "enum": ["openai", "azure"], "default": "openai"},
            },
            "api_version": _field("API version", "Azure's api-version parameter, where it needs one."),
            "console_url": _field("Console URL", "Where people look at batches; the batch's id is appended."),
            "use_environment_key": {
                "label": "Use OPENAI_API_KEY",
                "description": "Send the key of the environment to this host; api.openai.com gets it anyway.",
                "schema": {"type": ["boolean", "null"], "default": False},
            },
            "allow_http": {
                "label": "Allow plain http",
                "description": "Send the key unencrypted, even to another host.",
                "schema": {"type": ["boolean", "null"], "default": False},
            },
        },
    }


def _field(label: str, description: str, kind: str = "string") -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": [kind, "null"]}}


def _config() -> dict[str, Any]:
    return {
        "openai_batches": {
            "description": "How batches are told apart and found again.",
            "options": {
                "deployment_id": {
                    "description": (
                        "Names this Airflow in the keys of its batches, so that two deployments on one API "
                        "key never take each other's. Use one value on all nodes of one Airflow. "
                        "If it is empty, [api] base_url stands for it, and a later try also goes by DAG, "
                        "run, task and input.\n"
                    ),
                    "version_added": "0.1.0",
                    "type": "string",
                    "example": "production",
                    "default": "",
                },
                "recovery_seconds": {
                    "description": (
                        "If the answer to the creation of a batch is lost: how many seconds to look for the "
                        "batch before the creation is sent again.\n"
                    ),
                    "version_added": "0.1.0",
                    "type": "float",
                    "example": None,
                    "default": "30",
                },
            },
        }
    }
