import nicegui
from fastapi import FastAPI

nicegui.ui.run_with(app := FastAPI(), root=lambda: nicegui.ui.label("hello"))
