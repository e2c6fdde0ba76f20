// The left side: conversations that the server keeps.
import { html, useRef } from '../vendor/htm/standalone.module.js';
import { deleteSession, exportSession, forkSession, importSession, newConversation, openConversation, renameSession } from '../actions.js';
import { ago, bytes, count } from '../format.js';
import { changed, state } from '../store.js';
import { Icon, IconButton, Logo, Menu } from './parts.js';

const THEMES = { auto: 'light', light: 'dark', dark: 'auto' };
const THEME_LABELS = { auto: 'Auto', light: 'Light', dark: 'Dark' };
const THEME_NAMES = { auto: 'as the system', light: 'light', dark: 'dark' };

function switchTheme() {
    state.theme = THEMES[state.theme];
    document.documentElement.dataset.theme = state.theme;
    localStorage.setItem('palimpsest.theme', state.theme);
    changed();
}

function Session({ s }) {
    const here = state.current?.id === s.id;
    const writing = s.busy || state.open.get(s.id)?.running;
    const open = (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        if (here) {
            state.drawer = null;
            changed();
        } else {
            openConversation(s.id);
        }
    };
    return html`<li class=${here ? 'session here' : 'session'}>
        <a href=${`#/c/${encodeURIComponent(s.id)}`} aria-current=${here ? 'page' : null} onClick=${open}>
            <span class="title">${s.title || 'Untitled'}</span>
            <span class="meta">${writing ? 'answering…' : ago(s.last_used)}${s.tokens ? ` · ${count(s.tokens, 'token')} · ${bytes(s.bytes)}` : ''}${s.where === 'disk' ? ' on disk' : ''}</span>
        </a>
        <${Menu} id=${`menu-${s.id}`} label=${`Actions for ${s.title}`} items=${[
            ['Rename', () => renameSession(s)], ['Fork: go on in a copy', () => forkSession(s)],
            ['Export to a file', () => exportSession(s)], ['Delete', () => deleteSession(s), 'danger']]} /></li>`;
}

export function Sessions() {
    const file = useRef();
    const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = state.sessions.filter((s) => words.every((w) => s.title.toLowerCase().includes(w)));
    const take = (event) => {
        if (event.target.files[0]) importSession(event.target.files[0]);
        event.target.value = '';
    };
    return html`<nav id="sessions" class=${`side left ${state.drawer === 'sessions' ? 'open' : ''}`} aria-label="Conversations" tabindex="-1">
        <div class="brand"><${Logo} /><span>Palimpsest</span>
            <span class="only-narrow push"><${IconButton} icon="close" label="Close the list" onClick=${() => { state.drawer = null; changed(); }} /></span></div>
        <button type="button" class="button new" onClick=${newConversation}><${Icon} name="plus" />New conversation</button>
        ${state.sessions.length > 1 && html`<label class="search"><${Icon} name="search" /><input type="search" aria-label="Find a conversation" placeholder="Find"
            value=${state.filter} onInput=${(e) => { state.filter = e.target.value; changed(); }} /></label>`}
        <ul class="sessions">${found.map((s) => html`<${Session} key=${s.id} s=${s} />`)}</ul>
        ${!found.length && html`<p class="hint">${state.sessions.length ? 'No title has these words.' : 'Conversations are listed here. The server keeps them until you delete them.'}</p>`}
        <div class="foot">
            <button type="button" class="quiet" onClick=${() => file.current.click()}><${Icon} name="upload" />Import</button>
            <input ref=${file} type="file" hidden aria-label="Import a conversation" onChange=${take} />
            <button type="button" class="quiet push" aria-label=${`${THEME_LABELS[state.theme]} colours: change`} title=${`Colours: ${THEME_NAMES[state.theme]}`} onClick=${switchTheme}>
                <${Icon} name=${state.theme} />${THEME_LABELS[state.theme]}</button>
        </div></nav>`;
}
