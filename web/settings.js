// Settings of each conversation. They live in this browser: the server keeps the messages only.
import { budgetOf, parseBudget } from './memory.js';

const name = (id) => `palimpsest.settings.${id}`;

export function defaults(props) {
    return { ...parseBudget(props.memory.budget), policy: '', residue: '', prefix: '', temperature: 0.7, max_tokens: 1024, system: '' };
}

export function loadSettings(id, props) {
    let saved = {};
    try {
        saved = JSON.parse(localStorage.getItem(name(id)) ?? '{}');
    } catch { /* Damaged: as if there were none. */ }
    return { ...defaults(props), ...saved };
}

/** The system prompt is among the messages, so it is not kept a second time. */
export function saveSettings(id, { system, ...rest }) {
    try {
        localStorage.setItem(name(id), JSON.stringify(rest));
    } catch { /* Full or forbidden: they hold until the page is closed. */ }
}

export function forgetSettings(id) {
    localStorage.removeItem(name(id));
}

/** The `memory` field of a request. */
export function memoryOf(s, props) {
    const out = { report: 'spans' };
    const budget = budgetOf(s, props);
    if (budget !== undefined) out.budget = budget;
    if (s.policy) out.policy = s.policy;
    if (s.residue) out.residue = s.residue;
    if (s.prefix) out.prefix = [s.prefix];
    return out;
}
