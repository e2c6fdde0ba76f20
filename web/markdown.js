// Markdown of a model, made safe and drawn as it comes.
import { Lexer, Parser, Renderer } from './vendor/marked/marked.esm.js';
import './vendor/dompurify/purify.min.js';  // UMD: sets globalThis.DOMPurify

const PURIFY = {
    ALLOWED_TAGS: ['p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'ul', 'ol', 'li', 'blockquote', 'pre', 'code', 'em', 'strong',
        'b', 'i', 'del', 's', 'sub', 'sup', 'kbd', 'a', 'table', 'thead', 'tbody', 'tr', 'th', 'td'],
    ALLOWED_ATTR: ['href', 'title', 'start', 'align', 'data-lang'],
    ADD_URI_SAFE_ATTR: ['start', 'align', 'data-lang'],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    RETURN_DOM_FRAGMENT: true,
};
const LINES = 200;          // of code, in one block of the layout
const CHUNK = 40;           // finished blocks, in one
const LONG_LIST = 60;       // items, before a list that still grows is cut
const LONG_PARAGRAPH = 8000;

const escape = (s) => s.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const plainTag = /^<\/?(br|b|i|em|strong|del|s|sub|sup|kbd)\s*\/?>$/i;

class SafeRenderer extends Renderer {
    // HTML is shown as what it is, a text, but for the few tags that only format.
    html({ text, block }) {
        if (plainTag.test(text.trim())) return text;
        return block ? `<p>${escape(text)}</p>` : escape(text);
    }
    // What stands between <script> and </script> is a text as well.
    text(token) {
        return super.text({ ...token, escaped: false });
    }
    // Pictures are not loaded: that would tell a stranger what was read when.
    image({ href, text }) {
        return `<a href="${escape(href)}">[picture: ${escape(text || href)}]</a>`;
    }
    checkbox({ checked }) {
        return checked ? '☑ ' : '☐ ';
    }
    code({ text, lang }) {
        return `<pre data-lang="${escape((lang ?? '').split(/\s/)[0])}"><code>${escape(text)}</code></pre>`;
    }
}
const parser = new Parser({ renderer: new SafeRenderer(), gfm: true });

// The browser need not lay out what is out of view if it knows how high that is.
function fullLines(block, n) {
    block.className = 'lines';
    block.style.setProperty('--lines', n);
}

/** Puts code into its element in blocks of lines, so that the browser lays out only those in view. */
function fillCode(code, text) {
    const lines = text.split('\n');
    code.textContent = '';
    for (let i = 0; i < lines.length; i += LINES) {
        const block = document.createElement('span');
        block.textContent = lines.slice(i, i + LINES).join('\n') + '\n';
        fullLines(block, Math.min(LINES, lines.length - i));
        code.append(block);
    }
}

/** `<pre>` gets a bar with its language and a button; the page handles clicks on `.copy`. */
function frameCode(pre) {
    const frame = document.createElement('div');
    frame.className = 'code';
    const bar = document.createElement('div');
    bar.className = 'code-bar';
    const lang = document.createElement('span');
    lang.textContent = pre.dataset.lang || 'code';
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'copy';
    button.textContent = 'Copy';
    bar.append(lang, button);
    pre.tabIndex = 0;
    pre.setAttribute('aria-label', `Code${pre.dataset.lang ? `, ${pre.dataset.lang}` : ''}`);
    pre.setAttribute('role', 'region');
    pre.before(frame);
    frame.append(bar, pre);
    return frame;
}

export function render(tokens) {
    const fragment = globalThis.DOMPurify.sanitize(parser.parse(tokens), PURIFY);
    for (const a of fragment.querySelectorAll('a')) {
        a.target = '_blank';
        a.rel = 'noopener noreferrer nofollow';
    }
    for (const table of fragment.querySelectorAll('table')) {
        const box = document.createElement('div');
        box.className = 'table';
        table.before(box);
        box.append(table);
    }
    for (const pre of fragment.querySelectorAll('pre')) {
        const text = pre.textContent;
        if (text.length > 8000) fillCode(pre.querySelector('code'), text);
        frameCode(pre);
    }
    return fragment;
}

/**
 * A text that grows. Blocks that are finished are drawn once and stay; only the last one is drawn
 * again. Code that is still being written is appended to, line by line.
 */
