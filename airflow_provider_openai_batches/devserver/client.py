"""The control methods of :class:`DevServer`, for a server in another process."""

from __future__ import annotations

from typing import Any, Self

import httpx

TIMEOUT = 90.0


class DevServerClient:
    """
    Every method raises :class:`httpx.HTTPError` if the server does not answer, or answers with an error.

    :param base_url: the URL that the server printed, for example ``http://127.0.0.1:8089/v1``.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        root = self.base_url.removesuffix("/v1") + "/_dev"
        # This is plain HTTP to the same machine. Loading certificates would take longer than everything else.
        self._client = httpx.Client(base_url=root, timeout=TIMEOUT, trust_env=False, verify=False)  # noqa: S501 - loopback

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        return self._client.request(method, path, **kwargs).raise_for_status().json()

    def faults(self, rules: list[dict[str, Any]]) -> None:
        self._call("POST", "/faults", json=rules)

    def clear_faults(self) -> None:
        self._call("DELETE", "/faults")

    def settings(self, **changes: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._call("POST", "/settings", json=changes)
        return answer

    def stats(self, metadata_key: str | None = None) -> dict[str, Any]:
        params = {"metadata_key": metadata_key} if metadata_key else {}
        answer: dict[str, Any] = self._call("GET", "/stats", params=params)
        return answer

    def batches(self, **metadata: str) -> list[dict[str, Any]]:
        params = {f"metadata.{name}": text for name, text in metadata.items()}
        answer: list[dict[str, Any]] = self._call("GET", "/batches", params=params)
        return answer

    def timeline(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._call("GET", "/timeline")
        return answer

    def answers(self, at_least: int = 1) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._call("GET", "/answers", params={"at_least": at_least})
        return answer

    def force(self, batch_id: str, **changes: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._call("POST", f"/batches/{batch_id}", json=changes)
        return answer

    def seed(self, count: int, **options: Any) -> None:
        self._call("POST", "/seed", json={"count": count, **options})

    def reset(self) -> None:
        self._call("POST", "/reset")
