import gradio
from fastapi import FastAPI

app = gradio.mount_gradio_app(FastAPI(), gradio.Interface(str.upper, "text", "text"), path="")
