"""The style of an evaluation card's page, readable on a light and on a dark screen."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --line: #e3e6ea;
        --accent: #0072b2; --mark: #fff4ec; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16191d; --ink: #e8eaed; --soft: #a3abb4; --line: #33393f; --accent: #56b4e9;
          --mark: #2c221b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 67rem; padding: 2.5rem 1.25rem 5rem; background: var(--ground);
       color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .4rem; letter-spacing: -.01em; }
p, li { max-width: 46rem; }
p { margin: .3rem 0; }
.soft, figcaption, caption { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; font-size: .88rem; }
th, td { padding: .34rem .8rem; text-align: right; border-bottom: 1px solid var(--line);
         white-space: nowrap; }
th[scope=row], td.words, th.words { text-align: left; }
td.sentence { text-align: left; white-space: normal; min-width: 16rem; }
.dense th, .dense td { padding: .3rem .5rem; }
.dense thead th { white-space: normal; max-width: 6rem; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom; }
td.own { background: var(--mark); font-weight: 600; }
figure { margin: 1.1rem 0; }
figcaption { font-size: .88rem; max-width: 46rem; margin-top: .4rem; }
figure img, .pair img, td img { image-rendering: pixelated; }
.plot img { image-rendering: auto; width: 40rem; max-width: 100%; height: auto; }
.pairs { display: flex; flex-wrap: wrap; gap: 1.1rem 1.4rem; margin: 1rem 0; padding: 0; list-style: none; }
.pair img { height: 4.5rem; display: block; }
.pair.close { outline: 2px solid #d55e00; outline-offset: .35rem; }
.pair span { font-size: .82rem; color: var(--soft); }
td img { height: 2.6rem; display: block; }
td.strip { padding: .3rem .8rem; text-align: left; }
"""
