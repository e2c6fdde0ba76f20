// What a user can do, in terms of the state and the server.
import { api, ApiError } from './api.js';
import { readDocument, estimateTokens } from './documents.js';
import { ask, changed, say, state } from './store.js';
import { forgetSettings, loadSettings, memoryOf, saveSettings } from './settings.js';
import { answer, fromWire, newId, question, toWire } from './wire.js';
import { bytes, count } from './format.js';

const newDraft = () => ({ text: '', files: [], quotes: [], notes: [], editing: false });

function makeConversation(id, title = '') {
    return {
        id, title, messages: [], draft: newDraft(), settings: loadSettings(id, state.props),
        report: null, usage: null, running: null, started: false, loading: false, error: null,
    };
}

export async function start() {
    state.fatal = null;
    changed();
    try {
        state.props = await api.props();
    } catch (error) {
        state.fatal = error.message;
        return changed();
    }
    refreshSessions();
    follow();
}

/** Shows what the address names. */
export function follow() {
    const id = /^#\/c\/(.+)$/.exec(location.hash)?.[1];
    if (id) openConversation(decodeURIComponent(id));
    else if (!state.current || state.current.started) newConversation();
}

function show(conversation) {
    state.current = conversation;
    state.view = 'all';
    state.drawer = null;
    const hash = conversation.started ? `#/c/${encodeURIComponent(conversation.id)}` : '';
    if (location.hash !== hash) history.pushState(null, '', hash || location.pathname + location.search);
    changed();
}

export function newConversation() {
    show(makeConversation(newId()));
}

export async function openConversation(id) {
    const known = state.open.get(id);
    if (known) return known === state.current ? undefined : show(known);
    const c = makeConversation(id, state.sessions.find((s) => s.id === id)?.title);
    Object.assign(c, { started: true, loading: true });
    show(c);
    try {
        const [session, report] = await Promise.all([
            api.session(id),
            api.memory(id).catch((e) => { if (e.status === 404) return null; throw e; }),
        ]);
        const { system, messages } = fromWire(session.messages ?? []);
        Object.assign(c, { title: session.title, messages, report });
        c.settings.system = system;
        state.open.set(id, c);
    } catch (error) {
        c.error = error.status === 404 ? 'The server does not have this conversation any more.' : error.message;
    }
    c.loading = false;
    changed();
}

export async function refreshSessions() {
    try {
        state.sessions = await api.sessions();
        for (const s of state.sessions) {
            const c = state.open.get(s.id);
            if (c) c.title = s.title;
        }
        changed();
    } catch { /* The list stays as it was; what a user asks for says its own errors. */ }
}

// --- asking ---

export function send(c) {
    const d = c.draft;
    if (c.running || (!d.text.trim() && !d.files.length && !d.quotes.length)) return;
    if (d.editing) c.messages.splice(c.messages.findLastIndex((m) => m.role === 'user'));
    c.messages.push(question(d.text.trim(), d.files, d.quotes));
    c.draft = newDraft();
    return run(c);
}

export function tryAgain(c) {
    if (c.running) return;
    while (c.messages.at(-1)?.role === 'assistant') c.messages.pop();
    return run(c);
}

export function editLast(c) {
    const last = c.messages.findLast((m) => m.role === 'user');
    c.draft = { ...newDraft(), text: last.text, files: [...last.files], quotes: [...last.quotes], editing: true };
    changed();
}

export function cancelEdit(c) {
    c.draft = newDraft();
    changed();
}

export function stop(c) {
    c.running?.abort();
}

function bodyOf(c) {
    const s = c.settings;
    const keep = [...new Set(c.messages.flatMap((m) => m.quotes ?? []))];
    const memory = memoryOf(s, state.props);
    if (keep.length) memory.keep = keep;
    return JSON.stringify({
        model: state.props.model, stream: true, stream_options: { include_usage: true },
        temperature: s.temperature, max_tokens: s.max_tokens, messages: toWire(c), memory,
    });
}

