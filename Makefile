# Each target sets up all that it needs from a fresh clone. The environment is kept outside the checkout and reused.
.PHONY: demo test venv lint docs
RECIPE ?= docs-search

demo: ## the whole workflow on the API documentation of the installed libraries
	@./embedloom run $(RECIPE) $(ARGS)

test: lint ## everything that CI runs: unit tests a core each, then those that share one Ray cluster
	@OMP_NUM_THREADS=1 $(PYTEST) tests/unit --numprocesses 2 --dist worksteal $(ARGS)
	@$(PYTEST) tests/engine tests/workflow $(ARGS)

lint:
	@$(PYTHON_OF_VENV) -m ruff check .
	@$(PYTHON_OF_VENV) -m ruff format --check .
	@$(PYTHON_OF_VENV) -m mypy

venv: ## builds or finds the environment; the last line is the path of its Python
	@cluster/local/venv.sh

docs: ## the site of docs/, in build/site
	@python3 -m venv build/docs-venv
	@build/docs-venv/bin/pip install --quiet -c constraints.txt mkdocs-material
	@build/docs-venv/bin/mkdocs build --strict

PYTHON_OF_VENV = $$(cluster/local/venv.sh | tail -n 1)
PYTEST = PYTHONPATH=$(CURDIR) $(PYTHON_OF_VENV) -m pytest --timeout 1800
