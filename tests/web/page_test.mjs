// Walks through the page in a real browser.
//
//   node tests/web/page_test.mjs http://127.0.0.1:8099/
//
// The address is the mock's (mock_server.mjs) or a real server's; what only the mock can do is then skipped.
// PLAYWRIGHT_DIR: where node_modules/playwright-core is; CHROMIUM: the browser; SHOTS: a folder for pictures;
// PALIMPSEST_KEY: the server's key, if it needs one; ONLY: run the checks whose names have this word.
import { execSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { INJECTIONS } from './injections.mjs';

const base = process.argv[2] ?? 'http://127.0.0.1:8099/';
const require = createRequire(join(process.env.PLAYWRIGHT_DIR ?? process.cwd(), 'x.js'));
const { chromium } = require('playwright-core');
const which = (name) => { try { return execSync(`command -v ${name}`).toString().trim(); } catch { return ''; } };
const executablePath = process.env.CHROMIUM || which('chromium-headless-shell') || which('chromium');
const SLOW = 180000;  // a real model on a slow machine

const key = process.env.PALIMPSEST_KEY;
const control = await fetch(new URL('mock', base));
const isMock = control.ok && (control.headers.get('content-type') ?? '').includes('json');
const mock = (change) => fetch(new URL('mock', base), { method: 'POST', body: JSON.stringify(change) });

// A text that is read for a while, with a fact at its end.
const minutes = Array.from({ length: 160 }, (_, i) => `Item ${i + 1}. The committee heard a report on the bridge at ${['Alder', 'Birch', 'Cedar', 'Maple'][i % 4]} Street. `
    + `The cost was put at ${(i * 137) % 900 + 100} thousand, and the work at ${i % 9 + 1} weeks.`).join('\n\n') + '\n\nThe bridge is closed from 1 May.\n';

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const outside = [];
const faults = [];

async function open(options = {}) {
    const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, acceptDownloads: true, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(15000);
    page.on('request', (r) => { if (!/^(data|blob):/.test(r.url()) && new URL(r.url()).origin !== new URL(base).origin) outside.push(r.url()); });
    page.on('pageerror', (e) => faults.push(String(e)));
    page.on('console', (m) => { if (/Content Security Policy|Refused to/.test(m.text())) faults.push(m.text()); });
    if (key) await page.addInitScript((k) => sessionStorage.setItem('palimpsest.key', k), key);
    await page.goto(base);
    await page.waitForSelector('#ask');
    return page;
}

const shoot = async (page, name) => {
    if (!process.env.SHOTS) return;
    mkdirSync(process.env.SHOTS, { recursive: true });
    await page.screenshot({ path: join(process.env.SHOTS, `${name}.png`) });
};
const settled = (page) => page.waitForFunction(() => document.querySelector('.answer') && !document.querySelector('.answer[aria-busy="true"]'), null, { timeout: SLOW });
const ask = async (page, text) => {
    await page.fill('#ask', text);
    await page.press('#ask', 'Enter');
};
const attach = (page, ...files) => page.setInputFiles('#files', files.map(([name, text, mimeType = 'text/plain']) => ({ name, mimeType, buffer: Buffer.from(text) })));
const setShare = async (page, share) => {
    await page.click('#tab-settings');
    await page.check('input[value=share]', { force: true });
    await page.fill('#share', String(share));
    await page.fill('#max_tokens', isMock ? '1024' : '60');
    await page.click('#tab-memory');
};
function check(ok, what) {
    if (!ok) throw new Error(what);
}

const tests = {
    async 'chat streams, and ends once'() {
        const page = await open();
        await shoot(page, 'first');
        await ask(page, 'Name three rivers.');
        await page.waitForSelector('.answer .markdown');
        await settled(page);
        check((await page.textContent('.answer .markdown')).trim().length > 0, 'no text in the answer');
        check(await page.isVisible('button:has-text("Try again")'), 'no way to try again');
        check(/complete/.test(await page.textContent('[aria-live=polite]')), 'the end is not said to screen readers');
        check(page.url().includes('#/c/'), 'the address does not name the conversation');
        await page.context().close();
    },

    async 'stop keeps the partial text'() {
        const page = await open();
        if (isMock) await mock({ pace: 60 });
        await ask(page, 'Tell a long story of a river, in many chapters.');
        await page.waitForFunction(() => document.querySelector('.answer .markdown')?.textContent.length > 20, null, { timeout: SLOW });
        await page.click('button:has-text("Stop")');
        await page.waitForSelector('text=You stopped this answer');
        check((await page.textContent('.answer .markdown')).length > 20, 'the partial text is gone');
        if (isMock) await mock({ pace: 12 });
        await page.click('button:has-text("Try again")');
        await settled(page);
        check(await page.locator('.answer').count() === 1, 'trying again adds an answer');
        await page.context().close();
    },

    async 'edit the last question'() {
        const page = await open();
        await ask(page, 'First wording');
        await settled(page);
        await page.click('button:has-text("Edit")');
        check(await page.inputValue('#ask') === 'First wording', 'the question is not in the composer');
        await ask(page, 'Second wording');
        await settled(page);
        check((await page.locator('.bubble').allTextContents()).join() === 'Second wording', 'the question was not replaced');
        await page.context().close();
    },

    async 'documents: added, read, mapped, brought back'() {
        const page = await open();
        await setShare(page, 25);
        await attach(page, ['minutes.md', minutes], ['notes.txt', 'Ms Okafor reports every month.\n'.repeat(40)]);
        await page.waitForSelector('.attachment:has-text("notes.txt")');
        check(await page.locator('.attachment').count() === 2, 'not both documents are there');
        await shoot(page, 'composer');
        if (isMock) await mock({ read: 4000 });
        await ask(page, 'What was decided?');
        if (isMock) {
            await page.waitForSelector('.progress:has-text("left")');
            await shoot(page, 'reading');
        }
        await settled(page);
        if (isMock) await mock({ read: 8000 });
        await page.waitForSelector('.map canvas');
        await shoot(page, 'answered');
        check(await page.locator('.message .document .strip').count() === 2, 'documents have no strips');
        await page.click('.document:has-text("notes.txt")');
        check(await page.$eval('select[aria-label="Whose map"]', (s) => s.selectedOptions[0].text) === 'notes.txt', 'the map is not of the document');
        await page.selectOption('select[aria-label="Whose map"]', 'all');

        // With the pointer.
        const box = await page.locator('.map canvas').boundingBox();
        await page.mouse.move(box.x + box.width * 0.4, box.y + box.height * 0.4);
        const seen = await page.textContent('.span-text');
        check(seen.length > 0, 'no text under the pointer');

        // With the keyboard.
        await page.focus('.map');
        await page.keyboard.press('Home');
        await page.keyboard.press('ArrowRight');
        check(await page.getAttribute('.map', 'aria-valuenow') === '2', 'arrow keys do not move');
        await page.keyboard.press('PageDown');
        // Which spans those are depends on rounding, so on the processor; at 25 % there are some.
        await page.waitForSelector('.map[aria-valuetext^="dropped"]');
        await shoot(page, 'map');
        await page.click('.span button:has-text("Bring back")');
        check(await page.locator('.attachment.brought').count() === 1, 'nothing was brought back');
        const text = (await page.textContent('.span-text')).trim();
        const [request] = await Promise.all([page.waitForRequest('**/v1/chat/completions'), ask(page, 'And this?')]);
        const body = request.postDataJSON();
        check(body.memory.keep.includes(text), 'the text is not in memory.keep');
        check(body.messages.at(-1).content.some((p) => p.type === 'text' && p.text.includes(text)), 'the text is not in the question');
        check(body.memory.budget === '25%', 'the budget is not sent');
        await settled(page);
        check(await page.locator('.quote').count() === 1, 'the question does not show what was brought back');

        await page.click('button:has-text("Table")');
        check(await page.locator('.span-table tbody').count() > 3, 'the table is empty');
        await page.fill('input[aria-label="Find in the text"]', 'Okafor');
        const texts = await page.locator('.cell-text').allTextContents();
        check(texts.length > 0 && texts.every((t) => /okafor/i.test(t)), 'the table does not find words');
        await shoot(page, 'table');
        await page.context().close();
    },

    async 'files that cannot be read are refused by name'() {
        const page = await open();
        await attach(page, ['photo.png', '\x89PNG\r\n\x1a\n\0\0\0\rIHDR'], ['ok.txt', 'A text.']);
        await page.waitForSelector('.note.error:has-text("photo.png")');
        check(await page.locator('.attachment').count() === 1, 'the binary file was added');
        const pdf = await page.evaluate(async () => (await (await fetch('props', { headers: { Authorization: `Bearer ${sessionStorage.getItem('palimpsest.key')}` } })).json()).pdf);
        if (!pdf || isMock) {
            await attach(page, ['report.pdf', '%PDF-1.4', 'application/pdf']);
            await page.waitForSelector(pdf ? '.attachment:has-text("report.pdf")' : '.note.error:has-text("cannot read PDFs")');
            if (pdf) await page.click('button[aria-label="Remove report.pdf"]');
        }
        await page.click('button[aria-label="Remove ok.txt"]');
        check(await page.locator('.attachment').count() === 0, 'the file was not removed');
        // A drop anywhere on the page.
        const data = await page.evaluateHandle(() => {
            const d = new DataTransfer();
            d.items.add(new File(['Dropped text.'], 'dropped.md', { type: 'text/markdown' }));
            return d;
        });
        await page.dispatchEvent('body', 'dragenter', { dataTransfer: data });
        check(await page.isVisible('.drop-over'), 'nothing says that files may be dropped');
        await page.dispatchEvent('body', 'drop', { dataTransfer: data });
        await page.waitForSelector('.attachment:has-text("dropped.md")');
        await page.context().close();
    },

    async 'sessions: reload, rename, fork, export, import, find, delete'() {
        const page = await open();
        await attach(page, ['a.md', '# A\n\nThe answer is in here, „zwölf“.']);
        await ask(page, 'A question about rivers');
        await settled(page);
        await page.waitForSelector('.session.here');
        const url = page.url();
        await page.reload();
        await page.waitForSelector('.bubble:has-text("rivers")');
        check(page.url() === url, 'another conversation is open after a reload');
        check(await page.locator('.answer .markdown').count() === 1 && await page.locator('.document:has-text("a.md")').count() === 1, 'the conversation came back in part');

        const act = async (name) => {
            await page.click('.session.here .menu-button');
            await page.click(`.menu:popover-open button:has-text("${name}")`);
        };
        await act('Rename');
        await page.fill('dialog input', 'My rivers');
        await shoot(page, 'dialog');
        await page.keyboard.press('Enter');
        await page.waitForSelector('h1:has-text("My rivers")');

        await act('Fork');
        await page.waitForFunction((before) => location.href !== before, url);
        await page.waitForSelector('.bubble:has-text("rivers")');
        check(await page.locator('.session').count() >= 2, 'the copy is not listed');

        const [download] = await Promise.all([page.waitForEvent('download'), act('Export')]);
        const file = await download.path();
        const count = await page.locator('.session').count();
        await page.setInputFiles('input[aria-label="Import a conversation"]', file);
        await page.waitForFunction((n) => document.querySelectorAll('.session').length === n + 1, count);
        await page.waitForSelector('.bubble:has-text("rivers")');

        await page.fill('input[aria-label="Find a conversation"]', 'no such title');
        await page.waitForSelector('text=No title has these words');
        await page.fill('input[aria-label="Find a conversation"]', '');

        await act('Delete');
        await page.waitForSelector('dialog[open]');
        await page.keyboard.press('Escape');
        await page.waitForSelector('dialog', { state: 'detached' });
        check(await page.locator('dialog[open]').count() === 0 && await page.locator('.session').count() === count + 1, 'Escape does not cancel');
        await act('Delete');
        await page.click('dialog button:has-text("Delete")');
        await page.waitForFunction((n) => document.querySelectorAll('.session').length === n, count);
        check(!page.url().includes('#/c/'), 'the deleted conversation is still open');
        await page.goBack().catch(() => {});
        await page.context().close();
    },

    async 'a keyboard is enough'() {
        const page = await open();
        const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim());
        const tabTo = async (name) => {
            for (let i = 0; i < 80; i++) {
                if ((await focused()).includes(name)) return;
                await page.keyboard.press('Tab');
            }
            throw new Error(`Tab never comes to “${name}”`);
        };
        await page.click('.brand');
        await page.keyboard.press('Shift+Tab');
        check((await focused()).startsWith('Skip'), 'the first stop is not the way to the question');
        await page.keyboard.press('Enter');
        check(await focused() === 'Your question', 'it does not lead there');
        await page.keyboard.type('Hello');
        await page.keyboard.press('Shift+Enter');
        await page.keyboard.type('there');
        check((await page.inputValue('#ask')) === 'Hello\nthere', 'Shift+Enter is not a new line');
        await page.keyboard.press('Enter');
        await settled(page);
        await tabTo('What is left of');
        await page.keyboard.press('End');
        check(Number(await page.getAttribute('.map', 'aria-valuenow')) === Number(await page.getAttribute('.map', 'aria-valuemax')), 'End does not lead to the end');
        await page.evaluate(() => document.querySelector('.skip').focus());
        await tabTo('Actions for');
        await page.keyboard.press('Enter');
        await page.waitForSelector('.menu:popover-open');
        await page.keyboard.press('Escape');
        check(await page.locator('.menu:popover-open').count() === 0, 'Escape does not close the menu');
        await page.context().close();
    },

    async 'controls have names'() {
        const page = await open();
        await ask(page, 'Hello');
        await settled(page);
        for (const tab of ['memory', 'settings']) {
            await page.click(`#tab-${tab}`);
            const bare = await page.$$eval('button, a, input:not([hidden]), select, textarea, [tabindex="0"]', (all) => all.filter((e) => e.offsetParent
                && !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim() || e.getAttribute('aria-labelledby'))).map((e) => e.outerHTML.slice(0, 120)));
            check(!bare.length, `no name: ${bare.join('\n')}`);
        }
        await shoot(page, 'settings');
        await page.context().close();
    },

    async 'a prefix memory is chosen'() {
        const page = await open();
        await page.click('#tab-settings');
        const there = await (await fetch(new URL('props', base), key ? { headers: { Authorization: `Bearer ${key}` } } : {})).json();
        if (!there.prefixes.length) return page.context().close();
        await page.waitForSelector('#prefix');
        const name = await page.locator('#prefix option').nth(1).getAttribute('value');
        await page.selectOption('#prefix', name);
        check((await page.locator('.settings-panel').textContent()).includes('held in'), 'its size is not told');
        await shoot(page, 'prefix');
        const [request] = await Promise.all([page.waitForRequest('**/v1/chat/completions'), ask(page, 'What does a day ticket cost?')]);
        check(JSON.stringify(request.postDataJSON().memory.prefix) === JSON.stringify([name]), 'the request does not name it');
        await settled(page);
        await shoot(page, 'prefix-answer');
        await page.context().close();
    },

    async 'light, dark, desktop, phone'() {
        for (const colorScheme of ['light', 'dark']) {
            for (const [size, viewport] of Object.entries({ desktop: { width: 1440, height: 900 }, tablet: { width: 900, height: 1100 }, phone: { width: 360, height: 740 } })) {
                const page = await open({ colorScheme, viewport, hasTouch: size === 'phone', isMobile: size === 'phone' });
                await shoot(page, `${size}-${colorScheme}-1-first`);
                await attach(page, ['minutes.md', minutes]);
                if (size !== 'desktop') await page.click('.only-medium button[aria-label="Memory and settings"]');
                await page.click('#tab-settings');
                await page.check('input[value=share]', { force: true });
                if (isMock) await page.selectOption('#residue', 'latent');
                if (!isMock) await page.fill('#max_tokens', '40');
                await shoot(page, `${size}-${colorScheme}-2-settings`);
                await page.click('#tab-memory');
                if (size !== 'desktop') {
                    await page.keyboard.press('Escape');
                    await page.waitForTimeout(250);
                    check(await page.evaluate(() => !document.querySelector('.side.open')), 'Escape does not close the drawer');
                }
                await page.fill('#ask', 'What was decided about the bridge?');
                await page.click('button:has-text("Send")');
                await settled(page);
                await shoot(page, `${size}-${colorScheme}-3-answer`);
                await page.click('.gauge');
                await page.waitForTimeout(250);
                await page.focus('.map');
                for (const k of ['Home', 'PageDown', 'PageDown', 'PageDown']) await page.keyboard.press(k);
                await shoot(page, `${size}-${colorScheme}-4-map`);
                if (size === 'phone') {
                    await page.click('#panel button[aria-label="Close"]');
                    await page.click('button[aria-label="Conversations"]');
                    await page.waitForTimeout(250);
                    await shoot(page, `${size}-${colorScheme}-5-list`);
                }
                const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
                check(wide <= 0, `${size}: the page is ${wide} px too wide`);
                await page.context().close();
            }
        }
    },

    async 'the switch of colours holds'() {
        const page = await open();
        await page.click('button[aria-label$="colours: change"]');
        await page.click('button[aria-label$="colours: change"]');
        const dark = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
        await page.reload();
        await page.waitForSelector('#ask');
        check(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor) === dark, 'the choice is gone after a reload');
        await page.context().close();
    },
};

