"""prefect's server with its pages."""

from chosen import AtTheEdge
from prefect.server.api.server import create_app

app = create_app()
site = AtTheEdge(app)
