"""A multipart upload, written to disk while it arrives."""

from __future__ import annotations

import hashlib
from email.message import Message
from email.utils import collapse_rfc2231_value
from http import HTTPStatus
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from airflow_provider_openai_batches.devserver.errors import ApiError, invalid
from airflow_provider_openai_batches.devserver.limits import MAX_FORM_FIELD_BYTES, MAX_UPLOAD_BYTES

if TYPE_CHECKING:
    from pathlib import Path

MAX_BOUNDARY = 70  # RFC 2046


class MultipartUpload:
    """
    A multipart body. Its ``file`` goes to ``path``, its other fields into ``fields``.

    :raises ApiError: if the body is not multipart, cannot be parsed, or is over a limit.
    """

    def __init__(self, content_type: str, path: Path) -> None:
        boundary = _parameters(f"Content-Type: {content_type}").get("boundary", "")
        is_form = content_type.lower().startswith("multipart/form-data")
        if not is_form or not 0 < len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
            text = f"Send the file as multipart/form-data with a boundary of 1 to {MAX_BOUNDARY} characters."
            raise ApiError(HTTPStatus.BAD_REQUEST, text, param="file")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.bytes = 0
        self.path = path
        self._sha256 = hashlib.sha256()
        self._file = path.open("wb", buffering=0)
        self._header = bytearray()
        self._value = bytearray()
        self._name = ""
        self._in_file = False
        self._ended = False
        self._parser = MultipartParser(
            boundary.encode(),
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_data,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            text = f"Could not parse the multipart body: {error}"
            raise ApiError(HTTPStatus.BAD_REQUEST, text) from None

    def close(self) -> None:
        self._file.close()

    def check_complete(self) -> None:
        if not self._ended:
            text = "The multipart body ends before its last boundary."
            raise ApiError(HTTPStatus.BAD_REQUEST, text)

    def _begin(self) -> None:
        self._header, self._value, self._name, self._in_file = bytearray(), bytearray(), "", False

    def _header_data(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        if b":" not in self._header:
            self._header += b": "
        self._header += data[start:end]

    def _header_end(self) -> None:
        header, self._header = self._header.decode("utf-8", "replace"), bytearray()
        if header.lower().startswith("content-disposition:"):
            parameters = _parameters(header)
            self._name = parameters.get("name", "")
            self._in_file = self._name == "file" and "filename" in parameters
            if self._in_file:
                if self.filename is not None:
                    raise invalid("file", "There is more than one file. Send one.")
                self.filename = parameters["filename"]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._value += data[start:end]
            if len(self._value) > MAX_FORM_FIELD_BYTES:
                text = f"The field '{self._name}' is over {MAX_FORM_FIELD_BYTES} bytes."
                raise ApiError(HTTPStatus.BAD_REQUEST, text, param=self._name)
            return
        part = memoryview(data)[start:end]
        self.bytes += len(part)
        if self.bytes > MAX_UPLOAD_BYTES:
            text = f"The file is over {MAX_UPLOAD_BYTES} bytes."
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, param="file")
        self._sha256.update(part)
        self._file.write(part)

    def _end(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True


def _parameters(header: str) -> dict[str, str]:
    name, _, value = header.partition(":")
    message = Message()
    message[name] = value.strip()
    found = message.get_params([], header=name)[1:]
    return {key: collapse_rfc2231_value(text) for key, text in found}
