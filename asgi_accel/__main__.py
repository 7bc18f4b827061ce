"""`python -m asgi_accel` is the command `asgi-accel`."""

import sys

from asgi_accel.cli import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
