"""How a job sits in a DAG: the decorator, another task's output, lineage, names."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from inferencekit import Crash, again, job, results, rows
from support import ENDPOINT, as_stored, run_task, task_context

from airflow_provider_openai_batches.decorators.openai_batch import openai_batch_task
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def decorated(function: Any, out: Path, *arguments: Any, **kwargs: Any) -> Any:
    """The operator that ``@task.openai_batch`` makes."""
    given = {"endpoint": ENDPOINT, "model": "m", "output_uri": str(out), "poll_interval": 0.05, **kwargs}
    with DAG("d", schedule=None):
        task: Any = openai_batch_task(function, **given)
        return task(*arguments).operator


def test_a_function_that_yields(server: DevServer, out: Path) -> None:
    """It yields one row at a time; the next try calls it again, and pays for nothing twice."""
    in_memory = []

    def prompts(count: int) -> Iterator[str]:
        for number in range(count):
            in_memory.append(number)
            yield f"prompt {number}"

    operator = decorated(prompts, out, 6, max_requests_per_batch=2)
    run_task(operator)
    assert [row["output"].partition(" to: ")[2] for row in results(out)] == [f"prompt {n}" for n in range(6)]
    again(operator)
    assert in_memory == [*range(6), *range(6)]
    assert server.stats()["paid_more_than_once"] == 0


def test_the_decorator_passes_all_arguments_on(server: DevServer, out: Path) -> None:
    def prompts() -> list[str]:
        return ["a", "a", "b"]

    given: dict[str, Any] = {"deduplicate": True, "answers_max_age": 60}
    operator = decorated(prompts, out / "results", answers_uri=str(out / "{{ run_id }}"), **given)
    context = {**task_context(operator), "run_id": "r"}
    operator.render_template_fields(context)
    assert run_task(operator, context)["sources"] == {"batch": 2, "live": 0, "store": 0, "duplicate": 1}
    assert list((out / "r").glob("*.index"))


def test_a_function_that_returns_rows(server: DevServer, out: Path) -> None:
    """With a template; the context reaches the function as with any decorated task."""

    def some_rows(run_id: str, **context: Any) -> list[dict[str, Any]]:
        return [{"text": f"{run_id} and {context['marker']}"}]

    operator = decorated(some_rows, out, body={"messages": [{"role": "user", "content": "{text}"}]})
    context = {**task_context(operator), "marker": "more of the context", "run_id": "r"}
    run_task(operator, context)
    assert results(out)[0]["output"].endswith("to: r and more of the context")


def test_a_stream_is_not_read_beyond_what_is_refused(server: DevServer, out: Path) -> None:
    """max_requests holds for an endless generator."""

    def endless() -> Iterator[str]:
        while True:
            yield "again"

    with pytest.raises(InvalidInputError, match="max_requests=100"):
        run_task(decorated(endless, out, max_requests=100))
    assert server.stats()["requests"] == {}


def test_a_function_that_fails_says_so_itself(server: DevServer, out: Path) -> None:
    """Nothing is sent, and no half of a job is left."""

    def broken() -> Iterator[str]:
        yield "first"
        raise Crash

    with pytest.raises(Crash):
        run_task(decorated(broken, out))
    assert server.stats()["requests"] == {}
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_the_function_gives_the_rows(out: Path) -> None:
    """No other source of rows is allowed beside it."""

    def prompts() -> list[str]:
        return []

    with pytest.raises(InvalidInputError, match="leave out input_uri"):
        decorated(prompts, out, input_uri="x")


@pytest.fixture
def task() -> Any:
    """Airflow's decorators; on some releases their import warns of Airflow's own names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.sdk import task
    return task


def test_the_decorator_is_registered(out: Path, task: Any) -> None:
    """By the provider's metadata."""

    def prompts() -> list[str]:
        return ["x"]

    with DAG("d", schedule=None):
        made = task.openai_batch(endpoint=ENDPOINT, model="m", output_uri=str(out))(prompts)()
    assert made.operator.custom_operator_name == "@task.openai_batch"


