// The one dialog: a question with an answer, a text, or a sure.
import { html, useEffect, useRef } from '../vendor/htm/standalone.module.js';
import { changed, state } from '../store.js';

export function Dialog() {
    const d = state.dialog;
    const ref = useRef();
    const input = useRef();
    useEffect(() => {
        if (!d) return;
        ref.current.showModal();
        input.current?.select();
    }, [d]);
    if (!d) return null;
    const end = (value) => {
        if (state.dialog !== d) return;
        state.dialog = null;
        ref.current.close();
        d.resolve(value);
        changed();
    };
    const submit = (event) => {
        event.preventDefault();
        end(d.label ? input.current.value : true);
    };
    return html`<dialog ref=${ref} aria-labelledby="dialog-title" onClose=${() => end(null)} onClick=${(e) => e.target === ref.current && end(null)}>
        <form onSubmit=${submit}>
            <h2 id="dialog-title">${d.title}</h2>
            ${d.text && html`<p>${d.text}</p>`}
            ${d.label && html`<div class="field"><label for="dialog-input">${d.label}</label>
                <input id="dialog-input" ref=${input} type=${d.secret ? 'password' : 'text'} value=${d.input ?? ''} autocomplete="off" /></div>`}
            <div class="dialog-buttons">
                ${!d.only && html`<button type="button" class="button" onClick=${() => end(null)}>Cancel</button>`}
                <button type="submit" class=${`button ${d.danger ? 'danger' : 'primary'}`}>${d.ok}</button>
            </div>
        </form></dialog>`;
}
