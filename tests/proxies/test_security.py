"""What went wrong in other packages must not here; where nginx is what would be fooled, through a real nginx."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from behind_nginx import MODES, sent_by_nginx, url
from servers import Site

SECRET_TEXT = b"not for clients"
HOSTILE = [
    # CVE-2025-61780 (Rack::Sendfile): a client names the type and a mapping to an internal location of its choice.
    {"X-Sendfile-Type": "X-Accel-Redirect", "X-Accel-Mapping": "$files/=/vault/"},
    {"X-Accel-Mapping": "$files/=/vault/"},
    {"X-Accel-Mapping": "$files=/vault, $files/=/vault/"},
    # CVE-2026-34830 (Rack::Sendfile): the mapping is a regular expression.
    {"X-Accel-Mapping": ".*=/vault/secret.txt"},
    {"X-Accel-Mapping": "/.*/=/vault/"},
    {"X-Accel-Mapping": "$folder/fil.s/=/vault/"},
    # CVE-2026-7381 (Plack): the path's head is replaced wherever the client says.
    {"X-Sendfile-Type": "X-Accel-Redirect", "X-Accel-Mapping": "$folder=/vault/.."},
    {"X-Accel-Mapping": "/=/"},
    {"X-Accel-Mapping": '"$files/"="/vault/"'},
    {"X-Sendfile-Type": "X-Sendfile", "X-Accel-Mapping": "$files/=/vault/"},
    {"X-Accel-Redirect": "/vault/secret.txt"},
    {"X-Accel-Secret": "only the proxy knows it", "X-Accel-Mapping": "$files/=/vault/"},
    {"X-Accel-Secret": "", "X-Accel-Mapping": "$files/=/vault/"},
]


@pytest.fixture(scope="module")
def own(site: Site) -> Path:
    """A file that the client may have, with the name of one that it may not."""
    path = site.files / "secret.txt"
    path.write_bytes(b"for clients")
    return path


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("route", ["file", "redirect"])
@pytest.mark.parametrize("proxy", ["silent", "offers"])
class TestForgedHeaders:
    """A client that sends the proxy's headers gets what it would get without them."""

    @pytest.mark.parametrize("mode", ["mapping", "secret", "both"])
    def test_forged(self, site: Site, own: Path, proxy: str, route: str, mode: str, hostile: dict[str, str]) -> None:
        """Whether the proxy sets the headers itself or passes the client's on."""
        if proxy == "silent" and route == "redirect" and mode == "secret":
            route = "file"  # a redirect with no proxy and no mapping has nowhere to go
        headers = {
            name: value.replace("$files", str(site.files)).replace("$folder", str(site.folder))
            for name, value in hostile.items()
        }
        response = getattr(site, proxy).get(url(mode, route, b"secret.txt"), headers=headers)
        assert response.status_code == 200
        assert response.content == b"for clients"


@pytest.mark.parametrize(
    "value", ["x" * 6000, "\x80\xff", "=", '"', ",,,", "a=b", "/a=\t/b", "(" * 500 + "=" + ")" * 500]
)
@pytest.mark.parametrize("name", ["X-Accel-Mapping", "X-Accel-Secret", "X-Sendfile-Type"])
@pytest.mark.parametrize("mode", MODES)
def test_no_request_fails_by_a_header(site: Site, own: Path, mode: str, name: str, value: str) -> None:
    """Malformed and huge headers that reach the app are answered as if they were absent."""
    headers = [(name.encode(), value.encode("latin-1")), (name.encode(), b"twice")]
    for sent in (headers[:1], headers):
        response = site.direct.get(url(mode, "file", b"secret.txt"), headers=sent)
        assert response.status_code == 200
        assert response.content == (b"" if mode == "always" else b"for clients")


def test_internal_locations_are_internal(site: Site, own: Path) -> None:
    """A client does not get into an internal location by its URI."""
    for client in (site.offers, site.silent):
        for path in ("/download/secret.txt", "/download../vault/secret.txt", "/vault/secret.txt"):
            assert client.get(path).status_code == 404


def test_trusting_anyone_is_what_it_says(site: Site, own: Path) -> None:
    """Why trust_header is for proxies that set the header on every route: behind another, the client chooses."""
    headers = {"X-Accel-Mapping": f"{site.files}/=/vault/"}
    response = site.silent.get(url("trust", "file", b"secret.txt"), headers=headers)
    assert response.content == SECRET_TEXT
    response = site.offers.get(url("trust", "file", b"secret.txt"), headers=headers)
    assert response.content == b"for clients"


def test_uncovered_file_is_not_redirected_to_its_path(site: Site) -> None:
    """A file that no pair covers is served by the app (Rack redirects it to its own path in the file system)."""
    response = site.offers.get(url("mapping", "file", bytes(site.vault / "secret.txt")))
    assert response.content == SECRET_TEXT
    assert not sent_by_nginx(response)


def test_name_cannot_break_out_of_the_disposition(site: Site, own: Path) -> None:
    """A name with a quote does not choose another name (reflected file download; django-sendfile2 before 0.7.0)."""
    name = 'a";filename="evil.bat";x=".txt\r\nX-Evil: 1'
    response = site.offers.get(url("mapping", "redirect", b"secret.txt", filename=name))
    assert isinstance(response, httpx.Response)
    assert response.content == b"for clients"
    assert "x-evil" not in response.headers
    value = response.headers["content-disposition"]
    assert value.startswith('attachment; filename="a_;filename=_evil.bat_;x=_.txt__X-Evil: 1"; filename*=UTF-8')
    assert value.count('"') == 2
