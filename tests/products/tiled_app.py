"""tiled with a catalog of files. The middleware stands next to its routes."""

import os

from chosen import AtTheEdge, Chosen
from starlette.middleware import Middleware
from tiled.server.app import build_app_from_config

tree = {"path": "/", "tree": "catalog", "args": {"uri": f"sqlite:///{os.environ['HOME']}/catalog.db"}}
tree["args"] |= {"readable_storage": [os.environ["FILES"]], "init_if_not_exists": True}
app = build_app_from_config({"authentication": {"single_user_api_key": "secret"}, "trees": [tree]})
app.user_middleware.append(Middleware(Chosen))
site = AtTheEdge(app)
