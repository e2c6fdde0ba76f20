#!/usr/bin/env python3
"""Load on a server that speaks OpenAI's API: figures for docs/results/serving.md.

    scripts/serve_load.py talk URL -n 8 --words 1400 [--pid PID] [--budget 1024]
        N conversations of two turns each: a text of its own and a question, then another question.
        Time to first token of both turns, tokens written a second while all write, and, with --pid,
        the most resident memory of that process.
    scripts/serve_load.py storm URL -n 64 --long gpl-2.txt --times 8
        N short conversations, as many that go away in the middle, and a long document beside:
        whoever stays must get the answer they would get alone. Says the longest silence.
    scripts/serve_load.py streams URL -n 500 --pid PID
        Connections that are open and have asked for nothing more: what they take.
    scripts/serve_load.py soak URL --minutes 120 -n 6 --pid PID --long gpl-2.txt
        N clients that do what comes to their minds: short questions, turns that go on, documents, copies, answers
        broken off, bodies that are refused, conversations deleted. A line every minute with resident memory.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import time

WORDS = ("the of and a to in is was that it for on with as his they be at one have this from or had "
         "by hot word but what some we can out other were all there when up use your how said an each "
         "she which do their time if will way about many then them write would like so these her long "
         "make thing see him two has look more day could go come did number sound no most people").split()


class Reply:
    """What came of one request, and when."""

    def __init__(self):
        self.text, self.first, self.silence, self.usage, self.error = "", None, 0.0, None, None
        self.began = self.last = time.perf_counter()
        self.n = 0


async def ask(url, body, until=None):
    host, port = re.match(r"http://([^:/]+):(\d+)", url).groups()
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 26)
    data = json.dumps(body).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                 b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    await writer.drain()
    reply = Reply()
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            reply.error = (status + await reader.read()).decode(errors="replace")
            return reply
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            reply.silence = max(reply.silence, now - reply.last)
            reply.last = now
            chunk = json.loads(line[6:])
            if "error" in chunk:
                reply.error = chunk["error"]
            reply.usage = chunk.get("usage") or reply.usage
            content = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
            if content:
                reply.n += 1
                reply.text += content
                reply.first = reply.first or now - reply.began
                if until is not None and until(reply.text):
                    break
    finally:
        writer.close()
    return reply


def body(messages, most, **more):
    return {"model": "any", "messages": messages, "temperature": 0, "max_tokens": most, "stream": True,
            "stream_options": {"include_usage": True}} | more


def resident(pid):
    """Bytes, now and at most."""
    status = open(f"/proc/{pid}/status").read()
    return [int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 for name in ("VmRSS", "VmHWM")]


async def talk(args):
    more = {"memory": {"budget": args.budget}} if args.budget else {}

    async def one(i):
        chance = random.Random(args.seed + i)
        text = " ".join(chance.choice(WORDS) for _ in range(args.words))
        messages = [{"role": "user", "content": f"{i}. {text}\n\nGo on with this text."}]
        first = await ask(args.url, body(messages, args.most, **more))
        messages += [{"role": "assistant", "content": first.text},
                     {"role": "user", "content": "And a little more of it, please."}]
        return first, await ask(args.url, body(messages, args.most, **more))

    began = time.perf_counter()
    both = await asyncio.gather(*(one(i) for i in range(args.n)))
    took = time.perf_counter() - began
    bad = [r.error for pair in both for r in pair if r.error]
    result = {"conversations": args.n, "words": args.words, "seconds": round(took, 2), "errors": bad[:3],
              "prompt_tokens": both[0][0].usage["prompt_tokens"] if both[0][0].usage else None,
              "tokens": sum(r.n for pair in both for r in pair)}
    for name, replies in (("first", [p[0] for p in both]), ("second", [p[1] for p in both])):
        firsts = [r.first for r in replies if r.first]
        writing = [(r.n - 1) / (r.last - r.began - r.first) for r in replies if r.first and r.n > 2]
        result[name] = {"first_token_median": round(statistics.median(firsts), 3),
                        "first_token_most": round(max(firsts), 3),
                        "tokens_a_second_each": round(statistics.median(writing), 1) if writing else None}
    result["tokens_a_second"] = round(result["tokens"] / took, 1)
    if args.pid:
        result["resident_bytes"], result["most_resident_bytes"] = resident(args.pid)
    print(json.dumps(result))


async def storm(args):
    def question(i):
        return body([{"role": "user", "content": f"Count from {i} to {i + 9}."}], 48)

    alone = [(await ask(args.url, question(i))).text for i in range(args.n)]

    async def stays(i):
        await asyncio.sleep(random.random())
        return await ask(args.url, question(i))

    async def goes(i):
        await asyncio.sleep(random.random() * 3)
        words = random.randrange(1, 12)
        await ask(args.url, body([{"role": "user", "content": f"Tell a long story of {i} men."}], 300),
                  until=lambda text: len(text.split()) >= words)

    async def reads():
        if not args.long:
            return None
        text = open(args.long).read() * args.times
        return await ask(args.url, body([{"role": "user", "content": text + "\nWho wrote this?"}], 16,
                                        memory={"budget": 1024}))

    began = time.perf_counter()
    *replies, long = await asyncio.gather(*(stays(i) for i in range(args.n)),
                                          *(goes(i) for i in range(args.n)), reads())
    stayed = replies[:args.n]
    print(json.dumps({
        "seconds": round(time.perf_counter() - began, 2),
        "stayed": args.n, "went": args.n,
        "errors": [r.error for r in stayed if r.error][:3],
        "as_alone": sum(r.text == a for r, a in zip(stayed, alone)),
        "longest_silence": round(max(r.silence for r in stayed), 2),
        "first_token_most": round(max(r.first or 0 for r in stayed), 2),
        "document_tokens": long.usage["prompt_tokens"] if long and long.usage else None,
        "document_seconds": round(long.last - long.began, 2) if long else None}))


async def streams(args):
    before = resident(args.pid)[0]
    host, port = re.match(r"http://([^:/]+):(\d+)", args.url).groups()
    open_ones = [await asyncio.open_connection(host, int(port)) for _ in range(args.n)]
    await asyncio.sleep(1)
    during = resident(args.pid)[0]
    began = time.perf_counter()
    reply = await ask(args.url, body([{"role": "user", "content": "Name a river."}], 8))
    print(json.dumps({"connections": len(open_ones), "bytes_more": during - before,
                      "first_token_beside_them": round(reply.first or 0, 3),
                      "seconds": round(time.perf_counter() - began, 3)}))
    for _, writer in open_ones:
        writer.close()


async def call(url, method, path, data=None):
    """Status and body of a request that is answered at once."""
    host, port = re.match(r"http://([^:/]+):(\d+)", url).groups()
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 26)
    raw = data if isinstance(data, bytes) else json.dumps(data).encode() if data is not None else b""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                 f"application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest


class Soak:
    """Clients that never stop, and what became of their requests."""

    def __init__(self, args):
        self.args, self.counts, self.bad, self.text = args, {}, [], open(args.long).read()
        self.end = time.perf_counter() + 60 * args.minutes

    def note(self, what, is_good, why=""):
        self.counts[what] = self.counts.get(what, 0) + 1
        if not is_good:
            self.bad.append(f"{what}: {why}"[:300])

    async def question(self, chance):
        reply = await ask(self.args.url, body([{"role": "user", "content": f"Name {chance.randrange(99)} things."}],
                                              chance.randrange(1, 40), temperature=chance.choice([0, 0.8])))
        self.note("question", not reply.error, reply.error)

    async def conversation(self, chance):
        messages = [{"role": "system", "content": "You answer in one sentence."}]
        memory = chance.choice([{}, {"memory": {"budget": 128}}, {"memory": {"budget": 256, "policy": "snap-kv"}}])
        for turn in range(chance.randrange(2, 6)):
            start = chance.randrange(len(self.text) - 3000)
            messages.append({"role": "user", "content": f"{self.text[start:start + 1500]}\n\nWhat is turn {turn} about?"})
            reply = await ask(self.args.url, body(messages, 24, **memory))
            self.note("turn", not reply.error, reply.error)
            messages.append({"role": "assistant", "content": reply.text})

    async def document(self, chance):
        start = chance.randrange(len(self.text) // 2)
        reply = await ask(self.args.url, body([{"role": "user", "content": self.text[start:] + "\nWho wrote this?"}], 8,
                                              memory={"budget": 512}))
        self.note("document", not reply.error, reply.error)

    async def broken_off(self, chance):
        words = chance.randrange(1, 12)
        await ask(self.args.url, body([{"role": "user", "content": "Tell a long story."}], 300),
                  until=lambda text: len(text.split()) >= words)
        self.note("broken off", True)

    async def refused(self, chance):
        data = chance.choice([b"{", b"[]", b'{"messages": 5}', b'{"messages": []}', b"\xff" * 100, b"[" * 9000])
        status, answer = await call(self.args.url, "POST", "/v1/chat/completions", data)
        self.note("refused", 400 <= status < 500, f"{status} {answer[:100]}")

    async def copies(self, chance):
        status, answer = await call(self.args.url, "POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Say a word."}], "n": 3, "max_tokens": 5, "logprobs": True})
        self.note("copies", status == 200, f"{status} {answer[:100]}")

    async def embedding(self, chance):
        status, answer = await call(self.args.url, "POST", "/v1/embeddings", {"input": ["one", self.text[:500]]})
        self.note("embedding", status == 200, f"{status} {answer[:100]}")

    async def deletion(self, chance):
        status, answer = await call(self.args.url, "GET", "/v1/sessions")
        sessions = json.loads(answer)["data"] if status == 200 else []
        for session in chance.sample(sessions, len(sessions) // 2):
            status, answer = await call(self.args.url, "DELETE", f"/v1/sessions/{session['id']}")
            self.note("deletion", status in (200, 204, 404, 409), f"{status} {answer[:100]}")

    async def client(self, i):
        chance = random.Random(self.args.seed + i)
        acts = [self.question, self.conversation, self.document, self.broken_off, self.refused, self.copies,
                self.embedding, self.deletion]
        while time.perf_counter() < self.end:
            try:
                await chance.choices(acts, [6, 3, 1, 3, 2, 1, 1, 1])[0](chance)
            except (OSError, ValueError, KeyError, IndexError) as e:
                self.note("connection", False, repr(e))
            await asyncio.sleep(self.args.pause * chance.random())

    async def watch(self):
        minute = 0
        while time.perf_counter() < self.end:
            await asyncio.sleep(60)
            minute += 1
            now, most = resident(self.args.pid)
            files = len(os.listdir(f"/proc/{self.args.pid}/fd"))
            print(json.dumps({"minute": minute, "resident_bytes": now, "most_resident_bytes": most, "open_files": files,
                              "done": self.counts, "bad": len(self.bad), "of_them": self.bad[-2:]}), flush=True)


async def soak(args):
    load = Soak(args)
    await asyncio.gather(load.watch(), *(load.client(i) for i in range(args.n)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["talk", "storm", "streams", "soak"])
    parser.add_argument("url")
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--words", type=int, default=1400, help="of each conversation's text")
    parser.add_argument("--most", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--budget", type=int, help="entries a head (ours only)")
    parser.add_argument("--pid", type=int, help="whose memory to look at")
    parser.add_argument("--long", help="a text file to be read beside")
    parser.add_argument("--times", type=int, default=1, help="how often over")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--pause", type=float, default=1, help="seconds at most between a client's acts")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    asyncio.run({"talk": talk, "storm": storm, "streams": streams, "soak": soak}[args.what](args))


if __name__ == "__main__":
    main()
