"""The configuration that `asgi-accel nginx` prints, in a real nginx."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import httpx
import pytest
from apps import SECRET
from behind_nginx import TEXT, sent_by_nginx, url
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import need_nginx
from pages import blocks
from servers import UVICORN, Nginx, asgi_server, client

from asgi_accel import PathMap
from asgi_accel.cli import main
from asgi_accel.cli.nginx import nginx

# All that nginx's grammar has a meaning for, but for the dollar sign.
STRANGE = os.fsdecode(b"a b\"c'd;e{f}g#h\\ni=j,k%25l~m" + "ü".encode() + b"\xff")
MAPPING = PathMap({"/mnt/storage": "/download"})


def printed(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str) -> str:
    assert main(["nginx", *arguments]) == 0
    return os.fsdecode(capsysbinary.readouterr().out)


@pytest.fixture(scope="module")
def strange(folder: Path) -> Iterator[Path]:
    """A folder with such a name, and uvicorn with the tests' app for it."""
    need_nginx()
    files = folder / "config" / STRANGE
    files.mkdir(parents=True)
    (files / "100% ü?.txt").write_bytes(TEXT)
    with asgi_server(folder, *UVICORN, name="strange", FILES=str(files)):
        yield files


@pytest.fixture
def site(
    folder: Path, strange: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """nginx with what the command printed for that folder, and nothing else."""
    monkeypatch.setenv("ACCEL_SECRET", SECRET)
    listens_on = Path(tempfile.mkdtemp(dir=folder)) / "config.sock"
    given = ["--mapping", str(PathMap({strange: "/download"})), "--unix", str(folder / "strange.sock"), "--secret"]
    text = printed(capsysbinary, *given, "--listen", f"unix:{listens_on}", "--header", "X-Own")
    with Nginx(listens_on.parent, text, listens_on), client(listens_on) as running:
        yield running


class TestServed:
    """A site with that configuration."""

    @pytest.mark.parametrize("mode", ["mapping", "both", "secret"])
    def test_file(self, site: httpx.Client, mode: str) -> None:
        """nginx sends the file, whatever the directory's name, with the app's headers."""
        response = site.get(url(mode, "file", "100% ü?.txt".encode()), headers={"Range": "bytes=3-6"})
        assert (response.status_code, response.content) == (206, TEXT[3:7])
        assert response.headers["x-own"] == "1"
        assert sent_by_nginx(response)

    def test_cors(self, site: httpx.Client) -> None:
        """The headers that browsers look for come back."""
        response = site.get(url("cors", "file", "100% ü?.txt".encode()), headers={"Origin": "https://other.example"})
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        assert response.headers["vary"] == "Origin"
        assert sent_by_nginx(response)

    @pytest.mark.parametrize(("wanted", "status"), [("bytes=3-6", 206), ("bytes=5000-", 416)])
    def test_cors_of_a_range(self, site: httpx.Client, wanted: str, status: int) -> None:
        """They come once, with a range that cannot be had, too."""
        headers = {"Origin": "https://other.example", "Range": wanted}
        response = site.get(url("cors", "file", "100% ü?.txt".encode()), headers=headers)
        assert response.status_code == status
        assert response.headers.get_list("access-control-allow-origin") == ["https://other.example"]

    def test_long_headers(self, site: httpx.Client) -> None:
        """Long headers that other middleware adds to a redirect are no 502: they may have more than 4 KiB."""
        response = site.get(url("wordy", "file", "100% ü?.txt".encode()))
        assert response.content == TEXT
        assert sent_by_nginx(response)

    def test_client_cannot_choose(self, site: httpx.Client) -> None:
        """What a client sends itself does not reach the app, and it cannot ask for the location."""
        headers = {"X-Accel-Mapping": "/=/x/", "X-Accel-Secret": "guess", "X-Sendfile-Type": "X-Sendfile"}
        assert sent_by_nginx(site.get(url("both", "file", "100% ü?.txt".encode()), headers=headers))
        for path in ("/download/100%25%20%C3%BC%3F.txt", "/download/", "/download../"):
            assert site.get(path).status_code == 404

    def test_what_the_app_sees(self, site: httpx.Client) -> None:
        """The app sees who asks, and for which site."""
        seen = site.get("/mapping/headers").text
        assert "host: localhost" in seen
        assert "x-forwarded-proto: http" in seen
        assert "x-forwarded-for: unix:" in seen


class TestText:
    """What is printed, and what is refused."""

    def test_several(self, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        """There is a location for each pair, each header comes once, and names and address stand where they belong."""
        text = printed(
            capsysbinary,
            *("--mapping", "/a=/one, /b/=/two/", "--upstream", "[::1]:8000"),
            *("--listen", "443 ssl", "--server-name", "www.example example", "--header", "vary", "--header", "X-Own"),
        )
        assert 'location ^~ "/one/" {' in text
        assert 'alias "/b/";' in text
        assert "listen 443 ssl;" in text
        assert "server_name www.example example;" in text
        assert "server [::1]:8000;" in text
        assert text.lower().count("add_header vary ") == 2
        assert text.count("add_header X-Own $upstream_http_x_own;") == 2
        assert 'X-Accel-Secret "";' in text

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (["--mapping", "nonsense"], "nonsense"),
            (["--mapping", ""], "empty"),
            (["--mapping", "/mnt/=/"], "/download/"),
            (["--mapping", "/a=/x, /b=/x"], "'/x/'"),
            (["--mapping", "/mnt/$HOME=/x"], "dollar"),
            (["--mapping", '"/mnt/a\nb"=/x'], "control"),
            (["--mapping", f"/{'a' * 4090}=/x"], "4096"),
            (["--mapping", f"/mnt=/{'a' * 254}"], "255"),
            (["--upstream", "http://localhost:8000"], "'http://localhost:8000'"),
            (["--upstream", "a;b"], "'a;b'"),
            (["--upstream", "a:0"], "'a:0'"),
            (["--upstream", "a:65536"], "'a:65536'"),
            (["--unix", "app.sock"], "app.sock'"),
            (["--unix", "/run/a:b"], "/run/a:b'"),
            (["--unix", "/" + 107 * "a"], "107 bytes"),
            (["--listen", "80; }"], "'80; }'"),
            (["--server-name", ""], "server_name"),
            (["--client-max-body-size", "100MB"], "'100MB' must be a number"),
            (["--client-max-body-size", ""], "such as 100m"),
            (["--header", "X Own"], "'X Own'"),
            (["--header", "X-Own;"], "'X-Own;'"),
            (["--header", "ETag"], "'ETag'"),
            (["--header", "x-accel-redirect"], "'x-accel-redirect'"),
            (["--secret"], "ACCEL_SECRET"),
        ],
    )
    def test_refused(self, capsys: pytest.CaptureFixture[str], options: list[str], named: str) -> None:
        """What nginx cannot hold is refused with one line that names it."""
        given = dict(zip(["--mapping", "--upstream"], ["/mnt/storage=/download", "127.0.0.1:8000"], strict=True))
        if "--unix" in options:
            del given["--upstream"]
        given.update([tuple(options)] if len(options) == 2 else [])  # type: ignore[list-item]
        flags = options if len(options) == 1 else []
        assert main(["nginx", *(part for pair in given.items() for part in pair), *flags]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("asgi-accel: ")
        assert output.err.count("\n") == 1
        assert named in output.err

    def test_template(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A template for envsubst is made by the line that the documents have for it."""
        (line,) = "".join(blocks("docs/nginx.md", "text")).splitlines()
        command, _, rest = line.partition(" | ")
        assert main(shlex.split(command)[1:]) == 0
        sed = shlex.split(rest.partition(" > ")[0])
        text = subprocess.run(sed, input=capsys.readouterr().out, capture_output=True, text=True, check=True).stdout
        assert text.count("${") == text.count('alias "${STORAGE}/";') == 1
        assert 'X-Accel-Mapping "/data/=/download/";' in text

    def test_whole_disk(self) -> None:
        """A pair for the whole disk is printed with what it means."""
        assert "whole disk" in nginx(PathMap({"/": "/x"}), "127.0.0.1:8000")
        assert "whole disk" not in nginx(MAPPING, "127.0.0.1:8000")

    def test_windows(self) -> None:
        """A directory with a drive, which covers nothing, is refused."""
        with pytest.raises(ValueError, match="drive"):
            nginx(PathMap({PureWindowsPath("C:/files"): "/x"}), "127.0.0.1:8000")

    def test_no_upstream(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Where the app listens must be said, in one way."""
        for more in ([], ["--upstream", "a:1", "--unix", "/run/a"]):
            with pytest.raises(SystemExit) as stopped:
                main(["nginx", "--mapping", "/mnt=/x", *more])
            assert stopped.value.code == 2
            assert "--unix" in capsys.readouterr().err

    def test_secret(self) -> None:
        """A secret with quotes comes out whole; one with a dollar sign is refused without being told."""
        assert r'X-Accel-Secret "a\"b\\";' in nginx(MAPPING, "127.0.0.1:8000", secret='a"b\\')
        with pytest.raises(ValueError, match="dollar") as raised:
            nginx(MAPPING, "127.0.0.1:8000", secret="pa$$word")
        assert "pa$$word" not in str(raised.value)


# Names of what nginx's grammar has a meaning for, and of any text. Control characters are refused.
words = (
    st.text(st.sampled_from("\"'\\;{}# %~*^é\udcff\udc80,=.a"), min_size=1, max_size=6)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=40)
).filter(lambda name: name not in (".", ".."))


@given(st.dictionaries(words, words.map(lambda word: "/" + re.sub("[?#]", "%", word)), min_size=1, max_size=3))
@settings(max_examples=40)
def test_any_map(strange: Path, folder: Path, directories: dict[str, str]) -> None:
    """nginx sends the files of any map with what is printed for it, or the map is refused."""
    home = Path(tempfile.mkdtemp(dir=folder))
    files = {home / name / "a.txt": name for name in directories}
    try:
        mapping = PathMap({file.parent: directories[name] for file, name in files.items()})
        text = nginx(mapping, f"unix:{folder}/strange.sock", listen=f"unix:{home}/any.sock")
    except ValueError:
        return
    for file, name in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(name))
    with Nginx(home, text, home / "any.sock"), client(home / "any.sock") as running:
        for file, name in files.items():
            response = running.get(url("trust", "file", file))
            assert (response.status_code, response.content) == (200, os.fsencode(name))
            assert sent_by_nginx(response) == (mapping.uri(file) is not None)


def test_as_a_module() -> None:
    """`python -m asgi_accel` is the command."""

    help_text = subprocess.run(
        [sys.executable, "-m", "asgi_accel", "--help"], capture_output=True, text=True, check=True
    )
    assert "nginx" in help_text.stdout
    assert "check" in help_text.stdout
