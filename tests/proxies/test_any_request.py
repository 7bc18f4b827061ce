"""Any name and any header, through a real nginx; hypothesis looks for one that gets another file or an error page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import httpx
import pytest
from behind_nginx import url
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from names import names
from servers import Site

CONTROL = {*range(32), 127}


class TestNginx:
    """Through a real nginx."""

    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def no_errors(site: Site) -> Iterator[None]:
        """nginx finds nothing unsafe and misses no file in all of it."""
        (site.files / "any.txt").write_bytes(b"0123456789")
        before = site.nginx_errors()
        yield
        assert site.nginx_errors() == before

    @given(st.lists(names, min_size=1, max_size=3), st.sampled_from(["file", "redirect"]), st.binary(max_size=50))
    @settings(max_examples=150)
    def test_any_name(self, site: Site, parts: list[bytes], route: str, content: bytes) -> None:
        """Any bytes that a file system takes as a name come back whole, in both classes and both directions."""
        # A folder for each, since the app may still have the last one's file open when a client has all of it.
        folder = os.path.join(os.fsencode(tempfile.mkdtemp(dir=site.files)), *parts[:-1])
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, parts[-1])
        with open(path, "wb") as stream:
            stream.write(content)
        for client in (site.offers, site.silent):
            response = client.get(url("mapping", route, path))
            assert (response.status_code, response.content) == (200, content)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["X-Accel-Mapping", "X-Accel-Secret", "X-Sendfile-Type", "Range", "If-Range"]),
                # uvicorn refuses control characters, and httpx blanks at the ends
                st.binary(max_size=60).filter(lambda value: not CONTROL & set(value) and value == value.strip()),
            ),
            max_size=4,
            unique_by=lambda header: header[0],  # nginx itself answers 400 to some that come twice
        ),
        st.sampled_from(["mapping", "secret", "both", "always"]),
    )
    @settings(max_examples=150)
    def test_any_headers(self, site: Site, headers: list[tuple[str, bytes]], mode: str) -> None:
        """A client that sends the proxy's headers gets the file or a part of it, and no error page of nginx."""
        sent = [(name.encode(), value) for name, value in headers]
        try:
            response = site.offers.get(url(mode, "file", b"any.txt"), headers=sent)
        except httpx.LocalProtocolError:
            assume(False)  # the client's own library refuses to send that
        if response.status_code == 200:
            assert response.content == b"0123456789"
        else:  # 400 is Starlette's answer to a malformed range, where X-Sendfile-Type asks for what is not offered
            assert response.status_code in (206, 400, 416)
            assert "Range" in dict(headers)
