"""NiceGUI with static files and a video."""

import os

from chosen import AtTheEdge, Chosen
from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import ui

nicegui_app.add_middleware(Chosen)
nicegui_app.add_static_files("/files", os.environ["FILES"])
nicegui_app.add_media_files("/media", os.environ["FILES"])


@ui.page("/")
def page() -> None:
    ui.label("a page")


app = FastAPI()
ui.run_with(app)
site = AtTheEdge(app)
