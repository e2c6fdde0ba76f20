// The first screen: what this is, and what to do with it.
import { html, useRef } from '../vendor/htm/standalone.module.js';
import { addFiles } from '../actions.js';
import { changed, state } from '../store.js';
import { Logo } from './parts.js';

const EXAMPLES = ['Summarise this in five points.', 'What was decided, and by whom?', 'Where do these documents disagree?'];

export const kinds = () => `Text, Markdown, source code${state.props.pdf ? ', PDF' : ''}`;

export function Welcome({ c }) {
    const file = useRef();
    const choose = (event) => {
        addFiles(c, [...event.target.files]);
        event.target.value = '';
        document.getElementById('ask').focus();
    };
    const use = (text) => {
        c.draft.text = text;
        changed();
        document.getElementById('ask').focus();
    };
    return html`<section class="welcome">
        <${Logo} />
        <h2>Ask about texts longer than the memory they get</h2>
        <p class="lead">Palimpsest reads long documents in an amount of memory that you set, and shows what it kept, what it compressed and what it dropped.</p>
        <button type="button" class="drop-zone" onClick=${() => file.current.click()}>
            <span class="drop-title">Drop or choose documents</span>
            <span class="meta">${kinds()}. They go to your own server, and nowhere else.</span></button>
        <input ref=${file} type="file" multiple hidden aria-label="Choose documents" onChange=${choose} />
        <ol class="steps">
            <li><b>Add a document</b><span>A report, minutes, a contract, a log.</span></li>
            <li><b>Set a budget</b><span>In Settings: “25%” keeps a quarter of it.</span></li>
            <li><b>Ask, then look</b><span>The map shows what is left. Bring back what you miss.</span></li>
        </ol>
        <div class="examples">${EXAMPLES.map((e) => html`<button type="button" class="chip" onClick=${() => use(e)}>${e}</button>`)}</div>
    </section>`;
}
