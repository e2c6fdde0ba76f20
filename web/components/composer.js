// Where a question is written, with its documents and what is brought back.
import { html, useEffect, useLayoutEffect, useRef } from '../vendor/htm/standalone.module.js';
import { addFiles, cancelEdit, send, stop } from '../actions.js';
import { count } from '../format.js';
import { changed, openPanel, state } from '../store.js';
import { budgetText } from '../memory.js';
import { kinds } from './welcome.js';
import { Icon, IconButton } from './parts.js';

const LONG_PASTE = 6000;

/** Tokens of a draft or a message, about. */
const tokensOf = (m) => (m.files ?? []).reduce((n, f) => n + f.tokens, 0)
    + Math.ceil((m.text.length + (m.quotes ?? []).reduce((n, q) => n + q.length, 0)) / 4);

/** Tokens that the next answer has to deal with, about. */
export const tokensSoFar = (c) => tokensOf(c.draft) + (c.report?.tokens_in ?? c.messages.reduce((n, m) => n + tokensOf(m), 0));

function Chips({ d }) {
    const drop = (list, i) => {
        list.splice(i, 1);
        changed();
        document.getElementById('ask').focus();
    };
    if (!d.files.length && !d.quotes.length && !d.reading) return null;
    return html`<ul class="attached" aria-label="Sent with your question">
        ${d.files.map((f, i) => html`<li key=${`f${i}`} class="attachment" title=${f.note}><${Icon} name="file" /><span class="name">${f.name}</span>
            <span class="meta">about ${count(f.tokens, 'token')}</span><${IconButton} icon="close" label=${`Remove ${f.name}`} onClick=${() => drop(d.files, i)} /></li>`)}
        ${d.reading && html`<li key="reading" class="attachment"><span class="pulse"></span><span class="name">${d.reading}</span></li>`}
        ${d.quotes.map((q, i) => html`<li key=${`q${i}`} class="attachment brought" title=${q}><${Icon} name="back" /><span class="meta">Brought back</span><span class="name">${q}</span>
            <${IconButton} icon="close" label="Remove what was brought back" onClick=${() => drop(d.quotes, i)} /></li>`)}</ul>`;
}

function Fits({ c }) {
    const now = tokensSoFar(c);
    if (c.settings.mode !== 'all' || now <= state.props.context) return null;
    return html`<p class="note warn">With about ${count(now, 'token')} this is more than the ${count(state.props.context, 'token')} the model sees at once.${' '}
        <button type="button" class="link" onClick=${() => openPanel('settings')}>Set a budget</button> to read it all.</p>`;
}

export function Composer({ c }) {
    const area = useRef();
    const file = useRef();
    const d = c.draft;
    useLayoutEffect(() => {
        const a = area.current;
        a.style.height = 'auto';
        a.style.height = `${Math.min(a.scrollHeight, innerHeight * 0.35)}px`;
    }, [d.text, c.id]);
    useEffect(() => {
        // On a phone this would open the keyboard over the page.
        if (matchMedia('(pointer: fine)').matches) area.current.focus();
    }, [c.id]);
    const add = (files) => addFiles(c, [...files]);
    const go = () => {
        send(c);
        area.current.focus();
    };
    const onKey = (event) => {
        if (event.key !== 'Enter' || event.shiftKey || event.isComposing || matchMedia('(pointer: coarse)').matches) return;
        event.preventDefault();
        go();
    };
    const onPaste = (event) => {
        const text = event.clipboardData.getData('text/plain');
        if (event.clipboardData.files.length) {
            event.preventDefault();
            add(event.clipboardData.files);
        } else if (text.length > LONG_PASTE) {
            event.preventDefault();
            add([new File([text], `pasted ${d.files.length + 1}.txt`, { type: 'text/plain' })]);
        }
    };
    const ready = (d.text.trim() || d.files.length || d.quotes.length) && !d.reading;
    const tokens = tokensOf(d);
    return html`<section class="composer" aria-label="Your question"><div class="column">
        ${d.notes.map((n) => html`<p class="note error" role="alert">${n}</p>`)}
        <${Fits} c=${c} />
        <div class="box">
            ${d.editing && html`<p class="editing"><${Icon} name="edit" />You are editing your last question. Sending replaces its answer.
                <button type="button" class="link" onClick=${() => cancelEdit(c)}>Cancel</button></p>`}
            <${Chips} d=${d} />
            <textarea id="ask" ref=${area} rows="1" aria-label="Your question" placeholder=${c.messages.length ? 'Ask on' : 'Ask a question'} value=${d.text}
                onInput=${(e) => { d.text = e.target.value; changed(); }} onKeyDown=${onKey} onPaste=${onPaste}></textarea>
            <div class="box-foot">
                <button type="button" class="quiet" title=${kinds()} onClick=${() => file.current.click()}><${Icon} name="clip" /><span>Add documents</span></button>
                <button type="button" class="quiet" title="How much is kept: change it" onClick=${() => openPanel('settings')}><${Icon} name="map" /><span class="word">Keeps </span>${budgetText(c.settings)}</button>
                <input id="files" ref=${file} type="file" multiple hidden aria-label="Add documents" onChange=${(e) => { add(e.target.files); e.target.value = ''; area.current.focus(); }} />
                <span class="meta push about-tokens">${tokens > 0 && `about ${count(tokens, 'token')}`}</span>
                ${c.running ? html`<button type="button" key="stop" class="button send" onClick=${() => stop(c)}><${Icon} name="stop" />Stop</button>`
                : html`<button type="button" key="send" class="button primary send" disabled=${!ready} onClick=${go}><${Icon} name="send" />Send</button>`}
            </div></div></div></section>`;
}
