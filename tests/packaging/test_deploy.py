"""What `deploy/` says to Docker Compose, to Helm and to Airflow: names that exist, and no secrets."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import airflow
import pytest
import yaml
from airflow.configuration import conf
from import_graph import ROOT, no

from airflow_provider_openai_batches.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
HELM: dict[str, Any] = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text())
HELM_TEXT = (DEPLOY / "helm-values.yaml").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
EXAMPLE = (DEPLOY / "secrets.env.example").read_text()
SECRETS = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if line and line[0] != "#")
VERSION = re.findall(r"^AIRFLOW \?= (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
OPTION = re.compile(r"AIRFLOW__([A-Z_]+?)__(\w+)")
# The chart looks for one key in each Secret.
SECRET_KEYS = {
    "fernetKeySecretName": "fernet-key",
    "apiSecretKeySecretName": "api-secret-key",
    "jwtSecretName": "jwt-secret",
    "metadataSecretName": "connection",
    "resultBackendSecretName": "connection",
    "brokerUrlSecretName": "connection",
}
# The sections that providers bring which the plain suite does not install.
ELSEWHERE = {"celery"}
UNDOCUMENTED = {("scheduler", "num_stuck_in_queued_retries")}  # read by the scheduler, in no list of options


def options() -> Iterator[tuple[str, str, str]]:
    """Each option of Airflow that a file sets, with the file."""
    for path in [*DEPLOY.glob("*.*"), *DEPLOY.glob("cluster/*.py")]:
        for section, option in OPTION.findall(path.read_text()):
            yield str(path.relative_to(ROOT)), section.lower(), option.lower()
    for section, values in HELM["config"].items():
        for option in values:
            yield "deploy/helm-values.yaml", section, option


def is_known(section: str, option: str) -> bool:
    if section in ELSEWHERE or (section, option) in UNDOCUMENTED:
        return True
    known = {**conf.configuration_description, **get_provider_info()["config"]}
    return option in known.get(section, {}).get("options", {})


@pytest.mark.skipif(airflow.__version__ != VERSION, reason="other versions have other options")
def test_each_option_of_airflow_exists() -> None:
    found = set(options())
    assert ("deploy/docker-compose.yaml", "openai_batches", "deployment_id") in found
    no(
        "Airflow and this provider have no such option:",
        sorted(
            f"{file}: [{section}] {option}"
            for file, section, option in found
            if not is_known(section, option)
        ),
    )


def test_all_parts_of_airflow_are_there() -> None:
    commands = {name: service.get("command", []) for name, service in COMPOSE["services"].items()}
    assert ["api-server", "--apps", "core"] in commands.values()
    assert ["api-server", "--apps", "execution"] in commands.values()
    assert {"scheduler", "dag-processor", "triggerer"} <= {
        command[0] for command in commands.values() if command
    }
    assert COMPOSE["services"]["worker"]["command"] == ["celery", "worker"]
    for name in ("worker", "triggerer"):
        assert COMPOSE["services"][name]["deploy"]["replicas"] == 2
    assert HELM["workers"]["replicas"] == HELM["triggerer"]["replicas"] == 2
    assert HELM["executor"] == "CeleryExecutor"


def test_what_services_name_is_declared() -> None:
    services = COMPOSE["services"]
    volumes = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume[0].isalpha()
    ]
    assert set(volumes) == set(COMPOSE["volumes"])
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for other, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_healthy" or "healthcheck" in services[other], name


def test_the_hosts_in_urls_are_services() -> None:
    text = (DEPLOY / "docker-compose.yaml").read_text() + EXAMPLE
    hosts = set(re.findall(r"(?:http|redis)://([a-z-]+)[:/]", text)) | set(re.findall(r"@([a-z]+)/", text))
    assert hosts - {"localhost"} == {"execution-api", "redis", "minio", "postgres"}
    assert hosts - {"localhost"} <= set(COMPOSE["services"])


def test_secrets_are_in_the_secret_file_alone() -> None:
    assert COMPOSE["x-airflow"]["env_file"] == "secrets.env"
    assert "deploy/secrets.env" in (ROOT / ".gitignore").read_text().splitlines()
    for name, service in COMPOSE["services"].items():
        secret = [
            key
            for key in service.get("environment", {})
            if re.search(r"PASSWORD|_KEY$|SECRET|^AIRFLOW_CONN_", key)
        ]
        no(f"{name} has secrets in its environment:", secret)
    assert {"AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__CORE__FERNET_KEY"} <= set(
        SECRETS
    )
    assert {"POSTGRES_PASSWORD", "MINIO_ROOT_PASSWORD"} <= set(SECRETS)


@pytest.mark.parametrize("name", [name for name in SECRETS if name.startswith("AIRFLOW_CONN_")])
def test_the_connections_can_be_read(name: str) -> None:
    types = {"AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT": "openai_batches", "AIRFLOW_CONN_AWS_DEFAULT": "aws"}
    assert json.loads(SECRETS[name])["conn_type"] == types[name]


@pytest.mark.parametrize("setting", SECRET_KEYS)
def test_the_values_say_which_secrets_to_make(setting: str) -> None:
    secret = {**HELM, **HELM["data"]}[setting]
    assert re.search(rf"^#   {secret} +{SECRET_KEYS[setting]}( |$)", HELM_TEXT, re.MULTILINE)


def test_the_connection_of_the_values_is_one_of_those_secrets() -> None:
    [connection] = HELM["secret"]
    assert connection["envName"] in SECRETS
    assert re.search(rf"^#   {connection['secretName']} +{connection['secretKey']} ", HELM_TEXT, re.MULTILINE)


def test_the_versions_are_those_of_the_project() -> None:
    assert f"FROM apache/airflow:{VERSION}-python3.12" in DOCKERFILE
    assert HELM["airflowVersion"] == HELM["defaultAirflowTag"] == VERSION
    assert f"apache-airflow=={VERSION}" in (DEPLOY / "cluster" / "requirements.txt").read_text()


def test_the_image_gets_what_the_wheel_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == needed
