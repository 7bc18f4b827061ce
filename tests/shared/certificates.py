"""Certificates of an authority that the tests make."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def make_certificate(home: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate of an authority of its own, for that name, and what a server needs for it."""
    home.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=An authority")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", f"/CN={name}")
    (home / "names").write_text(f"subjectAltName=DNS:{name}")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "request.pem", *signed, "-out", "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "certificate.pem", home / "key.pem")
    return home / "ca.pem", context
