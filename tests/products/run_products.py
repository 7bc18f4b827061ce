"""Products that know nothing of asgi-accel, under its middleware: python tests/products/run_products.py [NAME ...]

Each has an environment of its own, in `.products/`. Each exchange must be the same as without the middleware: with
nothing offered, with an offer that covers nothing, and behind nginx as `asgi-accel nginx` prints it. The middleware
stands where the product's users add it, and around the whole product. docs/frameworks.md says how they add it. Those
that are an importable app run by `asgi-accel run`, too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import servers
from servers import Nginx, Process

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".products"
PLAIN = {"Accept-Encoding": "identity"}
TEXT = b"0123456789" * 100
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154"
    "789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)
NOTEBOOK = "import marimo\n\napp = marimo.App()\n\nif __name__ == '__main__':\n    app.run()\n"
FILES = {
    "a.txt": TEXT,
    "public/a.txt": TEXT,
    "public/large.txt": 10 * TEXT,
    "static/a.txt": TEXT,
    "script.py": b"pass\n",
    "app/script.py": b"pass\n",
    ".streamlit/config.toml": b"[server]\nenableStaticServing = true\n[browser]\ngatherUsageStats = false\n",
    "picture.png": PNG,
    "notebook.py": NOTEBOOK.encode(),
    "docs/conf.py": b"project = 'Reports'\n",
    "docs/index.rst": b"Reports\n=======\n\nA page.\n",
}
# What nginx has of its own for each file, and says nothing of in a 206 (docs/differences.md).
OWN = {"date", "etag", "accept-ranges"}
# None of them reports to its makers.
QUIET = {"DO_NOT_TRACK": "1", "GRADIO_ANALYTICS_ENABLED": "False", "MLFLOW_DISABLE_TELEMETRY": "true"}
QUIET |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "SOLARA_TELEMETRY_MIXPANEL_ENABLE": "false"}
# What nginx drops, and the printed configuration does not bring back.
DROPPED = {"server-timing", "x-tiled-request-id"}


@dataclass
class Exchange:
    """A request, and what is known of its answer."""

    path: str
    sent_by: str = "nginx"  # if it offers to send everything
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    content: bytes = b""
    status: int = 200
    contains: bytes = b""


Ask = Callable[[Exchange], httpx.Response]
Exchanges = Callable[[Ask, Path], Iterator[Exchange]]


def gradio(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Its scripts, compressed and not, and an upload with its download."""
    page = Exchange("/", "app", contains=b"gradio")
    yield page
    scripts = sorted(set(re.findall(r'"\.?/?(assets/[\w.-]+\.js)"', ask(page).text)))[:3]
    assert scripts
    for script in scripts:
        yield Exchange(f"/{script}")
        yield Exchange(f"/{script}", headers={"Range": "bytes=2-9"}, status=206)
        yield Exchange(f"/{script}", headers={"Accept-Encoding": "br"})
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n' + TEXT + b"\r\n--x--\r\n"
    upload = Exchange(
        "/gradio_api/upload",
        "app",
        {"Content-Type": "multipart/form-data; boundary=x"},
        "POST",
        form,
        contains=b"a.txt",
    )
    yield upload
    (path,) = ask(upload).json()
    yield Exchange(f"/gradio_api/file={path}", contains=TEXT)
    yield Exchange(f"/gradio_api/file={files}/picture.png", contains=PNG)


def marimo(ask: Ask, files: Path) -> Iterator[Exchange]:
    """A file of a notebook, whole, in part, and a range that it has not; a file of marimo's own."""
    notebook = {"X-Notebook-Id": f"{files}/notebook.py"}
    yield Exchange("/", "app", contains=b"marimo")
    yield Exchange("/public/a.txt", headers=notebook, contains=TEXT)
    yield Exchange("/public/a.txt", headers={**notebook, "Range": "bytes=2-9"}, status=206)
    yield Exchange("/public/a.txt", headers={**notebook, "Range": "bytes=99999-"}, status=416)
    yield Exchange("/public/none.txt", "app", notebook, status=404)
    yield Exchange("/favicon.ico")


