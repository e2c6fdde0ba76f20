#!/usr/bin/env python3
"""Runs the same commands with two builds of the program and compares what they write, byte by byte.

    scripts/compare_outputs.py BEFORE AFTER [--only WORD] [--list]

BEFORE and AFTER are two `palimpsest` programs. Standard output and every file that a command writes
must be equal, but for times, rates, commits and processors, which are taken out first. The models are
those that set-up fetches; commands that need one that is not there are left out, by name. Exit status 1:
something differs; the two outputs then stay in a folder that is named.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What may differ between two runs of the same program.
SCRUBBED = [
    (r'((?:_s|seconds|commit|processor|scoring|evicting)":\s?)("[^"]{0,99}"|[-0-9.e+]{1,24})', r"\1?"),
    (r"after [0-9.,]{1,12} requests", "after ? requests"),
    (r"\b[0-9][0-9.,]{0,12} (ms|s|min|h|tokens/s)\b", r"? \1"),
]


def located(name):
    """Where set-up put a thing; None: it is not there."""
    path = subprocess.run([ROOT / "scripts/setup.sh", "where", name], capture_output=True, text=True).stdout
    path = pathlib.Path(path.strip())
    return path if path.is_file() else None


def commands():
    """Name, arguments, text for standard input. {words} are filled in; files are written where it runs."""
    policies = ["window", "random", "key-norm", "key-diff", "lag-kv", "snap-kv", "pyramid-kv", "tova", "h2o",
                "expected-attention", "chunk-kv", "cur", "leverage", "kvzip", "indexer", "gate"]
    ask = ["run", "-m", "{model}", "-t", "2", "--temperature", "0", "-n", "24"]
    read = [*ask, "-f", "part.txt", "--report", "--report-json", "report.json"]
    trace = ["trace", "-m", "{model}", "-t", "2", "-f", "part.txt"]
    yield "run", [*ask, "--json", "Name three rivers."], None
    yield "run-sampled", ["run", "-m", "{model}", "-n", "24", "--temperature", "0.9", "--seed", "7", "Name three rivers."], None
    yield "run-raw", [*ask, "--raw", "The capital of France is"], None
    yield "run-snap-kv", [*read, "-b", "256", "-p", "snap-kv", "What is it about?"], None
    yield "run-gate", [*read, "-b", "256", "-p", "gate", "What is it about?"], None
    yield "run-gate-latent", [*read, "-b", "256", "-p", "gate", "--residue", "latent", "What is it about?"], None
    yield "run-bytes", [*read, "-b", "24MiB", "-p", "h2o", "--entries", "q8_0", "What is it about?"], None
    yield "run-marked", [*read, "-b", "25%", "-p", "tova", "--allocator", "adaptive", "--keep-text", "copy",
                         "What is it about?"], None
    yield "run-one-shot", [*read, "-b", "256", "-p", "kvzip", "--one-shot", "What is it about?"], None
    yield "run-reference", [*ask, "--attention", "reference", "-f", "part.txt", "What is it about?"], None
    yield "chat", ["chat", "-m", "{model}", "-t", "2", "--temperature", "0", "-n", "16", "-b", "256", "-p", "window"], \
        "Who was Ada Lovelace?\n/file part.txt\nAnd what is this?\n/stats\nThank you.\n/quit\n"
    for policy in policies:
        yield f"trace-{policy}", [*trace, "-p", policy, "-b", "192"], None
    yield "trace-full", [*trace, "--logits", "last"], None
    yield "trace-ratio", [*trace, "-p", "snap-kv", "--allocator", "critical", "--ratio", "0.5", "--one-shot"], None
    yield "trace-latent", [*trace, "-p", "gate", "--residue", "latent", "-b", "192", "--dump-memory"], None
    yield "tokenize", ["tokenize", "-m", "{model}", "How many tokens, l'été?"], None
    yield "gemma", ["run", "-m", "{gemma}", "-t", "2", "--temperature", "0", "-n", "16", "-f", "part.txt", "-b", "256",
                    "-p", "key-diff", "What is it about?"], None
    yield "prefix", ["prefix", "build", "-m", "{model}", "-f", "{root}/examples/prefix/rules.txt", "--traces",
                     "traces.jsonl", "-o", "rules.prefix.gguf", "-t", "2", "--force"], None
    yield "prefix-run", [*ask, "--prefix", "{work}/prefix/rules.prefix.gguf", "What does a day ticket cost?"], None
    yield "prefix-bounded", [*read, "--prefix", "{work}/prefix/rules.prefix.gguf", "-b", "256", "-p", "snap-kv",
                             "What does a day ticket cost?"], None
    yield "quality", ["bench", "quality", "-m", "{model}", "-j", "1", "--tasks", "niah_single_1,vt", "--lengths",
                      "600", "-n", "1", "--seeds", "3,4", "-p", "snap-kv,gate+latent,kvzip", "--ratios", "0.5",
                      "--budgets", "256", "--questions", "agnostic,aware", "-o", "quality.jsonl"], None
    train = ["-m", "{model}", "-d", "texts.jsonl", "--steps", "3", "--warm-up", "1", "--length", "256", "--batch", "1",
             "--pool", "2", "--held-out", "1", "-t", "2"]
    yield "train-gate", ["train", "gate", *train, "-o", "gate.gguf"], None
    yield "train-indexer", ["train", "indexer", *train, "-o", "indexer.gguf"], None
    yield "train-latent", ["train", "latent", *train, "-o", "latent.gguf"], None
    yield "train-data", ["train-data", "--documents", "4", "-o", "made.jsonl"], None


def prepare(folder, document):
    """Inputs that commands name: a part of the demo's document, texts and traces."""
    import json
    words = document.read_text()
    (folder / "part.txt").write_text(words[:3600])
    texts = [{"text": words[i * 2000:(i + 1) * 2000]} for i in range(6)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    lines = (ROOT / "examples/prefix/requests.jsonl").read_text().splitlines(keepends=True)
    (folder / "traces.jsonl").write_text("".join(lines[:24]))


def scrubbed(data):
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    for pattern, replacement in SCRUBBED:
        text = re.sub(pattern, replacement, text)
    return text.encode()


def run(program, work, name, arguments, text, things):
    """Everything that one command leaves behind: {name: bytes}."""
    folder = work / name
    folder.mkdir(parents=True)
    prepare(folder, things["document"])
    given = {p.name: p.read_bytes() for p in folder.iterdir()}
    filled = [a.format(work=work, root=ROOT, **things) for a in arguments]
    done = subprocess.run([program, *filled], cwd=folder, input=text, capture_output=True,
                          encoding="utf-8", stdin=None if text else subprocess.DEVNULL)
    left = {"exit status": str(done.returncode).encode(), "stdout": scrubbed(done.stdout.encode())}
    if done.returncode != 0 or "--report" in arguments:
        left["stderr"] = scrubbed(done.stderr.replace(str(work), "WORK").encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if given.get(path.name) != data:
            left[str(path.relative_to(folder))] = scrubbed(data)
    return left


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--only", default="", help="commands whose name holds this word")
    parser.add_argument("--list", action="store_true", help="names the commands and goes")
    flags = parser.parse_args()
    things = {name: located(name) for name in ("model", "document", "gemma")}
    if things["document"] is None or things["model"] is None:
        sys.exit("compare_outputs: the default model or the document is missing; 'make setup' fetches them")
    work = pathlib.Path(tempfile.mkdtemp(prefix="palimpsest-outputs-"))
    different = total = 0
    for name, arguments, text in commands():
        if flags.only not in name:
            continue
        if flags.list:
            print(name, *arguments)
            continue
        if "{gemma}" in arguments and things["gemma"] is None:
            print(f"left out  {name}: no second model ('scripts/setup.sh gemma')")
            continue
        results = [run(program.resolve(), work / side, name, arguments, text, things)
                   for side, program in (("before", flags.before), ("after", flags.after))]
        total += 1
        wrong = sorted(k for k in results[0].keys() | results[1].keys() if results[0].get(k) != results[1].get(k))
        different += bool(wrong)
        status = results[0]["exit status"].decode()
        print(f"{'DIFFERENT' if wrong else 'equal    '} {name}: {', '.join(wrong or results[0])}"
              + (f" (exit status {status})" if status != "0" else ""), flush=True)
        for side, result in zip(("before", "after"), results):
            for key in wrong:
                kept = work / "differences" / name
                kept.mkdir(parents=True, exist_ok=True)
                (kept / f"{key.replace('/', '_')}.{side}").write_bytes(result.get(key, b""))
    if not flags.list:
        print(f"{total - different} of {total} commands write the same" + (f"; see {work}/differences" if different else ""))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
