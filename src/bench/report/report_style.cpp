// The style sheet of the report page. Colours differ enough from their ground to be read (4.5 to 1
// for text) in both modes, and lines from each other for the colour-blind; they have markers too.

#include "bench/report/report_html.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr std::string_view kColours = R"css(:root {
  --ground: #ffffff; --raised: #f5f6f8; --ink: #1b1f24; --soft: #57606a; --rule: #d5d9de;
  --link: #0a58a8; --best: #dcefe3; --ref: #f0f2f5; --tint: 10, 100, 180; --grey: #a3abb5;
  --s1: #0a66b0; --s2: #c74a00; --s3: #00795b; --s4: #a8327e; --s5: #8a6400; --s6: #5546c0;
  --s7: #b0202e; --s8: #1b1f24;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --raised: #1d2127; --ink: #e6e9ed; --soft: #a4adb8; --rule: #383f48;
    --link: #7db8f2; --best: #1f4430; --ref: #22272e; --tint: 70, 150, 230; --grey: #66707c;
    --s1: #5fb0f5; --s2: #ff8f4a; --s3: #36cf9f; --s4: #ee92cf; --s5: #e9bd48; --s6: #aaa0ff;
    --s7: #ff8087; --s8: #e6e9ed;
  }
}
)css";

constexpr std::string_view kPage = R"css(* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1180px; padding: 0 16px 64px; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 32px 0 8px; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 56px 0 8px; padding-top: 12px;
  border-top: 2px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 36px 0 6px; }
p { margin: 8px 0; max-width: 76ch; overflow-wrap: anywhere; }
.lead { font-size: 1.05rem; color: var(--soft); }
a { color: var(--link); }
nav { margin: 20px 0 0; padding: 12px 16px; background: var(--raised); border-radius: 8px;
  columns: 3 16rem; font-size: 0.92rem; }
nav a { display: block; text-decoration: none; padding: 2px 0; overflow-wrap: anywhere;
  break-inside: avoid; }
nav a:hover { text-decoration: underline; }
nav .n2 { font-weight: 600; break-after: avoid; }
nav .n3 { padding-left: 14px; }
.scroll { overflow: auto; width: fit-content; max-width: 100%; max-height: 85vh; margin: 12px 0 20px;
  border: 1px solid var(--rule); border-radius: 8px; }
.pair { display: flex; flex-wrap: wrap; gap: 0 28px; align-items: flex-start; }
.pair > .scroll { flex: 0 1 auto; }
.pair > .charts { flex: 1 1 420px; max-width: 620px; margin-top: 8px; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
tbody tr:last-child > * { border-bottom: 0; }
th { font-weight: 600; }
tbody th { font-weight: 500; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--raised); }
th:first-child { position: sticky; left: 0; z-index: 1; background: var(--ground);
  border-right: 1px solid var(--rule); }
thead th:first-child { z-index: 2; background: var(--raised); }
.t { text-align: left; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
small { color: var(--soft); font-size: 0.82em; font-weight: 400; }
td small, th:not(:first-child) small { display: block; line-height: 1.25; }
.ref > * { background: var(--ref); }
.ref > th:first-child { background: var(--ref); font-style: italic; }
td.best { background: var(--best); font-weight: 650; }
.muted { color: var(--soft); }
details { margin: 6px 0; border: 1px solid var(--rule); border-radius: 8px; padding: 0 12px; }
summary { cursor: pointer; padding: 8px 0; font-size: 0.95rem; }
details[open] > summary { font-weight: 600; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.88rem; color: var(--soft); margin-bottom: 4px; overflow-wrap: anywhere; }
.charts { display: grid; gap: 24px; margin: 16px 0 20px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.charts figure { max-width: 680px; }
.maps { display: grid; gap: 16px 20px; margin: 12px 0 16px;
  grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); }
.maps figcaption { color: var(--ink); font-size: 0.82rem; line-height: 1.3; }
.legend { font-size: 0.85rem; }
)css";

constexpr std::string_view kCharts = R"css(svg { display: block; width: 100%; height: auto; }
.legend svg { display: inline-block; width: 220px; height: 10px; }
text { font: 11px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--soft); }
.heat text { font-size: 9px; }
.name.strong { fill: currentColor; font-weight: 600; }
.end { text-anchor: end; }
.mid { text-anchor: middle; }
.grid { stroke: var(--rule); stroke-width: 0.7; }
.axis { stroke: var(--soft); }
.reference { stroke: var(--soft); stroke-dasharray: 2 4; }
.lead { stroke: none; }
line.lead { stroke: currentColor; stroke-width: 0.7; opacity: 0.5; }
.l { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.m { fill: currentColor; stroke: var(--ground); stroke-width: 0.7; }
.dashed .l { stroke-dasharray: 5 3; }
.s0 { color: var(--grey); } .s0 .l { stroke-width: 1; }
.s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); } .s6 { color: var(--s6); }
.s7 { color: var(--s7); } .s8 { color: var(--s8); }
.h0 { fill: #a50026; } .h1 { fill: #d73027; } .h2 { fill: #f46d43; } .h3 { fill: #fdae61; }
.h4 { fill: #fee090; } .h5 { fill: #ffffbf; } .h6 { fill: #e0f3f8; } .h7 { fill: #abd9e9; }
.h8 { fill: #74add1; } .h9 { fill: #4575b4; } .h10 { fill: #313695; }
.none { fill: none; stroke: var(--rule); stroke-dasharray: 2 2; }
)css";

constexpr std::string_view kRest =
    R"css(.v1 { background: rgba(var(--tint), 0.04); } .v2 { background: rgba(var(--tint), 0.08); }
.v3 { background: rgba(var(--tint), 0.12); } .v4 { background: rgba(var(--tint), 0.16); }
.v5 { background: rgba(var(--tint), 0.2); } .v6 { background: rgba(var(--tint), 0.24); }
.v7 { background: rgba(var(--tint), 0.28); } .v8 { background: rgba(var(--tint), 0.32); }
.v9 { background: rgba(var(--tint), 0.36); } .v10 { background: rgba(var(--tint), 0.4); }
@media (max-width: 600px) {
  body { padding: 0 12px 48px; }
  h1 { font-size: 1.45rem; }
  h2 { font-size: 1.25rem; margin-top: 40px; }
  nav { columns: 1; }
  .scroll { max-height: none; }
  th, td { padding: 5px 8px; }
  th:first-child { min-width: 7rem; max-width: 42vw; white-space: normal; overflow-wrap: break-word; }
  .words th:first-child { min-width: 5rem; }
  .maps { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
  details { padding: 0 8px; }
  .chart text { font-size: 12px; }
}
@media print { .scroll { max-height: none; overflow: visible; } details { break-inside: avoid; } }
)css";

}  // namespace

std::string report_style() { return cat(kColours, kPage, kCharts, kRest); }

std::string chart_style() { return cat(kColours, kCharts); }

}  // namespace palimpsest
