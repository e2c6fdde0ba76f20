#!/usr/bin/env bash
# Real clients against a server of the default model: Python's in an environment of their own in the cache,
# openai-node and the page in a browser where node, npm and Chromium are. What cannot be had is skipped, and said.
#
# Environment:
#   PROGRAM=FILE    the program (build/release/palimpsest)
#   SHOTS=FOLDER    where screenshots of the page go (build/page-shots)
#   CHROMIUM=FILE   the browser
set -euo pipefail
cd "$(dirname "$0")/.."

program=${PROGRAM:-build/release/palimpsest}
cache=$(scripts/setup.sh where cache)/clients
shots=${SHOTS:-build/page-shots}

say() { echo "clients: $*"; }
skip() { say "skipped: $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

[ -x "$program" ] || { say "$program is missing; run 'make release' first" >&2; exit 1; }

server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true' EXIT

python_clients() {
  local key venv
  key=$(sha256sum tests/clients/requirements.txt | cut -c 1-12)
  venv=$cache/python-$key
  if [ ! -e "$venv/whole" ]; then
    say "installing Python clients into $venv"
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" &&
      "$venv/bin/pip" install -q --disable-pip-version-check -r tests/clients/requirements.txt; }; then
      skip "Python clients: their packages cannot be had"
      return
    fi
    touch "$venv/whole"
  fi
  PALIMPSEST_PROGRAM=$program OPENAI_NODE=$node "$venv/bin/python" -m pytest -q -p no:cacheprovider \
    tests/clients
}

node_packages() {  # sets `node` to a folder with openai and playwright-core; empty: there is none
  node=
  if ! have node || ! have npm; then
    skip "openai-node and the page: node or npm is missing"
    return
  fi
  mkdir -p "$cache/node"
  if [ ! -d "$cache/node/node_modules/openai" ] || [ ! -d "$cache/node/node_modules/playwright-core" ]; then
    if ! (cd "$cache/node" && npm init -y && npm install openai@6 playwright-core@1) >"$cache/npm.log" 2>&1; then
      skip "openai-node and the page: their packages cannot be had ($cache/npm.log)"
      return
    fi
  fi
  node=$cache/node
}

page() {
  local browser=${CHROMIUM:-} log name
  for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    if [ -z "$browser" ] && have "$name"; then browser=$(command -v "$name"); fi
  done
  if [ -z "$browser" ]; then
    skip "the page: no Chromium here (Debian: chromium-headless-shell)"
    return
  fi
  mkdir -p "$shots/mock"
  log=$(mktemp)
  "$program" serve --port 0 -b 1024 --memory-limit 1GiB 2>"$log" &
  server=$!
  for _ in $(seq 100); do
    url=$(sed -n 's/.* at \(http:[^ ]*\) .*/\1/p' "$log")
    [ -n "$url" ] && break
    sleep 0.1
  done
  CHROMIUM=$browser PLAYWRIGHT_DIR=$node SHOTS=$shots node tests/web/page_test.mjs "$url"
  kill "$server" && wait "$server"
  # What only a server of invented answers can do: injections, errors in the middle, 10,000 lines.
  PORT=18099 node tests/web/mock_server.mjs >/dev/null &
  server=$!
  sleep 1
  CHROMIUM=$browser PLAYWRIGHT_DIR=$node SHOTS=$shots/mock node tests/web/page_test.mjs http://127.0.0.1:18099/
  kill "$server" && { wait "$server" || true; }
  server=
  say "screenshots are in $shots"
}

mkdir -p "$cache"
node_packages
python_clients
[ -z "$node" ] || page
