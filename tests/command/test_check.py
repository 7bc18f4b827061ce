"""`asgi-accel check` at real sites: a good one, and one for each way in which they are broken."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from apps import SECRET
from needs import need_nginx
from servers import Nginx, free_port

from asgi_accel import PathMap
from asgi_accel.cli import main
from asgi_accel.cli.nginx import nginx

TEXT = b"0123456789" * 100
APP = """
    proxy_pass http://unix:$folder/app.sock:;
    proxy_set_header Host $host;
    proxy_set_header X-Accel-Mapping "$files/=/download/";
    proxy_set_header X-Sendfile-Type "";
"""
BACK = "".join(
    f"add_header {name} $upstream_http_{name.lower().replace('-', '_')};"
    for name in ("X-Own", "Access-Control-Allow-Origin", "Vary")
)
LOCATION = f"location /download/ {{ internal; alias $files/; {BACK} }}"
# The app answers HEAD itself if nginx offers nothing for it.
HEAD_BY_THE_APP = """
    error_page 418 = @head;
    location @head { proxy_pass http://unix:$folder/app.sock:; proxy_set_header Host $host; }
"""
UNREADABLE = ("unreadable", "own pages, unreadable", "private folder", "a page for 403")
BY_THE_APP = "if ($request_method = HEAD) { return 418; }"
SITES = {
    "good": f"location / {{ {APP} }} {LOCATION}",
    "no offer": f"location / {{ proxy_pass http://unix:$folder/app.sock:; proxy_set_header Host $host; }} {LOCATION}",
    "wrong alias": f"location / {{ {APP} }} location /download/ {{ internal; alias $folder/elsewhere/; }}",
    "other prefix": f"location / {{ {APP} }} location /downloads/ {{ internal; alias $files/; }}",
    "unreadable": f"location / {{ {APP} }} location /download/ {{ internal; alias $folder/unreadable/; }}",
    "nobody takes it": f"location / {{ {APP} proxy_ignore_headers X-Accel-Redirect; }} {LOCATION}",
    "shown": f"location / {{ {APP} }} {LOCATION.replace(BACK, BACK + 'add_header X-Accel-Redirect $uri;')}",
    "not internal": f"location / {{ {APP} }} {LOCATION.replace('internal;', '')}",
    "no slash": f"location / {{ {APP} }} location /download {{ alias $files/; {BACK} }}",
    "type believed": f"location / {{ {APP.replace('proxy_set_header X-Sendfile-Type', '#')} }} {LOCATION}",
    "headers lost": f"location / {{ {BY_THE_APP} {APP} }} {LOCATION.replace(BACK, '')} {HEAD_BY_THE_APP}",
    "headers unseen": f"location / {{ {APP} }} {LOCATION.replace(BACK, '')}",
    "headers kept": f"location / {{ {BY_THE_APP} {APP} }} {LOCATION} {HEAD_BY_THE_APP}",
    "name lost": f"{HEAD_BY_THE_APP} location / {{ {BY_THE_APP} {APP} }} "
    + LOCATION.replace(BACK, BACK + "add_header Content-Disposition inline;"),
    "no ranges": f"location / {{ {APP} }} {LOCATION.replace(BACK, BACK + 'max_ranges 0;')}",
    "no conditions": f"location / {{ {APP} }} {LOCATION.replace(BACK, BACK + 'if_modified_since off;')}",
    "HEAD elsewhere": (f"location / {{ if ($request_method = HEAD) {{ return 204; }} {APP} }} {LOCATION}"),
    "no app": "location / { proxy_pass http://unix:$folder/no-app.sock:; }",
    "no location": f"location / {{ {APP} }}",
    "private folder": f"location / {{ {APP} }} location /download/ {{ internal; alias $folder/private/; }}",
    # The line that the app needs stands at a level that the location has forgotten.
    "inner location": f"""
        proxy_set_header X-Accel-Mapping "$files/=/download/";
        location / {{ proxy_pass http://unix:$folder/app.sock:; proxy_set_header Host $host; }} {LOCATION}""",
    "swapped": f"location / {{ {APP.replace('$files/=/download/', '/download/=$files/')} }} {LOCATION}",
    "another server": "root $folder/nothing; location / { try_files $uri $uri/ =404; }",
    "compressed": f"""
        gzip on; gzip_types *; gzip_min_length 1; gzip_vary on; gzip_proxied any; location / {{ {APP} }} {LOCATION}""",
    "cache": """
        location / {
            proxy_pass http://127.0.0.1:$port_of_good; proxy_cache check; proxy_cache_valid 200 1m;
            proxy_ignore_headers Cache-Control Set-Cookie; add_header X-Cache $upstream_cache_status;
        }""",
    "part": f"location /mapping/ {{ {APP} }} location / {{ return 404; }} {LOCATION}",
    "to https": "return 301 https://www.example$request_uri;",
    "multipart": f"location / {{ {APP} }} location /storage/ {{ internal; proxy_pass http://unix:$folder/s3.sock:/; }}",
    "own 404": f"""
        error_page 404 /404.html; location / {{ {APP} }} {LOCATION} location = /404.html {{ return 200 gone; }}
        location /refused {{ proxy_pass http://unix:$folder/no.sock; }}""",
    "own pages, wrong alias": f"""
        error_page 403 404 /404.html; location = /404.html {{ return 200 gone; }}
        location / {{ {APP} }} location /download/ {{ internal; alias $folder/elsewhere/; }}""",
    "own pages, unreadable": f"""
        error_page 403 404 /404.html; location = /404.html {{ return 200 gone; }}
        location / {{ {APP} }} location /download/ {{ internal; alias $folder/unreadable/; }}""",
    "a page for 403": f"""
        error_page 403 /403.html; location = /403.html {{ return 200 closed; }}
        location / {{ {APP} }} location /download/ {{ internal; alias $folder/unreadable/; }}""",
    "single page": f"""
        location ~ ^/(mapping|cors)/ {{ {APP} }} location / {{ return 200 page; }}
        location /refused {{ proxy_pass http://unix:$folder/no.sock; }}""",
    "route named as the directory": """
        location / { proxy_pass http://unix:$folder/app.sock:; proxy_set_header Host $host; }
        location $files/ { proxy_pass http://unix:$folder/no.sock; }""",
    "password": "location / { return 401; }",
    "bad request": "location / { return 400; }",
    "limited": f"limit_req zone=limited burst=6 nodelay; limit_req_status 429; location / {{ {APP} }} {LOCATION}",
    "forged mapping": """
        location / { proxy_pass http://unix:$folder/app.sock:; proxy_set_header Host $host; }
        location /download/ { internal; alias $files/; }
        location /asgi-accel-check { internal; return 403; }""",
}


# An app that refuses.
NO = "server { listen unix:$folder/no.sock; return 403 no; }"
# Stands for S3: the ETag of an object that came in 38 parts, and of one that came whole.
STORAGE = """
map $uri $check_etag {
    ~parts "\\"d41d8cd98f00b204e9800998ecf8427e-38\\"";
    default "\\"d41d8cd98f00b204e9800998ecf8427e\\"";
}
server {
    listen unix:$folder/s3.sock;
    location / {
        if ($http_if_none_match = $check_etag) { return 304; }
        etag off; rewrite ^ /a.txt break; root $files; add_header ETag $check_etag;
    }
}
"""


class Sites:
    """The URLs of all these sites, and the map of their app."""

    def __init__(self, files: Path, ports: dict[str, int]) -> None:
        self.files = files
        self.mapping = str(PathMap({files: "/download"}))
        self._ports = ports

    def url(self, name: str, route: str = "named", mode: str = "mapping", file: str = "a.txt") -> str:
        if name in UNREADABLE and os.geteuid() != 0:
            pytest.skip("only root can have files that nginx may not read")
        query = f"{'&' if '?' in route else '?'}filename=a%20b.txt&hex={os.fsencode(file).hex()}"
        return f"http://127.0.0.1:{self._ports[name]}/{mode}/{route}{query}"


@pytest.fixture(scope="module")
def sites(folder: Path, site: object) -> Iterator[Sites]:
    need_nginx()
    files = folder / "files"
    (files / "a.txt").write_bytes(TEXT)
    (files / "empty.txt").write_bytes(b"")
    (folder / "unreadable").mkdir()
    (folder / "unreadable" / "a.txt").write_bytes(TEXT)
    (folder / "unreadable" / "a.txt").chmod(0o600)
    (folder / "private").mkdir(mode=0o700)
    (folder / "private" / "a.txt").write_bytes(TEXT)
    (folder / "nothing").mkdir()
    ports = {name: free_port() for name in (*SITES, "printed")}
    http = "".join(f"server {{ listen 127.0.0.1:{ports[name]}; {text} }}\n" for name, text in SITES.items())
    http += f"server {{ listen 127.0.0.1:{ports['another server']}; server_name right.example; {SITES['good']} }}"
    http += f"{NO} {STORAGE} proxy_cache_path {folder}/cache keys_zone=check:1m;"
    http += "limit_req_zone $binary_remote_addr zone=limited:1m rate=1r/m;"
    http = http.replace("$port_of_good", str(ports["good"])).replace("$folder", str(folder))
    http = http.replace("$files", str(files))
    mapping, socket_ = PathMap({files: "/download"}), f"unix:{folder}/app.sock"
    http += nginx(mapping, socket_, listen=f"127.0.0.1:{ports['printed']}", secret=SECRET, headers=["X-Own"])
    http += f"server {{ listen unix:{folder}/check.sock; }}"
    # As another user than the tests, who may be root and read everything.
    with Nginx(folder, http, folder / "check.sock", user="nobody nogroup"):
        yield Sites(files, ports)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[bool | None, str, str]]]:
    """The exit status, and what was found by name."""
    status = main(["check", "--json", *arguments])
    findings = json.loads(capsys.readouterr().out)
    return status, {finding["name"]: (finding["ok"], finding["seen"], finding["advice"]) for finding in findings}


