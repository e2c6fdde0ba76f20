// A stand-in for the server, to look at the page and to test it without a model. Node only, no packages.
//
//   node tests/web/mock_server.mjs            serves web/ at http://127.0.0.1:8099/
//
// PORT; MOCK_KEY: requests need it; MOCK_NO_PDF: PDFs are refused; MOCK_BUDGET: the server's default budget.
// POST /mock {"mode": "" | "error" | "broken" | "long" | "inject" | "reason", "read": tokens/s, "pace": ms a piece}.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { INJECTIONS } from './injections.mjs';

const WEB = fileURLToPath(new URL('../../web', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8', '.js': 'text/javascript; charset=utf-8' };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const BYTES_PER_TOKEN = 45056;
const BODY = Number(process.env.MOCK_BODY ?? 64 * 1024 * 1024);

const mock = { mode: '', read: 8000, pace: 12 };
const sessions = new Map();
const reports = new Map();
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const tokenize = (text) => text.match(/\s?[^\s]{1,5}|\s/g) ?? [];

const props = {
    model: 'SmolLM2 135M Instruct', architecture: 'llama', context: 8192, version: '0.9.0 (mock)',
    memory: { budget: process.env.MOCK_BUDGET ?? '', policy: '', residue: '', entries: 'f16', limit_bytes: 2e9 },
    policies: [
        { name: 'gate', summary: 'What a trained gate rated highest when it came in.', needs_weights: true, available: true },
        { name: 'indexer', summary: 'What some query so far needs most, by a trained scorer.', needs_weights: true, available: false },
        { name: 'leverage', summary: 'Keys that the others cannot make.', needs_weights: false, available: true },
        { name: 'snap-kv', summary: 'What the last 64 queries attend to.', needs_weights: false, available: true },
        { name: 'window', summary: 'The first 4 tokens and the last.', needs_weights: false, available: true },
    ],
    residues: [{ name: 'none', summary: 'What goes is gone.' }, { name: 'merge', summary: 'Values that go are averaged into the kept entry that is most like them.' },
        { name: 'latent', summary: 'A trained state of fixed size takes in what goes.' }],
    prefixes: [{ name: 'rules', tokens: 7594, bytes: 5863904 }],
    bytes_per_token: BYTES_PER_TOKEN, pdf: !process.env.MOCK_NO_PDF, sessions_on_disk: true, limits: { body_bytes: BODY },
};

class Refused extends Error {
    constructor(status, message, code = null) {
        super(message);
        Object.assign(this, { status, code });
    }
}

async function bodyOf(request) {
    const pieces = [];
    let size = 0;
    for await (const piece of request) {
        size += piece.length;
        if (size > BODY) throw new Refused(413, 'The body is too large.');
        pieces.push(piece);
    }
    return Buffer.concat(pieces);
}

const jsonOf = async (request) => JSON.parse((await bodyOf(request)).toString('utf8'));

function send(response, value, status = 200) {
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(value));
}

/** All texts of a conversation, in order, and which of them are documents. */
function textsOf(messages) {
    const out = [];
    for (const m of messages) {
        out.push({ text: `\n${m.role}: ` });
        for (const p of typeof m.content === 'string' ? [{ type: 'text', text: m.content }] : m.content) {
            if (p.type === 'text') out.push({ text: p.text });
            else out.push({ text: Buffer.from(p.file.file_data.split(',')[1], 'base64').toString('utf8'), document: true });
        }
    }
    return out;
}

function entriesOf(budget, tokens) {
    if (budget === undefined || budget === '') return null;
    if (typeof budget === 'number' || /^\d+$/.test(budget)) return Number(budget);
    if (budget.endsWith('%')) return Math.ceil(tokens * parseFloat(budget) / 100);
    const size = /^([\d.]+)MiB$/.exec(budget);
    if (!size) throw new Refused(400, `The budget '${budget}' is neither a number, nor bytes (64MiB), nor a share (25%).`, 'budget');
    return Math.floor(size[1] * 1048576 / BYTES_PER_TOKEN);
}

/** An invented report that adds up: spans of 10 to 40 tokens, the first and the last kept, the others by lot. */
function reportOf(texts, memory) {
    const tokens = [];
    const documents = [];
    for (const t of texts) {
        const begin = tokens.length;
        for (const token of tokenize(t.text)) tokens.push(token);
        if (t.document) documents.push({ begin, end: tokens.length });
    }
    const n = tokens.length;
    const entries = entriesOf(memory.budget ?? props.memory.budget, n);
    const share = entries === null ? 1 : Math.min(1, entries / n);
    const latent = memory.residue === 'latent';
    const spans = [];
    let seed = 12345;
    const lot = () => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648;
    const longest = Math.max(40, n / 1500);
    for (let begin = 0; begin < n;) {
        const end = Math.min(n, begin + 10 + Math.floor(lot() * longest));
        const text = tokens.slice(begin, end).join('');
        const asked = (memory.keep ?? []).some((k) => text.includes(k.slice(0, 20)));
        const x = begin < 8 || end > n - 120 || asked ? 0 : lot() / Math.max(share, 1e-3) / 1.9;
        const held = share === 1 ? 1 : Math.max(0, Math.min(1, 1.05 - x * 0.62 - lot() * 0.1));
        const state = held >= 0.5 ? 'kept' : held >= 0.05 ? 'partly' : latent && lot() < 0.6 ? 'latent' : 'dropped';
        spans.push({ begin, end, state, held_share: Number(held.toFixed(3)), text });
        begin = end;
    }
    const positions = { kept: 0, partly: 0, latent: 0, dropped: 0 };
    for (const s of spans) positions[s.state] += s.end - s.begin;
    const held = Math.min(n, entries ?? n);
    return {
        policy: entries === null ? '' : memory.policy || 'gate',
        budget: entries === null ? { text: 'everything', entries_per_head: null } : { text: `${entries.toLocaleString('en')} entries a head`, entries_per_head: entries },
        tokens_in: n, positions, thresholds: { kept_from: 0.5, dropped_below: 0.05 }, spans, documents,
        bytes: { total: held * BYTES_PER_TOKEN, peak: Math.min(n, held + 512) * BYTES_PER_TOKEN, entries: held * BYTES_PER_TOKEN },
    };
}

const PLAIN = `The committee decided three things.

1. **The bridge is closed** from 1 May, for nine weeks.
2. The cost may reach *€ 412,000*, and not more.
3. Ms Okafor reports every month.

| item | cost | by |
|---|--:|---|
| deck | 210,000 | June |
| bearings | 94,500 | July |

The text says it in one line, which a script may read:

\`\`\`python
def total(items):
    # what the contract calls "the sum"
    return sum(item.cost for item in items)
\`\`\`

> No work begins before the permit is there.

What the minutes do **not** say is who pays if the sum is passed.`;

function answerOf(mode) {
    if (mode === 'inject') return INJECTIONS.join('\n\n');
    if (mode !== 'long') return PLAIN;
    const out = [];
    for (let i = 0; out.length < 10000; i++) {
        out.push(`## Part ${i + 1}`, '', `A paragraph with **bold** words and \`code\`, number ${i}.`, '');
        if (i % 10 === 4) out.push('```js', ...Array.from({ length: 60 }, (_, k) => `const line${k} = ${i * k};`), '```', '');
        else out.push(...Array.from({ length: 12 }, (_, k) => `- point ${k} of part ${i}`), '');
    }
    return out.slice(0, 10000).join('\n');
}

async function complete(request, response) {
    const body = await jsonOf(request);
    const id = request.headers['x-session-id'] ?? `s${Date.now()}`;
    const texts = textsOf(body.messages);
    const memory = body.memory ?? {};
    const report = reportOf(texts, memory);
    if (report.budget.entries_per_head === null && report.tokens_in > props.context)
        throw new Refused(400, `The prompt has ${report.tokens_in} tokens; the context holds ${props.context}. Set a budget, or send less.`, 'context_length_exceeded');
    const { mode } = mock;
    if (mode === 'error') throw new Refused(503, 'The model is busy with another request. Try again in a moment.', 'busy');
    const before = sessions.get(id);
    const now = Math.floor(Date.now() / 1000);
    const first = body.messages.find((m) => m.role === 'user');
    const title = typeof first.content === 'string' ? first.content : first.content.findLast((p) => p.type === 'text')?.text ?? first.content[0].file.filename;
    const session = {
        id, title: before?.title ?? title.slice(0, 60), created: before?.created ?? now, last_used: now, tokens: report.tokens_in,
        bytes: report.bytes.total, where: 'both', busy: true, messages: body.messages,
    };
    sessions.set(id, session);
    let open = true;
    response.on('close', () => { open = false; });
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    const say = (chunk) => response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    const chunk = (delta, more = {}) => say({ id: `r-${id}`, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: null, ...more.choice }], ...more.top });
    const cached = Math.min(before?.tokens ?? 0, report.tokens_in);
    for (let read = cached; open && read < report.tokens_in;) {
        chunk({}, { top: { memory_progress: { read, total: report.tokens_in, held: Math.min(read, report.budget.entries_per_head ?? read) } } });
        const step = Math.min(report.tokens_in - read, mock.read / 4);
        await sleep(1000 * step / mock.read);
        read += step;
    }
    if (mode === 'reason') {
        for (const word of 'The reader asks what was decided. The minutes have three points. I name them in order. '.split(/(?<= )/)) {
            if (!open) break;
            chunk({ reasoning_content: word });
            await sleep(mock.pace);
        }
    }
    const text = answerOf(mode);
    const pieces = text.match(mode === 'long' ? /[\s\S]{1,400}/g : /[\s\S]{1,6}/g);
    let written = '';
    for (const [i, piece] of pieces.entries()) {
        if (!open) break;
        if (mode === 'broken' && i === 30) {
            say({ error: { message: 'The memory ran out while the answer was written.', type: 'server_error', param: null, code: 'out_of_memory' } });
            break;
        }
        chunk({ content: piece });
        written += piece;
        await sleep(mode === 'long' ? Math.min(mock.pace, 4) : mock.pace);
    }
    session.busy = false;
    const after = reportOf([...texts, { text: written }], memory);
    Object.assign(session, { tokens: after.tokens_in, bytes: after.bytes.total, last_used: Math.floor(Date.now() / 1000) });
    session.messages = [...body.messages, { role: 'assistant', content: written }];
    reports.set(id, after);
    if (open && written.length === text.length) {
        const out = tokenize(written).length;
        chunk({}, { choice: { finish_reason: 'stop' }, top: { memory: after } });
        const p = after.positions;
        say({ id: `r-${id}`, object: 'chat.completion.chunk', choices: [], usage: {
            prompt_tokens: report.tokens_in, completion_tokens: out, total_tokens: report.tokens_in + out, prompt_tokens_details: { cached_tokens: cached },
            memory: { tokens_in: after.tokens_in, held: p.kept + p.partly, latent: p.latent, dropped: p.dropped, bytes: after.bytes.total, policy: after.policy } } });
        response.write('data: [DONE]\n\n');
    }
    response.end();
}

