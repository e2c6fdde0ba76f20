// What the page asks the server, and nothing else: every path is on the page's own origin.
const KEY = 'palimpsest.key';

export class ApiError extends Error {
    constructor(message, status, code) {
        super(message);
        this.status = status;
        this.code = code;
    }
}

let askForKey = async () => null;
let asking = null;
/** `ask(again)` gives the key the user typed, or null. */
export function onKeyNeeded(ask) { askForKey = ask; }

async function errorOf(response) {
    const body = await response.json().catch(() => null);
    const said = body?.error?.message ?? `The server answered with status ${response.status}.`;
    return new ApiError(said, response.status, body?.error?.code);
}

async function request(path, { headers = {}, ...rest } = {}) {
    for (;;) {
        const key = sessionStorage.getItem(KEY);
        let response;
        try {
            response = await fetch(path, { ...rest, headers: { ...headers, ...(key && { Authorization: `Bearer ${key}` }) } });
        } catch (error) {
            if (error.name === 'AbortError') throw error;
            throw new ApiError('The server cannot be reached. Is it still running?', 0);
        }
        if (response.status !== 401) {
            if (!response.ok) throw await errorOf(response);
            return response;
        }
        // Requests that fail together ask once; one that failed with an old key tries the new one first.
        if (sessionStorage.getItem(KEY) !== key) continue;
        asking ??= askForKey(key !== null).finally(() => { asking = null; });
        const given = await asking;
        if (!given) throw new ApiError('This server needs a key.', 401);
        sessionStorage.setItem(KEY, given);
    }
}

const json = (value) => ({ headers: { 'Content-Type': 'application/json' }, body: typeof value === 'string' ? value : JSON.stringify(value) });
const read = async (path, options) => (await request(path, options)).json();
const session = (id) => `v1/sessions/${encodeURIComponent(id)}`;

export const api = {
    props: () => read('props'),
    memory: (id) => read(`v1/memory/${encodeURIComponent(id)}`),
    sessions: async () => (await read('v1/sessions')).data,
    session: (id) => read(session(id)),
    rename: (id, title) => request(session(id), { method: 'PATCH', ...json({ title }) }),
    remove: (id) => request(session(id), { method: 'DELETE' }),
    fork: (id) => read(`${session(id)}/fork`, { method: 'POST' }),
    export: async (id) => (await request(`${session(id)}/export`)).blob(),
    import: (file) => read('v1/sessions/import', { method: 'POST', body: file, headers: { 'Content-Type': 'application/octet-stream' } }),
    pdfText: async (file) => (await read('v1/documents/text', { method: 'POST', body: file, headers: { 'Content-Type': 'application/pdf' } })).text,
    tokens: async (content) => (await read('tokenize', { method: 'POST', ...json({ content }) })).tokens.length,

    /** Chunks of an answer, as they come. `body` is JSON already. */
    async *complete(id, body, signal) {
        const { headers, ...rest } = json(body);
        const response = await request('v1/chat/completions',
            { method: 'POST', signal, headers: { ...headers, 'x-session-id': id }, ...rest });
        yield* events(response.body);
    },
};

/** Server-sent events whose data is JSON, up to `[DONE]`. */
export async function* events(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = '';
    try {
        for (;;) {
            const { value, done } = await reader.read();
            buffer += done ? '\n\n' : value.replaceAll('\r', '');
            let end;
            while ((end = buffer.indexOf('\n\n')) >= 0) {
                const lines = buffer.slice(0, end).split('\n');
                buffer = buffer.slice(end + 2);
                const data = lines.filter((l) => l.startsWith('data:')).map((l) => l.slice(5).trimStart()).join('\n');
                if (data === '[DONE]') return;
                if (data) yield JSON.parse(data);
            }
            if (done) return;
        }
    } finally {
        reader.cancel().catch(() => {});
    }
}
