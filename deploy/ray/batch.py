#!/usr/bin/env python3
"""Many documents, many questions, on any number of machines: each document is read once, within a budget, and asked all
its questions. Results are written per document, so a run that was interrupted goes on where it stopped.

    python batch.py --documents FOLDER --questions questions.txt --out results --budget 1024 --actors 2 --threads 1
    python batch.py --jobs jobs.jsonl --out results --address ray://head:10001

--documents: a folder of text files; --questions: one a line, asked of each. Or --jobs: lines of
{"id": "a", "text": "..." or "file": "...", "questions": ["..."]}.

A result stays whatever is asked later: other questions or another budget want another --out. results/ID.json: {"id", "answers": [{"question", "answer", "finish_reason", ...}], "tokens", "memory", "seconds"};
results/failed/ID.json: {"id", "error"}, of documents that could not be read or asked. They are tried again by the next run;
the others are not. The exit status is 1 if any failed.

Needs the package palimpsest and ray[data] on every machine, and the model's file under the same path.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import sys
import time


def file_name(name):
    """A name for a file, of any id: readable, and different for different ids."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80]
    return plain if plain == name else f"{plain or 'document'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def write_whole(path, value):
    """Written whole or not at all, whatever dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


class Reader:
    """An actor that holds the model. One document at a time; what it wrote stays, if it dies with the next."""

    def __init__(self, engine, memory, answer, out):
        from palimpsest import Engine

        self.memory, self.answer, self.out = memory, answer, pathlib.Path(out)
        # An engine belongs to one thread, and Ray calls from several.
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.engine = self.thread.submit(lambda: Engine(**engine)).result()

    def __call__(self, batch):
        status = [self.thread.submit(self.job, json.loads(job)).result() for job in batch["job"]]
        return {"id": list(batch["id"]), "status": status}

    def job(self, job):
        name = file_name(job["id"])
        result, failed = self.out / f"{name}.json", self.out / "failed" / f"{name}.json"
        if result.exists():  # another actor wrote it before it died
            return "done"
        try:
            write_whole(result, self.asked(job))
        except Exception as e:  # of this document: the others go on
            write_whole(failed, {"id": job["id"], "error": f"{type(e).__name__}: {e}"})
            return "failed"
        failed.unlink(missing_ok=True)
        return "done"

    def asked(self, job):
        start = time.time()
        text = job["text"] if "text" in job else pathlib.Path(job["file"]).read_text(encoding="utf-8")
        questions = job["questions"]
        known = questions[0] if len(questions) == 1 else None  # several: none is preferred
        memory = self.engine.compress(text, question=known, **self.memory)
        read = time.time()
        answers = []
        for question in questions:
            a = memory.ask(question, **self.answer)
            answers.append({"question": question, "answer": str(a), "finish_reason": a.finish_reason,
                            "prompt_tokens": a.prompt_tokens, "completion_tokens": a.completion_tokens})
        report = memory.report
        return {"id": job["id"], "answers": answers, "tokens": memory.n_tokens,
                "memory": {"policy": report["policy"], "budget": report["budget"], "positions": report["positions"],
                           "bytes": report["bytes"]},
                "seconds": {"reading": round(read - start, 3), "asking": round(time.time() - read, 3)}}


def is_job(job):
    if not isinstance(job, dict):
        return False
    texts = [job.get("id"), job.get("text", job.get("file"))]
    asked = job.get("questions")
    return all(isinstance(t, str) and t for t in texts) and isinstance(asked, list) and bool(asked) and all(
        isinstance(q, str) and q for q in asked)


def jobs_of(args):
    if args.jobs:
        with open(args.jobs, encoding="utf-8") as lines:
            jobs = [json.loads(line) for line in lines if line.strip()]
    else:
        questions = [q.strip() for q in open(args.questions, encoding="utf-8") if q.strip()]
        files = sorted(p for p in pathlib.Path(args.documents).rglob("*") if p.is_file())
        jobs = [{"id": str(p.relative_to(args.documents)), "file": str(p.resolve()), "questions": questions}
                for p in files]
    seen = set()
    for i, job in enumerate(jobs):
        if not is_job(job) or job["id"] in seen:
            sys.exit(f"batch: job {i + 1}: it needs an 'id' of its own, 'questions', and 'text' or 'file'")
        seen.add(job["id"])
    return jobs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", help="a folder of text files")
    parser.add_argument("--questions", help="a file, one a line")
    parser.add_argument("--jobs", help="JSON lines, instead of both")
    parser.add_argument("--out", required=True, help="a folder for results, that all machines see")
    parser.add_argument("--model", help="a GGUF file (default: the one that set-up fetched)")
    parser.add_argument("--budget", default="1024", help="entries a head, bytes or a share; '': everything")
    parser.add_argument("--policy", help="what is kept (default: the best there is for the model)")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--actors", type=int, default=0, help="0: as many as --threads fit into the cluster")
    parser.add_argument("--threads", type=int, default=1, help="of each actor")
    parser.add_argument("--address", help="of a Ray cluster (default: this machine alone)")
    args = parser.parse_args()
    if not args.jobs and not (args.documents and args.questions):
        parser.error("name --documents and --questions, or --jobs")

    out = pathlib.Path(args.out).resolve()
    jobs = jobs_of(args)
    left = [j for j in jobs if not (out / f"{file_name(j['id'])}.json").exists()]
    print(f"batch: {len(jobs)} documents, {len(jobs) - len(left)} done before", flush=True)
    if left:
        run(args, out, left)
    done = sum((out / f"{file_name(j['id'])}.json").exists() for j in jobs)
    print(f"batch: {done} of {len(jobs)} done" + (f"; why not the others: {out / 'failed'}" if done < len(jobs) else ""))
    sys.exit(done < len(jobs))


def run(args, out, jobs):
    import ray

    ray.init(address=args.address, log_to_driver=False, include_dashboard=False)
    actors = args.actors or max(1, int(ray.cluster_resources().get("CPU", 1)) // max(args.threads, 1))
    engine = {"model": args.model, "threads": args.threads}
    memory = {"budget": args.budget, "memory": args.policy}
    rows = ray.data.from_items([{"id": j["id"], "job": json.dumps(j)} for j in jobs],
                               override_num_blocks=min(len(jobs), 4 * actors))
    results = rows.map_batches(
        Reader, fn_constructor_args=(engine, memory, {"max_tokens": args.max_tokens}, str(out)), batch_size=1,
        # Ray Data starts actors again that die, and gives their documents out again.
        compute=ray.data.ActorPoolStrategy(size=actors), num_cpus=args.threads)
    start, n = time.time(), 0
    for row in results.iter_rows():
        n += 1
        print(f"batch: {n} of {len(jobs)}, {row['id']}: {row['status']}; {(time.time() - start) / n:.1f} s each",
              flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
