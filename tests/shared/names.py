"""Names of files, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

# What a file system takes as a name: any bytes but a slash and NUL, up to 255 of them.
names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"/", b"%").replace(b"\0", b"?"))
    .filter(lambda name: name not in (b".", b".."))
)
