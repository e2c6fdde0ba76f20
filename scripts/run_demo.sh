#!/usr/bin/env bash
# The main job, once: a model answers a question about a document four times as long as the memory it is
# given, and the answer is checked. `make run` and the tests call this.
#
#   scripts/run_demo.sh [FLAG...]    further flags go to `palimpsest run`
#
# Environment:
#   PROGRAM=FILE     the program (build/release/palimpsest)
#   QUESTION, EXPECTED    another question, and a word its answer must hold; EXPECTED= checks nothing
set -euo pipefail
cd "$(dirname "$0")/.."

question=${QUESTION:-'What company is named in the sample copyright disclaimer?'}
expected=${EXPECTED-}
if [ -z "${QUESTION:-}" ] && [ -z "${EXPECTED+set}" ]; then expected=Yoyodyne; fi
program=${PROGRAM:-build/release/palimpsest}
model=$(scripts/setup.sh where model)
document=$(scripts/setup.sh where document)

for file in "$program" "$model" "$document"; do
  if [ ! -e "$file" ]; then
    echo "run: $file is missing; 'make run' brings everything" >&2
    exit 1
  fi
done

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
echo "run: asking about $document ($(wc -w <"$document" | tr -d ' ') words): $question"
set -x
"$program" run -m "$model" --file "$document" --temperature 0 -n 60 --memory-budget 1024 --report \
  "$question" "$@" | tee "$answer"
{ set +x; } 2>/dev/null
[ -n "$expected" ] || exit 0
if ! grep -q -- "$expected" "$answer"; then
  echo "run: the answer should name '$expected', and does not" >&2
  exit 1
fi
echo "run: the answer names '$expected', as the document does"
echo "run: to chat with documents in a browser: $program serve -b 1024, then open http://127.0.0.1:8080/"
