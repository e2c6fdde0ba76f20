// From a file to a text that can be sent.
import { api } from './api.js';
import { bytes } from './format.js';
import { toDataUrl } from './wire.js';

const SAMPLE = 20000;

const looksBinary = (b) => b.subarray(0, 65536).some((x) => x < 9 || (x > 13 && x < 32 && x !== 27));

/** Text of bytes: UTF-8, UTF-16 with its mark, or, where nothing else fits, Windows-1252. Null: not a text. */
export function decode(b) {
    if (b[0] === 0xff && b[1] === 0xfe) return { text: new TextDecoder('utf-16le').decode(b), note: '' };
    if (b[0] === 0xfe && b[1] === 0xff) return { text: new TextDecoder('utf-16be').decode(b), note: '' };
    if (looksBinary(b)) return null;
    try {
        return { text: new TextDecoder('utf-8', { fatal: true }).decode(b), note: '' };
    } catch {
        return { text: new TextDecoder('windows-1252').decode(b), note: 'Not UTF-8, so read as Windows-1252.' };
    }
}

/** Reads a file. Throws an Error whose message is for the reader. `room`: bytes that the request has left. */
export async function readDocument(file, props, room) {
    const pdf = file.type === 'application/pdf' || /\.pdf$/i.test(file.name);
    if (pdf && !props.pdf) throw new Error(`“${file.name}” is a PDF. This server cannot read PDFs: save it as text and add that.`);
    // Base64 makes three bytes four.
    const size = pdf ? file.size : file.size * 4 / 3;
    if (size > room) {
        throw new Error(`“${file.name}” is too large (${bytes(file.size)}). There is room for ${bytes(Math.max(0, room * 3 / 4))} more in this conversation.`);
    }
    const found = pdf ? { text: await api.pdfText(file), note: 'Text of the PDF; pictures are left out.' }
        : decode(new Uint8Array(await file.arrayBuffer()));
    if (!found) throw new Error(`“${file.name}” is not a text. Text, Markdown and source code can be read${props.pdf ? ', and PDF' : ''}.`);
    if (!found.text.trim()) throw new Error(`“${file.name}” has no text in it.`);
    const document = { name: file.name, text: found.text, note: found.note, data: await toDataUrl(found.text), tokens: Math.ceil(found.text.length / 4) };
    if (document.data.length > room) throw new Error(`The text of “${file.name}” is too large for this server.`);
    return document;
}

/** Tokens of a text: counted by the server for a piece, and from that for the whole. */
export async function estimateTokens(text) {
    const piece = text.slice(0, SAMPLE);
    return Math.ceil(await api.tokens(piece) * text.length / piece.length);
}
