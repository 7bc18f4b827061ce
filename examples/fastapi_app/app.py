"""A private media library: sign in, then play, open, download and upload files of your own.

The app decides who may have a file. Behind nginx (`make demo`, or compose.yaml) nginx sends it. Alone
(`uvicorn app:app`, in this folder) the app sends it, and no route asks which of the two it is. `library.py` keeps
users and files, `guard.py` refuses what need not be read, `samples.py` fills a new library, and `transfers.py` watches
for the strip at the foot of the page.
"""

import os
import secrets
import sqlite3
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated

import anyio
import samples
from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from guard import FORM, Guard
from library import File, Library
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.sessions import SessionMiddleware
from transfers import PROXY, Transfer, Transfers, TransfersMiddleware

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap, offered

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("DATA") or HERE / "data").resolve()
MAX_UPLOAD = int(os.environ.get("MAX_UPLOAD") or 10**9)  # bytes; client_max_body_size in nginx.conf is a little more
# What a browser may show. It saves all else: uploaded HTML or SVG could act in the name of the user who opens it.
SHOWN = {"application/pdf", "text/plain", "video/mp4", "video/webm"}
SHOWN |= {"image/gif", "image/jpeg", "image/png", "image/webp"}

library = Library(DATA)
samples.add_to(library)
# The directory as the app knows it, and nginx's name for it. The database lies outside, so nginx cannot send it.
MAPPING = PathMap({library.files: "/protected"})

transfers: Transfers = {}
app = FastAPI(title="Media library", openapi_url=None)
app.add_middleware(AccelMiddleware, mapping=MAPPING)
app.add_middleware(Guard, limits={"/files": MAX_UPLOAD + FORM})
# If your site has TLS, give https_only=True. Without SESSION_SECRET, everybody signs in again after a restart.
session_secret = os.environ.get("SESSION_SECRET") or secrets.token_hex()
app.add_middleware(SessionMiddleware, secret_key=session_secret, same_site="lax", https_only=False)
app.add_middleware(TransfersMiddleware, transfers=transfers)
app.mount("/static", StaticFiles(directory=HERE / "static"))


# A password takes 16 MB and some 50 ms to check. Two at once, and not many more in the queue: no crowd stops the app.
QUEUE = 20
signing_in: set[int] = set()  # the requests that are checked, or wait for it


@cache
def checking() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(2)


def signed_in(request: Request) -> str:
    """The user's name."""
    user: str | None = request.session.get("user")
    if user is None:
        raise HTTPException(401, "Sign in to see your files.")
    return user


User = Annotated[str, Depends(signed_in)]


def own_file(number: int, user: User, request: Request) -> File:
    """One of the user's own files. This is the decision: nobody gets a file without it."""
    file = library.file(number)
    if file is None or file.size is None:
        raise HTTPException(404, "There is no such file.")
    if file.owner != user:  # a 404 would not tell that there is such a file
        raise HTTPException(403, "This file is not yours.")
    request.state.file = file.name  # for the strip
    return file


OwnFile = Annotated[File, Depends(own_file)]

# no-cache: the browser keeps the file, and asks each time whether it may show it. After signing out, it may not.
# nosniff: a browser takes the Content-Type at its word. nginx.conf brings this header back.
FILE_HEADERS = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


templates = Jinja2Templates(HERE / "templates")
PAGE_HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'"}


@app.get("/files/{number}")
@app.head("/files/{number}")
def view(file: OwnFile) -> FileResponse:
    """Shown in the browser: a plain FileResponse, which the middleware hands to nginx."""
    disposition = "inline" if file.media_type in SHOWN else "attachment"
    return FileResponse(
        file.path,
        media_type=file.media_type,
        filename=file.name,
        content_disposition_type=disposition,
        headers=FILE_HEADERS,
    )


