"""Mistakes that each of four type checkers must find, one in each marked line (tools/check_types.py). It is not run."""

from pathlib import Path

from fastapi import FastAPI
from litestar.middleware import DefineMiddleware

from asgi_accel import AccelMiddleware, AccelRedirectResponse, PathMap

mapping = PathMap({"/mnt/storage": "/download"})
api = FastAPI()


def for_wsgi(environ: dict[str, str], start_response: object) -> list[bytes]:
    return []


def not_async(scope: object, receive: object, send: object) -> None:
    return None


AccelMiddleware()  # wrong
AccelMiddleware("main:app", mapping)  # wrong
AccelMiddleware(for_wsgi, mapping)  # wrong
AccelMiddleware(not_async, mapping)  # wrong
AccelMiddleware(api, 1)  # wrong
AccelMiddleware(api, Path("/mnt/storage"))  # wrong
AccelMiddleware(api, mapping, True)  # wrong
AccelMiddleware(api, mapping, always="yes")  # wrong
AccelMiddleware(api, secret=b"x")  # wrong
AccelMiddleware(api, mapping, sendfile_type=None)  # wrong
AccelMiddleware(api, mapping, allways=True)  # wrong
DefineMiddleware(mapping)  # wrong
api.add_middleware(AccelMiddleware, mapping=1)  # wrong

AccelRedirectResponse(b"/download/a.txt")  # wrong
AccelRedirectResponse("/download/a.txt", limit_rate="1")  # wrong
AccelRedirectResponse("/download/a.txt", mapping=1)  # wrong
AccelRedirectResponse("/download/a.txt", expires="1h")  # wrong

PathMap({"/a": 1})  # wrong
PathMap([("/a", "/b", "/c")])  # wrong
PathMap.parse(mapping)  # wrong
path: str = mapping.path("/download/a.txt")  # wrong
mapping.pairs.clear()  # wrong
