#!/usr/bin/env bash
# What strangers install, from build/release: a tarball, a Debian package and a Python wheel that run on any x86-64-v2
# machine with a glibc as new as this one's. ggml comes in three levels, of which the dynamic loader takes the best the
# processor has (`scripts/setup.sh dist`); our own kernels and oneDNN choose theirs as they run.
#
#   scripts/dist.sh FOLDER       writes into FOLDER
#
# The tarball and the wheel carry every library that the program needs but glibc; the Debian package carries those that
# Debian has not (ggml, libllama) and names the others as dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:?where to}
build=build/release
version=$(sed -n 's/^project(palimpsest VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
limit=$((60 * 1000 * 1000))  # bytes of one file
ggml=$(scripts/setup.sh where ggml)
levels=$(scripts/setup.sh where levels)

say() { echo "dist: $*"; }
fail() { echo "dist: $*" >&2; exit 1; }

[ -x "$build/palimpsest" ] || fail "$build/palimpsest is missing; run 'make dist'"
[ -d "$levels" ] || fail "ggml for every level of processor is missing; run 'make dist'"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

# Libraries that a machine has, or must not have twice in one process.
of_glibc='linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv'
of_the_compiler='libstdc\+\+|libgcc_s'

# needed FILE [PATTERN]: paths of the libraries that FILE needs, all the way down, but glibc's and PATTERN's
needed() {
  ldd "$1" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | grep -vE "/($of_glibc${2:+|$2})\.so" || true
}

# carry FOLDER PATH...: copies libraries that look for each other in FOLDER, and ggml of every level
carry() {
  local folder=$1 path name
  shift
  mkdir -p "$folder"
  for path in "$@"; do
    name=$(basename "$path")
    if [ "$name" = libggml-cpu.so.0 ]; then continue; fi
    cp -L "$path" "$folder/$name"
  done
  cp -r "$levels/libggml-cpu.so.0" "$levels/glibc-hwcaps" "$folder/"
  for path in "$folder"/*.so*; do patchelf --set-rpath '$ORIGIN' "$path"; done
  for path in "$folder"/glibc-hwcaps/*/*.so*; do patchelf --set-rpath '$ORIGIN/../..' "$path"; done
  find "$folder" -name '*.so*' -exec strip --strip-unneeded {} +
}

# permissions FOLDER PATH...: the licences of what is carried, one file a package
permissions() {
  local folder=$1 path package
  shift
  mkdir -p "$folder"
  cp "$ggml"/LICENSE* "$folder/"
  for path in "$@"; do
    path=$(realpath "$path")  # packages name /lib or /usr/lib, one place in truth
    package=$({ dpkg -S "$path" || dpkg -S "${path#/usr}"; } 2>/dev/null) || continue  # ggml's, by set-up
    package=${package%%:*}
    cp -L "/usr/share/doc/$package/copyright" "$folder/$package"
  done
}

finished() {  # finished FILE
  local size
  size=$(stat -c %s "$1")
  [ "$size" -lt "$limit" ] || fail "$1 takes $size bytes, more than $limit"
  say "$1, $((size / 1000)) kB"
}

# --- the program ----------------------------------------------------------------------------------

mapfile -t libraries < <(needed "$build/palimpsest")
mapfile -t strangers < <(printf '%s\n' "${libraries[@]}" | grep -F "$ggml/")

install_program() {  # install_program PREFIX
  cmake --install "$build" --prefix "$1" --component program --strip >/dev/null
  patchelf --set-rpath '$ORIGIN/../lib/palimpsest' "$1/bin/palimpsest"
}

make_tarball() {
  local name=palimpsest-$version-linux-x86_64
  install_program "$work/$name"
  carry "$work/$name/lib/palimpsest" "${libraries[@]}"
  permissions "$work/$name/share/doc/palimpsest/licences" "${libraries[@]}"
  cp README.md "$work/$name/share/doc/palimpsest/"
  tar -C "$work" --owner=0 --group=0 --sort=name -czf "$out/$name.tar.gz" "$name"
  finished "$out/$name.tar.gz"
}

make_deb() {
  local root=$work/deb name=palimpsest_${version}_amd64.deb depends
  install_program "$root/usr"
  carry "$root/usr/lib/palimpsest" "${strangers[@]}"
  permissions "$root/usr/share/doc/palimpsest/licences"
  cp LICENSE "$root/usr/share/doc/palimpsest/copyright"
  mkdir -p "$root/DEBIAN" "$work/debian"
  printf 'Source: palimpsest\n\nPackage: palimpsest\nArchitecture: amd64\n' >"$work/debian/control"
  depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info -l"$root/usr/lib/palimpsest" \
    deb/usr/bin/palimpsest deb/usr/lib/palimpsest/*.so* 2>"$work/shlibdeps.log" | sed -n 's/^shlibs:Depends=//p')
  [ -n "$depends" ] || fail "dpkg-shlibdeps: $(cat "$work/shlibdeps.log")"
  cat >"$root/DEBIAN/control" <<END
Package: palimpsest
Version: $version
Architecture: amd64
Section: science
Priority: optional
Maintainer: The Palimpsest developers <palimpsest@localhost>
Depends: $depends
Installed-Size: $(du -sk "$root/usr" | cut -f 1)
Description: language models over contexts larger than the memory they are given
 Palimpsest runs open-weight language models (GGUF) on CPUs over long documents
 within a memory that you set. It keeps what matters, and says what was kept
 and what was not. With a command line and a server for OpenAI's, Anthropic's
 and Ollama's clients.
END
  dpkg-deb --root-owner-group -Zxz --build "$root" "$out/$name" >/dev/null
  finished "$out/$name"
}

# --- the Python wheel -----------------------------------------------------------------------------

make_wheel() {
  local venv=$work/venv python=${PYTHON:-python3} unpacked module libc needs
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check 'scikit-build-core>=0.10' 'nanobind>=2.4' wheel
  cmake --install "$build" --prefix "$work/sdk" >/dev/null
  "$venv/bin/pip" wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w "$work/wheel" \
    -Ccmake.define.palimpsest_ROOT="$work/sdk" ./python
  "$venv/bin/python" -m wheel unpack -d "$work/wheel" "$work"/wheel/*.whl >/dev/null
  unpacked=$(find "$work/wheel" -mindepth 1 -maxdepth 1 -type d)
  module=$(find "$unpacked/palimpsest" -name '_core*.so')
  mapfile -t needs < <(needed "$module" "$of_the_compiler")
  carry "$unpacked/palimpsest/lib" "${needs[@]}"
  permissions "$unpacked/palimpsest/licences" "${needs[@]}"
  cp -r "$work/sdk/share/palimpsest/weights" "$unpacked/palimpsest/weights"
  patchelf --set-rpath '$ORIGIN/lib' "$module"
  strip --strip-unneeded "$module"
  rm "$work"/wheel/*.whl
  "$venv/bin/python" -m wheel pack -d "$work/wheel" "$unpacked" >/dev/null
  # The oldest glibc it runs with, in the name, so that pip refuses it elsewhere.
  libc=$(find "$unpacked" -name '*.so*' -exec objdump -T {} + | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1)
  libc=${libc#GLIBC_}
  "$venv/bin/python" -m wheel tags --remove --platform-tag "manylinux_${libc/./_}_x86_64" "$work"/wheel/*.whl >/dev/null
  rm -f "$out"/palimpsest-*.whl
  cp "$work"/wheel/*.whl "$out/"
  finished "$out"/palimpsest-*.whl
}

make_tarball
make_deb
make_wheel
