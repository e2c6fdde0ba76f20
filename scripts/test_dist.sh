#!/usr/bin/env bash
# Tries what scripts/dist.sh made where nothing else is installed: in a fresh Debian, made with debootstrap (as root), and
# with processors of lower levels, as far as the loader can be told that this one is such.
#
#   scripts/test_dist.sh FOLDER
#
# Environment:
#   MIRROR=URL   Debian's packages (http://deb.debian.org/debian)
#   SUITE=NAME   which Debian (bookworm)
set -euo pipefail
cd "$(dirname "$0")/.."

from=$(cd "${1:?where they are}" && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}
suite=${SUITE:-bookworm}
model=$(scripts/setup.sh where model)
document=$(scripts/setup.sh where document)
question='What company is named in the sample copyright disclaimer?'
expected=Yoyodyne

say() { echo "dist: $*"; }
fail() { echo "dist: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "only root can make a Debian of its own"
command -v debootstrap >/dev/null || fail "debootstrap is missing (Debian: debootstrap)"
root=$(mktemp -d)
umounted() { umount "$root/proc" "$root/dev" 2>/dev/null || true; }
trap 'umounted; rm -rf "$root"' EXIT

say "a fresh $suite"
debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" || fail "debootstrap: $(tail -n 3 "$root.log")"
rm -f "$root.log"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/" 2>/dev/null || true
cp "$from"/palimpsest* "$root/root/"
cp "$model" "$root/root/a-model.gguf"  # under another name: its weights are found all the same
cp "$document" "$root/root/document.txt"

within() { chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin:/sbin "$@"; }

installed() {  # installed PACKAGE...: and what it depends on
  within env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@" \
    >"$root/log" 2>&1 || fail "apt-get: $(tail -n 5 "$root/log")"
}

# answered WHAT COMMAND...: says what the model answers, which must be right
answered() {
  local what=$1 text
  shift
  text=$(within "$@" 2>&1) || fail "$what does not run: $text"
  grep -q "$expected" <<<"$text" || fail "$what answers: $text"
  say "$what: $(grep "$expected" <<<"$text" | head -n 1)"
}

ask=(run -m /root/a-model.gguf -b 1024 -f /root/document.txt "$question")

within tar -xzf "/root/$(basename "$from"/*.tar.gz)" -C /root
program=$(cd "$root/root" && echo palimpsest-*-linux-x86_64/bin/palimpsest)
answered "the tarball" "/root/$program" "${ask[@]}"
for level in x86-64-v3 x86-64-v2; do
  case $level in
    x86-64-v3) less=-AVX512F ;;
    x86-64-v2) less=-AVX512F,-AVX2 ;;
  esac
  answered "the tarball at $level" env GLIBC_TUNABLES="glibc.cpu.hwcaps=$less" "/root/$program" "${ask[@]}"
done
within rm -rf "/root/${program%%/*}"

installed "/root/$(basename "$from"/*.deb)"
answered "the Debian package" palimpsest "${ask[@]}"
within apt-get -qq purge -y palimpsest >/dev/null

# NumPy is Debian's here: the wheel needs no other package, so no index is asked.
installed python3-venv python3-numpy
within python3 -m venv --system-site-packages /root/venv
within /root/venv/bin/pip install -q --no-index --disable-pip-version-check "/root/$(basename "$from"/*.whl)"
cat >"$root/root/ask.py" <<END
import palimpsest
engine = palimpsest.Engine("/root/a-model.gguf", budget=1024)
with open("/root/document.txt") as file:
    answer = engine.chat([{"role": "user", "content": "$question"}], documents=[file.read()], temperature=0)
print(answer["choices"][0]["message"]["content"])
END
answered "the wheel" /root/venv/bin/python /root/ask.py
