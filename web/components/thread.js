// The conversation: questions, answers, and the place where both appear.
import { Component, html, useEffect, useLayoutEffect, useRef, useState } from '../vendor/htm/standalone.module.js';
import { editLast, tryAgain } from '../actions.js';
import { count, duration, number, percent } from '../format.js';
import { LiveMarkdown } from '../markdown.js';
import { spansWithin, tally } from '../memory.js';
import { openPanel } from '../store.js';
import { Honest } from './gauge.js';
import { copyText, CopyButton, Icon, Strip } from './parts.js';
import { Welcome } from './welcome.js';

// The view follows the end while the reader is at the end.
const view = { box: null, following: true, last: 0, empty: true };
function follow() {
    if (!view.following || !view.box || view.empty) return;
    view.box.scrollTop = view.box.scrollHeight;
    view.last = view.box.scrollTop;
}

/** Text of one answer. It draws itself, at most once a frame, and less often the longer that takes. */
class AnswerText extends Component {
    shouldComponentUpdate() { return false; }
    componentDidMount() {
        const a = this.props.answer;
        this.live = new LiveMarkdown(this.base);
        this.until = 0;
        this.draw = () => {
            this.frame = 0;
            const now = performance.now();
            if (a.ended === undefined && a.status !== 'done' && now < this.until) return this.next();
            this.live.update(a.text, a.ended !== undefined || a.status === 'done');
            follow();
            this.until = performance.now() + 4 * (performance.now() - now);
        };
        this.next = () => { this.frame ||= requestAnimationFrame(this.draw); };
        this.draw();
        this.unlisten = a.signal.listen(this.next);
    }
    componentWillUnmount() {
        this.unlisten();
        cancelAnimationFrame(this.frame);
    }
    render() { return html`<div class="markdown"></div>`; }
}

function Reasoning({ answer }) {
    const ref = useRef();
    useEffect(() => {
        let frame = 0;
        const draw = () => {
            frame = 0;
            ref.current.textContent = answer.reasoning;
        };
        draw();
        const unlisten = answer.signal.listen(() => { frame ||= requestAnimationFrame(draw); });
        return () => { unlisten(); cancelAnimationFrame(frame); };
    }, [answer]);
    return html`<details class="reasoning"><summary>${answer.status === 'reasoning' ? 'Reasoning…' : 'Reasoning'}</summary><div ref=${ref}></div></details>`;
}

function Progress({ p }) {
    const parts = [`${number(p.read)} of ${count(p.total, 'token')}`];
    if (p.speed) parts.push(`${number(p.speed)} tokens/s`, `${duration(p.left)} left`);
    return html`<div class="progress"><div class="progress-line"><b>Reading</b><span>${parts.join(' · ')}</span></div>
        <progress max=${p.total} value=${p.read} aria-label="Reading your text"></progress></div>`;
}

function metaOf(a) {
    const out = [];
    if (a.usage) {
        out.push(count(a.usage.completion_tokens, 'token'));
        const seconds = (a.ended - a.began) / 1000;
        if (seconds > 0.2) out.push(`${number(a.usage.completion_tokens / seconds)} tokens/s`);
        const cached = a.usage.prompt_tokens_details?.cached_tokens;
        if (cached) out.push(`${percent(cached / a.usage.prompt_tokens)} read before`);
    }
    return out.join(' · ');
}

function Answer({ c, a, last }) {
    const shown = ['writing', 'done', 'stopped', 'error'].includes(a.status);
    return html`<article class="message answer" aria-label="Answer" aria-busy=${a === c.messages.at(-1) && !!c.running}>
        ${a.reasoning && html`<${Reasoning} answer=${a} />`}
        ${a.status === 'waiting' && (a.progress ? html`<${Progress} p=${a.progress} />` : html`<p class="waiting"><span class="pulse"></span>Waiting for the model</p>`)}
        ${shown && a.text && html`<${AnswerText} key=${a.uid} answer=${a} />`}
        ${a.status === 'stopped' && html`<p class="note">You stopped this answer${a.text ? '. What was written stays' : ''}.</p>`}
        ${a.status === 'error' && html`<p class="note error" role="alert"><b>${a.text ? 'The answer broke off.' : 'No answer.'}</b> ${a.error}</p>`}
        ${a.status === 'done' && !a.text && html`<p class="note">The model ended its answer before the first word.</p>`}
        ${a.finish === 'length' && html`<p class="note">The answer reached its limit of ${count(c.settings.max_tokens, 'token')}. A higher limit is in the settings.</p>`}
        ${!(last && c.running) && html`<div class="actions">
            ${a.text && html`<${CopyButton} label="Copy" text=${() => a.text} />`}
            ${last && html`<button type="button" class="quiet" onClick=${() => tryAgain(c)}><${Icon} name="again" />Try again</button>`}
            <span class="meta">${metaOf(a)}</span></div>`}
        ${last && !c.running && html`<${Honest} c=${c} />`}</article>`;
}

