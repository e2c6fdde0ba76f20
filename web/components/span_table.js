// The map as a table: for keyboards, for screen readers, and for finding a place by its words.
import { html, useState } from '../vendor/htm/standalone.module.js';
import { count, number, percent } from '../format.js';
import { STATES } from '../memory.js';
import { BringBack } from './memory_panel.js';

const PAGE = 20;

export function SpanTable({ c, name, spans }) {
    const [only, setOnly] = useState('');
    const [words, setWords] = useState('');
    const [page, setPage] = useState(0);
    const wanted = words.trim().toLowerCase();
    const found = spans.filter((s) => (!only || s.state === only) && (!wanted || s.text.toLowerCase().includes(wanted)));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const here = Math.min(page, pages - 1);
    return html`<div class="span-table">
        <div class="row"><select aria-label="Show spans that are" value=${only} onChange=${(e) => { setOnly(e.target.value); setPage(0); }}>
                <option value="">All states</option>${STATES.map((s) => html`<option key=${s} value=${s}>Only ${s}</option>`)}</select>
            <input type="search" aria-label="Find in the text" placeholder="Find in the text" value=${words} onInput=${(e) => { setWords(e.target.value); setPage(0); }} /></div>
        <table><caption class="hidden">What is left of ${name}: ${count(found.length, 'span')}</caption>
            <thead><tr><th scope="col">Begin</th><th scope="col">End</th><th scope="col">State</th><th scope="col">Share</th></tr></thead>
            ${found.slice(here * PAGE, here * PAGE + PAGE).map((s) => html`<tbody key=${s.begin}>
                <tr><td>${number(s.begin)}</td><td>${number(s.end)}</td><td><span class=${`swatch ${s.state}`} aria-hidden="true"></span>${s.state}</td><td>${percent(s.held_share)}</td></tr>
                <tr class="text-row"><td colspan="4"><span class="cell-text">${s.text.trim()}</span><${BringBack} c=${c} span=${s} /></td></tr></tbody>`)}</table>
        ${!found.length && html`<p class="hint">No span is like that.</p>`}
        <div class="row pager"><button type="button" class="button small" disabled=${here === 0} onClick=${() => setPage(here - 1)}>Before</button>
            <span class="meta" role="status">Page ${here + 1} of ${pages}</span>
            <button type="button" class="button small" disabled=${here >= pages - 1} onClick=${() => setPage(here + 1)}>Next</button></div></div>`;
}
