"""What a client gets when something goes wrong, and what the app is left with: with the middleware and without it.

    make faults                      # all sections
    make faults ONLY="reload sigkill"

Starts a real nginx and a real uvicorn, does to them what happens to servers, and prints a table of what it saw. The
exit code is 1 where a promise is broken. It reads /proc, so it needs Linux, and 6 GiB of disk in $TMPDIR.
"""

from __future__ import annotations

import sys
import time

from sections import SECTIONS
from stage import check_limits


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(names: list[str]) -> int:
    sections = {section.__name__: section for section in SECTIONS}
    wanted = [name.replace("-", "_") for name in names] or list(sections)
    if unknown := set(wanted) - set(sections):
        say(f"there is no {', '.join(unknown)}: there are {', '.join(sections)}")
        return 2
    check_limits()
    broken = 0
    for name in wanted:
        start = time.monotonic()
        table = sections[name]()
        say(f"## {name.replace('_', ' ')}\n\n{sections[name].__doc__}\n\n{table}\n")
        say(f"Took {time.monotonic() - start:.0f} s.\n")
        broken += len(table.broken)
    say(f"{broken} promises are broken." if broken else "All promises are kept.")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