const onlyMock = {
    async 'twenty injections do nothing'() {
        check(INJECTIONS.length === 20, 'there are not twenty');
        await mock({ mode: 'inject' });
        const page = await open();
        const before = faults.length;
        await attach(page, ['<img src=x onerror=window.hit=21>.txt', INJECTIONS.join('\n')]);
        await ask(page, INJECTIONS[1]);
        await settled(page);
        for (const link of await page.locator('.markdown a').all()) {
            const href = await link.getAttribute('href');
            check(href === null || /^(https?|mailto):/.test(href), `a link leads to ${href}`);
            check(href === null || (await link.getAttribute('rel')).includes('noopener'), 'a link without rel');
        }
        await shoot(page, 'injections');
        await page.click('button:has-text("Table")');
        await page.reload();
        await page.waitForSelector('.answer .markdown');
        await page.waitForTimeout(500);
        check(await page.evaluate(() => window.hit === undefined), `window.hit is ${await page.evaluate(() => window.hit)}`);
        check(await page.locator('.markdown :is(script, img, svg, iframe, form, style, link, object, embed, video, base, meta, math, details)').count() === 0, 'an element came through');
        check(!await page.evaluate(() => [...document.querySelectorAll('.markdown *')].some((e) => [...e.attributes].some((a) => /^on|^style$/.test(a.name)))), 'an attribute came through');
        check(faults.length === before, `the security policy had to step in: ${faults.at(-1)}`);
        await page.context().close();
    },

    async 'errors: before an answer, and in the middle'() {
        const page = await open();
        await mock({ mode: 'error' });
        await ask(page, 'Hello');
        await page.waitForSelector('.note.error:has-text("busy with another request")');
        await mock({ mode: 'broken' });
        await page.click('button:has-text("Try again")');
        await page.waitForSelector('.note.error:has-text("The memory ran out")');
        check((await page.textContent('.answer .markdown')).includes('committee'), 'the partial text is gone');
        await shoot(page, 'error');
        await mock({ mode: '' });
        await page.context().close();
    },

    async 'a text that is too long for no budget is said before sending'() {
        const page = await open();
        await attach(page, ['long.txt', minutes.repeat(4)]);
        await page.waitForSelector('.note.warn');
        await page.click('.note.warn button');
        check(await page.isVisible('input[value=share]'), 'the settings are not open');
        await page.context().close();
    },

    async 'reasoning is folded away'() {
        await mock({ mode: 'reason', pace: 20 });
        const page = await open();
        await ask(page, 'Think.');
        await page.waitForSelector('.reasoning');
        check(!await page.$eval('.reasoning', (d) => d.open), 'reasoning is open');
        await settled(page);
        check((await page.$eval('.reasoning div', (d) => d.textContent)).includes('three points'), 'reasoning has no text');
        await page.context().close();
    },

    async 'an answer of 10,000 lines stays smooth'() {
        await mock({ mode: 'long', pace: 2 });
        const page = await open();
        await page.evaluate(() => {
            window.long = [];
            new PerformanceObserver((l) => window.long.push(...l.getEntries().map((e) => e.duration))).observe({ entryTypes: ['longtask'] });
        });
        await ask(page, 'Everything, please.');
        await page.waitForFunction(() => document.querySelectorAll('.markdown h2').length > 80);
        check(await page.$eval('.thread', (t) => t.scrollHeight - t.scrollTop - t.clientHeight < 60), 'the view does not follow the end');
        await page.mouse.move(600, 400);
        await page.mouse.wheel(0, -1500);
        await page.waitForTimeout(300);
        const reading = await page.evaluateHandle(() => document.elementFromPoint(600, 400).closest('.blocks > *'));
        const top = await reading.evaluate((e) => e.getBoundingClientRect().top);
        await page.waitForTimeout(400);
        const moved = await reading.evaluate((e) => e.getBoundingClientRect().top) - top;
        check(Math.abs(moved) < 2, `the text moved by ${moved} px under the reader`);
        await page.waitForSelector('.to-end');
        await page.click('.to-end');
        await settled(page);
        await page.waitForTimeout(500);
        const text = await page.$eval('.answer .markdown', (m) => m.textContent);
        check(await page.locator('.markdown h2').count() > 440 && text.includes('point 5 of part 300'), 'parts of the answer are missing');
        const worst = await page.evaluate(() => Math.max(0, ...window.long));
        console.log(`        longest task ${Math.round(worst)} ms`);
        check(worst < 400, `the page stood still for ${Math.round(worst)} ms`);
        check(await page.$eval('.thread', (t) => t.scrollHeight - t.scrollTop - t.clientHeight < 60), 'the end is not in view');
        await shoot(page, 'long');
        await page.context().close();
    },

    async 'streamed and whole answers are drawn alike'() {
        await mock({ mode: '', pace: 3 });
        const page = await open();
        await ask(page, 'What was decided?');
        await settled(page);
        await page.waitForTimeout(200);
        const shape = () => page.$eval('.answer .markdown', (m) => [...m.querySelectorAll('*')].filter((e) => !e.matches('.blocks, pre span')).map((e) => e.tagName).join(' ') + m.textContent.replace(/\s+/g, ''));
        const streamed = await shape();
        await page.reload();
        await page.waitForSelector('.answer .markdown');
        check(await shape() === streamed, 'they differ');
        await page.context().close();
    },
};

