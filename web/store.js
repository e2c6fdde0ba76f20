// The page's state: one plain object, and who wants to know when it changes.
import { useLayoutEffect, useReducer } from './vendor/htm/standalone.module.js';

export const state = {
    props: null,            // of the server
    fatal: null,            // why there is nothing to show
    sessions: [],
    filter: '',
    current: null,          // the conversation in view
    open: new Map(),        // conversations by id; those out of view may still be writing
    drawer: null,           // on narrow screens: 'sessions' or 'panel'
    panel: true,            // is the right side open, on wide screens
    tab: 'memory',          // or 'settings'
    view: 'all',            // whose map: 'all', or a document's number
    dialog: null,
    said: '',               // for screen readers
    theme: document.documentElement.dataset.theme,
};

const listeners = new Set();
let pending = false;

/** Call after changing `state`: the page is drawn once, after the running code. */
export function changed() {
    if (pending) return;
    pending = true;
    queueMicrotask(() => {
        pending = false;
        for (const listener of [...listeners]) listener();
    });
}

export function useStore() {
    const [, redraw] = useReducer((n) => n + 1, 0);
    // Before the first answer of the server can come, so that nothing is missed.
    useLayoutEffect(() => {
        listeners.add(redraw);
        return () => listeners.delete(redraw);
    }, []);
    return state;
}

export function say(text) {
    // The same text again is said again only if it differs.
    state.said = text === state.said ? `${text}\u00a0` : text;
    changed();
}

/** Shows the right side: beside the page where there is room, else over it. */
export function openPanel(tab, view = state.view) {
    Object.assign(state, { tab, view, panel: true, drawer: matchMedia('(max-width: 1179px)').matches ? 'panel' : null });
    changed();
}

/** Asks in a dialog. Resolves with true or the text typed; null when cancelled. */
export function ask(options) {
    return new Promise((resolve) => {
        state.dialog = { ...options, resolve };
        changed();
    });
}

/** For text that comes too fast to redraw the page for: listeners of one answer. */
export class Signal {
    #listeners = new Set();
    listen(f) {
        this.#listeners.add(f);
        return () => this.#listeners.delete(f);
    }
    emit() {
        for (const f of this.#listeners) f();
    }
}
