"""The style sheet of a report."""

STYLE_SHEET = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1f2933; line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 1.25rem; margin: 0 0 12px; }
h3 { font-size: 1rem; margin: 16px 0 8px; }
.kicker { margin: 0 0 4px; color: #52606d; font-size: .85rem; letter-spacing: .02em; }
.sub { margin: 0 0 20px; color: #3e4c59; overflow-wrap: anywhere; }
section, footer, details.words { background: #fff; border: 1px solid #e1e5ea; border-radius: 8px; padding: 20px 24px;
  margin: 0 0 20px; }
.box { border-left: 5px solid #0072b2; }
.box ul { margin: 0; padding-left: 1.2em; }
.box li { margin: 0 0 8px; }
.note { margin: 12px 0 0; padding: 10px 14px; background: #fff6e0; border-radius: 6px; }
.note p { margin: 0 0 4px; font-weight: 600; }
nav { background: #fff; border: 1px solid #e1e5ea; border-radius: 8px; padding: 16px 24px; margin: 0 0 20px; }
nav h2 { font-size: 1rem; margin: 0 0 8px; }
nav ol { margin: 0; padding-left: 1.4em; columns: 2; column-gap: 32px; }
nav li { margin: 0 0 4px; break-inside: avoid; }
a { color: #005a8d; }
figure { margin: 0 0 28px; }
figure h3 { margin-top: 0; }
.panels { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px 12px; align-items: end; }
.panel { position: relative; min-width: 0; }
.lettered { padding-top: 20px; }
.letter { position: absolute; top: 0; left: 0; font-weight: 700; font-size: .95rem; line-height: 20px; }
.panels img { width: 100%; max-width: 100%; height: auto; display: block; }
figcaption, .caption { color: #3e4c59; font-size: .92rem; margin: 8px 0 0; max-width: 92ch; }
p.caption { margin-bottom: 24px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: right; border-bottom: 1px solid #e9ecf0; white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; font-weight: 500; }
th[scope=row] { white-space: normal; min-width: 15em; }
td.words, th.words { text-align: left; padding-left: 10px; color: #52606d; }
td.words { white-space: normal; min-width: 11em; }
th small { display: block; color: #52606d; font-weight: 400; }
td small { color: #52606d; font-size: .92em; white-space: nowrap; }
td.value { white-space: normal; min-width: 7em; }
thead th { color: #52606d; font-weight: 600; vertical-align: bottom; }
details { margin: 12px 0 0; }
summary { cursor: pointer; color: #005a8d; }
dl { display: grid; grid-template-columns: fit-content(34%) minmax(0, 1fr); gap: 4px 16px; margin: 12px 0 0;
  font-size: .92rem; }
dt { font-weight: 600; overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
.pass { color: #00674f; font-weight: 600; }
.fail { color: #a8003b; font-weight: 700; }
.idle { color: #52606d; }
.verdict { padding: 10px 14px; border-radius: 6px; margin: 0 0 16px; }
.verdict.pass { background: #e3f5ef; }
.verdict.idle { background: #eef0f3; }
.verdict.fail { background: #fde7ee; }
footer { font-size: .9rem; }
@media (max-width: 900px) { .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 600px) {
  main { padding: 16px 8px 32px; }
  section, footer, details.words { padding: 16px 12px; }
  .panels { grid-template-columns: minmax(0, 1fr); }
  nav { padding: 16px 12px; }
  nav ol { columns: 1; }
  table, tbody, tr, td, tbody th[scope=row] { display: block; width: 100%; }
  thead { position: absolute; left: -9999px; }
  tbody tr { padding: 8px 0; border-bottom: 1px solid #dde2e8; }
  tbody th[scope=row] { padding: 0 0 4px; border: 0; white-space: normal; font-weight: 600; }
  td { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px; padding: 2px 0; border: 0;
    white-space: normal; overflow-wrap: break-word; }
  td > span { margin-left: auto; }
  td::before { content: attr(data-label); color: #52606d; text-align: left; }
  td.words { display: block; padding: 2px 0; }
  td.words::before { content: attr(data-label) ": "; }
  td[data-label=""]::before { content: none; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin: 0 0 8px; }
}
"""
"""Inline CSS: one column of white cards; three figures abreast and tables as such on a desk, one figure a row and rows
of tables as lists on a phone."""
