"""How the site is built: Sphinx reads every page where it lies, so that links work there as in the repository.

``make docs`` runs it with warnings as errors: a link to a page, a heading or a file that is not there is one. A link to
a source file leads to a copy of that file, one to a folder is its text alone. The site is of one piece: no page asks
another server for anything.
"""

import os
import pathlib

from docutils import nodes
from pygments.lexers.data import JsonLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from rlhf_jax import __version__

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Of the notebooks' kernels, so that they run what lies here.
os.environ["PYTHONPATH"] = str(ROOT)

project = "rlhf_jax"
author = "the authors of rlhf_jax"
version = release = __version__

root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**",
    "launch/README.md",
    "experiments/README.md",
    "experiments/*/README.md",
    "benchmarks/README.md",
]
# Also what is not to be looked through for pages.
exclude_patterns = [".*", "build", "dist", "runs", "tests", "rlhf_jax", "**/.ipynb_checkpoints"]

extensions = ["myst_nb"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell
nb_merge_streams = True
nb_output_stderr = "remove"

html_theme = "furo"
html_title = f"rlhf_jax {version}"
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_copy_source = False
html_show_copyright = False


def folders_as_text(app: Sphinx, page: nodes.document) -> None:
    """Leave of a link to a folder, for which the site has no page, the text."""
    here = pathlib.Path(page["source"]).parent
    for link in list(page.findall(pending_xref)):
        if link["reftype"] == "myst" and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """What Sphinx asks of this file."""
    app.connect("doctree-read", folders_as_text)
    app.add_lexer("jsonl", JsonLexer)
