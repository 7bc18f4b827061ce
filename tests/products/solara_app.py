"""solara with a script, whose files are in `public/` beside its folder."""

import os

os.environ["SOLARA_APP"] = f"{os.environ['FILES']}/app/script.py"

from chosen import AtTheEdge
from solara.server.starlette import app

site = AtTheEdge(app)