class TestSites:
    """What is found at each site."""

    @pytest.mark.parametrize("name", ["good", "printed"])
    @pytest.mark.parametrize(("mode", "route"), [("mapping", "named"), ("both", "file"), ("cors", "file")])
    def test_good(self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str, mode: str, route: str) -> None:
        """Nothing is wrong where nothing is, with a configuration by hand and with one that was printed."""
        if (name, mode) == ("good", "both"):
            return  # it has no secret
        status, found = run(capsys, sites.url(name, route, mode), "--mapping", sites.mapping)
        assert [item for item in found.items() if item[1][0] is False] == []
        assert status == 0
        assert found["who sends the file"][:2] == (True, "nginx: 200, 1,000 bytes, nginx's ETag")
        for check in ("ranges", "HEAD", "If-None-Match", "If-Modified-Since", "redirect target"):
            assert found[check][0], check
        assert found["the app's headers"][0] is None  # nginx answers HEAD, too
        assert found["name of the download"][0] == (True if route == "named" else None)
        assert found["/download/ from outside"][0]

    @pytest.mark.parametrize(
        ("name", "check", "seen", "advice"),
        [
            ("no offer", "who sends the file", "the app: 200", "proxy_set_header X-Accel-Mapping"),
            ("wrong alias", "who sends the file", "404: the app said yes", "alias"),
            ("other prefix", "who sends the file", "no location", 'location ^~ "/download/" { internal; alias'),
            ("unreadable", "who sends the file", "403: the app said yes", "www-data"),
            ("no app", "who sends the file", "502, from nginx", "error log"),
            ("nobody takes it", "who sends the file", "nobody", "proxy_ignore_headers"),
            ("shown", "redirect target", "X-Accel-Redirect", "proxy_hide_header X-Accel-Redirect;"),
            ("not internal", "/download/ from outside", "403", "internal;"),
            ("no slash", "out of /download/", "/download../", 'location ^~ "/download/" {'),
            ("type believed", "forged X-Sendfile-Type", "app", 'proxy_set_header X-Sendfile-Type "";'),
            ("headers lost", "the app's headers", "X-Own", "add_header X-Own $upstream_http_x_own;"),
            ("name lost", "name of the download", "inline", "add_header Content-Disposition"),
            ("no ranges", "ranges", "200, not 206", "gzip_types"),
            ("no conditions", "If-Modified-Since", "200, not 304", "if_modified_since exact;"),
            ("HEAD elsewhere", "HEAD", "204", "HEAD"),
        ],
    )
    def test_broken(
        self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str, check: str, seen: str, advice: str
    ) -> None:
        """What is wrong is found, with what was seen and what to change."""
        route = "file" if name == "headers lost" else "named"
        status, found = run(capsys, sites.url(name, route), "--mapping", sites.mapping)
        assert status == 1
        assert found[check][0] is False
        assert seen in found[check][1]
        assert advice in found[check][2]

    @pytest.mark.parametrize("route", ["named", "api/file"])
    @pytest.mark.parametrize(
        ("name", "seen", "advice"),
        [
            ("no location", "nginx has no location for /download/", 'location ^~ "/download/" { internal; alias'),
            ("other prefix", "nginx has no location for /download/", 'location ^~ "/download/" { internal; alias'),
            ("another server", "404: nginx answers itself, without asking", "default_server"),
            ("inner location", "the app: 200", "nginx sets no X-Accel-Mapping for this URL"),
            ("inner location", "the app: 200", "inherits none from the levels above"),
            ("no offer", "the app: 200", "nginx sets no X-Accel-Mapping for this URL"),
            ("swapped", "the app: 200", "two sides are swapped"),
            ("wrong alias", "404: the app", "alias"),
            ("own pages, wrong alias", "404: the app", "alias"),
            ("own pages, unreadable", "403: the app", "UMask=0027"),
            ("single page", "200: nginx has no location for /download/", 'location ^~ "/download/" { internal; alias'),
            ("route named as the directory", "the app: 200", "nginx sets no X-Accel-Mapping for this URL"),
            ("unreadable", "403: the app", "UMask=0027"),
            ("private folder", "403: the app", "setfacl does not help"),
            ("no app", "502, from nginx", "error log"),
            ("nobody takes it", "nobody", "proxy_ignore_headers"),
        ],
    )
    def test_cause(
        self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str, seen: str, advice: str, route: str
    ) -> None:
        """The cause is named for a route that takes HEAD and for one that answers it with 405, with a cookie given."""
        given = ("--mapping", sites.mapping, "--header", "Cookie: session=1")
        status, found = run(capsys, sites.url(name, route), *given)
        assert status == 1
        assert found["who sends the file"][0] is False
        assert seen in found["who sends the file"][1]
        assert advice in found["who sends the file"][2]
        assert "--header" not in found["who sends the file"][2]

    @pytest.mark.parametrize("route", ["named", "api/file"])
    @pytest.mark.parametrize("name", ["no location", "other prefix"])
    def test_no_location_without_mapping(
        self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str, route: str
    ) -> None:
        """A missing location is named without a mapping, too."""
        status, found = run(capsys, sites.url(name, route))
        assert status == 1
        assert "no location" in "".join(found["who sends the file"][1:])
        assert 'location ^~ "/prefix/" { internal; alias "/the/directory/"; }' in found["who sends the file"][2]

    def test_swapped_mapping_of_the_app(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """The two sides of the app's mapping are swapped: nginx has a location by the name of the directory."""
        mapping = ("--mapping", f"/download/={sites.files}/")
        status, found = run(capsys, sites.url("good", mode="elsewhere"), *mapping)
        assert status == 1
        assert "the two sides of the mapping are swapped" in found["who sends the file"][2]
        assert f"{sites.files}/=/download/" in found["who sends the file"][2]
        _, found = run(capsys, sites.url("good", "nowhere"), *mapping)
        assert "the two sides of the mapping are swapped" in found["who sends the file"][2]

    @pytest.mark.parametrize(
        ("name", "route", "seen", "advice"),
        [
            ("own 404", "nowhere", "404, from the app", "default_server"),
            ("part", "moved", "307, to /elsewhere", "login cookie"),
            ("good", "fail", "500, from the app", "the app's log"),
            ("password", "named", "401, from nginx", "login cookie"),
            ("bad request", "named", "400, from nginx", "a port for https"),
            ("a page for 403", "named", "403: the app said yes", "UMask=0027"),
            ("to https", "named", "301, to https://www.example/mapping/named", "the URL that it leads to"),
        ],
    )
    def test_refusal(
        self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str, route: str, seen: str, advice: str
    ) -> None:
        """What the app or nginx itself refuses is not taken for a missing location."""
        _, found = run(capsys, sites.url(name, route), "--mapping", sites.mapping)
        assert seen in found["who sends the file"][1]
        assert advice in found["who sends the file"][2]
        assert "no location" not in found["who sends the file"][1]

    @pytest.mark.parametrize("name", ["own 404", "single page"])
    def test_app_said_no(self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str) -> None:
        """A refusal by the app is no missing location, whatever comes for other paths."""
        url = sites.url(name).partition("/mapping/")[0] + "/refused"
        _, found = run(capsys, url, "--mapping", sites.mapping)
        assert found["who sends the file"][1] == "403, from the app"
        assert "login cookie" in found["who sends the file"][2]

    def test_single_page(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """The page that comes for every path is no file: nothing is said of its size, ranges or headers."""
        for given in ([], ["--mapping", sites.mapping]):
            _, found = run(capsys, sites.url("single page", "file", "cors"), *given)
            assert not {"ranges", "HEAD", "the app's headers", "forged X-Accel-Mapping"} & found.keys()

    def test_limited(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """A site that limits requests gives dashes, and no crosses."""
        status, found = run(capsys, sites.url("limited"), "--mapping", sites.mapping)
        assert [item for item in found.items() if item[1][0] is False] == []
        assert (status, found["who sends the file"][0], found["forged headers"][0]) == (0, True, None)
        assert "429: it got too many requests" in found["forged headers"][1]
        assert main(["check", sites.url("limited")]) == 2
        assert "429: it got too many requests" in capsys.readouterr().err

    def test_host(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """The name that is given chooses the server block."""
        host = ("--header", "Host: right.example", "--mapping", sites.mapping)
        assert run(capsys, sites.url("another server"), *host)[0] == 0

    @pytest.mark.parametrize("name", ["good", "compressed", "cache", "own 404"])
    @pytest.mark.parametrize(
        ("mode", "route"),
        [
            ("mapping", "named"),
            ("mapping", "api/file"),
            ("cors", "file"),
            ("mapping", "redirect"),
            ("mapping", "moved"),
        ],
    )
    def test_no_false_alarm(
        self, sites: Sites, capsys: pytest.CaptureFixture[str], name: str, mode: str, route: str
    ) -> None:
        """No cross on a correct site, compressed or behind a cache, whatever the browser sends."""
        given = ("--mapping", sites.mapping, "--header", "Accept-Encoding: gzip, br")
        _, found = run(capsys, sites.url(name, route, mode), *given)
        wrong = {check: finding for check, finding in found.items() if finding[0] is False}
        assert list(wrong) == (["who sends the file"] if route == "moved" else []), wrong

    @pytest.mark.parametrize("key", ["parts", "whole"])
    def test_storage(self, sites: Sites, capsys: pytest.CaptureFixture[str], key: str) -> None:
        """What comes from S3 has an ETag like Starlette's, or like nginx's, and is neither's."""
        url = sites.url("multipart", f"by-hand?to=/storage/{key}")
        status, found = run(capsys, url, "--mapping", sites.mapping)
        assert [item for item in found.items() if item[1][0] is False] == []
        assert (status, found["who sends the file"][0]) == (0, None)

    def test_new_file_each_time(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """A file that is made anew for each request is no fault."""
        status, found = run(capsys, sites.url("good", "deleted-by-coroutine"), "--mapping", sites.mapping)
        assert [item for item in found.items() if item[1][0] is False] == []
        assert status == 0
        # Starlette 0.47 has other boundaries between several ranges, by which the app is told from nginx.
        if not version("starlette").startswith("0."):
            assert "with a file that stays" in found["who sends the file"][2]

    def test_headers_lost_by_a_redirect_response(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """Where nginx answers HEAD, too, what the app's refusals have is told; else there is a dash with the reason."""
        for route in ("redirect", "api/file"):
            status, found = run(
                capsys, sites.url("headers unseen", route, "cors"), "--header", "Origin: https://other.example"
            )
            assert status == 1
            assert "nginx drops Access-Control-Allow-Origin" in found["the app's headers"][1]
            status, found = run(capsys, sites.url("headers unseen", route))
            assert found["the app's headers"][0] is None
            assert "only if the app answers HEAD itself" in found["the app's headers"][1]

    def test_mapping_of_a_client_believed(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """A site that lets a client's X-Accel-Mapping through to an app that trusts it is told."""
        status, found = run(capsys, sites.url("forged mapping", mode="trust"))
        assert status == 1
        assert found["forged X-Accel-Mapping"][0] is False
        assert "not have trust_header" in found["forged X-Accel-Mapping"][2]
        status, found = run(capsys, sites.url("forged mapping"))
        assert found["forged X-Accel-Mapping"][0]

    def test_app_itself(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """An app that redirects whatever comes, and no proxy in front of it."""
        status, found = run(capsys, sites.url("nobody takes it", mode="always"))
        assert status == 1
        assert "nobody" in found["who sends the file"][1]

    def test_shown_redirect(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """A redirect that shows beside the file is no redirect that nobody took."""
        _, found = run(capsys, sites.url("shown"))
        assert found["who sends the file"][0]

    def test_headers_kept(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """If the app answers HEAD itself, its headers are seen."""
        _, found = run(capsys, sites.url("headers kept", "file"), "--mapping", sites.mapping)
        assert found["the app's headers"][:2] == (True, "GET has all that HEAD has")

    def test_origin(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """The origin that is given is the one that is asked for."""
        origin = ("--header", "Origin: https://other.example")
        status, found = run(capsys, sites.url("headers lost", "file", "cors"), *origin)
        assert status == 1
        assert "Access-Control-Allow-Origin, Vary, X-Own" in found["the app's headers"][1]

    def test_empty_file(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """An empty file is whole with no bytes."""
        status, found = run(capsys, sites.url("good", file="empty.txt"))
        assert (status, found["who sends the file"][0]) == (0, True)

    @pytest.mark.parametrize(
        ("route", "seen"), [("moved", "307, to /elsewhere"), ("nowhere", "404, from the app"), ("text", "no ETag")]
    )
    def test_what_is_no_file(self, sites: Sites, capsys: pytest.CaptureFixture[str], route: str, seen: str) -> None:
        """A response that is not a file is told with what came instead."""
        _, found = run(capsys, sites.url("good", route))
        assert seen in found["who sends the file"][1]
        assert found["internal locations"][0] is None

    def test_route_without_head(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """A FastAPI route takes no HEAD unless it says so, which is no fault of the proxy's."""
        status, found = run(capsys, sites.url("good", "api/file"))
        assert status == 0
        assert found["HEAD"][0] is None
        assert found["the app's headers"][0] is None

    def test_catch_all(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """An app that has an answer for every path makes no internal location public."""
        with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nindex") as url:
            status, found = run(capsys, url, "--mapping", sites.mapping)
        assert found["/download/ from outside"][0]
        assert status == 1
        assert "no location for /download/" in found["who sends the file"][1]


class TestCommand:
    """The command itself."""

    def test_app(
        self, sites: Sites, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The mapping comes from the app, too."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "app_to_check.py").write_text(
            "from asgi_accel import AccelMiddleware\n"
            "from starlette.applications import Starlette\n"
            f"app = AccelMiddleware(Starlette(), mapping={sites.mapping!r})\n"
        )
        status, found = run(capsys, sites.url("no slash"), "--app", "app_to_check:app")
        assert status == 1
        assert found["out of /download/"][0] is False

    def test_text(self, sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
        """There is a line for each finding, and what to change below it."""
        assert main(["check", sites.url("no offer")]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("✗ who sends the file")
        assert lines[2].startswith("      proxy_set_header X-Accel-Mapping")
        assert "✓ HEAD                       like GET, without the body" in lines

    def test_ascii(self, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
        """A terminal that knows no ticks gets other signs."""
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
        assert main(["check", sites.url("no offer")]) == 1
        lines = written.getvalue().decode("ascii").splitlines()
        assert lines[0].startswith("x who sends the file")
        assert "+ HEAD                       like GET, without the body" in lines

    @pytest.mark.parametrize("header", ["Cookie", "A B: c", "Cookie: a\nb"])
    def test_bad_header(self, capsys: pytest.CaptureFixture[str], header: str) -> None:
        """A header that is none is refused by its name."""
        with pytest.raises(SystemExit) as stopped:
            main(["check", "http://127.0.0.1/", "--header", header])
        assert stopped.value.code == 2
        assert "is not a header" in capsys.readouterr().err

    def test_header(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The headers that are given are sent with each request."""
        seen: list[bytes] = []
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with answering(answer, seen) as url:
            run(capsys, url, "--header", "Cookie: who=mé")
        assert len(seen) == 3
        assert all("Cookie: who=mé\r\n".encode() in request for request in seen)

    @pytest.mark.parametrize("url", ["ftp://a/", "nonsense", "http://", "http://127.0.0.1:99999/", "http://a b/"])
    def test_bad_url(self, capsys: pytest.CaptureFixture[str], url: str) -> None:
        """A URL that is none ends with 2."""
        assert main(["check", url]) == 2
        assert capsys.readouterr().err.startswith("asgi-accel check: ")

    def test_no_answer(self, capsys: pytest.CaptureFixture[str]) -> None:
        """So does a site that does not answer, and one that speaks no HTTP or no TLS."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))  # and does not listen
            assert main(["check", f"http://127.0.0.1:{silent.getsockname()[1]}/"]) == 2
        assert "refused" in capsys.readouterr().err
        for answer in (b"", b"\x1b[31mgarbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nA"):
            with answering(answer) as url:
                status = main(["check", url])
                assert "\x1b" not in capsys.readouterr().err
                assert status == 2 or answer.startswith(b"HTTP/1.1 200")
        with answering(b"HTTP/1.1 200 OK\r\n\r\n") as url:
            assert main(["check", url.replace("http:", "https:")]) == 2

    def test_control_characters(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What a server sends does not control the terminal."""
        answer = b"HTTP/1.1 302 Found\r\nLocation: /\x1b[31m\x9bx\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with answering(answer) as url:
            assert main(["check", url]) == 1
        output = capsys.readouterr().out
        assert r"/\x1b[31m\x9bx" in output
        assert not set(output) & {"\x1b", "\x9b"}


@contextlib.contextmanager
def answering(answer: bytes, seen: list[bytes] | None = None) -> Iterator[str]:
    """A server that answers each request alike, whatever it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    request = connection.recv(65536)
                    if seen is not None:
                        seen.append(request)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
