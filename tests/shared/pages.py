"""The documents, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PATTERNS = ("*.md", "docs/**/*.md", "examples/*/*.md")
DOCUMENTS = [path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in ROOT.glob(pattern)]
LANGUAGES = {"nginx", "python", "sh", "text"}
LANGUAGES |= {"apache", "lighttpd"}  # test_sendfile.py
LANGUAGES |= {"ini", "yaml"}  # test_deployment.py
# What the apps in the documents read from the environment.
ENVIRONMENT = {
    "ACCEL_SECRET": "only the proxy knows",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE123456789",
    "AWS_SECRET_ACCESS_KEY": "5e1d" * 10,
    "HANDBOOK_PASSWORD": "open sesame",
    "LINK_KEY": "7f3a" * 8,
    "SESSION_KEY": "c41d" * 8,
}
LOG_FORMAT = "log_format "  # what stands outside of a server, beside the block that uses it
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    text = (ROOT / document).read_text()
    found = FENCE.findall(text)
    assert len(found) * 2 == len(re.findall("^ *```", text, re.MULTILINE)), "a block that is not read"
    assert {kind for kind, _, _ in found} <= LANGUAGES, "a block of a kind that nobody tests"
    return [code for kind, _, code in found if kind == language]


def titled_blocks(document: str, language: str = "python") -> dict[str, str]:
    """The files that a document's blocks of one language are: each title with all blocks that have it."""
    files: dict[str, str] = {}
    for kind, title, code in FENCE.findall((ROOT / document).read_text()):
        if kind == language and title:
            files[title] = files.get(title, "") + "\n\n" + code
    return files
