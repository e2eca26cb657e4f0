"""What every page of medclf is made with: templates that escape, one script, one style, and a policy for both."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

STYLE = "report.css"


def fill(template: str, view: Mapping[str, Any], *, scripts: Sequence[str] = (), beside: bool = False) -> str:
    """A page that opens from disk and asks the network for nothing.

    Args:
        template: its name among medclf's templates; it may use `policy`, `style` and `script`.
        view: what else the template prints; all of it is escaped.
        scripts: the templates of its script, in order, which share one scope; none: the page runs no script.
        beside: whether its pictures lie in a folder beside it.

    Returns:
        The page.
    """
    environment = Environment(
        loader=PackageLoader("medclf.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    sources = {name: environment.loader.get_source(environment, name)[0] for name in (*scripts, STYLE)}
    script = "(() => {\n'use strict';\n" + "\n".join(sources[name] for name in scripts) + "\n})();" if scripts else ""
    policy = _policy(sources[STYLE], script, beside)
    html = environment.get_template(template)
    return html.render(**view, policy=policy, style=Markup(sources[STYLE]), script=Markup(script))


def _policy(style: str, script: str, beside: bool) -> str:
    """The page's content security policy: its own style and script by their hashes, pictures, nothing else."""
    images = "data: 'self' file:" if beside else "data:"
    own = f"style-src '{_hash(style)}'; " + (f"script-src '{_hash(script)}'; " if script else "")
    return f"default-src 'none'; img-src {images}; {own}base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