export class LiveMarkdown {
    constructor(root) {
        this.root = root;
        this.done = 0;          // characters that are finished
        this.links = {};        // definitions seen so far
        this.chunk = null;
        this.code = null;
        this.tail = document.createElement('div');
        this.tail.className = 'blocks';
        root.append(this.tail);
    }

    update(text, ended) {
        if (text.includes('\r')) text = text.replaceAll('\r', '');
        if (this.code && !this.#moreCode(text, ended)) return;
        const tokens = this.#lex(text.slice(this.done));
        // Finished is what another block follows; half a line may still turn out to belong to the block before.
        let open = tokens.findLastIndex((t) => t.type !== 'space');
        if (open > 0 && !tokens[open].raw.includes('\n')) open = tokens.findLastIndex((t, i) => i < open && t.type !== 'space');
        const settled = ended ? tokens.length : Math.max(0, open);
        this.#settle(tokens.splice(0, settled));
        const first = tokens.find((t) => t.type !== 'space');
        if (!ended && first) {
            const fence = first.type === 'code' && /^(`{3,}|~{3,})([^\n]*)\n/.exec(first.raw);
            if (fence) {
                this.#beginCode(fence);
                if (this.#moreCode(text, ended)) this.update(text, ended);
                return;
            }
            if (this.#cut(first)) return this.update(text, ended);
        }
        this.tail.replaceChildren(render(tokens));
    }

    #lex(text) {
        const lexer = new Lexer({ gfm: true });
        Object.assign(lexer.tokens.links, this.links);
        const tokens = lexer.lex(text);
        this.links = lexer.tokens.links;
        return tokens;
    }

    #settle(tokens) {
        this.done += tokens.reduce((n, t) => n + t.raw.length, 0);
        for (let i = 0; i < tokens.length; i += CHUNK) this.#place(render(tokens.slice(i, i + CHUNK)));
    }

    #place(fragment) {
        if (!this.chunk || this.chunk.childElementCount >= CHUNK) {
            this.chunk?.classList.add('full');
            this.chunk = document.createElement('div');
            this.chunk.className = 'blocks';
            this.tail.before(this.chunk);
        }
        this.chunk.append(fragment);
    }

    // A block that grows without end is finished in pieces.
    #cut(token) {
        if (token.type === 'list' && token.items.length > LONG_LIST) {
            const items = token.items.slice(0, -1);
            const raw = items.map((item) => item.raw).join('');
            if (!token.raw.startsWith(raw)) return false;
            this.#settle([{ ...token, items, raw }]);
            return true;
        }
        if (token.type === 'paragraph' && token.raw.length > LONG_PARAGRAPH) {
            const at = token.raw.lastIndexOf('\n') + 1;
            if (at < LONG_PARAGRAPH / 2) return false;
            this.#settle(this.#lex(token.raw.slice(0, at)));
            return true;
        }
        return false;
    }

    #beginCode([opening, fence, info]) {
        const pre = document.createElement('pre');
        pre.dataset.lang = info.trim().split(/\s/)[0];
        const code = document.createElement('code');
        pre.append(code);
        const holder = document.createDocumentFragment();
        holder.append(pre);
        frameCode(pre);
        this.tail.replaceChildren();
        this.#place(holder);
        this.done += opening.length;
        const end = document.createTextNode('');
        code.append(end);
        this.code = { element: code, closing: new RegExp(`^ {0,3}${fence[0]}{${fence.length},} *$`), end, block: null, lines: LINES };
    }

    // True when the code is over, and what follows is to be drawn.
    #moreCode(text, ended) {
        const c = this.code;
        const fresh = text.slice(this.done);
        const lines = fresh.split('\n');
        const partial = lines.pop();
        let added = '';
        for (const line of lines) {
            this.done += line.length + 1;
            if (c.closing.test(line)) {
                this.#addCode(added);
                c.end.data = '';
                this.code = null;
                return true;
            }
            if (c.lines >= LINES) {
                this.#addCode(added);
                added = '';
                if (c.block) fullLines(c.block, LINES);
                c.block = document.createElement('span');
                c.block.append('');
                c.end.before(c.block);
                c.lines = 0;
            }
            added += line + '\n';
            c.lines++;
        }
        this.#addCode(added);
        c.end.data = /^ {0,3}[`~]*$/.test(partial) ? '' : partial;
        if (ended) this.done += partial.length;
        return false;
    }

    #addCode(text) {
        if (text) this.code.block.firstChild.appendData(text);
    }
}
