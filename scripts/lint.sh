#!/usr/bin/env bash
# Checks sources without building them.
#
#   scripts/lint.sh format       clang-format finds nothing to change
#   scripts/lint.sh tidy BASE    clang-tidy finds nothing in what changed since commit BASE, new files
#                                included; headers are seen through three files that include them
#   scripts/lint.sh tidy all     nor anywhere
set -euo pipefail
cd "$(dirname "$0")/.."

sources() { git ls-files -co --exclude-standard -- 'src/*.cpp' 'src/*.h' 'include/*.h' 'tests/*.cpp' 'tests/*.h' \
  'examples/*.cpp' 'scripts/*.cpp' | while read -r file; do [ ! -f "$file" ] || echo "$file"; done; }

check_format() {
  echo "lint: clang-format"
  sources | xargs clang-format --dry-run --Werror
}

# Names compiled files for every one that changed: itself, or of a header three that include it.
affected() {
  local file
  { git diff --name-only --diff-filter=d "$1" -- src include tests
    git ls-files -o --exclude-standard -- src include tests; } | while read -r file; do
    case $file in
      tests/fuzz/*) ;;
      *.cpp) echo "$file" ;;
      *.h) grep -rl --include='*.cpp' "\"${file#*/}\"" src tests | grep -v '^tests/fuzz/' | head -3 || true ;;
    esac
  done | sort -u
}

check_tidy() {
  local build=build/tidy-commands files
  cmake --preset dev -B "$build" --log-level=WARNING >/dev/null
  if [ "$1" = all ]; then
    files=$(sources | grep '^\(src\|tests\)/.*\.cpp$' | grep -v '^tests/fuzz/')
  else
    git rev-parse --verify --quiet "$1^{commit}" >/dev/null || {
      echo "lint: there is no commit '$1'; name one with LINT_BASE" >&2
      exit 1
    }
    files=$(affected "$1")
  fi
  if [ -z "$files" ]; then
    echo "lint: clang-tidy: nothing changed"
    return
  fi
  echo "lint: clang-tidy: $(echo "$files" | wc -l | tr -d ' ') files"
  # It counts warnings that it leaves out on standard error; what it finds goes to standard output.
  echo "$files" | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p "$build" \
    --extra-arg=-Wno-unknown-warning-option 2> >(grep -v 'warnings\{0,1\} generated' >&2)
}

case ${1:-} in
  format) check_format ;;
  tidy) check_tidy "${2:?a commit, or all}" ;;
  *)
    sed -n '2,/^set/p' "$0" | sed 's/^# \{0,1\}//; /^set/d'
    exit 2
    ;;
esac
