"""chainlit as its users mount it in FastAPI."""

import os

os.environ["CHAINLIT_APP_ROOT"] = os.environ["FILES"]

from chainlit.server import app as chainlit_app
from chainlit.utils import mount_chainlit
from chosen import AtTheEdge, Chosen
from fastapi import FastAPI

chainlit_app.add_middleware(Chosen)
app = FastAPI()
mount_chainlit(app, target=f"{os.environ['FILES']}/script.py", path="/chat")
site = AtTheEdge(app)