def nicegui(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Its scripts, compressed and not, static files, and media with ranges of NiceGUI's own."""
    page = Exchange("/", "app")
    scripts = sorted(set(re.findall(r'"(/_nicegui/[\w./-]+/static/[\w./-]+\.js)"', ask(page).text)))[:3]
    assert scripts
    # Its own GZipMiddleware does not see the files that go out by their path, and adds no Vary to them.
    for script in scripts:
        yield Exchange(script)
        yield Exchange(script, headers={"Accept-Encoding": "gzip"})
    yield Exchange("/files/a.txt", contains=TEXT)
    yield Exchange("/files/a.txt", headers={"Range": "bytes=99999-"}, status=416)
    yield Exchange("/media/a.txt", "app", headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange("/files/none.txt", "app", status=404)


def sphinx_autobuild(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Pages with the script that it adds, and files as they are."""
    yield Exchange("/", "app", contains=b"websocket-reload")
    yield Exchange("/index.html", "app", contains=b"websocket-reload")
    yield Exchange("/_static/basic.css")
    yield Exchange("/_static/basic.css", headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange("/none.html", "app", status=404)


def streamlit(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Its scripts, which it never compresses, and static files of the app."""
    page = Exchange("/", "app", contains=b"Streamlit")
    yield page
    scripts = sorted(set(re.findall(r'"\./(static/js/[\w.-]+\.js)"', ask(page).text)))[:3]
    assert scripts
    for script in scripts:
        yield Exchange(f"/{script}")
        yield Exchange(f"/{script}", headers={"Accept-Encoding": "gzip, br, zstd"})
        yield Exchange(f"/{script}", headers={"Range": "bytes=99999999-"}, status=416)
    yield Exchange("/app/static/a.txt", contains=TEXT)
    yield Exchange("/app/static/a.txt", headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange("/_stcore/health", "app", contains=b"ok")


def chainlit(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Its scripts, files in `public/`, and an upload with its download, which want a websocket's session."""
    page = Exchange("/chat/", "app", contains=b"/chat/assets/")
    yield page
    scripts = sorted(set(re.findall(r'"(/chat/assets/[\w.-]+\.(?:js|css))"', ask(page).text)))
    assert scripts
    for script in scripts:
        yield Exchange(script)
        yield Exchange(script, headers={"Accept-Encoding": "gzip"})
        yield Exchange(script, headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange("/chat/public/a.txt", contains=TEXT)
    yield Exchange("/chat/public/none.txt", "app", status=404)
    socket = "/chat/ws/socket.io/?EIO=4&transport=polling"
    opened = json.loads(ask(Exchange(socket)).text[1:])["sid"]
    hello = b'40{"sessionId": "a-session", "clientType": "webapp"}'
    ask(Exchange(f"{socket}&sid={opened}", method="POST", content=hello))
    ask(Exchange(f"{socket}&sid={opened}"))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    upload = Exchange("/chat/project/file?session_id=a-session", "app", kind, "POST", form + TEXT + b"\r\n--x--\r\n")
    file = ask(upload).json()["id"]
    yield Exchange(f"/chat/project/file/{file}?session_id=a-session", contains=TEXT)


def solara(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Its pictures, and files of the app in `public/`; it compresses those of 1 kB and more itself."""
    yield Exchange("/", "app", contains=b"solara")
    yield Exchange("/static/public/a.txt", contains=TEXT)
    yield Exchange("/static/public/large.txt", contains=TEXT)
    yield Exchange("/static/public/large.txt", "app", {"Accept-Encoding": "gzip"})
    yield Exchange("/static/assets/style.css", headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange("/static/assets/favicon.png", headers={"Accept-Encoding": "gzip"})
    yield Exchange("/static/none.txt", "app", status=404)


def tiled(ask: Ask, files: Path) -> Iterator[Exchange]:
    """Its pages, and a file of a catalog: compressed, whole and in part."""
    key = {"Authorization": "Apikey secret"}
    structure = {"arrow_schema": "data:application/vnd.apache.arrow.file;base64,", "npartitions": 1, "columns": ["a"]}
    asset = {"data_uri": f"file://localhost{files}/public/large.txt", "is_directory": False}
    source: dict[str, object] = {
        "structure_family": "table",
        "mimetype": "text/csv",
        "management": "external",
        "structure": structure,
    }
    source["assets"] = [{**asset, "parameter": "data_uris", "num": 0}]
    entry = {"id": "a", "structure_family": "table", "metadata": {}, "specs": [], "data_sources": [source]}
    content = json.dumps(entry).encode()
    answer = ask(Exchange("/api/v1/register/", "app", {**key, "Content-Type": "application/json"}, "POST", content))
    assert answer.status_code == 200, answer.text
    yield Exchange("/", "app")
    yield Exchange("/ui/index.html", "app", contains=b"<html")
    yield Exchange("/ui/index.html", "app", headers={"Accept-Encoding": "gzip"})
    yield Exchange("/api/v1/asset/bytes/a?id=1", headers=key, contains=TEXT)
    yield Exchange("/api/v1/asset/bytes/a?id=1", headers={**key, "Accept-Encoding": "gzip"})
    yield Exchange("/api/v1/asset/bytes/a?id=1", headers={**key, "Range": "bytes=2-9"}, status=206)
    yield Exchange("/api/v1/asset/bytes/a?id=1", headers={**key, "Range": "bytes=99999-"}, status=416)
    yield Exchange("/static/favicon.ico")


def mlflow(ask: Ask, files: Path) -> Iterator[Exchange]:
    """An artifact, uploaded and fetched; its pages come from Flask."""
    page = Exchange("/", "app", contains=b"MLflow")
    yield page
    yield Exchange("/" + re.findall(r'"(static-files/static/js/[\w.-]+\.js)"', ask(page).text)[0], "app")
    artifact = "/api/2.0/mlflow-artifacts/artifacts/runs/a.txt"
    yield Exchange(artifact, "app", method="PUT", content=TEXT)
    yield Exchange(artifact, contains=TEXT)
    yield Exchange(artifact, headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange(artifact, headers={"Range": "bytes=99999-"}, status=416)
    yield Exchange(artifact.replace("a.txt", "none.txt"), "app", status=404)


def prefect(ask: Ask, files: Path) -> Iterator[Exchange]:
    """The files of its pages, compressed and not."""
    page = Exchange("/", "app", contains=b"Prefect")
    yield page
    scripts = sorted(set(re.findall(r'"(/assets/[\w.-]+\.js)"', ask(page).text)))[:3]
    assert scripts
    for script in scripts:
        yield Exchange(script)
        yield Exchange(script, headers={"Accept-Encoding": "gzip"})
        yield Exchange(script, headers={"Range": "bytes=2-9"}, status=206)
    yield Exchange("/api/health", "app", contains=b"true")


@dataclass
class Product:
    pinned: list[str]
    exchanges: Exchanges
    places: tuple[str, ...] = ("around", "inside")
    runs: bool = False  # by `asgi-accel run`
    varies: tuple[str, ...] = ()  # headers whose values are other ones each time


PRODUCTS = {
    "gradio": Product(["gradio==6.31.0"], gradio, runs=True),
    "marimo": Product(["marimo==0.25.2"], marimo, runs=True),
    "nicegui": Product(["nicegui==3.18.0"], nicegui, runs=True),
    "sphinx_autobuild": Product(["sphinx-autobuild==2025.8.25", "sphinx==9.0.4"], sphinx_autobuild, ("around",)),
    "streamlit": Product(["streamlit==1.67.0"], streamlit, runs=True, varies=("set-cookie",)),
    "chainlit": Product(["chainlit==2.12.0"], chainlit),
    "solara": Product(["solara==1.64.1"], solara, ("around",), runs=True, varies=("set-cookie",)),
    "tiled": Product(["tiled[server]==0.2.20"], tiled, varies=("server-timing", "set-cookie", "x-tiled-request-id")),
    "mlflow": Product(["mlflow==3.17.2"], mlflow, ("around",), runs=True, varies=("expires",)),
    "prefect": Product(["prefect==3.9.1"], prefect, ("around",), runs=True),
}


def python_of(name: str) -> Path:
    """The Python of a product's environment, with the Starlette of this one."""
    pinned = PRODUCTS[name].pinned
    venv = CACHE / f"{name}-{pinned[0].partition('==')[2]}"
    if not (venv / ".installed").exists():
        starlette = f"starlette=={importlib.metadata.version('starlette')}"
        command = [
            f"{ROOT}/tools/make_venv",
            sys.executable,
            str(venv),
            "--editable",
            f"{ROOT}[run]",
            *pinned,
            starlette,
        ]
        subprocess.run(command, check=True)
        (venv / ".installed").touch()
    return venv / "bin" / "python"


class Site:
    """A product as it is asked in each set-up: directly, and by nginx as the command prints it."""

    def __init__(self, name: str, folder: Path, stack: contextlib.ExitStack) -> None:
        python = python_of(name)
        self.name = name
        self.python = python
        self.files = folder / "files"
        for path, content in FILES.items():
            (self.files / path).parent.mkdir(parents=True, exist_ok=True)
            (self.files / path).write_bytes(content)
        self.mapping = f"{self.files}/=/_files/, {python.parent.parent}/=/_packages/"
        environment = {"PYTHONPATH": str(HERE), "FILES": str(self.files), "MAPPING": self.mapping, "HOME": str(folder)}
        environment |= {"GRADIO_TEMP_DIR": f"{self.files}/uploads", **QUIET}
        self.folder = folder
        self.environment = environment
        command = [str(python), "-m", "uvicorn", f"{name}_app:site", "--uds", f"{folder}/app.sock"]
        stack.enter_context(Process(command, folder / "app.sock", folder / "app.log", **environment))
        command = [str(python), "-m", "asgi_accel", "nginx", "--mapping", self.mapping, "--unix", f"{folder}/app.sock"]
        command += ["--listen", f"unix:{folder}/nginx.sock"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        stack.enter_context(Nginx(folder, printed, folder / "nginx.sock"))
        self.app = stack.enter_context(servers.client(folder / "app.sock", timeout=60))
        self.nginx = stack.enter_context(servers.client(folder / "nginx.sock", timeout=60))

    def ask(self, exchange: Exchange, set_up: str = "without") -> httpx.Response:
        """Ask the app itself, or nginx if that offers all."""
        headers = {**exchange.headers, "X-Set-Up": set_up.removesuffix("-nginx")}
        if set_up.endswith("-other"):
            headers["X-Accel-Mapping"] = "/nowhere/=/_none/"
        client = self.nginx if set_up.endswith(("-all", "-nginx")) else self.app
        client.cookies.clear()
        return client.request(exchange.method, exchange.path, headers=headers, content=exchange.content)

    def wrong(self, product: Product) -> Iterator[str | None]:
        """What is not as it should be, of each that is compared."""
        for exchange in product.exchanges(self.ask, self.files):
            without = self.ask(exchange)
            is_known = without.status_code == exchange.status and exchange.contains in without.content
            yield None if is_known else f"{exchange.path} itself: {without.status_code} {without.content[:99]!r}"
            for place in product.places:
                for offer in ("nothing", "other"):
                    found = self.ask(exchange, f"{place}-{offer}")
                    yield difference(f"{place}, {offer} is offered", exchange, without, found, product.varies)
                yield self.wrong_by_nginx(exchange, place, product)

    def wrong_by_nginx(self, exchange: Exchange, place: str, product: Product) -> str | None:
        """What docs/differences.md does not list, if nginx offers to send all."""
        without, found = self.ask(exchange, "without-nginx"), self.ask(exchange, f"{place}-all")
        what = f"{place}, behind nginx"
        is_by_nginx = found.headers.get("etag") != without.headers.get("etag") or b"<center>nginx" in found.content
        if is_by_nginx != (exchange.sent_by == "nginx"):
            return f"{exchange.path} {exchange.headers}, {what}: is it sent by nginx? {is_by_nginx}"
        if not is_by_nginx:
            return difference(what, exchange, without, found, product.varies)
        if exchange.status == 416:  # with a page of nginx's own, and what it keeps of the redirect
            return difference(what, exchange, without, found, product.varies, {"content-range", "vary"}, by_nginx=True)
        if "Accept-Encoding" in exchange.headers:  # the app compresses no file that nginx sends
            plain = {name: value for name, value in exchange.headers.items() if name != "Accept-Encoding"}
            without = self.ask(Exchange(exchange.path, headers=plain), "without-nginx")
        return difference(what, exchange, without, found, product.varies, by_nginx=True)

    def wrong_by_run(self, product: Product, proxy: str) -> Iterator[str | None]:
        """What is wrong with the files of a product that `asgi-accel run` has started."""
        command = [str(self.python), "-m", "asgi_accel", "run", f"{self.name}_app:app", "--mapping", self.mapping]
        command += ["--proxy", proxy, "--port", "0", "--timeout", str(servers.DEADLINE)]
        log = self.folder / f"run-{proxy}.log"
        with log.open("wb") as written:
            environment = {**os.environ, **self.environment}
            process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=written, text=True
            )
        timer = threading.Timer(2 * servers.DEADLINE, process.terminate)
        timer.start()
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        files = [asked for asked in product.exchanges(self.ask, self.files) if asked.sent_by == "nginx"]
        found = {}
        for path in {asked.path for asked in files if not asked.headers} if address else ():
            found[path] = httpx.get(address + path, headers=PLAIN, trust_env=False, timeout=60)
        process.terminate()
        status = process.wait(60)
        timer.cancel()
        said = log.read_text()
        yield None if found and status == 0 else f"asgi-accel run, {proxy}: exit status {status}\n{said}"
        for path, answer in found.items():
            is_same = (answer.status_code, answer.content) == (200, self.ask(Exchange(path)).content)
            is_sent = re.search(rf"^{proxy} +200 .* GET {re.escape(path)} -> /_", said, re.MULTILINE)
            yield None if is_same and is_sent else f"asgi-accel run, {proxy}: {path} {answer}\n{said}"


def without_encoding(vary: str) -> str:
    return ", ".join(name for name in vary.split(", ") if name != "Accept-Encoding")


def difference(
    what: str,
    exchange: Exchange,
    without: httpx.Response,
    found: httpx.Response,
    varies: tuple[str, ...] = (),
    only: set[str] | None = None,
    by_nginx: bool = False,
) -> str | None:
    """What differs in the answers to an exchange, as a line, or None."""
    left_out = OWN | DROPPED if by_nginx else {"date"}
    before, after = (
        {(name, "" if name in varies else value) for name, value in items if name not in left_out}
        for items in (without.headers.multi_items(), found.headers.multi_items())
    )
    if by_nginx:  # no middleware of the app's has compressed the file
        before = {(name, without_encoding(value) if name == "vary" else value) for name, value in before}
        before -= {("vary", "")}
    if only is not None:
        before, after = ({header for header in headers if header[0] in only} for headers in (before, after))
    parts = []
    if without.status_code != found.status_code:
        parts.append(f"{found.status_code} for {without.status_code}")
    if before != after:
        parts.append(f"headers {sorted(after - before)} for {sorted(before - after)}")
    if only is None and without.content != found.content:
        parts.append(f"{len(found.content)} other bytes for {len(without.content)}")
    name = f"{exchange.method} {exchange.path} {exchange.headers}, {what}"
    return f"{name}: {'; '.join(parts)}" if parts else None


def check(name: str) -> bool:
    started = time.monotonic()
    python_of(name)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="accel-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        site = Site(name, folder, stack)
        found = list(site.wrong(PRODUCTS[name]))
        for proxy in ("nginx", "caddy") if PRODUCTS[name].runs else ():
            found += site.wrong_by_run(PRODUCTS[name], proxy)
    wrong = [line for line in found if line is not None]
    print(f"{' '.join(PRODUCTS[name].pinned)}: {len(found)} compared, {len(wrong)} wrong", *wrong, sep="\n    ")
    print(f"{name}: {'FAILED' if wrong else 'passed'} in {time.monotonic() - started:.0f} s", flush=True)
    return not wrong


if __name__ == "__main__":
    CACHE.mkdir(exist_ok=True)
    servers.DEADLINE = 120  # gradio alone takes many seconds to import
    sys.exit(1 if [name for name in sys.argv[1:] or PRODUCTS if not check(name)] else 0)
