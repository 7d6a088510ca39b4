# `make scenarios`, `make node`, `make sweep` and `make test` each set up what they need, once.

PYTHON ?= python3
VENV := .venv
RUNS ?= 20
ROUNDS ?= 20
READY := $(VENV)/.ready

IMAGES ?=
.PHONY: scenarios scenarios-docker node sweep soak ledger ledger-full test lint bench clean

# Five workers on two cores: the better part of a scenario is waiting for timeouts.
scenarios: $(READY)
	$(VENV)/bin/pytest scenarios -n 5 --dist worksteal -m 'not long'

# The same in containers of the Docker engine of this machine; IMAGES can name others than the official ones.
scenarios-docker: $(READY)
	$(VENV)/bin/pytest scenarios -n 4 --dist worksteal -m 'not long' --runtime docker $(IMAGES)

# With the official JavaScript client and a Node server: every scenario, then the tutorial's claims with both clients on
# all shipped servers. The second runs whatever became of the first.
node: $(READY)
	status=0; \
	$(VENV)/bin/pytest scenarios -n 4 --dist worksteal --client node --target hardened-node -m 'not long' -k 'not syscall' || status=$$?; \
	$(VENV)/bin/pytest scenarios/test_guarantees.py -n 4 --dist worksteal --client python --client node \
		--target reference --target tutorial-node --target hardened-node || status=$$?; \
	exit $$status

# Every byte of a message's exchange, of a stream and of a handshake, over WebSocket and polling, with both clients, every
# system call of both servers, with a WAL and a rollback journal, locks at any time, and pairs of faults; a part of it is in
# `scenarios`.
sweep: $(READY)
	status=0; \
	$(VENV)/bin/pytest scenarios/test_sweep.py -n 3 --dist worksteal -k 'syscall or not rollback' \
		--target reference --target reference/rollback.toml || status=$$?; \
	$(VENV)/bin/pytest scenarios/test_sweep.py -n 3 --dist worksteal -k 'syscall or not rollback' --client node \
		--target hardened-node --target hardened-node/rollback.toml || status=$$?; \
	exit $$status

# All scenarios, long sweeps too, RUNS times in a row, each with a new seed; then a table of what was not kept each time.
soak: $(READY)
	$(VENV)/bin/python -m harness soak --runs $(RUNS)

# Every server and client that is broken on purpose, against the case that has to catch it; red when one is not caught.
ledger: $(READY)
	$(VENV)/bin/python -m harness ledger

# The same against all scenarios, and ROUNDS times all scenarios on each correct server; takes hours, and says how many.
ledger-full: $(READY)
	$(VENV)/bin/python -m harness ledger --full --rounds $(ROUNDS)

test: $(READY)
	$(VENV)/bin/pytest tests -n 3 --dist worksteal -q

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY)
	$(VENV)/bin/python benchmarks/bench.py $(IMAGES)

# The virtual environment, with the versions of requirements.lock; made again when they or the project's metadata change.
$(READY): requirements.lock pyproject.toml harness/node/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "midemit needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the versions of requirements.lock into $(VENV)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(VENV)/bin/python -m harness setup
	touch $(READY)

clean:
	rm -rf $(VENV) reports .pytest_cache .mypy_cache .ruff_cache .hypothesis
