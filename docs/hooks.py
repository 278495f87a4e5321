"""What mkdocs needs to show pages that are written for GitHub as well."""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
_FENCE = re.compile(r"^( *)```")
_OUTSIDE = "repository:"
log = logging.getLogger("mkdocs.hooks.docs")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Indent lists as Python-Markdown wants it, and let links that leave docs/ pass, if they lead somewhere.

    A warning, which ends a strict build, for one that does not.
    """
    root, home = Path(config.docs_dir).parent, posixpath.dirname(f"docs/{page.file.src_uri}")

    def leaving(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, found[1]))
        if target.startswith("docs/"):
            return found[1]
        if not (root / target).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        return f"{_OUTSIDE}{target}"

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fence = _FENCE.match(line)
        if not fenced and not fence:
            indent = len(line) - len(line.lstrip(" "))
            line = " " * indent + _LINK.sub(leaving, line)
        fenced ^= bool(fence)
        lines.append(line)
    return "\n".join(lines)


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """Lead from the site, which stands beside docs/, to files of the repository."""
    up = posixpath.relpath(".", posixpath.dirname(f"site/{page.file.src_uri}"))
    return html.replace(f'"{_OUTSIDE}', f'"{up}/')
