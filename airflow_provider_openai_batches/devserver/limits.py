"""
The limits of the service, and its default lifetime of files.

They repeat the client's limits on purpose: a test server that shared the client's constants could not show
that one of them is wrong.
"""

from __future__ import annotations

# https://developers.openai.com/api/docs/guides/batch
MAX_REQUESTS = 50_000
MAX_INPUT_FILE_BYTES = 200_000_000
MAX_EMBEDDING_INPUTS = 50_000

# https://developers.openai.com/api/reference/resources/files/methods/create
MAX_UPLOAD_BYTES = 512_000_000
MAX_FORM_FIELD_BYTES = 65_536

# https://developers.openai.com/api/reference/resources/batches/methods/create
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MIN_EXPIRY_SECONDS = 3_600
MAX_EXPIRY_SECONDS = 2_592_000
DEFAULT_EXPIRY_SECONDS = 30 * 86_400

# https://developers.openai.com/api/reference/resources/batches/methods/list and .../files/methods/list
BATCHES_PER_PAGE, MAX_BATCHES_PER_PAGE = 20, 100
FILES_PER_PAGE, MAX_FILES_PER_PAGE = 10_000, 10_000
