# `make demo` and `make test` do all their own set-up; CONTRIBUTING.md lists the other targets.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all quick lint unit suites mutants lowest docs package lock
.PHONY: bench instructions faults pictures nginx proxies browser clean FORCE

PYTHON ?= python3
PORT ?= 8080
BIN := .venv/bin
# The lowest Starlette and anyio that pyproject.toml allows, and the lowest FastAPI that takes them.
LOWEST := starlette==0.47.0 fastapi==0.116.1 anyio==4.1.0
# Of all else, each environment has the versions of constraints/tools.txt. What users bring has a file of its own, since
# it is also tested in its lowest and its newest versions; so has anycorn, whose versions go with anyio's.
LOCKED := --constraint constraints/tools.txt --build-constraint constraints/tools.txt
# A process for each processor; a module's tests stay together, since they share its servers.
PARALLEL := -n auto --dist loadfile
USERS := ^\(anycorn\|anyio\|fastapi\|starlette\)==

help:
	@echo "make demo      the example behind nginx, or Caddy, on http://127.0.0.1:8080 (PORT= changes it)"
	@echo "make test      everything that CI runs"
	@echo "make quick     ruff, mypy and the tests of the package in process: for every save (half a minute)"
	@echo "make test-all  the tests with each Python, Starlette and nginx that is supported"
	@echo "make docs      the documentation as a site, in site/ (a dead link fails it)"
	@echo "make bench     every way to send a file, measured: benchmarks/results.md (14 minutes; ONLY= picks parts)"
	@echo "make faults    what clients and the app are left with when something goes wrong (ONLY= picks sections)"
	@echo "make lock      the newest versions of all that the tests use, written to constraints/"
	@echo "PYTHON=python3.12 picks another Python: the environments are made anew with it"

demo: nginx .venv-demo/.installed
	@PORT=$(PORT) .venv-demo/bin/python examples/fastapi_app/demo.py

test: lint unit suites lowest docs package

# Newer than the environment if that has to be made anew, since PYTHON is another one.
%/.python: FORCE
	@tools/same_python $(PYTHON) $(@D)

# The example needs little, and who wants to see it first should not wait for all that the tests need.
.venv-demo/.installed: pyproject.toml constraints/tools.txt tools/make_venv .venv-demo/.python
	tools/make_venv $(PYTHON) .venv-demo --editable . --group demo $(LOCKED) --constraint constraints/users.txt
	@touch $@

.venv/.installed: pyproject.toml constraints/tools.txt tools/make_venv .venv/.python
	tools/make_venv $(PYTHON) .venv --editable . --group dev $(LOCKED) --constraint constraints/users.txt
	@touch $@

.venv-lowest/.installed: pyproject.toml constraints/tools.txt tools/make_venv .venv-lowest/.python
	tools/make_venv $(PYTHON) .venv-lowest --editable . --group test $(LOCKED) $(LOWEST)
	@touch $@

nginx:
	@tools/install nginx=nginx-light

# What the tests put in front of the app besides nginx, and what mounts a FUSE file system.
proxies: nginx
	@tools/install apache2=apache2 lighttpd=lighttpd caddy=caddy 'varnishd=varnish|vinyl-cache' \
		openssl=openssl bindfs=bindfs curl=curl \
		/usr/lib/apache2/modules/mod_xsendfile.so=libapache2-mod-xsendfile systemd-analyze=systemd setpriv=util-linux \
		/usr/lib/nginx/modules/ngx_http_image_filter_module.so=libnginx-mod-http-image-filter

# For tests/documents/test_browser.py. Only .venv has what drives it, so `make lowest` and `make test-all` run without.
browser:
	@tools/install chromium=chromium

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/check_types.py

quick: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet $(PARALLEL) tests/core

unit: proxies browser .venv/.installed
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest $(PARALLEL) --cov

# Starlette's own tests, with the middleware around each app. FastAPI's are in `make test-all`.
suites: nginx .venv/.installed
	$(BIN)/python tests/suites/run_suites.py starlette

# Breaks the core in one small way at a time, and names what no in-process test notices.
mutants: .venv/.installed
	$(BIN)/python tools/mutate.py $(ONLY)

# What depends on the versions of Starlette and anyio: not the command, and not the documents.
# Starlette 0.47 leaves files of cancelled responses to the garbage collector, which warns in whatever test is next.
lowest: proxies .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest --quiet $(PARALLEL) tests/core tests/proxies \
		-W ignore::pytest.PytestUnraisableExceptionWarning

# Without --quiet, which would hide the warnings from `strict`.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

package: .venv/.installed
	$(BIN)/python tools/check_package.py

test-all: proxies .venv/.installed
	$(BIN)/python tests/suites/run_suites.py fastapi
	PYTHONPATH=tests/shared $(BIN)/python tests/products/run_products.py
	$(BIN)/python tools/test_all.py $(LOWEST)

# For each Python and system at once. A package that is not in the files yet is installed in its newest version.
lock: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --group dev --group bench --all-extras \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml --output-file .venv/lock.txt
	(echo "# Written by make lock."; grep -v '$(USERS)' .venv/lock.txt) >constraints/tools.txt
	(echo "# Written by make lock."; grep '$(USERS)' .venv/lock.txt) >constraints/users.txt

bench: nginx .venv/.installed .venv/.bench
	@tools/install wrk=wrk puma=puma rackup=ruby-rack valgrind=valgrind
	PYTHONPATH=tests/shared:benchmarks $(BIN)/python benchmarks/throughput/run.py $(ONLY)

.venv/.bench: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench $(LOCKED)
	@touch $@

# Needs no quiet machine: the processor's instructions are counted.
instructions: .venv/.installed
	@tools/install valgrind=valgrind
	PYTHONPATH=tests/shared:benchmarks $(BIN)/python benchmarks/throughput/run.py instructions

faults: nginx .venv/.installed
	PYTHONPATH=tests/shared $(BIN)/python benchmarks/faults $(ONLY)

pictures: nginx browser .venv/.installed
	@tools/install /usr/share/fonts/opentype/inter/Inter-Regular.otf=fonts-inter
	$(BIN)/python tools/drawings.py
	PYTHONPATH=tests/shared $(BIN)/python tools/pictures.py

clean:
	rm -rf .nginx .products .suites .venv .venv-demo .venv-lowest .venvs dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache site
