"""gradio with an upload and a file of its own, as its users mount it in FastAPI."""

import os

import gradio
from chosen import AtTheEdge, Chosen
from fastapi import FastAPI
from starlette.middleware import Middleware

with gradio.Blocks() as blocks:
    gradio.File()
    gradio.Image(f"{os.environ['FILES']}/picture.png")

app = gradio.mount_gradio_app(
    FastAPI(),
    blocks,
    path="/",
    allowed_paths=[os.environ["FILES"]],
    app_kwargs={"middleware": [Middleware(Chosen)]},
)
site = AtTheEdge(app)
