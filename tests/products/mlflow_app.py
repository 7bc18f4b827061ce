"""mlflow's server, which keeps artifacts in a folder."""

import os

os.environ["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///{os.environ['HOME']}/mlflow.db"
os.environ["_MLFLOW_SERVER_FILE_STORE"] = os.environ["MLFLOW_BACKEND_STORE_URI"]
os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = f"{os.environ['FILES']}/artifacts"

from chosen import AtTheEdge
from mlflow.server.fastapi_app import app

site = AtTheEdge(app)