const listed = ({ messages, ...rest }) => rest;

function sessionOf(id) {
    const s = sessions.get(id);
    if (!s) throw new Refused(404, `There is no session '${id}'.`);
    return s;
}

async function onSessions(request, response, id, action) {
    const { method } = request;
    if (!id) return send(response, { object: 'list', data: [...sessions.values()].map(listed).sort((a, b) => b.last_used - a.last_used) });
    if (id === 'import' && method === 'POST') {
        const { session, report } = JSON.parse((await bodyOf(request)).toString('utf8'));
        session.id = `imported-${sessions.size}-${Date.now()}`;
        sessions.set(session.id, session);
        if (report) reports.set(session.id, report);
        return send(response, listed(session));
    }
    const s = sessionOf(id);
    if (action === 'fork') {
        const made = { ...structuredClone(s), id: `fork-${sessions.size}-${Date.now()}`, title: `${s.title} (copy)`, last_used: Math.floor(Date.now() / 1000) };
        sessions.set(made.id, made);
        if (reports.has(id)) reports.set(made.id, reports.get(id));
        return send(response, listed(made));
    }
    if (action === 'export') {
        response.writeHead(200, { 'Content-Type': 'application/octet-stream' });
        return response.end(JSON.stringify({ session: s, report: reports.get(id) }));
    }
    if (method === 'PATCH') s.title = (await jsonOf(request)).title;
    if (method === 'DELETE') sessions.delete(id);
    send(response, method === 'DELETE' ? { id, deleted: true } : method === 'PATCH' ? listed(s) : s);
}

