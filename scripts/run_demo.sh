#!/usr/bin/env bash
# The main job, once: a model answers a question about a document. `make run` calls this.
#
#   scripts/run_demo.sh [FLAG...]    further flags go to `palimpsest run`
set -euo pipefail
cd "$(dirname "$0")/.."

question=${QUESTION:-'What company is named in the sample copyright disclaimer?'}
program=build/release/palimpsest
model=$(scripts/setup.sh where model)
document=$(scripts/setup.sh where document)

for file in "$program" "$model" "$document"; do
  if [ ! -e "$file" ]; then
    echo "run: $file is missing; 'make run' brings everything" >&2
    exit 1
  fi
done

echo "run: asking about $document ($(wc -w <"$document" | tr -d ' ') words): $question"
set -x
exec "$program" run -m "$model" --file "$document" --temperature 0 -n 60 --memory-budget 1024 --report \
  "$question" "$@"
