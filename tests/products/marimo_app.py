import marimo

app = marimo.create_asgi_app().with_app(path="/", root=f"{__file__.rpartition('/')[0]}/notebook.py").build()
