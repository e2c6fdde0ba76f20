// Small things that several parts of the page use.
import { html, useEffect, useRef, useState } from '../vendor/htm/standalone.module.js';
import { STATES } from '../memory.js';

const PATHS = {
    plus: 'M8 3v10M3 8h10', close: 'M4 4l8 8M12 4l-8 8', menu: 'M2.500 4.500h11M2.500 8h11M2.500 11.500h11',
    more: 'M3.500 8h.01M8 8h.01M12.500 8h.01', send: 'M8 13V3M3.500 7.500L8 3l4.500 4.500', stop: 'M4.500 4.500h7v7h-7z',
    clip: 'M13 7.500l-5 5a3.200 3.200 0 0 1-4.500-4.500l5.300-5.300a2.100 2.100 0 0 1 3 3L6.500 11a1 1 0 0 1-1.500-1.500l4.600-4.600',
    map: 'M2.500 3.500h11M2.500 6.500h6M11 6.500h2.500M2.500 9.500h3M8 9.500h5.500M2.500 12.500h8', file: 'M4 2h5l3 3v9H4zM9 2v3h3',
    edit: 'M3 13l.6-2.800 7.400-7.400 2.200 2.200-7.400 7.400z', again: 'M13 8a5 5 0 1 1-1.500-3.500M13 2v3h-3', copy: 'M6 6h7v7H6zM10 3H3v7', check: 'M3 8.500l3.500 3.500L13 4.500',
    light: 'M8 5.200a2.800 2.800 0 1 0 0 5.600 2.800 2.800 0 0 0 0-5.600M8 1.500v1M8 13.500v1M1.500 8h1M13.500 8h1M3.400 3.400l.7.7M11.900 11.900l.7.7M3.400 12.600l.7-.7M11.900 4.100l.7-.7',
    dark: 'M13 9.500A5.500 5.500 0 1 1 6.500 3a4.500 4.500 0 0 0 6.500 6.500z', auto: 'M2.500 3h11v7.500h-11zM6 13.500h4M8 10.500v3', down: 'M8 3v10M3.500 8.500L8 13l4.500-4.500', search: 'M7 3a4 4 0 1 0 0 8 4 4 0 0 0 0-8M10 10l3.500 3.500',
    back: 'M6 4L2.500 7.500 6 11M3 7.500h6.500a4 4 0 0 1 4 4', upload: 'M8 10V2.500M5 5.500l3-3 3 3M2.500 10.500v3h11v-3',
};

export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

export const IconButton = ({ icon, label, ...rest }) =>
    html`<button type="button" class="icon-button" aria-label=${label} title=${label} ...${rest}><${Icon} name=${icon} /></button>`;

export const Logo = () => html`<svg class="logo" viewBox="0 0 28 24" aria-hidden="true">
    <path class="k" d="M2 4h24M2 20h15" /><path class="k" d="M2 12h9" /><path class="l" d="M15 12h7" /><path class="d" d="M21 20h5M25 12h1" /></svg>`;

/** A strip that shows how much is kept, partly, latent, dropped; `of`: what its whole length stands for. */
export function Strip({ parts, of }) {
    const sum = STATES.reduce((n, s) => n + parts[s], 0);
    return html`<span class="strip" aria-hidden="true">
        ${STATES.map((s) => parts[s] > 0 && html`<span key=${s} class=${`fill ${s}`} style=${{ flexGrow: parts[s] }}></span>`)}
        ${of > sum && html`<span key="free" style=${{ flexGrow: of - sum }}></span>`}</span>`;
}

/** A value that is typed: taken over when it is one. */
export function NumberField({ id, label, unit, value, min, max, step = 1, onValue, children }) {
    const [text, setText] = useState(String(value));
    useEffect(() => { if (Number(text) !== value) setText(String(value)); }, [value]);
    const take = (event) => {
        setText(event.target.value);
        const n = Number(event.target.value);
        if (event.target.value !== '' && n >= min && n <= max) onValue(step === 1 ? Math.round(n) : n);
    };
    return html`<div class="field"><label for=${id}>${label}</label>
        <span class="with-unit"><input id=${id} type="number" inputmode="decimal" min=${min} max=${max} step=${step === 1 ? 1 : 'any'} value=${text}
            onInput=${take} onBlur=${() => setText(String(value))} />${unit && html`<span class="unit">${unit}</span>`}</span>${children}</div>`;
}

/** A button that opens a list of actions. The browser closes it on Escape and on clicks elsewhere. */
export function Menu({ id, label, items }) {
    const ref = useRef();
    const place = (event) => {
        if (event.newState !== 'open') return;
        const menu = ref.current;
        const at = menu.previousElementSibling.getBoundingClientRect();
        const height = 40 * items.length + 12;
        menu.style.setProperty('top', `${at.bottom + height > innerHeight ? at.top - height : at.bottom + 4}px`);
        menu.style.setProperty('left', `${Math.max(8, Math.min(at.right - 176, innerWidth - 184))}px`);
    };
    const move = (event) => {
        const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        const all = [...ref.current.querySelectorAll('button')];
        all[(all.indexOf(document.activeElement) + by + all.length) % all.length].focus();
    };
    return html`<button type="button" class="icon-button menu-button" popovertarget=${id} aria-label=${label} title=${label}><${Icon} name="more" /></button>
        <div id=${id} class="menu" popover="auto" ref=${ref} onBeforeToggle=${place} onKeyDown=${move}>
            ${items.map(([text, act, kind]) => html`<button type="button" key=${text} class=${kind}
                onClick=${() => { ref.current.hidePopover(); act(); }}>${text}</button>`)}</div>`;
}

export function CopyButton({ text, label }) {
    const [copied, setCopied] = useState(false);
    const copy = async () => {
        await copyText(text());
        setCopied(true);
        setTimeout(() => setCopied(false), 1500);
    };
    return html`<button type="button" class="quiet" onClick=${copy}><${Icon} name=${copied ? 'check' : 'copy'} />${copied ? 'Copied' : label}</button>`;
}

/** The clipboard of the browser is missing where the page is not in a secure context. */
export async function copyText(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => {});
    const area = document.createElement('textarea');
    area.value = text;
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
}
