# Every target makes its own environment in .venv; nothing else on the machine is touched.
#
#   make demo       train four real models, serve them, call them
#   make test       every test but the heavy ones, those that take a GPU, and the zoo
#   make heavy      build the image and run it, and call the server with the KServe SDK and with
#                   perf_analyzer (takes root, podman, buildah, runc and mmdebstrap)
#   make faults     attack a server that has a pod's memory, and kill, stop and starve it; prints a
#                   table (an hour at most). make faults SECONDS=120: longer attacks (four hours and a half)
#   make gpu        run models on a GPU and compare (takes an NVIDIA driver; downloads 1.6 GB)
#   make zoo        publish, check and serve every architecture of the course, untrained (takes
#                   4 GB of memory)
#   make lint       format, types, contract, layout
#   make bench      measure, and write docs/performance.md; BENCH="--only rates"
#                   measures one thing and writes nothing
#   make bench BASE=COMMIT
#                   measure what is checked out against that commit, and fail where it is slower
#                   (ten minutes; trains nothing, writes nothing)
#   make pictures   make the pictures of the documents, and train what they are of (half an hour; takes
#                   chromium)
#   make protos     regenerate the protobuf modules after a change of a .proto file
#   make lock       write deploy/docker/*.lock anew: the newest packages of pyproject.toml's ranges
#   make sbom       list what images and wheel are made of, with licences, in dist/ (CycloneDX)
#   make dist       build sdist and wheel in dist/, and check them
#   make release VERSION=1.2.3
#                   set the version and build it; commits and tags, and sends nothing anywhere
#   make clean      remove what was built; trained models stay

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a command finds first.
IN_VENV = PATH="$(CURDIR)/$(BIN):$$PATH"
# Its own: onnxruntime and onnxruntime-gpu cannot share an environment.
GPU_VENV := .venv-gpu
# Where pip also looks for torch. The public Linux default brings CUDA, several gigabytes; for the
# CPU build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# What `make bench` passes on: --only NAME, --rounds N.
BENCH ?=
# How long each fault of `make faults` lasts; tests/faults/test_plan.py bounds what all take.
SECONDS ?= 15
# The commit that `make bench` compares with; empty for none.
BASE ?=
PIP_INSTALL := $(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SOURCES := pyproject.toml hatch_build.py $(shell find protos -name '*.proto')
LOCKS := deploy/docker
# For every Python and platform at once. No address of an index is written: whoever installs has its own.
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--only-binary :all: --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
# Pins and digests hold for what builds, too.
define BUILD
rm -rf dist
$(BIN)/uv build --quiet --python $(BIN)/python --build-constraints $(LOCKS)/build.lock --require-hashes
$(BIN)/twine check --strict dist/*
endef
# Lists what a command of uv pip installs: $(call INVENTORY,NAME,COMMAND).
define INVENTORY
$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/sbom/$(1)
$(BIN)/uv pip $(2) --quiet --only-binary :all: --python build/sbom/$(1)
$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	--output-file dist/forwardpass-$(1).cdx.json build/sbom/$(1)/bin/python
rm -rf build/sbom
endef

.PHONY: demo test heavy faults gpu zoo lint format bench pictures protos lock sbom dist release clean
.DELETE_ON_ERROR:

$(VENV)/product: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing forwardpass and what it needs (some minutes the first time)"
	$(PIP_INSTALL) --upgrade 'pip>=25.1'
	$(PIP_INSTALL) --editable '.[server,trainer,embed]'
	touch $@

$(VENV)/tools: $(VENV)/product
	$(PIP_INSTALL) --editable '.[server,trainer,embed]' --group test --group lint --group release
	touch $@

demo: $(VENV)/product
	$(IN_VENV) bash demo.sh

# What the machine lacks of the programs that tests and `make bench` start.
$(VENV)/parts: tests/parts.sh
	tests/parts.sh $@ $(BIN)

# A file at a time in each of two processes: most tests wait for a server, or for a program to start.
# torch has one thread in each, as two would wait for those of the other process.
test: $(VENV)/tools $(VENV)/parts
	$(IN_VENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

$(VENV)/heavy: $(VENV)/tools
	$(PIP_INSTALL) --editable '.[server,trainer,embed]' --group test --group lint --group release --group heavy
	touch $@

heavy: $(VENV)/heavy $(VENV)/parts
	$(IN_VENV) $(BIN)/python -m pytest -m heavy

faults: $(VENV)/tools $(VENV)/parts
	$(IN_VENV) $(BIN)/python -m pytest tests/faults tests/server/transport/test_released.py \
		--fault-seconds=$(SECONDS) --verbose

$(GPU_VENV)/tools: $(SOURCES)
	test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(GPU_VENV)/bin/python -m pip install --quiet --editable '.[server-cuda]' --group gpu
	touch $@

gpu: $(GPU_VENV)/tools
	$(GPU_VENV)/bin/python -m pytest -m gpu -rs tests/gpu

zoo: $(VENV)/tools
	$(BIN)/python -m pytest -m zoo --verbose --durations=0 tests/e2e/test_zoo.py

lint: $(VENV)/tools
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python -m pytest -q tests/test_layout.py

format: $(VENV)/tools
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format --write

bench: $(VENV)/tools $(VENV)/parts
ifneq ($(BASE),)
	$(IN_VENV) $(BIN)/python -m benchmarks.compare '$(BASE)' $(BENCH)
else
	$(IN_VENV) bash demo.sh train
	$(IN_VENV) $(BIN)/python -m benchmarks demo/models $(BENCH)
endif

pictures: demo
	$(BIN)/python -m docs.make_pictures demo

protos:
	rm -f $(VENV)/product
	$(MAKE) $(VENV)/product

lock: $(VENV)/tools
	$(COMPILE) --extra server --output-file $(LOCKS)/server.lock pyproject.toml
	$(COMPILE) --extra server --extra embed --output-file $(LOCKS)/server-embed.lock pyproject.toml
	$(COMPILE) --extra server-cuda --output-file $(LOCKS)/server-cuda.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; file = open("pyproject.toml", "rb"); \
		print(*tomllib.load(file)["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --output-file $(LOCKS)/build.lock -

# Not server-cuda: CUDA's libraries are gigabytes.
sbom: $(VENV)/tools
	mkdir -p dist
	$(call INVENTORY,wheel,install --constraint $(LOCKS)/server.lock --requirements pyproject.toml)
	$(call INVENTORY,server,install --require-hashes --requirements $(LOCKS)/server.lock)
	$(call INVENTORY,server-embed,install --require-hashes --requirements $(LOCKS)/server-embed.lock)

dist: $(VENV)/tools
	$(BUILD)

release: $(VENV)/tools
	$(BIN)/python release.py '$(VERSION)'
	$(BUILD)
	git commit --quiet --all --message 'Version $(VERSION)'
	git tag --annotate --message 'forwardpass $(VERSION)' 'v$(VERSION)'
	@echo "v$(VERSION) is committed and tagged here, and dist/ has its sdist and wheel; CONTRIBUTING.md says how they leave"

clean:
	rm -rf client/forwardpass/client/proto_files $(VENV) $(GPU_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find protos -name '*_pb2*.py*' -delete -o -name '*.binpb' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
