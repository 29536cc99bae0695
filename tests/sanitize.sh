#!/usr/bin/env bash
# The tests of the compiled rooms under AddressSanitizer and UndefinedBehaviorSanitizer.
# Builds a copy, so that the checkout keeps its optimised modules. Needs gcc's libasan and libubsan.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r setup.py pyproject.toml README.md LICENSE engine ext server tests bench docs "$copy"
rm -f "$copy"/ext/*/*.so "$copy"/ext/*/*.c
python=$(realpath .venv)/bin/python
cd "$copy"
UNBROKEN_CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
UNBROKEN_LDFLAGS="-fsanitize=address,undefined" "$python" setup.py --quiet build_ext --inplace
# Python itself keeps memory until its end: only what is touched wrongly is of interest, not what is left over.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
export PYTHONMALLOC=malloc
exec "$python" -m pytest -q -p no:cacheprovider --hypothesis-profile=sanitized tests/test_serial.py tests/test_dedup.py tests/test_ring.py \
    tests/test_frame.py tests/test_wire.py tests/test_plane.py tests/test_block.py tests/test_ingest.py \
    tests/test_filesync.py tests/test_sequencer.py tests/test_committer.py tests/test_head.py tests/test_posts.py tests/test_published.py \
    tests/test_cipher.py tests/test_waiting.py "$@"
