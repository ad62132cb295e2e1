"""
The page "OpenAI Batches" in the Airflow UI.

Every Airflow process loads every plugin, even the process of a task. So FastAPI is not imported here:
the first request imports the app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

URL_PREFIX = "/openai-batches"
# There is no slash at the start, because Airflow resolves these against its base URL, which may have a path.
PAGE = "openai-batches/"
ICONS = {
    "icon": f"{PAGE}static/icon.svg",
    "icon_dark_mode": f"{PAGE}static/icon-dark.svg",
}


class LazyApp:
    """The page's FastAPI app, imported by the first request."""

    def __init__(self) -> None:
        self._app: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            from airflow_provider_openai_batches.plugin.app import create_app  # noqa: PLC0415 - FastAPI comes with it

            self._app = create_app()
        await self._app(scope, receive, send)


class OpenAIBatchesPlugin(AirflowPlugin):
    name = "openai_batches"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "OpenAI Batches"}]  # noqa: RUF012 - Airflow's type
    external_views = [  # noqa: RUF012 - Airflow's type
        {
            "name": "OpenAI Batches",
            "href": PAGE,
            "destination": "nav",
            "category": "browse",
            "url_route": "openai-batches",
            **ICONS,
        },
        {
            "name": "OpenAI Batches",
            "href": f"{PAGE}?dag_id={{DAG_ID}}",
            "destination": "dag",
            "url_route": "openai-batches-dag",
            **ICONS,
        },
        {
            "name": "OpenAI Batches",
            "href": f"{PAGE}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "openai-batches-run",
            **ICONS,
        },
    ]
