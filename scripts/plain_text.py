#!/usr/bin/env python3
"""Collects what Debian ships as documentation, as plain text. Installs nothing.

    scripts/plain_text.py [FOLDER]              to train on; default: ~/.cache/palimpsest/training-texts
    scripts/plain_text.py --kept-back [FOLDER]  to ask about: no training sees these; .../kept-back-texts

Downloads a few documentation packages with apt, unpacks them beside the result, and turns their
English HTML and POD pages into one text a package. What is there already is left as it is.
"""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# Free documentation in prose: what its packages are called from Debian 12 on.
PACKAGES = [
    "apache2-doc",
    "bash-doc",
    "debian-faq",
    "debian-handbook",
    "debian-policy",
    "debian-reference-en",
    "developers-reference",
    "git-doc",
    "maint-guide",
    "perl-doc",
    "postgresql-doc-15 postgresql-doc-16 postgresql-doc-17",
    "python3.11-doc python3.12-doc python3.13-doc",
]
# Kept back from every training: what `bench quality` asks about (docs/results/answers.md).
KEPT_BACK = ["installation-guide-amd64", "debian-history"]
MOST = 2_000_000  # characters a package: none shall outweigh the others
LEAST = 4_000  # characters a page: shorter ones are lists of links

NO_PROSE = re.compile("genindex|bookindex|py-modindex|search|changelog|relnotes|delta", re.I)

BLOCKS = set("address article blockquote dd div dl dt figure h1 h2 h3 h4 h5 h6 hr li ol p pre "
             "section table tr ul".split())
SKIPPED_TAGS = set("head nav script style svg".split())
SKIPPED_CLASSES = set("breadcrumb docnav footer headerlink navfooter navheader related "
                      "sphinxsidebar toc".split())
SKIPPED_IDS = set("page-header path preamble quickview topnav".split())
EMPTY_TAGS = set("area base br col hr img input link meta param source track wbr".split())


class Text(html.parser.HTMLParser):
    """The text of a page, without what only helps to find one's way between pages."""

    def __init__(self):
        super().__init__()
        self.parts = []
        self.open = []  # (tag, is skipped with all inside)
        self.verbatim = 0

    def handle_starttag(self, tag, attributes):
        if tag == "br":
            self.parts.append("\n")
        if tag in EMPTY_TAGS:
            return
        named = dict(attributes)
        skipped = (tag in SKIPPED_TAGS or named.get("id") in SKIPPED_IDS
                   or not SKIPPED_CLASSES.isdisjoint((named.get("class") or "").split()))
        self.open.append((tag, skipped))
        self.verbatim += tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n" if tag in ("li", "tr", "dt") else "\n\n")
        if tag == "li":
            self.parts.append("* ")

    def handle_endtag(self, tag):
        if tag not in [name for name, _ in self.open]:
            return
        while self.open:  # HTML may leave out ends
            name, _ = self.open.pop()
            self.verbatim -= name == "pre"
            if name in BLOCKS:
                self.parts.append("\n\n" if name != "li" else "\n")
            if name in ("td", "th"):
                self.parts.append("  ")
            if name == tag:
                return

    def handle_data(self, data):
        if not any(skipped for _, skipped in self.open):
            self.parts.append(data if self.verbatim else re.sub(r"\s+", " ", data))


def tidy(text):
    text = text.replace("\u00b6", "").replace("\u00a0", " ")
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n[ ](?=\S)", "\n", text)
    text = re.sub(r"^\*\s+(?:\*\s+)*(?=[^\s*])", "* ", text, flags=re.M)  # a mark and its text
    text = re.sub(r"^\*\s*$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n\n"


def of_html(source):
    page = Text()
    page.feed(source)
    page.close()
    return tidy("".join(page.parts))


def of_pod(source):
    text = re.sub(r"^=(head\d|item|over|back|cut|pod|encoding|for|begin|end)[ ]?", "", source,
                  flags=re.M)
    for _ in range(3):  # they nest
        text = re.sub(r"[A-Z]<(?:<+ )?([^<>]*?)(?: >+)?>", r"\1", text)
    return tidy(text)


def is_english(path):
    """Translations stand in folders or have endings of their own."""
    language = re.compile(r"^[a-z]{2}([-_][A-Za-z]{2,4})?$")
    for part in path.parts[:-1]:
        if language.match(part) and not part.startswith("en"):
            return False
    ending = re.search(r"\.([a-z]{2}([-_][A-Za-z]{2})?)\.html$", path.name)
    return not ending or ending.group(1).startswith("en")


def pages(folder):
    """Texts of the pages under a folder, in order of name."""
    for path in sorted(folder.rglob("*")):
        convert = {".html": of_html, ".pod": of_pod}.get(path.suffix)
        if convert is None or not path.is_file() or path.is_symlink():
            continue
        if not is_english(path.relative_to(folder)):
            continue
        if NO_PROSE.search(path.name):
            continue
        text = convert(path.read_text(encoding="utf-8", errors="replace"))
        if len(text) >= LEAST:
            yield text


def download(names, into):
    """Any one of `names` as a file in `into`; None if apt knows none of them."""
    for name in names:
        done = subprocess.run(["apt-get", "download", name], cwd=into, check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = sorted(into.glob(name + "_*.deb"))
        if done.returncode == 0 and found:
            return found[0]
    return None


def refresh_lists():
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run(as_root + ["apt-get", "update"], stdout=subprocess.DEVNULL, check=False)


def even_sample(texts):
    """Pages from all over, MOST characters of them."""
    total = sum(map(len, texts))
    step = max(1, -(-total // MOST))
    return texts[::step]


def collect(names, folder):
    target = folder / (names[0] + ".txt")
    if target.exists():
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        scratch = pathlib.Path(scratch)
        package = download(names, scratch)
        if package is None:
            print(f"plain_text: apt has no {' or '.join(names)}; left out", file=sys.stderr)
            return
        subprocess.run(["dpkg-deb", "-x", package, scratch / "files"], check=True)
        text = "".join(even_sample(list(pages(scratch / "files"))))
        if not text:
            print(f"plain_text: {names[0]} has no pages of text; left out", file=sys.stderr)
            return
        whole = scratch / "text"
        whole.write_text(text, encoding="utf-8")
        whole.replace(target)
        print(f"plain_text: {target.name}, {len(text)} characters")


def main():
    arguments = sys.argv[1:]
    is_kept_back = arguments[:1] == ["--kept-back"]
    arguments = arguments[is_kept_back:]
    if len(arguments) > 1 or arguments[:1] and arguments[0].startswith("-"):
        sys.exit(__doc__.strip())
    cache = os.environ.get("PALIMPSEST_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "palimpsest")
    name = "kept-back-texts" if is_kept_back else "training-texts"
    folder = pathlib.Path(arguments[0] if arguments else os.path.join(cache, name))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [names.split() for names in (KEPT_BACK if is_kept_back else PACKAGES)]
    for names in wanted:
        collect(names, folder)
    if not any(folder.glob("*.txt")):
        refresh_lists()
        for names in wanted:
            collect(names, folder)
    if not any(folder.glob("*.txt")):
        sys.exit("plain_text: nothing was found; this needs a Debian system with its package lists")


if __name__ == "__main__":
    main()