class Upstream:
    """What a task's output is to the operator: references, and a value when the task runs."""

    def __init__(self, value: Any, operator: Any = None) -> None:
        self.value, self.operator = value, operator

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        if self.operator:
            yield self.operator, "return_value"

    def resolve(self, context: Any) -> Any:
        return self.value


def test_the_output_of_another_task(server: DevServer, out: Path, task: Any) -> None:
    """The other task is upstream, and the rows that it returns are never rendered as templates."""

    def prompts() -> list[str]:
        return []

    with DAG("d", schedule=None):
        given = task(prompts)()
        operator = job(out, requests=given, body=None)
        assert operator.upstream_task_ids == {"prompts"}
    run_task(job(out, requests=Upstream(["{{ macros }}", "two"]), body=None))
    assert results(out)[0]["output"].endswith("to: {{ macros }}")


@pytest.mark.parametrize("kind", ["one", "of mapped tasks"])
def test_a_data_frame_of_another_task(server: DevServer, out: Path, kind: str) -> None:
    """Its rows are asked about; those of a mapped task come as a sequence of frames."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame([{"text": f"t{n}", "marker": ""} for n in range(3)])
    run_task(job(out, requests=Upstream(frame if kind == "one" else [frame, frame])))
    asked = [row["output"].rpartition(" ")[2] for row in results(out)]
    assert asked == ["t0", "t1", "t2"] * (1 if kind == "one" else 2)


def test_mapped_tasks_with_a_directory_each(server: DevServer, tmp_path: Path, out: Path) -> None:
    """By the template that the documents and the refusal of a second task name."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"text\n{name}\n")
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    body = {"messages": [{"role": "user", "content": "{text}"}]}
    given = {"task_id": "t", "endpoint": ENDPOINT, "model": "m", "body": body, "poll_interval": 0.05}
    with DAG("d", schedule=None):
        mapped = OpenAIBatchInferenceOperator.partial(
            output_uri=f"{out}/{{{{ run_id }}}}/{{{{ ti.map_index }}}}", **given
        ).expand(input_uri=files)
    for index, file in enumerate(files):
        operator: Any = mapped.unmap({"input_uri": file})
        context = task_context(operator, map_index=index)
        place = operator.render_template(operator.output_uri, {"ti": context["ti"], "run_id": "r"})
        run_task(job(place, input_uri=file, body=body), context)
    assert [results(out / "r" / str(index))[0]["output"][-1] for index in (0, 1)] == ["a", "b"]


def test_lineage(server: DevServer, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input and output are reported to Airflow's lineage."""
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

    told: list[tuple[str, str]] = []

    class Collector:
        def add_input_asset(self, context: Any, uri: str) -> None:
            told.append(("read", uri))

        def add_output_asset(self, context: Any, uri: str) -> None:
            told.append(("wrote", uri))

    monkeypatch.setattr(OpenAIBatchesHook, "_lineage", Collector())
    (tmp_path / "in.csv").write_text("text\nhello\n")
    body = {"messages": [{"role": "user", "content": "{text}"}]}
    run_task(job(out, input_uri=str(tmp_path / "in.csv"), body=body))
    assert told == [("read", f"file://{tmp_path}/in.csv"), ("wrote", f"file://{out}")]


def test_parsing_a_dag_imports_no_more_than_it_needs() -> None:
    """No data modules, no pyarrow, no jsonschema, no pandas."""
    code = (
        "import sys; import airflow.sdk; before = set(sys.modules)\n"
        "import airflow_provider_openai_batches.operators.inference\n"
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in "
        "('pyarrow', 'jsonschema', 'pandas', 'numpy', 'httpx', 'requests') "
        "or '.inference.' in m and not m.endswith(('.settings', '.result_form'))])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_operator_is_serialized_without_its_rows(out: Path) -> None:
    """What the DAG gives as data stays out of the metadata database."""
    with DAG("d", schedule=None) as dag:
        job(out, requests=rows(3), output_schema={"type": "object", "title": "secret schema"})
    text = as_stored(dag)
    assert "row 1" not in text
    assert "secret schema" not in text
    assert str(out) in text
