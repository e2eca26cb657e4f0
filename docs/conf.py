"""Sphinx settings: MyST pages and the API from the docstrings."""

project = "medclf"
author = "The medclf authors"
copyright = "2026, The medclf authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "signature"
autodoc_mock_imports: list[str] = []
myst_enable_extensions = ["colon_fence", "deflist"]
smartquotes = False  # they make one dash of the two before an option
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
nitpicky = False
