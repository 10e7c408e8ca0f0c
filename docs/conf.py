"""Configuration of Sphinx: ``make docs`` builds the site into docs/_build/html."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mlip_autopipec"
author = "The mlip_autopipec founders"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx wants this name
version = release = installed_version("mlip-autopipec")
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",  # Markdown, and the tutorials' notebooks
    "generated_reference",  # docs/_ext: pages made from the run file's model and the stored documents
    "notebooks",  # docs/_ext: executes the notebooks, or takes what `make tutorials` executed
]
exclude_patterns = ["_build", "_ext"]
# what is outside of the project is named, not looked up: the build needs no network
nitpick_ignore_regex = [(r"py:.*", r"(?!mlip_autopipec\b).*")]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # docs/_ext/notebooks.py does it as the tests do
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of other packages

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 100
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False  # types stand in the signature

html_theme = "furo"  # as jobflow and atomate2
html_title = "mlip_autopipec"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
