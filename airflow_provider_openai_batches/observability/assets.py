"""
What an asset event says of the task that made it.

When a task succeeds, Airflow makes an event of each asset that is an outlet of it. The DAGs that the event
starts get its ``extra``.

https://airflow.apache.org/docs/apache-airflow/stable/authoring-and-scheduling/asset-scheduling.html
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import BaseOperator, Context

log = logging.getLogger(__name__)
# A user and a password in a URI: whoever may see assets sees their names, and what their events say.
_PASSWORD = re.compile(r'(?<=://)[^/?#\s"\\]*:[^/?#\s"\\]*@')


def report(
    operator: BaseOperator, context: Context, extra: Mapping[str, Any], uri: str | None = None
) -> None:
    """
    Say in the event of each outlet what the task has done. Call it when nothing of the task can fail.

    What the task's author has set by other means stays. Nothing here raises: the work is done and paid for.

    :param extra: small, plain JSON; passwords in its URIs are left out.
    :param uri: the asset of the event, for outlets that are an ``AssetAlias``; without it they get none.
    """
    if not operator.outlets:
        return
    from airflow.sdk import Asset, AssetAlias  # noqa: PLC0415 - only with outlets
    from airflow.sdk.definitions.asset import AssetRef  # noqa: PLC0415 - as above

    for outlet in operator.outlets:
        try:
            said = json.loads(_PASSWORD.sub("", json.dumps(dict(extra))))
            if isinstance(outlet, AssetAlias) and uri:
                asset = Asset(_PASSWORD.sub("", str(uri)))
                context["outlet_events"][outlet].add(asset, extra=said)
            elif isinstance(outlet, (Asset, AssetRef)):
                event = context["outlet_events"][outlet]
                event.extra = {**said, **event.extra}
        except Exception as error:  # noqa: BLE001 - Airflow's releases differ in what they raise
            log.warning("The asset event of %r has no extra: %s", outlet, error)
