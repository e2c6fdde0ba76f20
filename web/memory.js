// What a budget means and costs, and reading of memory reports.
import { number } from './format.js';

export const STATES = ['kept', 'partly', 'latent', 'dropped'];
export const MEANING = {
    kept: 'At least half of the heads still see it.',
    partly: 'Some heads still see it, fewer than half.',
    latent: 'Gone as text; a compressed trace of it stays.',
    dropped: 'The model no longer sees it.',
};

const MIB = 1024 * 1024;

/** A budget in the server's words, as fields of a form. */
export function parseBudget(text) {
    const t = String(text ?? '').trim();
    const out = { mode: 'all', entries: 1024, mebibytes: 64, share: 25 };
    const size = /^([\d.]+)\s*(B|[KMGT]i?B)$/i.exec(t);
    if (/^\d+$/.test(t)) {
        out.mode = 'entries';
        out.entries = Number(t);
    } else if (t.endsWith('%')) {
        out.mode = 'share';
        out.share = parseFloat(t);
    } else if (size) {
        const [, n, unit] = size;
        const base = /i/i.test(unit) ? 1024 : 1000;
        out.mode = 'bytes';
        out.mebibytes = Math.round(n * base ** 'BKMGT'.indexOf(unit[0].toUpperCase()) / MIB * 10) / 10;
    }
    return out;
}

/** What to send. Undefined: the server's own, which is to keep everything as well. */
export function budgetOf(s, props) {
    if (s.mode === 'entries') return s.entries;
    if (s.mode === 'bytes') return `${s.mebibytes}MiB`;
    if (s.mode === 'share') return `${s.share}%`;
    return props.memory.budget === '' ? undefined : '';
}

export function budgetText(s) {
    return { all: 'everything', entries: `${number(s.entries)} entries a head`, bytes: `${s.mebibytes} MiB`, share: `${s.share}%` }[s.mode];
}

/** About how many of `tokens` are kept, and what they take. */
export function costOf(s, tokens, props) {
    const each = props.bytes_per_token;
    const entries = { all: tokens, entries: s.entries, share: Math.ceil(tokens * s.share / 100), bytes: Math.floor(s.mebibytes * MIB / each) }[s.mode];
    const kept = Math.min(tokens, entries);
    return { kept, bytes: kept * each, most: s.mode === 'all' ? null : entries * each };
}

/** The spans of one stretch, cut to it. */
export function spansWithin(spans, begin, end) {
    return spans.filter((s) => s.end > begin && s.begin < end)
        .map((s) => ({ ...s, begin: Math.max(begin, s.begin), end: Math.min(end, s.end) }));
}

/** Tokens by state. */
export function tally(spans) {
    const out = { kept: 0, partly: 0, latent: 0, dropped: 0 };
    for (const s of spans) out[s.state] += s.end - s.begin;
    return out;
}

/** Documents of a conversation, in order, each with its place if the report knows it. */
export function documentsOf(conversation) {
    const files = conversation.messages.flatMap((m) => m.files ?? []);
    return files.map((file, i) => ({ file, place: conversation.report?.documents?.[i] ?? null }));
}
