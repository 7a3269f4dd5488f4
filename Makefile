# A thin front over the CMake presets: each target is what CI runs. `make help` lists them.
.DEFAULT_GOAL := build
.PHONY: build run test check bench dist setup clean help

PATH := $(PATH):$(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin
export PATH

MODEL ?= models/classics-moe-4bit
BUDGET ?= 25MiB
PROMPT ?= The old man walked along the shore and

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup:  ## Install what is missing to build and test (Debian 12; root or sudo)
	@tools/setup.sh

build: setup  ## Build the release binary, build/release/mlx-flash
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release

run: build  ## Build, then write a page with the bundled model, whole and in half its memory (MODEL=, PROMPT=, BUDGET=)
	@tools/demo.sh build/release/mlx-flash "$(MODEL)" "$(PROMPT)" "$(BUDGET)"

test: setup  ## Build and run every test of the release build
	@tools/check.py test

check: setup  ## clang, AddressSanitizer, ThreadSanitizer, short fuzz, ARM under emulation, format, clang-tidy, tidy
	@tools/setup.sh check
	@tools/check.py check

bench: build  ## Speed of prefill and decode on the bundled model (MODEL=)
	@build/release/mlx-flash bench -m "$(MODEL)"

dist: build  ## The .deb and the tarball with checksums, in build/dist
	@tools/setup.sh check
	@packaging/dist.sh

clean:  ## Remove everything that was built
	@rm -rf build
