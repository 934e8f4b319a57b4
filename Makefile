# SPDX-License-Identifier: GPL-2.0-or-later
# Thin front of meson and ninja; see README.md.
.PHONY: build demo check check-system bench format format-check clean asan tsan

build:
	@scripts/build.sh build

demo:
	@scripts/demo.sh

check:
	@scripts/check.sh

# A whole Debian system, built from its packages: takes some minutes and 1 GB in .cache.
check-system:
	@scripts/setup.sh build check system
	@scripts/build.sh build
	@tests/guest/system.py $(ARGS)

# Against the host, QEMU and others; ARGS are bench/bench's.
bench:
	@scripts/bench.sh $(ARGS)

# Unit tests under the sanitizers.
asan:
	@scripts/build.sh build-asan
	@meson test -C build-asan --print-errorlogs --suite unit

tsan:
	@scripts/build.sh build-tsan
	@meson test -C build-tsan --print-errorlogs --suite unit

format:
	@scripts/list-sources all | xargs clang-format -i

format-check:
	@scripts/list-sources all | xargs clang-format --dry-run -Werror

clean:
	@rm -rf build build-asan build-tsan build-fuzz
