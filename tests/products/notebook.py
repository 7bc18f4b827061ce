import marimo

app = marimo.App()


@app.cell
def _():
    "hello"
    return


if __name__ == "__main__":
    app.run()