async function run(c) {
    const a = answer('', 'waiting');
    const body = bodyOf(c);
    c.messages.push(a);
    c.running = new AbortController();
    c.error = null;
    c.title ||= (c.messages[0].text || c.messages[0].files[0]?.name || 'New conversation').slice(0, 60);
    c.started = true;
    saveSettings(c.id, c.settings);
    if (!state.sessions.some((s) => s.id === c.id)) state.sessions.unshift({ id: c.id, title: c.title, last_used: Date.now() / 1000 });
    state.open.set(c.id, c);
    if (state.current === c) show(c);
    try {
        const limit = state.props.limits?.body_bytes ?? Infinity;
        const size = new Blob([body]).size;
        if (size > limit) throw new ApiError(`This conversation takes ${bytes(size)} to send. The server takes ${bytes(limit)} at most.`, 413);
        for await (const chunk of api.complete(c.id, body, c.running.signal)) take(c, a, chunk);
        if (!a.finish) throw new ApiError('The connection ended before the answer did.', 0);
        a.status = 'done';
    } catch (error) {
        a.status = error.name === 'AbortError' ? 'stopped' : 'error';
        a.error = error.name === 'AbortError' ? null : error.message;
    }
    // The report comes with an answer's end: of one that broke off it is asked for.
    if (a.status !== 'done') api.memory(c.id).then((report) => { c.report = report; changed(); }, () => {});
    a.ended = performance.now();
    a.progress = null;
    c.running = null;
    a.signal.emit();
    say({ done: `The answer is complete. ${a.usage ? count(a.usage.completion_tokens, 'token') : ''}`, stopped: 'Stopped.', error: '' }[a.status]);
    refreshSessions();
}

function take(c, a, chunk) {
    if (chunk.error) throw new ApiError(chunk.error.message, 200, chunk.error.code);
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    if (chunk.memory_progress) {
        const p = chunk.memory_progress;
        const now = performance.now();
        a.readings = [...(a.readings ?? []), { at: now, read: p.read }].slice(-6);
        const first = a.readings[0];
        const speed = now > first.at ? (p.read - first.read) / (now - first.at) * 1000 : 0;
        a.progress = { ...p, speed, left: speed ? (p.total - p.read) / speed : null };
        changed();
    }
    if (delta.reasoning_content || delta.content) {
        a.reasoning += delta.reasoning_content ?? '';
        a.text += delta.content ?? '';
        const status = delta.content ? 'writing' : 'reasoning';
        if (a.status !== status) {
            a.status = status;
            a.began ??= performance.now();
            a.progress = null;
            changed();
        }
        a.signal.emit();
    }
    if (choice?.finish_reason) a.finish = choice.finish_reason;
    if (chunk.memory) c.report = chunk.memory;
    if (chunk.usage) a.usage = c.usage = chunk.usage;
    if (chunk.memory || chunk.usage) changed();
}

// --- documents and quotes ---

/** Bytes that a request of this conversation may still have. */
export function roomOf(c) {
    const used = [...c.messages, c.draft].reduce((n, m) => n + m.text.length
        + (m.files ?? []).reduce((k, f) => k + f.data.length, 0), 65536);
    return (state.props.limits?.body_bytes ?? Infinity) - used;
}

export async function addFiles(c, files) {
    c.draft.notes = [];
    for (const file of files) {
        c.draft.reading = file.name;
        changed();
        try {
            const d = await readDocument(file, state.props, roomOf(c));
            c.draft.files.push(d);
            // The estimate is for the eye only, so it may come late or not at all.
            estimateTokens(d.text).then((n) => { d.tokens = n; changed(); }, () => {});
        } catch (error) {
            c.draft.notes.push(error.message);
        }
    }
    c.draft.reading = null;
    changed();
}

export function bringBack(c, text) {
    const t = text.trim();
    if (!t || c.draft.quotes.includes(t)) return;
    c.draft.quotes.push(t);
    say('Added to your next question.');
}

// --- sessions ---

async function attempt(task) {
    try {
        await task();
    } catch (error) {
        await ask({ title: 'That did not work', text: error.message, ok: 'Close', only: true });
    }
    return refreshSessions();
}

export async function renameSession(s) {
    const title = await ask({ title: 'Rename the conversation', label: 'Title', input: s.title, ok: 'Rename' });
    if (title?.trim()) attempt(() => api.rename(s.id, title.trim()));
}

export async function deleteSession(s) {
    const sure = await ask({ title: 'Delete this conversation?', text: `“${s.title}” is deleted from the server, documents and memory included. This cannot be undone.`, ok: 'Delete', danger: true });
    if (!sure) return;
    state.open.get(s.id)?.running?.abort();
    attempt(async () => {
        await api.remove(s.id);
        state.open.delete(s.id);
        forgetSettings(s.id);
        if (state.current.id === s.id) newConversation();
    });
}

export function forkSession(s) {
    return attempt(async () => {
        const made = await api.fork(s.id);
        saveSettings(made.id, state.open.get(s.id)?.settings ?? loadSettings(s.id, state.props));
        await openConversation(made.id);
        say('This is the copy. The first conversation stays as it is.');
    });
}

export function exportSession(s) {
    return attempt(async () => {
        const link = document.createElement('a');
        link.href = URL.createObjectURL(await api.export(s.id));
        link.download = `${s.title.replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 40) || 'conversation'}.palimpsest`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
}

export function importSession(file) {
    return attempt(async () => openConversation((await api.import(file)).id));
}
