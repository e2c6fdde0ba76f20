// The right side, second tab: how this conversation is read and answered.
import { html } from '../vendor/htm/standalone.module.js';
import { bytes, count, number } from '../format.js';
import { costOf } from '../memory.js';
import { defaults, saveSettings } from '../settings.js';
import { changed, state } from '../store.js';
import { tokensSoFar } from './composer.js';
import { NumberField } from './parts.js';

const MODES = { all: 'Everything', entries: 'Entries', bytes: 'Bytes', share: 'Share' };
const HELP = {
    all: 'Nothing is dropped. The text must fit into what the model sees at once.',
    entries: 'So many tokens stay a head, averaged over all heads, whatever the length of the text.',
    bytes: 'The memory takes no more than this, bookkeeping included.',
    share: 'This share of the text stays.',
};

function Cost({ c }) {
    const tokens = tokensSoFar(c);
    const { props } = state;
    const { kept, bytes: size, most } = costOf(c.settings, tokens, props);
    const limit = props.memory.limit_bytes;
    const over = limit && (most ?? size) > limit;
    const all = c.settings.mode === 'all';
    return html`<p class=${over ? 'cost over' : 'cost'} role="status">
        ${tokens ? html`Keeps ${all ? 'all' : `about ${number(kept)}`} of ${count(tokens, 'token')}: <b>${bytes(size)}</b>.` : html`One token takes ${bytes(props.bytes_per_token)}.`}
        ${most && most !== size && c.settings.mode !== 'share' ? ` At most ${bytes(most)}.` : ''}${over ? ` That is over the server's limit of ${bytes(limit)}.` : ''}</p>`;
}

function Choice({ id, label, value, options, first, onPick }) {
    const chosen = options.find((o) => o.name === value);
    return html`<div class="field"><label for=${id}>${label}</label>
        <select id=${id} value=${value} onChange=${(e) => onPick(e.target.value)}><option value="">${first}</option>
            ${options.map((o) => html`<option key=${o.name} value=${o.name} disabled=${o.available === false}>${o.name}${o.available === false ? ' (needs trained weights)' : ''}</option>`)}</select>
        ${chosen?.summary && html`<p class="hint">${chosen.summary}</p>`}</div>`;
}

export function SettingsPanel({ c }) {
    const s = c.settings;
    const { props } = state;
    const set = (change) => {
        Object.assign(s, change);
        if (c.started) saveSettings(c.id, s);
        changed();
    };
    return html`<div class="settings-panel">
        <fieldset><legend>Memory budget</legend>
            <div class="switch full" role="radiogroup" aria-label="Memory budget">${Object.entries(MODES).map(([mode, label]) => html`<label key=${mode} class=${s.mode === mode ? 'on' : ''}>
                <input type="radio" name="budget" value=${mode} checked=${s.mode === mode} onChange=${() => set({ mode })} />${label}</label>`)}</div>
            <p class="hint">${HELP[s.mode]}</p>
            ${s.mode === 'entries' && html`<${NumberField} key="e" id="entries" label="Entries a head" value=${s.entries} min=${16} max=${1e7} onValue=${(entries) => set({ entries })} />`}
            ${s.mode === 'bytes' && html`<${NumberField} key="b" id="mebibytes" label="Memory" unit="MiB" step=${0.1} value=${s.mebibytes} min=${1} max=${1e6} onValue=${(mebibytes) => set({ mebibytes })} />`}
            ${s.mode === 'share' && html`<${NumberField} key="s" id="share" label="Share of the text" unit="%" step=${0.1} value=${s.share} min=${0.1} max=${100} onValue=${(share) => set({ share })} />`}
            <${Cost} c=${c} />
        </fieldset>
        <fieldset disabled=${s.mode === 'all'}><legend>What is kept</legend>
            <${Choice} id="policy" label="Chosen by" value=${s.policy} options=${props.policies} first=${props.memory.policy ? `Server's choice: ${props.memory.policy}` : 'Best for this model'} onPick=${(policy) => set({ policy })} />
            <${Choice} id="residue" label="What the dropped leave behind" value=${s.residue} options=${props.residues} first=${props.memory.residue ? `Server's choice: ${props.memory.residue}` : "Server's choice"} onPick=${(residue) => set({ residue })} />
        </fieldset>
        ${props.prefixes?.length > 0 && html`<fieldset><legend>What stands before</legend>
            <${Choice} id="prefix" label="Prefix memory" value=${s.prefix} options=${props.prefixes.map((p) => ({ ...p, summary: `${count(p.tokens, 'token')}, held in ${bytes(p.bytes)}.` }))} first="The server's own" onPick=${(prefix) => set({ prefix })} />
            <p class="hint">A long text the model has read already. It stands in the place of instructions, which have to be empty then.</p>
        </fieldset>`}
        <fieldset><legend>Answers</legend>
            <${NumberField} id="temperature" label="Temperature" step=${0.1} value=${s.temperature} min=${0} max=${2} onValue=${(temperature) => set({ temperature })}><p class="hint">0 gives the likeliest answer, more gives variety.</p><//>
            <${NumberField} id="max_tokens" label="Longest answer" unit="tokens" value=${s.max_tokens} min=${1} max=${1e6} onValue=${(max_tokens) => set({ max_tokens })} />
            <div class="field"><label for="system">Instructions for every answer</label>
                <textarea id="system" rows="4" placeholder="You answer in short sentences." value=${s.system} onInput=${(e) => set({ system: e.target.value })}></textarea></div>
        </fieldset>
        <p class="hint">These are for this conversation, from the next question on.${' '}
            <button type="button" class="link" onClick=${() => set(defaults(props))}>Back to the server's defaults</button></p>
        <dl class="about"><div><dt>Model</dt><dd>${props.model}</dd></div><div><dt>Architecture</dt><dd>${props.architecture}</dd></div>
            <div><dt>Sees at once</dt><dd>${count(props.context, 'token')}</dd></div><div><dt>Palimpsest</dt><dd>${props.version}</dd></div></dl></div>`;
}
