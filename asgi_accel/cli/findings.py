"""`Finding`: what `asgi-accel check` says about one thing. All its sentences are in `templates/check.txt`."""

import re
from dataclasses import dataclass

from asgi_accel.cli.values import TEMPLATES

TEXTS = {
    key: said.strip()
    for key, said in re.findall(r"^\[(.+)\](.*(?:\n.+)*)", (TEMPLATES / "check.txt").read_text("utf-8"), re.MULTILINE)
}


@dataclass
class Finding:
    """What was found out about one thing, and what to change if something is wrong.

    `ok` is None if it cannot be told from outside, or does not apply.
    """

    name: str
    ok: bool | None
    seen: str
    advice: str = ""


def say(key: str, **values: object) -> Finding:
    """One of the findings of the template, with its values."""
    mark, _, text = advise(key, **values).partition(" ")
    name, seen, *advice = text.split("\n")
    return Finding(name, {"✓": True, "✗": False}.get(mark), seen, "\n".join(advice))


def advise(key: str, **values: object) -> str:
    """One of the texts of the template. What stands in <> there is one of the values, or else another text."""

    def meant(name: re.Match[str]) -> str:
        return str(values[name[1]]) if name[1] in values else advise(name[1], **values)

    return re.sub(r"<([a-z ]+)>", meant, TEXTS[key])
