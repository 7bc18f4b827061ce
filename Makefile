# `make demo` and `make test` do all their own set-up; CONTRIBUTING.md lists the other targets.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint unit lowest docs package bench faults pictures nginx proxies browser clean

PYTHON ?= python3
PORT ?= 8080
BIN := .venv/bin
# The lowest Starlette that pyproject.toml allows, and the lowest FastAPI that takes it.
LOWEST := starlette==0.47.0 fastapi==0.116.1

help:
	@echo "make demo      the example behind nginx on http://127.0.0.1:8080 (PORT= changes it)"
	@echo "make test      everything that CI runs"
	@echo "make test-all  the tests with each Python, Starlette and nginx that is supported"
	@echo "make docs      the documentation as a site, in site/ (a dead link fails it)"
	@echo "make bench     every way to send a file, measured: benchmarks/results.md (7 minutes)"
	@echo "make faults    what clients and the app are left with when something goes wrong (ONLY= picks sections)"

demo: nginx .venv-demo/.installed
	@PORT=$(PORT) .venv-demo/bin/python examples/fastapi_app/demo.py

test: lint unit lowest docs package

# The example needs little, and who wants to see it first should not wait for all that the tests need.
.venv-demo/.installed: pyproject.toml tools/make_venv
	tools/make_venv $(PYTHON) .venv-demo --editable . --group example
	@touch $@

.venv/.installed: pyproject.toml tools/make_venv
	tools/make_venv $(PYTHON) .venv --editable . --group dev
	@touch $@

.venv-lowest/.installed: pyproject.toml tools/make_venv
	tools/make_venv $(PYTHON) .venv-lowest --editable . --group test $(LOWEST)
	@touch $@

nginx:
	@tools/install nginx=nginx-light

# What the tests put in front of the app besides nginx.
proxies: nginx
	@tools/install apache2=apache2 lighttpd=lighttpd caddy=caddy openssl=openssl \
		/usr/lib/apache2/modules/mod_xsendfile.so=libapache2-mod-xsendfile

# For tests/test_browser.py. Only .venv has what drives it, so `make lowest` and `make test-all` run without.
browser:
	@tools/install chromium=chromium

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

unit: proxies browser .venv/.installed
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

lowest: proxies .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest --quiet --ignore tests/test_browser.py

# Without --quiet, which would hide the warnings from `strict`.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

package: .venv/.installed
	$(BIN)/python tools/check_package.py

test-all: proxies .venv/.installed
	$(BIN)/python tools/test_all.py $(LOWEST)

bench: nginx .venv/.installed .venv/.bench
	@tools/install wrk=wrk puma=puma
	PYTHONPATH=tests:benchmarks $(BIN)/python benchmarks/throughput/run.py

.venv/.bench: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

faults: nginx .venv/.installed
	PYTHONPATH=tests $(BIN)/python benchmarks/faults $(ONLY)

pictures: nginx browser .venv/.installed
	@tools/install /usr/share/fonts/opentype/inter/Inter-Regular.otf=fonts-inter
	$(BIN)/python tools/drawings.py
	PYTHONPATH=tests $(BIN)/python tools/pictures.py

clean:
	rm -rf .nginx .venv .venv-demo .venv-lowest .venvs dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache site
