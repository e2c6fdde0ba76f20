// What a model, or a text it read, may write to have the page run something. Each sets `window.hit` or
// asks another origin if it works.
export const INJECTIONS = [
    '<script>window.hit = 1</script>',
    '<img src="x" onerror="window.hit = 2">',
    '<svg onload="window.hit = 3"><circle r="9"/></svg>',
    '[click](javascript:window.hit=4)',
    '[click](JaVaScRiPt&#58;window.hit=5)',
    '![p](https://evil.example/6.png)',
    '![p](x "onerror=window.hit=7")',
    '<iframe srcdoc="<script>parent.hit = 8</script>"></iframe>',
    '<a href="data:text/html,<script>opener.hit=9</script>">x</a>',
    '<form action="https://evil.example/10"><button autofocus onfocus="window.hit=10">x</button></form>',
    '<style>@import url(https://evil.example/11.css); body { background: url(https://evil.example/11.png) }</style>',
    '<link rel="stylesheet" href="https://evil.example/12.css">',
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.hit=13&gt;">',
    '<details open ontoggle="window.hit=14">x</details>',
    '<video src="https://evil.example/15.mp4" autoplay onerror="window.hit=15"></video>',
    '<base href="https://evil.example/16/"><meta http-equiv="refresh" content="0;url=https://evil.example/16">',
    '```html"><img src=x onerror=window.hit=17>\n<img src=x onerror=window.hit=17>\n```',
    '<object data="https://evil.example/18"></object><embed src="https://evil.example/18">',
    '[x]: javascript:window.hit=19\n\n[x] and <https://ok.example/"onclick="window.hit=19>',
    'A <kbd><script>window.hit=20</script></kbd> <b style="background:url(https://evil.example/20)" onclick="window.hit=20">bold</b>',
];
