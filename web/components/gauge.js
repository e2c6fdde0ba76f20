// The bar at the top: the title, and how much of the context the model still has.
import { html } from '../vendor/htm/standalone.module.js';
import { bytes, count, number, percent, short } from '../format.js';
import { STATES } from '../memory.js';
import { changed, openPanel, state } from '../store.js';
import { Icon, IconButton, Strip } from './parts.js';

const NONE = { kept: 0, partly: 0, latent: 0, dropped: 0 };

const openMemory = () => openPanel('memory');

export function Gauge({ c }) {
    const reading = c.messages.at(-1)?.progress;
    const r = c.report;
    const parts = r?.positions ?? NONE;
    const tokens = r?.tokens_in ?? 0;
    const everything = !r?.budget?.entries_per_head && c.settings.mode === 'all';
    const size = r?.bytes?.total ?? c.usage?.memory?.bytes;
    let text;
    if (reading) text = html`<span><b>Reading</b> ${number(reading.read)} of ${count(reading.total, 'token')}</span>`;
    else if (!r) text = html`<span><b>0</b> of ${count(state.props.context, 'token')}</span>`;
    else text = html`<span><b>${number(tokens)}</b> in</span>
        ${STATES.filter((k) => k === 'kept' || parts[k]).map((k) => html`<span key=${k} class=${`n ${k}`}><span class=${`dot ${k}`}></span>${short(parts[k])}<span class="word"> ${k}</span></span>`)}
        ${size != null && html`<span class="size">${bytes(size)}</span>`}`;
    return html`<button type="button" class="gauge" title="Tokens in, and what is left of them. Show the map" onClick=${openMemory}>
        ${reading ? html`<progress max=${reading.total} value=${reading.read} aria-hidden="true"></progress>`
        : html`<${Strip} parts=${parts} of=${everything ? Math.max(tokens, state.props.context) : tokens} />`}
        <span class="numbers"><span class="hidden">Memory: </span>${text}</span></button>`;
}

/** One line below an answer that was given without all of its text. */
export function Honest({ c }) {
    const p = c.report?.positions;
    if (!p || p.kept >= c.report.tokens_in) return null;
    const said = STATES.filter((k) => p[k]).map((k) => `${percent(p[k] / c.report.tokens_in)} ${k}`).join(', ');
    return html`<button type="button" class="quiet honest" onClick=${openMemory}><${Icon} name="map" />What the model had left: ${said}</button>`;
}

export function TopBar({ c }) {
    const shows = state.panel;
    return html`<header class="top">
        <span class="only-narrow"><${IconButton} icon="menu" label="Conversations" aria-expanded=${state.drawer === 'sessions'}
            onClick=${() => { state.drawer = 'sessions'; changed(); }} /></span>
        <h1>${c.title || 'New conversation'}</h1>
        <${Gauge} c=${c} />
        <span class="only-wide"><${IconButton} icon="map" label=${shows ? 'Hide memory and settings' : 'Show memory and settings'} aria-expanded=${shows}
            onClick=${() => { state.panel = !shows; changed(); }} /></span>
        <span class="only-medium"><${IconButton} icon="map" label="Memory and settings" aria-expanded=${state.drawer === 'panel'}
            onClick=${() => { state.drawer = 'panel'; changed(); }} /></span></header>`;
}