if (key && (await fetch(new URL('props', base))).status === 401) {
    tests['a key is asked for, and a wrong one again'] = async () => {
        const context = await browser.newContext();
        const page = await context.newPage();
        await page.goto(base);
        await page.fill('dialog input', 'wrong');
        await page.keyboard.press('Enter');
        await page.waitForSelector('dialog:has-text("not accepted")');
        await shoot(page, 'key');
        await page.fill('dialog input', key);
        await page.keyboard.press('Enter');
        await page.waitForSelector('#ask');
        await page.reload();
        await page.waitForSelector('#ask');
        await context.close();
    };
}

let failed = 0;
for (const [name, test] of Object.entries({ ...tests, ...onlyMock })) {
    if (process.env.ONLY && !name.includes(process.env.ONLY)) continue;
    if (name in onlyMock && !isMock) {
        console.log(`skip    ${name} (the mock only)`);
        continue;
    }
    const from = Date.now();
    if (isMock) await mock({ mode: '', read: 8000, pace: 12 });
    try {
        await test();
        console.log(`ok      ${name} (${((Date.now() - from) / 1000).toFixed(1)} s)`);
    } catch (error) {
        failed++;
        console.log(`FAILED  ${name}: ${error.message}`);
        const page = browser.contexts().at(-1)?.pages()[0];
        if (page) await shoot(page, `failed-${failed}`);
    }
    for (const context of browser.contexts()) await context.close();
}
if (isMock) await mock({ mode: '', read: 8000, pace: 12 });
for (const url of outside) console.log(`FAILED  a request left the page's origin: ${url}`);
for (const fault of new Set(faults)) console.log(`FAILED  a fault on the page: ${fault}`);
await browser.close();
process.exitCode = failed + outside.length + faults.length ? 1 : 0;
