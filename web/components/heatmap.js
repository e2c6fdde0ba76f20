// What is left of a text, drawn as lines of ink: full where it is kept, thin where it is dropped.
import { html, useEffect, useLayoutEffect, useRef, useState } from '../vendor/htm/standalone.module.js';
import { number, percent } from '../format.js';
import { MEANING, STATES } from '../memory.js';

const LINE = 11;
const GAP = 4;
const rows = () => innerHeight < 800 ? 13 : 18;

/** Which span holds a token. */
function spanAt(spans, token) {
    let low = 0;
    let high = spans.length - 1;
    while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (spans[middle].begin <= token) low = middle;
        else high = middle - 1;
    }
    return low;
}

/** Pieces of a span, one a line: [x, y, width] with x and width in tokens. */
function pieces(span, from, perLine) {
    const out = [];
    for (let b = span.begin - from; b < span.end - from;) {
        const line = Math.floor(b / perLine);
        const e = Math.min(span.end - from, (line + 1) * perLine);
        out.push([b - line * perLine, line, e - b]);
        b = e;
    }
    return out;
}

function stripes(context, colour) {
    const tile = document.createElement('canvas');
    tile.width = tile.height = 6;
    const t = tile.getContext('2d');
    t.strokeStyle = colour;
    t.lineWidth = 2;
    t.beginPath();
    for (const x of [-6, 0, 6]) { t.moveTo(x, 6); t.lineTo(x + 6, 0); }
    t.stroke();
    return context.createPattern(tile, 'repeat');
}

// Each state has a colour and a height of its own: the map can be read without colours.
function draw(canvas, spans, from, perLine, width, marks, at) {
    const style = getComputedStyle(canvas.closest('.map'));
    const colour = Object.fromEntries(STATES.map((s) => [s, getComputedStyle(canvas.parentElement.querySelector(`.probe.${s}`)).color]));
    const lines = Math.ceil((spans.at(-1).end - from) / perLine);
    const scale = devicePixelRatio || 1;
    const height = lines * (LINE + GAP);
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const g = canvas.getContext('2d');
    g.scale(scale, scale);
    const px = width / perLine;
    const hatch = stripes(g, colour.latent);
    for (const s of spans) {
        for (const [x, line, w] of pieces(s, from, perLine)) {
            const part = { kept: 1, partly: 0.3 + 0.6 * s.held_share, latent: 1, dropped: 0.17 }[s.state];
            const h = Math.round(LINE * part);
            const top = line * (LINE + GAP) + GAP / 2 + LINE - h;
            g.fillStyle = s.state === 'latent' ? hatch : colour[s.state];
            g.fillRect(x * px, top, w * px, h);
        }
    }
    g.fillStyle = style.color;
    for (const mark of marks) {
        const line = Math.floor((mark - from) / perLine);
        g.fillRect((mark - from - line * perLine) * px, line * (LINE + GAP), 1.5, LINE + GAP);
    }
    if (!spans[at]) return;
    g.strokeStyle = style.color;
    g.lineWidth = 2;
    for (const [x, line, w] of pieces(spans[at], from, perLine)) {
        g.strokeRect(Math.max(1, x * px - 1), line * (LINE + GAP) + 1, Math.max(3, Math.min(width - 1, (x + w) * px + 1) - Math.max(1, x * px - 1)), LINE + GAP - 2);
    }
}

export const describe = (s) => `${s.state}, tokens ${number(s.begin)} to ${number(s.end)}, held by ${percent(s.held_share)} of the heads`;

export function Legend({ parts }) {
    const sum = STATES.reduce((n, s) => n + parts[s], 0);
    return html`<dl class="legend">${STATES.map((s) => html`<div key=${s} title=${MEANING[s]}><dt><span class=${`swatch ${s}`} aria-hidden="true"></span>${s}</dt>
        <dd>${number(parts[s])}<span class="meta"> ${sum ? percent(parts[s] / sum) : ''}</span></dd></div>`)}</dl>`;
}

/** `at`: the number of the span in view, -1 for none; `onAt(n, hold)` asks for another. */
export function HeatMap({ name, spans, marks, at, onAt, onAct, theme }) {
    const canvas = useRef();
    const [width, setWidth] = useState(0);
    const from = spans[0].begin;
    const tokens = spans.at(-1).end - from;
    const perLine = Math.max(40, Math.ceil(tokens / rows()));
    useEffect(() => {
        const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
        watch.observe(canvas.current.parentElement);
        const dark = matchMedia('(prefers-color-scheme: dark)');
        const again = () => setWidth((w) => w + (w % 1 ? -0.01 : 0.01));
        dark.addEventListener('change', again);
        return () => { watch.disconnect(); dark.removeEventListener('change', again); };
    }, []);
    useLayoutEffect(() => {
        if (width) draw(canvas.current, spans, from, perLine, Math.floor(width), marks, at);
    }, [width, spans, at, theme]);

    const under = (event) => {
        const r = canvas.current.getBoundingClientRect();
        const x = Math.max(0, Math.min(0.999, (event.clientX - r.left) / r.width));
        const line = Math.max(0, Math.floor((event.clientY - r.top) / (LINE + GAP)));
        return spanAt(spans, Math.min(spans.at(-1).end - 1, from + line * perLine + Math.floor(x * perLine)));
    };
    const onKey = (event) => {
        const step = (by) => {  // to what was dropped and has words that can be brought back
            let n = at;
            do n += by; while (spans[n] && !(spans[n].state === 'dropped' && spans[n].text.trim()));
            return spans[n] ? n : Math.max(0, at);
        };
        const now = spans[Math.max(0, at)];
        const moves = {
            ArrowRight: () => at + 1, ArrowLeft: () => at - 1, Home: () => 0, End: () => spans.length - 1,
            ArrowDown: () => Math.max(at + 1, spanAt(spans, now.begin + perLine)), ArrowUp: () => Math.min(at - 1, spanAt(spans, now.begin - perLine)),
            PageDown: () => step(1), PageUp: () => step(-1),
        };
        if (event.key === 'Enter') onAct();
        else if (moves[event.key]) onAt(Math.max(0, Math.min(spans.length - 1, moves[event.key]())), true);
        else return;
        event.preventDefault();
    };
    const s = spans[at];
    return html`<div class="map" role="slider" tabindex="0" aria-label=${`What is left of ${name}, span by span`} aria-valuemin="1" aria-valuemax=${spans.length} aria-valuenow=${Math.max(0, at) + 1}
        aria-valuetext=${s ? `${describe(s)}: ${s.text}` : ''} onKeyDown=${onKey}>
        ${STATES.map((k) => html`<i key=${k} class=${`probe ${k}`}></i>`)}
        <canvas ref=${canvas} onPointerMove=${(e) => onAt(under(e), false)} onPointerLeave=${() => onAt(null, false)} onClick=${(e) => onAt(under(e), true)}></canvas></div>`;
}
