"""streamlit with a script that has a folder of static files beside it."""

import os

import streamlit
from chosen import AtTheEdge, Chosen
from starlette.middleware import Middleware

app = streamlit.App(f"{os.environ['FILES']}/script.py", middleware=[Middleware(Chosen)])
site = AtTheEdge(app)
