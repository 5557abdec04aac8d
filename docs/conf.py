"""Sphinx's settings of the site; `docs/build_site.py` lays out what it reads."""

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = "Partial convolutions in mixed precision"
author = _project["authors"][0]["name"]
copyright = f"{author}, {_project['license']}"
version = release = _project["version"]
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.githubpages"]
exclude_patterns = ["**/.ipynb_checkpoints"]
highlight_language = "none"  # a block of commands is not Python
suppress_warnings = ["mystnb.unknown_mime_type"]

# The notebooks are shown as they were executed when they were committed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # knows tables
nb_ipywidgets_js = {}  # they would come from another server, and no control works without a kernel
myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "tasklist"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(ROOT / "docs" / "static")]
html_css_files = ["site.css"]
html_extra_path = [str(ROOT / "build" / "site-files")]  # the Try page's files, and MathJax
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_last_updated_fmt = None
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search stands in the sidebar
}
if "GITHUB_REPOSITORY" in os.environ:  # published from a repository, the pages link to it
    html_theme_options["use_repository_button"] = True
    html_theme_options["repository_url"] = "/".join(
        os.environ[name] for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY")
    )
html_context = {"default_mode": "auto"}  # dark where the reader's system is
html_favicon = str(ROOT / "docs" / "static" / "icon.svg")
mathjax_path = "../mathjax/tex-svg.js"  # relative to _static
