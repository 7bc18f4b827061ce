"""Writes the drawing of a request, for light and for dark pages: `python tools/drawings.py`.

The committed files are compared with what this writes (tests/documents/test_docs.py).
"""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
COLOURS = {
    "request.svg": {"text": "#1f2328", "quiet": "#59636e", "line": "#8c959f", "fill": "#f6f8fa", "accent": "#0a7268"},
    "request-dark.svg": {
        "text": "#e6edf3",
        "quiet": "#9198a1",
        "line": "#6e7681",
        "fill": "#1c2128",
        "accent": "#4fd1c0",
    },
}
WIDTH, HEIGHT = 920, 476
CLIENT, NGINX, APP = 80, 385, 735  # where each one's line is
DESCRIPTION = (
    "The client asks nginx for /reports/7. nginx passes the request on to the app, with the header X-Accel-Mapping. "
    "The app decides that this user may have the file, and answers with headers alone, one of them X-Accel-Redirect: "
    "/download/reports/7.pdf. It is free for the next request. nginx sends the file to the client."
)
STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
text { fill: %(text)s; text-anchor: middle }
.code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.name { font-weight: 600; font-size: 16px }
.quiet { fill: %(quiet)s }
.accent { fill: %(accent)s }
.life { stroke: %(line)s; stroke-dasharray: 3 5 }
.box { fill: %(fill)s; stroke: %(line)s }
.busy { fill: %(accent)s }
.arrow { stroke: %(text)s; stroke-width: 1.5; fill: none }
.head { fill: %(text)s }
.file { stroke: %(accent)s; stroke-width: 6 }
.file-head { fill: %(accent)s }
"""


def text(x: float, y: float, words: str, kind: str = "words") -> str:
    return f'<text x="{x:g}" y="{y}" class="{kind}">{escape(words, quote=False)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box", radius: int = 6) -> str:
    return f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{height}" rx="{radius}" class="{kind}"/>'


def message(start: int, end: int, y: int, above: str, below: str, kind: str) -> list[str]:
    """An arrow from one line to another, with words above it and code below."""
    step = 1 if end > start else -1
    tip, middle = end - 7 * step, (start + end) / 2
    line, head, size = ("file", "file-head", 11) if kind == "file" else ("arrow", "head", 5)
    return [
        f'<path d="M{start + 7 * step} {y}H{tip - 10 * step}" class="{line}"/>',
        f'<path d="M{tip} {y}l{-size * 2 * step} {-size}v{size * 2}z" class="{head}"/>',
        text(middle, y - 11, above),
        text(middle, y + 21, below, "quiet" if kind == "file" else f"code {kind}"),
    ]


def drawing(colours: dict[str, str]) -> str:
    parts = [
        *(f'<path d="M{x} 48V{HEIGHT - 8}" class="life"/>' for x in (CLIENT, NGINX, APP)),
        *(box(x - 65, 10, 130, 38) for x in (CLIENT, NGINX, APP)),
        *(text(x, 34, name, "name") for x, name in ((CLIENT, "client"), (NGINX, "nginx"), (APP, "your app"))),
        # Who has work, and for how long.
        box(CLIENT - 5, 84, 10, 368, "busy", 5),
        box(NGINX - 5, 84, 10, 368, "busy", 5),
        box(APP - 5, 142, 10, 160, "busy", 5),
        *message(CLIENT, NGINX, 95, "GET /reports/7", "Range: bytes=0-99", "quiet"),
        *message(
            NGINX, APP, 153, "the same request, with an offer:", "X-Accel-Mapping: /mnt/storage/=/download/", "accent"
        ),
        box(APP - 172, 190, 344, 60),
        text(APP, 214, "May this user have it? Yes:"),
        text(APP, 236, 'FileResponse("/mnt/storage/reports/7.pdf")', "code"),
        *message(
            APP,
            NGINX,
            291,
            "200 without a body, but a redirect:",
            "X-Accel-Redirect: /download/reports/7.pdf",
            "accent",
        ),
        box(APP - 105, 354, 210, 32),
        text(APP, 375, "free for the next request", "quiet"),
        box(NGINX - 130, 340, 260, 60),
        text(NGINX, 364, "internal location /download/:"),
        text(NGINX, 386, "/mnt/storage/reports/7.pdf", "code"),
        *message(NGINX, CLIENT, 431, "206, bytes 0 to 99", "with sendfile, without the app", "file"),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            ' role="img" aria-labelledby="title description">',
            '<title id="title">What happens to a request</title>',
            f'<desc id="description">{DESCRIPTION}</desc>',
            f"<style>{STYLE % colours}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def main() -> None:
    for name, colours in COLOURS.items():
        (PICTURES / name).write_text(drawing(colours))


if __name__ == "__main__":
    main()
