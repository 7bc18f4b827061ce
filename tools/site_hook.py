"""Brings the files outside docs/ that its pages link to into the site: a link works there and on a code host alike.

Markdown becomes a page under project/, a picture a file, and code a page that shows it. Links in what is brought in are
followed, too. The README stays out: in the site docs/index.md is the front page.

A command of the project that asks for help has its output below it.
"""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
HELP = re.compile(r"^```sh\nasgi-accel (\w+) --help\n```$", re.MULTILINE)
# A link's target, without its heading; what looks like one in a block of code is taken with the block.
LINK = re.compile(r"^(`{3}|~{4}).*?^\1$|(?<=\]\()(?!https?:|#)(?P<target>[^)#\s]+)", re.MULTILINE | re.DOTALL)


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md" or path.startswith("docs/"):
        return path.removeprefix("docs/").replace("README.md", "index.md")
    return f"project/{path}" + ("" if path.endswith((".md", ".svg", ".png")) else ".md")


def repository_path(page: File) -> str:
    return os.path.relpath(page.abs_src_path or str(ROOT / page.src_uri[len("project/") : -len(".md")]), ROOT)


def linked(page: File, target: str) -> str:
    """The file of the repository that a link on a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page)), target))


def on_files(files: Files, config: MkDocsConfig) -> None:
    pages = list(files.documentation_pages())
    for page in pages:  # which grows
        for match in LINK.finditer(page.content_string):
            path = linked(page, match["target"] or "")
            uri = place(path)
            if uri in files.src_uris or not (ROOT / path).is_file():
                continue  # what is not there, strict mode finds
            if uri == f"project/{path}":
                new = File.generated(config, uri, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV)
            else:
                text = f"# {path}\n\n~~~~{Path(path).suffix[1:]}\n{(ROOT / path).read_text()}~~~~\n"
                new = File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(new)
            if uri.endswith(".md"):
                pages.append(new)


def with_output(match: re.Match[str]) -> str:
    command = [sys.executable, "-m", "asgi_accel", match[1], "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return f"{match[0]}\n\n```text\n{output}```"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = match["target"]
        return posixpath.relpath(place(linked(page.file, target)), here or ".") if target else match[0]

    return HELP.sub(with_output, LINK.sub(moved, markdown))
