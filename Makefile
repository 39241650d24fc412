# What `.ci/run` runs, in its clean environment, and what one runs before a commit.
.PHONY: test test-fast lint docs ci

test: ## every test: four at a time, of which many wait
	python -m pytest -n 4

test-fast: ## those that take no seconds: about a minute and a half on 2 cores
	python -m pytest -n 4 -m "not slow"

lint: ## linters and types
	ruff check .
	ruff format --check .
	mypy

docs: ## the reference, from the code
	PYTHONPATH=. python docs/make_reference.py

ci: lint test
