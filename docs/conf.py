"""
How `make docs` builds the site. Airflow is not needed: the reference is made of source that nobody imports.

Sphinx, because Airflow's registry finds the page of a class by `objects.inv`, which Sphinx writes, and
because the docstrings are reST, as Airflow's own. Nothing on a page comes from another server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes

HERE = Path(__file__).parent
PACKAGE = "airflow_provider_openai_batches"
# What the reference has: the modules that DAGs import from.
PUBLIC = (
    "exceptions",
    "hooks.openai_batches",
    "operators.inference",
    "operators.openai_batches",
    "results",
    "sensors.openai_batches",
    "transfers.openai_batch_results_to_delta",
    "transfers.openai_batch_results_to_sql",
    "triggers.batch_ended",
    "triggers.openai_batches",
)

project = "airflow-provider-openai-batches"
copyright = "its authors; Apache License 2.0"  # noqa: A001 - Sphinx's name
extensions = ["autoapi.extension", "myst_parser", "sphinx_copybutton"]
# Some pages only list modules, as the reference does.
exclude_patterns = ["_build", f"_api/{PACKAGE}/index.rst"]
exclude_patterns += [f"_api/{PACKAGE}/{name.split('.')[0]}/index.rst" for name in PUBLIC if "." in name]

# A warning ends the build: a page in no menu, a link to a page, heading, file or class that is not there.
nitpicky = True
nitpick_ignore_regex = [("py:.*", rf"(?!{PACKAGE}\.({'|'.join(PUBLIC)})\.).*")]  # others have no page
suppress_warnings = ["autoapi.python_import_resolution"]
linkcheck_timeout = 20
linkcheck_anchors = False

myst_heading_anchors = 4

autoapi_dirs = [str(HERE.parent / PACKAGE)]
autoapi_root = "_api"  # as in the documentation of Airflow's own providers
autoapi_add_toctree_entry = False
autoapi_python_class_content = "class"  # exceptions inherit one of __init__ that says nothing
autoapi_options = ["members", "show-module-summary"]
autoapi_member_order = "bysource"
# What Airflow calls, and what the package itself uses of a public module.
INTERNAL = re.compile(
    r"(operators|sensors|transfers|triggers)\.\w+\.\w+\.\w+"
    r"|exceptions\.SeenBatch|results\.(all_results|wanted_statuses|ResultRows\.(read|parquet_schema))"
)
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = "OpenAI Batches for Airflow"
html_logo = html_favicon = "logo.svg"
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_use_index = False  # the search finds more
html_domain_indices = False
# Prompts are no part of what is copied.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_copy_empty_lines = False
copybutton_line_continuation_character = "\\"


def is_public(name: str) -> bool:
    """Whether a package or module, or something in one, belongs to the reference."""
    inner = name.removeprefix(PACKAGE).removeprefix(".")
    if not inner:
        return True
    return any(f"{inner}.".startswith(f"{one}.") or one.startswith(f"{inner}.") for one in PUBLIC)


def skip(_app: Any, kind: str, name: str, _item: Any, skips: bool, _options: Any) -> bool:
    if kind in {"module", "package"}:
        return not is_public(name)  # also one without a docstring
    inner = name.removeprefix(f"{PACKAGE}.")
    return skips or not is_public(name) or kind == "data" or bool(INTERNAL.fullmatch(inner))


def short(_app: Any, _env: Any, node: Any, content: Any) -> Any:
    """In a signature, name a type that has no page here by its last part, as those are that have one."""
    target = str(node.get("reftarget"))
    is_public_one = any(target.startswith(f"{PACKAGE}.{module}.") for module in PUBLIC)
    is_type = node.get("refdomain") == "py" and isinstance(content, nodes.Text)
    return None if is_public_one or not is_type else nodes.Text(target.rpartition(".")[2])


def setup(app: Any) -> None:
    app.connect("autoapi-skip-member", skip)
    app.connect("missing-reference", short)
