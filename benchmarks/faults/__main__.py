"""What a client gets when something goes wrong, and what the app is left with: with the middleware and without it.

    make faults                      # all sections
    make faults ONLY="reload sigkill"

Starts a real nginx and a real uvicorn, does to them what happens to servers, and prints a table of what it saw. With
all sections it writes benchmarks/faults.md, too. The exit code is 1 if a promise is broken. It reads /proc, so it needs
Linux, and 6 GiB of disk in $TMPDIR.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from sections import SECTIONS
from servers import nginx_binary
from stage import check_limits

RESULTS = Path(__file__).parent.parent / "faults.md"
INTRODUCTION = """# When something goes wrong: what was measured

Written by `make faults` on {date}. [Reliability](../docs/reliability.md) is the short form.

- **the middleware**: `AccelMiddleware` around the app; nginx offers to send the files.
- **FileResponse alone**: no middleware, and nginx as it is by default. It writes up to 1 GiB of each response to
  temporary files if the app is faster than the client. The app is free early, but the files need disk.
- **FileResponse alone, proxy_max_temp_file_size 0**: the same without temporary files. nginx takes from the app only as
  fast as the client reads.

nginx {nginx} (one worker), uvicorn {uvicorn} (one process), Starlette {starlette}, Python {python}, on {machine}. All
use unix sockets. Seconds and megabytes differ from run to run; zeros and hundreds do not.
"""


def introduction() -> str:
    output = subprocess.run([str(nginx_binary()), "-v"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"nginx/([\d.]+)", output)
    return INTRODUCTION.format(
        date=date.today(),
        nginx=found[1] if found else "of an unknown version",
        uvicorn=version("uvicorn"),
        starlette=version("starlette"),
        python=platform.python_version(),
        machine=f"{platform.system()}, {platform.machine()}",
    )


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
    texts = []
    for name in wanted:
        start = time.monotonic()
        table = sections[name]()
        texts.append(f"## {name.replace('_', ' ').capitalize()}\n\n{sections[name].__doc__}\n\n{table}\n")
        say(texts[-1])
        say(f"Took {time.monotonic() - start:.0f} s.\n")
        broken += len(table.broken)
    if wanted == list(sections) and not broken:
        RESULTS.write_text("\n".join([introduction(), *texts]))
    say(f"{broken} promises are broken." if broken else "All promises are kept.")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