async function onFile(response, path) {
    const file = normalize(join(WEB, path === '/' ? 'index.html' : path));
    if (!file.startsWith(WEB)) throw new Refused(404, 'No such file.');
    const bytes = await readFile(file).catch(() => { throw new Refused(404, `There is no '${path}' here.`); });
    response.writeHead(200, { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'Content-Security-Policy': CSP, 'Cache-Control': 'no-store' });
    response.end(bytes);
}

async function handle(request, response) {
    const { pathname } = new URL(request.url, 'http://x');
    const [, a, b, c, d] = pathname.split('/').map(decodeURIComponent);
    const ours = a === 'v1' || ['props', 'tokenize'].includes(a);
    if (ours && process.env.MOCK_KEY && request.headers.authorization !== `Bearer ${process.env.MOCK_KEY}`) throw new Refused(401, 'This server needs a key.', 'invalid_api_key');
    if (a === 'mock') {
        if (request.method === 'POST') Object.assign(mock, await jsonOf(request));
        return send(response, mock);
    }
    if (a === 'props') return send(response, props);
    if (a === 'tokenize') return send(response, { tokens: tokenize((await jsonOf(request)).content).map((_, i) => i) });
    if (b === 'chat') return complete(request, response);
    if (b === 'sessions') return onSessions(request, response, c, d);
    if (b === 'memory') {
        const report = reports.get(c.replace(/^r-/, ''));
        if (!report) throw new Refused(404, 'No memory is held for this.');
        return send(response, report);
    }
    if (b === 'documents') {
        if (!props.pdf) throw new Refused(501, 'This server was built without a PDF reader.');
        await bodyOf(request);
        return send(response, { text: 'The text of a PDF.\n\nIt has two paragraphs.' });
    }
    return onFile(response, pathname);
}

createServer((request, response) => handle(request, response).catch((error) => {
    if (response.headersSent) return response.end();
    const status = error.status ?? 500;
    send(response, { error: { message: error.message, type: status < 500 ? 'invalid_request_error' : 'server_error', param: null, code: error.code ?? null } }, status);
})).listen(Number(process.env.PORT ?? 8099), '127.0.0.1', function () {
    console.log(`mock server at http://127.0.0.1:${this.address().port}/`);
});
