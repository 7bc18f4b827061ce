"""What goes into the printed configurations: the templates beside this, and what they ask of their values."""

import os
import re
from pathlib import Path

from asgi_accel.mapping import PathMap

TEMPLATES = Path(__file__).with_name("templates")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def printable(text: str) -> str:
    """Text that cannot control the terminal, whatever somebody sends."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def fill(template: str, **values: str) -> str:
    """A template with its values, for names in angle brackets. A name that has a line to itself stands for lines."""
    text = (TEMPLATES / template).read_text()
    return re.sub(r"(?m)^[ \t]*<([A-Z]+)>\n|<([A-Z]+)>", lambda name: values[(name[1] or name[2]).lower()], text)


def with_slashes(mapping: PathMap) -> list[tuple[str, str]]:
    """Directories and prefixes, each with its slash at the end."""
    return [(f"{path.rstrip('/')}/", f"{prefix.rstrip('/')}/") for path, prefix in mapping]


def checked_pairs(mapping: PathMap) -> list[tuple[str, str]]:
    """The same, if a proxy can have all of them."""
    pairs = with_slashes(mapping)
    if not pairs:
        raise ValueError("the mapping is empty: give one like /mnt/storage/=/download/")
    prefixes = [prefix for _, prefix in pairs]
    for path, prefix in pairs:
        if not path.startswith("/"):
            raise ValueError(f"the directory {path!r} has a drive, so it covers nothing: give it from the root")
        if prefix == "/":
            raise ValueError("the prefix / is the whole site: give the files a prefix of their own, such as /download/")
        if prefixes.count(prefix) > 1:
            raise ValueError(f"two directories have the prefix {prefix!r}: the proxy needs one for each")
    return pairs


def checked_upstream(upstream: str) -> str:
    match = re.fullmatch(r"unix:/[^:]*|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", upstream)
    if match is None or not 0 < int(match[1] or 80) < 65536 or len(os.fsencode(upstream)) > 112:  # of sockaddr_un
        about = "be a host and a port (127.0.0.1:8000), or unix: and a path of up to 107 bytes without a colon"
        raise ValueError(f"the upstream {upstream!r} must {about}")
    return upstream


def plain(what: str, value: str) -> str:
    """An unquoted value in nginx's configuration. It may have spaces."""
    if not value.strip() or re.search(r"[;{}$#\"'\\]", value) or CONTROL.search(value):
        raise ValueError(f"{what} {value!r} has a character that nginx does not allow there")
    return value


def quoted(what: str, value: str, *, variables: bool = True) -> str:
    """A value in nginx's quotes. If nginx puts variables in, a dollar sign cannot be written."""
    if CONTROL.search(value) or (variables and "$" in value):
        raise ValueError(f"{what} has a control character or a dollar sign, which nginx cannot have there: rename it")
    text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if len(os.fsencode(text)) > 4096:  # NGX_CONF_BUFFER
        raise ValueError(f"{what} is longer than the 4096 bytes that nginx takes for one value")
    return text


def location_prefix(prefix: str) -> str:
    if len(os.fsencode(prefix)) > 255:  # nginx keeps the length in one byte (ngx_http_location_tree_node_t)
        raise ValueError(f"the prefix {prefix!r} is longer than the 255 bytes that nginx compares: give a shorter one")
    return quoted(f"the prefix {prefix!r}", prefix, variables=False)


def header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise ValueError(f"nginx cannot name the header {name!r}: give one with letters, digits and - alone")
    return name
