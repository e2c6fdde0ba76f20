#!/usr/bin/env bash
# The Python package, in an environment of its own in the cache, over the library that build/release has. Skipped,
# and said, where its packages or Python's headers cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$(scripts/setup.sh where cache)/clients
python=${PYTHON:-python3}
venv=$cache/package-$(cat python/pyproject.toml deploy/ray/requirements.txt | sha256sum | cut -c 1-12)
prefix=build/release/python-prefix

say() { echo "python: $*"; }
skip() { say "skipped: $*"; exit 0; }

[ -e build/release/libpalimpsest.a ] || { say "the library is missing; run 'make release' first" >&2; exit 1; }
"$python" - <<'END' || skip "Python's headers are missing (python3-dev), or it is older than 3.9"
import os, sys, sysconfig
ok = sys.version_info >= (3, 9) and os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
sys.exit(not ok)
END
if [ ! -e "$venv/whole" ]; then
  say "installing what the build needs into $venv"
  rm -rf "$venv"
  if ! { "$python" -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check \
    'scikit-build-core>=0.10' 'nanobind>=2.4' numpy pytest; }; then
    skip "its packages cannot be had"
  fi
  # For deploy/ray and the plugin alone, whose tests are skipped without these; tried again the next time.
  if "$venv/bin/pip" install -q --disable-pip-version-check -r deploy/ray/requirements.txt llm; then
    touch "$venv/whole"
  else
    say "without Ray and llm: they cannot be had"
  fi
fi
cmake --install build/release --prefix "$prefix" >/dev/null
"$venv/bin/pip" install -q --disable-pip-version-check --no-build-isolation --force-reinstall --no-deps \
  -Ccmake.define.palimpsest_ROOT="$PWD/$prefix" ./python
cd python
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider tests
