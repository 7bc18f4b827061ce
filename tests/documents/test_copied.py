"""What people copy is safe to copy: rules that hold for all pages, and for the example."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import DOCUMENTS, ENVIRONMENT, ROOT, blocks

RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "recipes").glob("*.md"))
FILES = {"FileResponse", "AccelRedirectResponse"}
SAFE = re.compile("private, no-cache|public, max-age=[0-9]+(, immutable)?")


def called(node: ast.AST) -> str:
    """The name of what is called; empty for anything else."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def cache_controls(node: ast.AST, names: dict[str, ast.expr]) -> Iterator[str]:
    """The values of `Cache-Control` in a dict, and in the dicts that it takes up, or in the dict of that name."""
    if isinstance(node, ast.Name):
        yield from cache_controls(names.get(node.id, ast.Constant(None)), names)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                yield from cache_controls(value, names)
            elif isinstance(key, ast.Constant) and key.value == "Cache-Control":
                assert isinstance(value, ast.Constant)
                yield str(value.value)


def files_that_are_sent(code: str) -> Iterator[tuple[str, list[str]]]:
    """Each file response of an app that refuses somebody, and what it says to caches."""
    tree = ast.parse(code)
    if not any(called(node) == "HTTPException" for node in ast.walk(tree)):
        return
    names: dict[str, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    names[target.id] = node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                    names.update((name.id, value) for name, value in pairs if isinstance(name, ast.Name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in FILES:
            given = [word.value for word in node.keywords if word.arg == "headers"]
            yield ast.unparse(node), [value for headers in given for value in cache_controls(headers, names)]


def locations(text: str) -> Iterator[tuple[str, str]]:
    """Each location of a configuration: what it is for, and what is in it, without comments."""
    text = re.sub("#.*", "", text)
    for found in re.finditer(r"location ([^{]+) \{", text):
        depth, end = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield found[1], text[found.end() : end - 1]


@pytest.mark.parametrize("document", [*DOCUMENTS, "examples/fastapi_app/app.py"])
def test_who_may_keep_a_file(document: str) -> None:
    """An app that decides says of each file who may keep it: the user alone, who asks again each time, or everybody."""
    path = ROOT / document
    code = path.read_text() if path.suffix == ".py" else "\n\n".join(blocks(document, "python"))
    for call, said in files_that_are_sent(code):
        assert len(said) == 1, call
        assert SAFE.fullmatch(said[0]), call


def test_rule_of_caches_finds_something() -> None:
    """What is found are the files of most pages; what 1.0.0 had is found wanting."""
    assert sum(1 for document in DOCUMENTS for _ in files_that_are_sent("\n".join(blocks(document, "python")))) > 15
    code = "raise HTTPException(403)\nFileResponse(a)\nFileResponse(b, headers={'Cache-Control': 'private'})"
    (_, nothing), (_, private) = files_that_are_sent(code)
    assert not nothing
    assert not SAFE.fullmatch(private[0])


@pytest.mark.parametrize("document", [*DOCUMENTS, "examples/fastapi_app/nginx.conf"])
def test_what_the_app_knows_of_the_request(document: str) -> None:
    """Where the app gets an offer, what a client says of itself does not reach it as if nginx had said it."""
    path = ROOT / document
    for text in [path.read_text()] if path.suffix == ".conf" else blocks(document, "nginx"):
        for name in ("Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Sendfile-Type"):
            assert text.count("proxy_set_header X-Accel-Mapping ") <= text.count(f"proxy_set_header {name} "), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_servers_that_are_not_the_app(document: str) -> None:
    """An internal location that asks another server keeps in and out what the printed one does."""
    for block in blocks(document, "nginx"):
        for name, inside in locations(block):
            if "internal;" in inside and "proxy_pass " in inside:
                for line in (
                    "proxy_pass_request_headers off;",
                    "proxy_pass_request_body off;",
                    "proxy_ignore_headers X-Accel-Redirect",
                    "proxy_hide_header Content-Type;",
                    "proxy_hide_header Set-Cookie;",
                    "proxy_max_temp_file_size 0;",
                    "proxy_intercept_errors on;",
                ):
                    assert line in inside, f"{name}: have it printed by `asgi-accel nginx --storage`"


def test_rule_of_servers_finds_something() -> None:
    """What 1.0.0 had for object storage is found."""
    text = (
        "location /bucket/ {\n    internal;\n    if ($a) { return 404; }\n    proxy_pass http://storage/; # internal\n}"
    )
    ((name, inside),) = locations(text)
    assert (name, "proxy_pass http://storage/;" in inside, "#" in inside) == ("/bucket/", True, False)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_empty_keys(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No app starts with an empty key or password: anybody could sign with it."""
    code = "\n\n".join(blocks(document, "python")).replace("/mnt/", f"{tmp_path}/mnt/")
    for folder in ("storage/handbook", "storage/reports"):
        (tmp_path / "mnt" / folder).mkdir(parents=True)
    for name in re.findall(r'os\.environ\["(\w+)"\]', code):
        for other, value in ENVIRONMENT.items():
            monkeypatch.setenv(other, "" if other == name else value)
        # The middleware looks at its secret when the app starts.
        start = compile(f"{code}\n\napp.build_middleware_stack()", document, "exec")
        with pytest.raises((SystemExit, ValueError)):
            exec(start, {})


@pytest.mark.parametrize("document", RECIPES)
def test_recipes_are_short(document: str) -> None:
    """No recipe has more than 600 words, code and all, and the overview names each."""
    assert len((ROOT / document).read_text().split()) <= 600
    name = os.path.basename(document)
    assert name == "index.md" or f"]({name})" in (ROOT / "docs" / "recipes" / "index.md").read_text()


def test_list_of_what_is_the_apps() -> None:
    """docs/security.md has it in at most twelve lines."""
    text = (ROOT / "docs" / "security.md").read_text()
    own = text.partition("## What is left to you")[2]
    assert 0 < len(re.findall("^- .*$", own, re.MULTILINE)) <= 12
    assert re.search(r"^\| another server .*`proxy_ignore_headers`", text, re.MULTILINE)
