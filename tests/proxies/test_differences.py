"""As if the middleware were not there: what a client sees of it through nginx, and nothing else.

`docs/differences.md` has the list of what is allowed here.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import servers
from apps import SECRET
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import ROOT
from servers import Nginx, Site
from starlette.responses import FileResponse

TEXT = b"0123456789" * 100
FILES = {"text.txt": TEXT, "empty.txt": b""}
NOT_REDIRECTED = ["../vault/outside.txt"]
SENDERS = ["file?hex={}", "named?filename=%C3%BC.txt&hex={}", "static/{}", "api/file?hex={}", "file-with-task?hex={}"]
OTHERS = ["text", "stream", "ranged", "moved", "304", "fail", "nowhere", "404?hex={}", "encoded?hex={}"]
MODES = ["mapping", "always", "secret", "base", "copied", "trust"]

# What nginx drops of a redirect, and what it has of its own: docs/differences.md.
DROPPED = {"x-own"}
OWN = {"etag"}

single = st.sampled_from(["bytes=0-3", "bytes=5-5", "bytes=900-", "bytes=-7", "bytes=3-99999", "Bytes=0-3"])
ranges = single | st.sampled_from(
    ["bytes=0-0,4-5", "bytes=4-5,0-0", "bytes=0-3,2-6", "bytes=99999-", "bytes=5-2", "bytes=-0", "bytes=", "x", "a=0-3"]
)
validators = st.sampled_from(["ETAG", "MODIFIED", '"other"', "Sat, 01 Jan 2000 00:00:00 GMT"])
tags = st.sampled_from(["ETAG", "W/ETAG", '"other"', '"other", ETAG', "*"])
dates = st.sampled_from(["MODIFIED", "Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT", "no date"])
conditions = (
    st.tuples(st.sampled_from(["If-None-Match", "If-Match"]), tags)
    | st.tuples(st.sampled_from(["If-Modified-Since", "If-Unmodified-Since"]), dates)
    | st.none()
)


def as_headers(wanted: str | None, if_range: str | None, condition: tuple[str, str] | None) -> dict[str, str]:
    headers = {"Range": wanted, "If-Range": if_range, **dict([condition] if condition else [])}
    return {name: value for name, value in headers.items() if value is not None}


requests = st.builds(as_headers, st.none() | ranges, st.none() | validators, conditions)


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    """nginx with a connection for each request on both sides, since servers close one on which something went wrong."""
    for name, content in FILES.items():
        (site.files / name).write_bytes(content)
    (site.vault / "outside.txt").write_bytes(TEXT)
    listens_on = site.folder / "differences.sock"
    http = f"""
        server {{
            listen unix:{listens_on};
            location / {{
                proxy_pass http://unix:{site.folder}/app.sock;
                proxy_set_header Host $host;
                proxy_set_header X-Accel-Mapping "{site.files}/=/download/";
                proxy_set_header X-Accel-Secret "{SECRET}";
            }}
            location /download/ {{ internal; alias {site.files}/; }}
        }}"""
    with Nginx(site.folder, http, listens_on), servers.client(listens_on) as running:
        running.headers["Connection"] = "close"
        yield running


class Answer:
    """What a client got; `cut` if that is less than was announced."""

    def __init__(self, client: httpx.Client, method: str, address: str, headers: dict[str, str]) -> None:
        body = b""
        self.cut = False
        with client.stream(method, address, headers=headers) as response:
            try:
                for chunk in response.iter_raw():
                    body += chunk
            except httpx.RemoteProtocolError:  # Starlette 0.47 declares a longer multipart than it sends
                self.cut = True
        self.status = response.status_code
        self.fields = response.headers
        listed = [item for item in response.headers.multi_items() if item[0] != "date"]
        # The boundary of a multipart differs each time: Starlette's is random, nginx counts.
        self.body = re.sub(rb"\b[0-9a-f]{26}\b", b"-", body)
        self.headers = Counter((name, re.sub(r"\b([0-9a-f]{26}|[0-9]{20})\b", "-", value)) for name, value in listed)

    def all(self) -> tuple[object, ...]:
        return self.status, self.headers, self.body, self.cut

    def headers_but(self, names: set[str]) -> Counter[tuple[str, str]]:
        return Counter({item: count for item, count in self.headers.items() if item[0] not in names})


def is_met(sent: dict[str, str]) -> bool | None:
    """What nginx makes of a condition on a file: None where it goes on to send it (RFC 9110, section 13.2.2)."""
    condition = [item for item in sent.items() if item[0] not in ("Range", "If-Range")]
    if not condition:
        return None
    ((name, value),) = condition
    if name == "If-None-Match":
        return True if "ETAG" in value or value == "*" else None
    if name == "If-Match":  # which is compared strongly
        return None if value == "*" or (value != "W/ETAG" and "ETAG" in value) else False
    if name == "If-Modified-Since":
        return True if value == "MODIFIED" else None  # nginx's default is `if_modified_since exact`
    return False if "2000" in value or value == "no date" else None


def assert_right_parts(answer: Answer, content: bytes) -> None:
    """A 206 holds the bytes that it says it holds."""
    kind = answer.fields["content-type"]
    if not kind.startswith("multipart/byteranges"):
        parts = [(answer.fields["content-range"], answer.body)]
    else:
        message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + answer.body)
        parts = [(part["content-range"], bytes(part.get_payload(decode=True))) for part in list(message.walk())[1:]]
    assert parts
    for where, body in parts:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", where)
        assert found is not None
        start, end, size = map(int, found.groups())
        assert (size, body) == (len(content), content[start : end + 1])


def headers_of(client: httpx.Client, address: str, sent: dict[str, str]) -> dict[str, str]:
    """The headers to send, with the validators of this very site."""
    known = client.get(address).headers
    values = {"ETAG": known.get("etag", '"none"'), "MODIFIED": known.get("last-modified", "none")}
    return {name: re.sub("ETAG|MODIFIED", lambda found: values[found[0]], value) for name, value in sent.items()}


class TestFiles:
    """Files that nginx sends."""

    @given(
        route=st.sampled_from(SENDERS),
        name=st.sampled_from(sorted(FILES)),
        mode=st.sampled_from(MODES),
        method=st.sampled_from(["GET", "GET", "HEAD", "POST"]),
        sent=requests,
    )
    @settings(max_examples=400)
    def test_same_but_for_what_nginx_does(
        self,
        client: httpx.Client,
        route: str,
        name: str,
        mode: str,
        method: str,
        sent: dict[str, str],
    ) -> None:
        """Status, body and headers are the same but for the list in docs/differences.md."""
        route = route.format(name if "static" in route else os.fsencode(name).hex())
        content = FILES[name]
        addresses = {kind: f"/{kind}/{route}" for kind in ("plain", mode)}
        headers = {kind: headers_of(client, address, sent) for kind, address in addresses.items()}
        without = Answer(client, method, addresses["plain"], headers["plain"])
        left_to_the_app = method == "POST" and set(sent) - {"If-Range"}  # nginx would take it for a GET
        answer = Answer(client, method, addresses[mode], headers["plain" if left_to_the_app else mode])
        added = {"x-passed"}  # by the middleware that "base" and "copied" have besides
        by_static_files = without.status == 304 and "If-Modified-Since" in sent
        if without.status == 405 or by_static_files or left_to_the_app:
            assert answer.headers_but(added) == without.headers_but(added)
            assert (answer.status, answer.body) == (without.status, without.body)
        elif method == "HEAD":
            of_get = Answer(client, "GET", addresses[mode], headers[mode])
            assert (answer.status, answer.body) == (of_get.status, b"")
            assert answer.headers_but(added) == of_get.headers_but(added)
        elif (met := is_met(sent)) is not None:
            assert (answer.status, answer.body == b"") == ((304, True) if met else (412, False))
        elif "Range" not in sent or sent.get("If-Range") in ('"other"', "Sat, 01 Jan 2000 00:00:00 GMT"):
            assert (answer.status, answer.body) == (200, content)
            assert without.all()[0::2] == (200, content)
            assert answer.headers_but(OWN) == without.headers_but(OWN | DROPPED | added)
        elif answer.status == 206:
            assert_right_parts(answer, content)
            if re.fullmatch(r"[Bb]ytes=(\d+-\d*|-[1-9]\d*)", sent["Range"]):
                assert (without.status, without.body) == (206, answer.body)
                own = OWN | {"accept-ranges"}
                assert answer.headers_but(own) == without.headers_but(own | DROPPED | added)
        elif answer.status == 416:
            assert answer.fields["content-range"] == f"bytes */{len(content)}"
            assert without.status in (400, 416)
        else:
            assert (answer.status, answer.body) == (200, content)
            assert without.status in (200, 400, 416) or "," in sent["Range"]


class TestOthers:
    """All that nginx does not send."""

    @given(
        route=st.sampled_from(OTHERS) | st.sampled_from(SENDERS),
        name=st.sampled_from(NOT_REDIRECTED),
        mode=st.sampled_from(["mapping", "always", "secret"]),
        method=st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "OPTIONS"]),
        sent=requests,
    )
    @settings(max_examples=400)
    def test_same(
        self,
        client: httpx.Client,
        route: str,
        name: str,
        mode: str,
        method: str,
        sent: dict[str, str],
    ) -> None:
        """Status, headers and body are the same."""
        route = route.format(name if "static" in route else os.fsencode(name).hex())
        address = f"/plain/{route}"
        sent = headers_of(client, address, sent)
        without = Answer(client, method, address, sent)
        answer = Answer(client, method, f"/{mode}/{route}", sent)
        assert answer.all() == without.all()


# Ranges of a file of 100 bytes, or of 1,000 if there are many. docs/differences.md has a table of what comes back.
MANY = "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 1000, 9)[:101])
IS_NEW = hasattr(FileResponse, "max_ranges")  # an older Starlette reads some ranges in another way
ODD_RANGES = [
    "bytes=0-5",
    "bytes=95-200",
    "bytes=-200",
    "bytes=0-1,10-11",
    "bytes=0-60,0-60",
    MANY,
    "bytes = 0-5",
    "bytes=",
    "lines=0-5",
    "bytes=0-1, 200-300",
    "bytes=0-1,abc",
    "bytes=0-5,",
    "bytes=0-99999999999999999999",
    "bytes=abc",
    "bytes=100",
    "bytes=-",
    "bytes=9-5",
    "bytes=-0",
    "bytes=100-",
]


def of_this_nginx(cell: str) -> str:
    """What counts of "206; 200 from nginx 1.29.5 on", where each range after the 16th needs 256 bytes of the file."""
    before, _, after = cell.partition("; ")
    if not after:
        return cell
    shown = subprocess.run([servers.nginx_binary() or "", "-v"], capture_output=True, text=True, check=True).stderr
    own, since = (tuple(map(int, re.findall(r"\d+", text)[-3:])) for text in (shown.split()[2], after))
    return after.split()[0] if own >= since else before


class TestRanges:
    """The page's table of ranges is what the app and a real nginx answer."""

    def test_table(self, site: Site, client: httpx.Client) -> None:
        """Each row is what this nginx answers, and what the newest Starlette does."""
        (site.files / "hundred.txt").write_bytes(TEXT[:100])
        rows = []
        for wanted in ODD_RANGES:
            name, content = ("text.txt", TEXT) if wanted == MANY else ("hundred.txt", TEXT[:100])
            address = f"file?hex={name.encode().hex()}"
            own = Answer(client, "GET", f"/plain/{address}", {"Range": wanted})
            answer = Answer(client, "GET", f"/mapping/{address}", {"Range": wanted})
            if answer.status == 206:
                assert_right_parts(answer, content)
            elif answer.status == 200:
                assert answer.body == content
            else:
                assert answer.fields["cache-control"] == "private"
            shown = "101 single bytes of 1,000" if wanted == MANY else f"`{wanted}`"
            rows.append([shown, str(own.status), str(answer.status)])
        page = (ROOT / "docs" / "differences.md").read_text()
        table = page.partition("| `Range` of a file of 100 bytes |")[2].partition("\n\n")[0].splitlines()[2:]
        listed = [[of_this_nginx(cell) for cell in line.strip("| ").split(" | ")] for line in table]
        if not IS_NEW:
            listed, rows = [[row[0], row[2]] for row in listed], [[row[0], row[2]] for row in rows]
        assert listed == rows

    def test_post(self, site: Site, client: httpx.Client) -> None:
        """nginx heeds the Range of a POST, which is no GET to the app (RFC 9110, section 14.2)."""
        (site.files / "hundred.txt").write_bytes(TEXT[:100])
        address = f"/mapping/redirect?hex={b'hundred.txt'.hex()}"
        sent = {"Range": "bytes=0-5"}
        through, without = client.post(address, headers=sent), site.direct.post(address, headers=sent)
        assert (through.status_code, through.content) == (206, TEXT[:6])
        assert (without.status_code, without.content) == ((200, TEXT[:100]) if IS_NEW else (206, TEXT[:6]))
