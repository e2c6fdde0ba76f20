// The page: its parts, and what concerns all of them.
import { html, render, useEffect, useState } from './vendor/htm/standalone.module.js';
import { addFiles, follow, start } from './actions.js';
import { onKeyNeeded } from './api.js';
import { Composer } from './components/composer.js';
import { Dialog } from './components/dialog.js';
import { TopBar } from './components/gauge.js';
import { MemoryPanel } from './components/memory_panel.js';
import { IconButton, Logo } from './components/parts.js';
import { Sessions } from './components/sessions.js';
import { SettingsPanel } from './components/settings_panel.js';
import { Thread } from './components/thread.js';
import { ask, changed, state, useStore } from './store.js';

onKeyNeeded((again) => ask({
    title: again ? 'That key was not accepted' : 'This server needs a key', text: 'It stays in this tab, and is sent to this server only.',
    label: 'Key', secret: true, ok: 'Continue',
}));

function Panel({ c }) {
    const tab = (name, label) => html`<button type="button" role="tab" id=${`tab-${name}`} aria-selected=${state.tab === name} aria-controls="panel-body" tabindex=${state.tab === name ? 0 : -1}
        onClick=${() => { state.tab = name; changed(); }}>${label}</button>`;
    const turn = (event) => {
        if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
        state.tab = state.tab === 'memory' ? 'settings' : 'memory';
        changed();
        document.getElementById(`tab-${state.tab}`).focus();
    };
    return html`<aside id="panel" class=${`side right ${state.drawer === 'panel' ? 'open' : ''} ${state.panel ? '' : 'shut'}`} aria-label="Memory and settings" tabindex="-1">
        <div class="tabs"><div role="tablist" aria-label="Memory and settings" onKeyDown=${turn}>${tab('memory', 'Memory')}${tab('settings', 'Settings')}</div>
            <span class="only-medium push"><${IconButton} icon="close" label="Close" onClick=${() => { state.drawer = null; changed(); }} /></span></div>
        <div id="panel-body" class="side-body" role="tabpanel" aria-labelledby=${`tab-${state.tab}`}>
            ${state.tab === 'memory' ? html`<${MemoryPanel} key=${c.id} c=${c} />` : html`<${SettingsPanel} key=${c.id} c=${c} />`}</div></aside>`;
}

/** Files may be dropped anywhere. */
function DropEverywhere({ c }) {
    const [over, setOver] = useState(false);
    useEffect(() => {
        let depth = 0;
        const has = (e) => e.dataTransfer?.types.includes('Files');
        const on = {
            dragenter: (e) => { if (has(e)) { depth++; setOver(true); } },
            dragleave: (e) => { if (has(e) && --depth <= 0) { depth = 0; setOver(false); } },
            dragover: (e) => { if (has(e)) e.preventDefault(); },
            drop: (e) => {
                if (!has(e)) return;
                e.preventDefault();
                depth = 0;
                setOver(false);
                addFiles(c, [...e.dataTransfer.files]);
                document.getElementById('ask').focus();
            },
        };
        for (const [name, f] of Object.entries(on)) addEventListener(name, f);
        return () => { for (const [name, f] of Object.entries(on)) removeEventListener(name, f); };
    }, [c]);
    return over && html`<div class="drop-over" aria-hidden="true"><span>Drop to add to your question</span></div>`;
}

/** A side that lies over the page takes the focus, and gives it back. */
function useDrawer() {
    const open = state.drawer;
    useEffect(() => {
        const side = open && document.getElementById(open === 'sessions' ? 'sessions' : 'panel');
        // On wide screens a side stands beside the page, and nothing moves.
        if (!side || getComputedStyle(side).position !== 'fixed') return;
        const before = document.activeElement;
        const main = document.querySelector('main');
        const onKey = (event) => {
            if (event.key !== 'Escape' || document.querySelector('dialog[open], :popover-open')) return;
            state.drawer = null;
            changed();
        };
        main.inert = true;
        side.focus();
        addEventListener('keydown', onKey);
        return () => {
            main.inert = false;
            removeEventListener('keydown', onKey);
            before?.focus?.();
        };
    }, [open]);
}

function App() {
    useStore();
    useDrawer();
    const c = state.current;
    useEffect(() => {
        document.title = c?.title ? `${c.title} · Palimpsest` : 'Palimpsest';
    });
    if (state.fatal) {
        return html`<main class="fatal"><${Logo} /><h1>Palimpsest</h1><p role="alert">${state.fatal}</p><button type="button" class="button primary" onClick=${start}>Try again</button></main><${Dialog} />`;
    }
    if (!c) return html`<main class="fatal"><${Logo} /></main><${Dialog} />`;
    return html`<button type="button" class="skip" onClick=${() => document.getElementById('ask').focus()}>Skip to your question</button>
        <div class="app"><${Sessions} />
            <main><${TopBar} c=${c} /><${Thread} c=${c} /><${Composer} c=${c} /></main>
            <${Panel} c=${c} />
            ${state.drawer && html`<div class="veil" onClick=${() => { state.drawer = null; changed(); }}></div>`}</div>
        <${DropEverywhere} c=${c} /><${Dialog} />
        <div class="hidden" role="status" aria-live="polite">${state.said}</div>`;
}

render(html`<${App} />`, document.getElementById('app'));
addEventListener('popstate', follow);
start();
