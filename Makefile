# make book                                  run every chapter (quick, simulated) and render that run
# make book COHORT=ptb-xl DATA=path          the same on PTB-XL; without DATA it is downloaded
# make book SCALE=full CHAPTER=methods/3kg   one chapter, at the scale of the published outputs
# make test                                  unit tests, every chapter, the built site in a browser
# make site                                  render the committed outputs, as they are published
# make pdf                                   and print every chapter of it to _build/pdf
# make colab                                 the chapters' copies for Colab, in _build/colab
# make outputs                               make the outputs to commit (scale full) in book/
# make results COHORT=ptb-xl DATA=path       fill results/: every method, budget and seed (hours)
# make assignments, make grade FOLDER=path   hand out the course's assignments, and mark them
# make lint, make clean, make distclean

SCALE   ?= quick
COHORT  ?= simulated
DATA    ?=
CHAPTER ?=
BUDGET  ?=
PYTHON  ?= python3
VENV    ?= .venv

PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.ecgtutorial-installed
RUN      = $(PY) book/_tools/run.py --cohort "$(COHORT)" --data "$(DATA)" --chapters $(CHAPTER)

.PHONY: book run site pdf colab try-colab test outputs results lint install clean distclean assignments grade check-course
.DEFAULT_GOAL := book

book: run
	$(PY) book/_tools/render.py --source _build/run/book

run: $(STAMP)
	$(RUN) --scale $(SCALE) $(if $(BUDGET),--budget $(BUDGET))

site: $(STAMP)
	$(PY) book/_tools/render.py

pdf: site
	$(PY) book/_tools/pdf.py --chapters $(CHAPTER)

colab: $(STAMP)
	$(PY) book/_tools/colab.py

# Every copy in an environment that holds other versions and nothing of this project.
try-colab: $(STAMP)
	$(PY) book/_tools/try_colab.py $(if $(CHAPTER),--chapters $(CHAPTER))

# The chapters start from an empty cache, so that a test never passes on what an older run left.
# TESTERS processes, each with one core and up to 2 GB.
TESTERS ?= 2
test: $(STAMP)
	rm -rf _build/test-cache
	ECGTUTORIAL_SCALE=quick ECGTUTORIAL_COHORT=simulated ECGTUTORIAL_DATA= \
	ECGTUTORIAL_CACHE="$(CURDIR)/_build/test-cache" \
	OMP_NUM_THREADS=1 \
	$(PY) -m pytest tests book --ignore=book/_tools --ignore=book/course -n $(TESTERS) --dist loadfile --nbval-lax \
		--nbval-current-env --nbval-cell-timeout=600 --durations=5

outputs: $(STAMP)
	$(RUN) --scale $(if $(filter command line,$(origin SCALE)),$(SCALE),full) --write-back

# A finished cell stands in the table at once, so stop it when you like and go on later. JOBS
# processes with one core each beat one process with all of them. MORE: a folder of unlabelled
# WFDB records to pre-train on, too.
JOBS    ?= $(shell nproc)
FROM     = $(if $(DATA),--data "$(DATA)")
results: $(STAMP)
	for experiment in label-efficiency label-efficiency-all health traits augmentation-grid \
		subgroups linear-evaluation linear-evaluation-all linear-evaluation-all-slow \
		noise-robustness noise-training any-lead any-lead-pretraining identification \
		local-global-parts segments-right segments-leaky spatio-temporal \
		spatio-temporal-parts all-methods; do \
		OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.experiments $$experiment "$(COHORT)" \
			$(FROM) --jobs $(JOBS) || exit; \
	done
ifeq ($(COHORT),ptb-xl)
	OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.experiments simulated-to-real ptb-xl $(FROM)
	OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.experiments unlabelled ptb-xl $(FROM) --jobs $(JOBS) \
		$(if $(MORE),--more "$(MORE)")
	for experiment in random-width attempts beyond; do \
		OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.experiments $$experiment ptb-xl $(FROM) \
			--jobs $(JOBS) || exit; \
	done
	OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.evaluate.realism $(FROM) --jobs $(JOBS)
	OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.evaluate.leakage $(FROM)
endif
	for experiment in ventricular-origin ventricular-origin-all; do \
		OMP_NUM_THREADS=1 $(PY) -m ecgtutorial.experiments $$experiment simulated-vt --jobs $(JOBS) || exit; \
	done
	$(PY) -m ecgtutorial.claims $(FROM)
	$(PY) book/_tools/cover.py

# What an instructor hands out, in _build/course. STUDENTS: a file with one a line, or ada,grace.
# Each of them gets a variant, chosen by a seed.
assignments: $(STAMP)
	$(PY) book/_tools/assignments.py $(if $(STUDENTS),--students "$(STUDENTS)")

# Marks of a folder FOLDER/STUDENT/NAME.ipynb. It needs bubblewrap. REVIEWED: students whose
# withheld marks you have looked into.
grade: $(STAMP)
	@test -n "$(FOLDER)" || { echo "Name the folder: make grade FOLDER=submissions"; exit 2; }
	OMP_NUM_THREADS=1 $(PY) book/_tools/grade.py "$(FOLDER)" --jobs $(JOBS) \
		$(if $(OUT),--out "$(OUT)") $(if $(REVIEWED),--reviewed $(REVIEWED))

# Every assignment: its solution, its empty copy and its wrong answers, each through the grader.
check-course: $(STAMP)
	ECGTUTORIAL_COURSE=all OMP_NUM_THREADS=1 $(PY) -m pytest tests/test_grade.py -k of_the_book -v

lint: $(STAMP)
	$(PY) -m ruff check .

install: $(STAMP)

# torch goes first and by its exact version: resolved with the rest, it may come with gigabytes of
# libraries for GPUs that this machine does not have.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV), which takes a few minutes the first time"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) \
		else f"The book needs Python 3.11 to 3.13, but $(PY) is {v[0]}.{v[1]}. Try make PYTHON=...")'
	$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" \
		-c constraints.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'
	touch $@

clean:
	rm -rf _build .pytest_cache .ruff_cache

distclean: clean
	rm -rf $(VENV)
