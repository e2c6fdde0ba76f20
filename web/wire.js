// A conversation as the page holds it, and as the server reads it.
import { Signal } from './store.js';

const QUOTE = 'From the text above:\n"""\n';
const QUOTE_END = '\n"""';
let uid = 0;

export const question = (text, files = [], quotes = []) => ({ uid: ++uid, role: 'user', text, files, quotes });
export const answer = (text = '', status = 'done') =>
    ({ uid: ++uid, role: 'assistant', text, reasoning: '', status, error: null, progress: null, usage: null, finish: null, signal: new Signal() });

/** An id of our own: randomUUID is missing where the page is not in a secure context. */
export function newId() {
    if (crypto.randomUUID) return crypto.randomUUID();
    const b = crypto.getRandomValues(new Uint8Array(16));
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    return [...b].map((x, i) => ([4, 6, 8, 10].includes(i) ? '-' : '') + x.toString(16).padStart(2, '0')).join('');
}

export function toDataUrl(text) {
    return new Promise((resolve, reject) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.onerror = () => reject(reader.error);
        reader.readAsDataURL(new Blob([text], { type: 'text/plain' }));
    });
}

function fromDataUrl(url) {
    try {
        return new TextDecoder().decode(Uint8Array.from(atob(url.slice(url.indexOf(',') + 1)), (c) => c.charCodeAt(0)));
    } catch {
        return '';  // Not sent by this page. It is sent back as it came.
    }
}

function parts(message) {
    return [
        ...message.files.map((f) => ({ type: 'file', file: { filename: f.name, file_data: f.data } })),
        ...message.quotes.map((text) => ({ type: 'text', text: QUOTE + text + QUOTE_END })),
        ...(message.text ? [{ type: 'text', text: message.text }] : []),
    ];
}

/** The messages to send. Answers that never began are left out, and the questions around them become one. */
export function toWire(conversation) {
    const out = [];
    if (conversation.settings.system.trim()) out.push({ role: 'system', content: conversation.settings.system });
    for (const m of conversation.messages) {
        if (m.role === 'assistant') {
            if (m.text) out.push({ role: 'assistant', content: m.text });
        } else if (out.at(-1)?.role === 'user') {
            out.at(-1).content.push(...parts(m));
        } else {
            out.push({ role: 'user', content: parts(m) });
        }
    }
    for (const m of out) {
        if (Array.isArray(m.content) && m.content.length === 1 && m.content[0].type === 'text') m.content = m.content[0].text;
    }
    return out;
}

/** Back from the server: `{system, messages}`. */
export function fromWire(messages) {
    const out = { system: '', messages: [] };
    for (const m of messages) {
        const list = typeof m.content === 'string' ? [{ type: 'text', text: m.content }] : m.content ?? [];
        const texts = list.filter((p) => p.type === 'text').map((p) => p.text);
        if (m.role === 'system') {
            out.system = texts.join('\n');
        } else if (m.role === 'assistant') {
            const a = answer(texts.join('\n'));
            a.reasoning = m.reasoning_content ?? '';
            out.messages.push(a);
        } else {
            const isQuote = (t) => t.startsWith(QUOTE) && t.endsWith(QUOTE_END);
            const files = list.filter((p) => p.type === 'file').map(({ file }) => {
                const text = fromDataUrl(file.file_data);
                return { name: file.filename, data: file.file_data, text, tokens: Math.ceil(text.length / 4) };
            });
            out.messages.push(question(texts.filter((t) => !isQuote(t)).join('\n\n'), files,
                texts.filter(isQuote).map((t) => t.slice(QUOTE.length, -QUOTE_END.length))));
        }
    }
    return out;
}
