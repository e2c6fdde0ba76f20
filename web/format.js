// Numbers, sizes and times as a reader wants them.
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export const number = (n) => whole.format(n ?? 0);
export const count = (n, word) => `${number(n)} ${word}${n === 1 ? '' : 's'}`;

/** 1,204, 12.3k, 1.2M: where there is little room. */
export const short = (n) => n < 10000 ? number(n) : n < 1e6 ? `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k` : `${(n / 1e6).toFixed(1)}M`;

export function bytes(n) {
    const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
    let unit = 0;
    while (n >= 1000 && unit < units.length - 1) { n /= 1000; unit++; }
    return `${unit && n < 100 ? n.toFixed(1) : number(n)} ${units[unit]}`;
}

export function percent(share) {
    const p = 100 * share;
    if (p > 0 && p < 1) return 'under 1%';
    if (p > 99 && p < 100) return 'over 99%';
    return `${Math.round(p)}%`;
}

export function duration(seconds) {
    if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
}

export function ago(unix) {
    const s = Date.now() / 1000 - unix;
    if (s < 60) return 'just now';
    if (s < 3600) return `${Math.floor(s / 60)} min ago`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
    if (s < 7 * 86400) return `${count(Math.floor(s / 86400), 'day')} ago`;
    return new Date(unix * 1000).toLocaleDateString('en', { day: 'numeric', month: 'short', year: 'numeric' });
}