function DocumentCard({ c, file, n }) {
    const place = c.report?.documents?.[n];
    const parts = place && tally(spansWithin(c.report.spans, place.begin, place.end));
    return html`<button type="button" class="document" onClick=${() => openPanel('memory', String(n))} title="Show what is kept of it">
        <${Icon} name="file" /><span class="document-text"><span class="name">${file.name}</span>
        <span class="meta">${place ? count(place.end - place.begin, 'token') : `about ${count(file.tokens, 'token')}`}${parts ? ` · ${percent((parts.kept + parts.partly) / (place.end - place.begin))} kept${parts.partly ? ' or partly' : ''}` : ''}</span>
        ${parts && html`<${Strip} parts=${parts} />`}</span></button>`;
}

function Question({ c, m, last, firstFile }) {
    return html`<article class="message question" aria-label="You">
        ${m.files.length > 0 && html`<div class="documents">${m.files.map((f, i) => html`<${DocumentCard} key=${i} c=${c} file=${f} n=${firstFile + i} />`)}</div>`}
        ${m.quotes.map((q) => html`<blockquote class="quote"><${Icon} name="back" /><span>${q}</span></blockquote>`)}
        ${m.text && html`<div class="bubble">${m.text}</div>`}
        ${last && !c.running && html`<div class="actions"><button type="button" class="quiet" onClick=${() => { editLast(c); document.getElementById('ask').focus(); }}><${Icon} name="edit" />Edit</button></div>`}</article>`;
}

async function copyCode(event) {
    const button = event.target.closest?.('.copy');
    if (!button) return;
    await copyText(button.closest('.code').querySelector('code').textContent.replace(/\n$/, ''));
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

export function Thread({ c }) {
    const box = useRef();
    const [away, setAway] = useState(false);
    view.empty = !c.messages.length;
    const onScroll = () => {
        const b = box.current;
        const rest = b.scrollHeight - b.scrollTop - b.clientHeight;
        // Growth alone must not end the following: only moving up does.
        if (rest < 48) view.following = true;
        else if (b.scrollTop < view.last - 2) view.following = false;
        view.last = b.scrollTop;
        setAway(!view.following && rest > 200);
    };
    useLayoutEffect(() => {
        view.box = box.current;
        view.following = true;
        follow();
    }, [c.id, c.loading]);
    useLayoutEffect(() => {
        view.following = true;
        setAway(false);
    }, [c.messages.length]);
    useLayoutEffect(follow);

    let files = 0;
    const lastQuestion = c.messages.findLastIndex((m) => m.role === 'user');
    const items = c.messages.map((m, i) => {
        const firstFile = files;
        files += m.files?.length ?? 0;
        return m.role === 'user' ? html`<${Question} key=${m.uid} c=${c} m=${m} last=${i === lastQuestion} firstFile=${firstFile} />`
            : html`<${Answer} key=${m.uid} c=${c} a=${m} last=${i === c.messages.length - 1} />`;
    });
    const toEnd = () => {
        view.following = true;
        follow();
        setAway(false);
    };
    return html`<div class="thread-frame"><div class="thread" ref=${box} onScroll=${onScroll} onClick=${copyCode} tabindex="-1">
        <div class=${c.messages.length ? 'column' : 'column empty'}>
            ${c.loading && html`<p class="waiting"><span class="pulse"></span>Opening the conversation</p>`}
            ${c.error && html`<p class="note error" role="alert">${c.error}</p>`}
            ${!c.loading && !c.error && !c.messages.length && html`<${Welcome} c=${c} />`}
            ${items}
        </div></div>
        ${away && html`<button type="button" class="to-end" onClick=${toEnd}><${Icon} name="down" />To the end</button>`}</div>`;
}
