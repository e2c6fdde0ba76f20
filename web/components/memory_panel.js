// The right side, first tab: what the model still has of what it read.
import { html, useState } from '../vendor/htm/standalone.module.js';
import { bringBack } from '../actions.js';
import { bytes, count, number, percent } from '../format.js';
import { documentsOf, MEANING, spansWithin, tally } from '../memory.js';
import { changed, state } from '../store.js';
import { HeatMap, Legend } from './heatmap.js';
import { Icon } from './parts.js';
import { SpanTable } from './span_table.js';

export function BringBack({ c, span }) {
    if (span.state === 'kept' || !span.text.trim()) return null;
    const added = c.draft.quotes.includes(span.text.trim());
    return html`<button type="button" class="button small" disabled=${added} onClick=${() => bringBack(c, span.text)}
        aria-label=${`Bring back tokens ${number(span.begin)} to ${number(span.end)}`}><${Icon} name=${added ? 'check' : 'back'} />${added ? 'Added' : 'Bring back'}</button>`;
}

function Span({ c, span }) {
    if (!span) return html`<div class="span empty"><p class="hint">Point at the map, or move on it with the arrow keys. A click holds a place.</p></div>`;
    return html`<div class="span"><div class="span-head"><span class=${`swatch ${span.state}`} aria-hidden="true"></span><b>${span.state}</b>
        <span class="meta">tokens ${number(span.begin)}–${number(span.end)} · ${percent(span.held_share)} of the heads</span></div>
        <p class="span-text" tabindex="0" role="region" aria-label="Text of this span">${span.text.trim()}</p>
        <div class="span-foot"><span class="meta">${MEANING[span.state]}</span><${BringBack} c=${c} span=${span} /></div></div>`;
}

function Figures({ c }) {
    const r = c.report;
    const size = r.bytes?.total;
    return html`<dl class="figures">
        <div><dt>Tokens in</dt><dd>${number(r.tokens_in)}</dd></div>
        ${size != null && html`<div><dt>Held now</dt><dd>${bytes(size)}</dd></div>`}
        ${r.bytes?.peak != null && html`<div><dt>At most</dt><dd>${bytes(r.bytes.peak)}</dd></div>`}
        <div class="wide"><dt>Budget</dt><dd>${r.budget?.entries_per_head ? r.budget.text || `${count(r.budget.entries_per_head, 'entry')} a head` : 'everything is kept'}${r.policy && r.budget?.entries_per_head ? html` <span class="meta">chosen by ${r.policy}</span>` : ''}</dd></div></dl>`;
}

export function MemoryPanel({ c }) {
    const [at, setAt] = useState(null);
    const [pinned, setPinned] = useState(null);
    const [table, setTable] = useState(false);
    const r = c.report;
    if (!r?.spans?.length) {
        return html`<div class="panel-empty"><div class="ghost" aria-hidden="true">${[100, 92, 97, 60].map((w, i) => html`<i key=${i} class=${`g${i}`}></i>`)}</div>
            <h3>Nothing read yet</h3><p>After the first answer this is a map of your text: what the model kept, what it compressed, what it dropped. Every dropped part can be read here and brought back.</p></div>`;
    }
    const documents = documentsOf(c);
    const place = documents[state.view]?.place;
    const name = place ? documents[state.view].file.name : 'the whole conversation';
    const spans = place ? spansWithin(r.spans, place.begin, place.end) : r.spans;
    const key = `${state.view} ${r.tokens_in} ${c.id}`;
    // A choice is of one map: another map, or a new report, has none yet.
    const chosen = (x) => x?.key === key && spans[x.n] ? x.n : null;
    const held = chosen(pinned);
    const n = chosen(at) ?? held;
    const move = (k, hold) => {
        if (k === null) return setAt(held === null ? at : null);
        setAt({ key, n: k });
        if (hold) setPinned({ key, n: k });
    };
    const pick = (value) => {
        state.view = value;
        changed();
    };
    return html`<div class="memory-panel"><${Figures} c=${c} />
        <div class="row">
            <select aria-label="Whose map" value=${place ? state.view : 'all'} onChange=${(e) => pick(e.target.value)}>
                <option value="all">Whole conversation</option>
                ${documents.map((d, i) => d.place && html`<option key=${i} value=${String(i)}>${d.file.name}</option>`)}</select>
            <div class="switch" role="group" aria-label="View">
                <button type="button" aria-pressed=${!table} onClick=${() => setTable(false)}>Map</button><button type="button" aria-pressed=${table} onClick=${() => setTable(true)}>Table</button></div></div>
        <${Legend} parts=${tally(spans)} />
        ${table ? html`<${SpanTable} key=${key} c=${c} name=${name} spans=${spans} />` : html`
            <${HeatMap} name=${name} spans=${spans} theme=${state.theme} at=${n ?? -1} marks=${place ? [] : documents.flatMap((d) => d.place ? [d.place.begin, d.place.end] : [])}
                onAt=${move} onAct=${() => spans[n] && spans[n].state !== 'kept' && bringBack(c, spans[n].text)} />
            <${Span} c=${c} span=${spans[n]} />`}</div>`;
}
