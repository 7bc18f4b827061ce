"""marimo with a notebook that has a folder of static files, `public/`, beside it."""

import os

import marimo
from chosen import AtTheEdge, Chosen

app = (
    marimo.create_asgi_app(include_code=True)
    .with_app(path="/", root=f"{os.environ['FILES']}/notebook.py", middleware=[Chosen])
    .build()
)
site = AtTheEdge(app)