@app.get("/files/{number}/download")
@app.head("/files/{number}/download")
def download(file: OwnFile) -> AccelRedirectResponse:
    """Saved under its name: a redirect, which the middleware answers with the file if there is no nginx."""
    return AccelRedirectResponse(
        file.path, media_type=file.media_type, mapping=MAPPING, filename=file.name, headers=FILE_HEADERS
    )


@app.get("/signed-in", status_code=204)
async def is_signed_in(user: User) -> None:
    """nginx asks this before it reads an upload."""


@app.post("/files")
async def upload(request: Request, user: User) -> RedirectResponse:
    """Keep an uploaded file. FastAPI would read a form among the parameters before it asks who it is."""
    async with request.form(max_files=1, max_fields=1) as form:
        file = form.get("upload")
        if not isinstance(file, UploadFile):
            raise HTTPException(400, "Choose a file, please.")
        if (file.size or 0) > MAX_UPLOAD:
            raise HTTPException(413, f"At most {MAX_UPLOAD:,} bytes, please.")
        # The name is only ever a name: library.py chooses where the bytes go.
        name = PurePath(file.filename or "").name[-200:] or "unnamed"
        name = "".join(letter if letter.isprintable() else "_" for letter in name)
        number = await anyio.to_thread.run_sync(library.add, user, name, file.file)
    return RedirectResponse(f"/#file-{number}", 303)


@app.get("/")
def shelf(request: Request, user: User, play: int | None = None) -> HTMLResponse:
    """The user's files, and the player."""
    files = library.files_of(user)
    videos = [file for file in files if file.kind == "Video"]
    playing = next((file for file in videos if file.number == play), videos[0] if videos else None)
    return page(request, "shelf.html", files=files, playing=playing, foreign=library.file_not_of(user))


@app.post("/sign-in")
async def sign_in(request: Request, user: Annotated[str, Form()], password: Annotated[str, Form()]) -> Response:
    if len(signing_in) >= QUEUE:
        raise HTTPException(503, "Too many are signing in. Try again in a moment.")

    signing_in.add(id(request))
    try:
        is_right = await anyio.to_thread.run_sync(library.has_password, user, password, limiter=checking())
    finally:
        signing_in.discard(id(request))

    if not is_right:
        return page(request, "sign_in.html", 401, wrong=True)
    request.session["user"] = user
    return RedirectResponse("/", 303)


@app.post("/sign-out")
def sign_out(request: Request) -> RedirectResponse:
    request.session.clear()
    return RedirectResponse("/", 303)


@app.get("/transfers")
async def latest_transfers(user: User) -> list[Transfer]:
    """What the strip shows: who sent the user's files."""
    return list(transfers.get(user, ()))


@app.exception_handler(AnyHTTPException)
def refuse(request: Request, exc: AnyHTTPException) -> HTMLResponse:
    """A page that a person understands, in place of JSON."""
    if exc.status_code == 401:
        return page(request, "sign_in.html", 401)
    return page(request, "refusal.html", exc.status_code, status=exc.status_code, reason=exc.detail)


@app.exception_handler(RequestValidationError)
def refuse_invalid(request: Request, exc: RequestValidationError) -> HTMLResponse:
    return page(request, "refusal.html", 400, status=400, reason="That request makes no sense here.")


@app.exception_handler(sqlite3.OperationalError)
def refuse_busy(request: Request, exc: sqlite3.OperationalError) -> HTMLResponse:
    return page(request, "refusal.html", 503, status=503, reason="The library is busy. Try again in a moment.")


def page(request: Request, template: str, status_code: int = 200, **context: object) -> HTMLResponse:
    # For the strip: whether this request came by the proxy, and the other one's port. A client can claim it, but it
    # decides nothing here: it is a label.
    behind_proxy = offered(request) is not None
    other_port = os.environ.get("APP_PORT" if behind_proxy else "PROXY_PORT")
    context |= {"user": request.session.get("user"), "proxy": PROXY, "behind_proxy": behind_proxy}
    context |= {"other_port": other_port}
    return templates.TemplateResponse(request, template, context, status_code, PAGE_HEADERS)
