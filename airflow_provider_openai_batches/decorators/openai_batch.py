"""``@task.openai_batch``: a function returns the rows, and one task asks a model about all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow.providers.common.compat.sdk import Context, TaskDecorator


class OpenAIBatchDecoratedOperator(DecoratedOperator, OpenAIBatchInferenceOperator):
    """
    The operator whose rows come from the decorated function.

    The function returns or yields prompts, request bodies or rows; the rows that it yields are never all in
    memory. A later try calls it again. It should then give the same rows in the same order.
    """

    custom_operator_name = "@task.openai_batch"
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in OpenAIBatchInferenceOperator.template_fields if name not in {"input_uri", "sql"}),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **OpenAIBatchInferenceOperator.template_fields_renderers,
    }
    shallow_copy_attrs: Sequence[str] = (
        *DecoratedOperator.shallow_copy_attrs,
        *OpenAIBatchInferenceOperator.shallow_copy_attrs,
    )

    def __init__(self, *, python_callable: Callable[..., Iterable[Any]], **kwargs: Any) -> None:
        given = {name for name, value in kwargs.items() if value is not None and value != _FROM_THE_FUNCTION}
        if clash := sorted({"requests", "input_uri", "sql"} & given):
            raise InvalidInputError(f"The function gives the rows: leave out {', '.join(clash)}.")
        super().__init__(python_callable=python_callable, **{**kwargs, "requests": _FROM_THE_FUNCTION})

    def execute(self, context: Context) -> Any:
        # On Airflow 3.0 the decorated operator's own execute calls a method that no longer exists.
        return OpenAIBatchInferenceOperator.execute(self, context)

    def _rows(self, context: Context) -> Any:
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        return self.python_callable(*self.op_args, **arguments)


_FROM_THE_FUNCTION: tuple[Any, ...] = ()


def openai_batch_task(
    python_callable: Callable[..., Iterable[Any]] | None = None,
    multiple_outputs: bool | None = False,
    **kwargs: Any,
) -> TaskDecorator:
    """
    Ask a model about each of the rows that a function returns or yields.

    :param python_callable: the function; it returns or yields prompts or request bodies; with ``body``, rows.
    :param multiple_outputs: whether each key of the summary becomes an XCom of its own.
    :param kwargs: the arguments of :class:`OpenAIBatchInferenceOperator`.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        # With None, Airflow infers it from what the function returns, which is not what the task returns.
        multiple_outputs=bool(multiple_outputs),
        decorated_operator_class=OpenAIBatchDecoratedOperator,
        **kwargs,
    )
