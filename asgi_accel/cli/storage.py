"""`asgi-accel nginx --storage`: internal locations for nginx that fetch from object storage."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asgi_accel.cli.values import fill, header_name, location_prefix, plain, quoted
from asgi_accel.mapping import PathMap

CA = "/etc/ssl/certs/ca-certificates.crt"  # Debian's, of the package ca-certificates


@dataclass(frozen=True)
class Storage:
    """A prefix of internal URIs, with its slash, and the address that stands in its place."""

    prefix: str
    scheme: str
    host: str
    port: str  # with its colon, or nothing
    path: str

    @classmethod
    def parse(cls, text: str) -> "Storage":
        """Read ``/bucket/=https://storage.example/archives/``.

        Raises:
            ValueError: It is something else.
        """
        match = re.fullmatch(
            r"(/[^=]*?)/*=(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?((?:/[\w.~-]+)*)/*", text, re.ASCII
        )
        if match is None or match[1] == "/":
            raise ValueError(f"the storage {text!r} must be a prefix and a URL, such as /bucket/=https://s3.example/")
        PathMap({"/": match[1]})  # asks the same of a prefix
        return cls(f"{match[1]}/", match[2], match[3], match[4] or "", f"{match[5]}/")


@dataclass(frozen=True)
class Storages:
    """All storages of one nginx, and what is common to them.

    Args:
        storages: Where objects are.
        hidden: More names of the storages' headers that are hidden.
        ca: The file of certificates to trust.
        resolver: The DNS server for a storage's address. Without one, nginx asks once, when it starts.
    """

    storages: Sequence[Storage] = ()
    hidden: Sequence[str] = ()
    ca: str = CA
    resolver: str | None = None

    @property
    def prefixes(self) -> list[str]:
        return [storage.prefix for storage in self.storages]

    def locations(self, back: Mapping[str, str]) -> str:
        """The internal locations. `back` are the app's headers that come back, and the variables that have them."""
        for prefix in self.prefixes:
            if self.prefixes.count(prefix) > 1:
                raise ValueError(f"the storages have the prefix {prefix!r} twice: give each its own")
        text = "".join(self._location(storage, back) for storage in self.storages)
        return text and text + fill("nginx-errors.conf")

    def _location(self, storage: Storage, back: Mapping[str, str]) -> str:
        # The app's headers are read before the storage answers: after that, $upstream_http_... is the storage's.
        own = {name: f"$accel_own_{name.lower().replace('-', '_')}" for name in back}
        address = f"{storage.host}{storage.port}"
        ca = quoted("the file of certificates", self.ca)
        return fill(
            "nginx-storage.conf",
            prefix=location_prefix(storage.prefix),
            own="".join(f"        set {own[name]} {value};\n" for name, value in back.items()),
            where=self._where(storage, address),
            tls=fill("nginx-tls.conf", ca=ca, name=storage.host) if storage.scheme == "https" else "",
            hidden="".join(f"        proxy_hide_header {header_name(name)};\n" for name in self.hidden),
            back="".join(f"        add_header {name} {value} always;\n" for name, value in own.items()),
        )

    def _where(self, storage: Storage, address: str) -> str:
        if self.resolver is None:
            return f"        proxy_pass {storage.scheme}://{address}{storage.path};\n"
        pattern = quoted("the prefix", f"(?s)^{re.escape(storage.prefix)}(.*)")
        more = {"host": address, "pattern": pattern, "path": storage.path, "scheme": storage.scheme}
        return fill("nginx-resolver.conf", resolver=plain("the resolver", self.resolver), **more)


NO_STORAGES = Storages()
