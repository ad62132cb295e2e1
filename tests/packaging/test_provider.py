"""What Airflow is told about this provider, against Airflow's own schemas and its own commands."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest

from airflow_provider_openai_batches.api import config
from airflow_provider_openai_batches.get_provider_info import get_provider_info

INFO = get_provider_info()
SCHEMAS = Path(airflow.__file__).parent
CONNECTION = INFO["connection-types"][0]


@pytest.mark.parametrize("name", ["provider.yaml.schema.json", "provider_info.schema.json"])
def test_the_provider_info_is_what_airflow_takes(name: str) -> None:
    """The schema of providers, and the one that is checked at run time."""
    path = SCHEMAS / name
    if not path.exists():
        assert name == "provider.yaml.schema.json"  # older Airflows do not ship it
        return
    info, schema = dict(INFO), json.loads(path.read_text())
    if name == "provider.yaml.schema.json":
        info |= {"source-date-epoch": 0, "versions": ["0.1.0"], "state": "ready", "lifecycle": "incubation"}
        if "cli" not in schema["properties"]:
            return  # the schema of an older Airflow's own providers
    jsonschema.validate(info, schema)


@pytest.mark.parametrize("field", sorted(CONNECTION["conn-fields"]))
def test_each_field_of_the_form_is_read(field: str) -> None:
    """A field that nothing reads is a typing error in one of the two places."""
    assert f'"{field}"' in Path(config.__file__).read_text()


def names(value: Any) -> list[str]:
    """Every dotted name in the provider info."""
    if isinstance(value, dict):
        return [name for item in value.values() for name in names(item)]
    if isinstance(value, list):
        return [name for item in value for name in names(item)]
    return [value] if isinstance(value, str) and value.startswith("airflow_provider_openai_batches.") else []


@pytest.mark.parametrize("name", sorted(set(names(INFO))))
def test_each_name_can_be_imported(name: str) -> None:
    """Modules, classes and functions."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, attribute = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), attribute)


def test_the_page_has_one_way_into_airflow() -> None:
    """Its entry point. A plugin that the provider info names too is reported as registered already."""
    assert "plugins" not in INFO
    entries = importlib.metadata.entry_points(group="airflow.plugins")
    assert [entry.value for entry in entries if entry.name == "openai_batches"] == [
        "airflow_provider_openai_batches.plugin:OpenAIBatchesPlugin"
    ]


def airflow_says(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "airflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_airflow_lists_the_provider(airflow_database: dict[str, str]) -> None:
    """By its two commands: the provider, and the hook of the connection type."""
    assert "airflow-provider-openai-batches" in airflow_says(
        "providers", "get", "airflow-provider-openai-batches"
    )
    hooks = json.loads(airflow_says("providers", "hooks", "--output", "json"))
    (ours,) = (hook for hook in hooks if hook["connection_type"] == "openai_batches")
    assert ours["hook_name"] == "OpenAI Batches"
    assert ours["class"].endswith("OpenAIBatchesHook")
