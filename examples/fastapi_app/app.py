"""Private files of two users: the app decides who may have a file, nginx sends it.

Run it behind nginx with `make demo`, or alone with `uvicorn app:app`. Nothing in it asks which of both it is.
"""

import os
import secrets
from html import escape
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

FILES = Path(os.environ.get("FILES", Path(__file__).parent / "files")).resolve()
MAPPING = PathMap({FILES: "/protected"})
PASSWORDS = {"alice": "wonderland", "bob": "builder"}  # a real app has hashes of them, in a database

app = FastAPI(title="Private files")
app.add_middleware(AccelMiddleware, mapping=MAPPING)


def signed_in(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    """The user's name, once the password is right."""
    expected = PASSWORDS.get(credentials.username, "")
    if not (expected and secrets.compare_digest(credentials.password.encode(), expected.encode())):
        raise HTTPException(401, "Sign in as alice or bob", headers={"WWW-Authenticate": "Basic"})
    return credentials.username


User = Annotated[str, Depends(signed_in)]


def own_file(name: str, user: User) -> Path:
    """One of the user's own files. The name is looked up, never joined to a path, so `..` leads nowhere."""
    for path in (FILES / user).iterdir():
        if path.name == name and path.is_file():
            return path
    raise HTTPException(404, "You have no such file")


OwnFile = Annotated[Path, Depends(own_file)]


@app.get("/files/{name}")
@app.head("/files/{name}")
def show(path: OwnFile) -> FileResponse:
    """Shown in the browser: a plain FileResponse, which the middleware hands to nginx."""
    return FileResponse(path, headers={"Cache-Control": "private, max-age=60"})


@app.get("/download/{name}")
@app.head("/download/{name}")
def download(path: OwnFile) -> AccelRedirectResponse:
    """Saved under its name: a redirect, which the middleware answers itself where there is no nginx."""
    return AccelRedirectResponse(path, mapping=MAPPING, filename=path.name)


@app.get("/", response_class=HTMLResponse)
def index(user: User) -> str:
    """The user's files, with a player for the videos."""
    rows = []
    for path in sorted((FILES / user).iterdir()):
        name, url = escape(path.name), quote(path.name)
        rows.append(f'<li><a href="/files/{url}">{name}</a> (<a href="/download/{url}">download</a>)')
        if path.suffix == ".mp4":
            rows.append(f'<br><video src="/files/{url}" controls width="320"></video>')
    return f'<!doctype html><meta charset="utf-8"><title>Private files</title><h1>{user}</h1><ul>{"".join(rows)}</ul>'
