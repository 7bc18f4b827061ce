"""`python -m asgi_accel` is the command `asgi-accel`."""

import sys

from asgi_accel.cli import build_parser, main  # noqa: F401 (build_parser: for who imported it from here)

if __name__ == "__main__":
    sys.exit(main())
