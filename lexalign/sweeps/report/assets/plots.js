// The figures, by Plotly, in SVG: no WebGL (many machines have none) and no code made at run time (the page's policy forbids it).
"use strict";
(() => {
  const node = (name) => document.getElementById(name);
  // Plotly reads a little HTML in every text: what is shown must not be read.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const clipped = (text, most = 28) => plain(text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const short = (number) => (Number.isFinite(number) ? Number(number.toPrecision(4)).toString() : "");
  const CONFIG = { displayModeBar: false, responsive: true };
  const STEPS = 12;

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    return Object.fromEntries(["card", "ink", "muted", "line", "grid", "accent", "faint", "strong", "top"].map((name) => [name, colour(name)]));
  }
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  // From faint (worst) over the accent to strong: ordered by lightness, so it needs no sight for colours. The best job has its own.
  function shade(share, colours) {
    const [from, to, by] = share < .6 ? [colours.faint, colours.accent, share / .6] : [colours.accent, colours.strong, (share - .6) / .4];
    const mixed = channels(from).map((channel, at) => Math.round(channel + (channels(to)[at] - channel) * by));
    return `rgb(${mixed.join(",")})`;
  }
  function layout(colours, height, more = {}) {
    return {
      height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      font: { family: "system-ui, sans-serif", size: 12, color: colours.ink }, margin: { l: 56, r: 16, t: 30, b: 40 },
      hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font: { color: colours.ink }, align: "left", namelength: 0 }, ...more,
    };
  }
  function line(colours, more = {}) {
    return { gridcolor: colours.grid, linecolor: colours.line, zeroline: false, tickfont: { color: colours.muted }, ...more };
  }
  const better = () => (report.score.lower ? "↓ better" : "↑ better");

  // Names stand evenly spaced and their dots beside each other; numbers where they are.
  function bottom(axis, colours) {
    if (!axis.names) return line(colours, { type: axis.log ? "log" : "linear" });
    const many = axis.names.length > 12;
    const shown = axis.names.map((name, at) => at).filter((at) => !many || at % Math.ceil(axis.names.length / 12) === 0);
    return line(colours, {
      type: "linear", tickvals: shown, ticktext: shown.map((at) => clipped(axis.names[at], 18)), range: [-.5, axis.names.length - .5], showgrid: false,
    });
  }

  function setting(axis, into, colours) {
    const found = report.settings, groups = new Map();
    axis.at.forEach((place, at) => { if (place !== null) groups.set(place, [...(groups.get(place) || []), at]); });
    const x = [], at = [];
    for (const [place, members] of groups) {
      members.forEach((member, index) => {
        const beside = axis.names && members.length > 1 ? (index / (members.length - 1) - .5) * Math.min(.5, .06 * members.length) : 0;
        x.push(place + beside);
        at.push(member);
      });
    }
    const of = (name) => at.map((member) => found[name][member]);
    const mean = of("mean"), names = axis.names, many = mean.length > 100;
    // As high as the dots: the interval of two seeds can be many times that.
    const [lowest, highest] = [Math.min(...mean), Math.max(...mean)], room = .12 * (highest - lowest) || .1;
    const traces = [{
      type: "scatter", mode: "markers", x, y: mean, hoverinfo: "text",
      marker: { color: colours.accent, size: many ? 5 : 7, opacity: mean.length > 300 ? .5 : .85 },
      text: at.map((member) => {
        const [low, high] = [found.low[member], found.high[member]];
        const value = names ? names[axis.at[member]] : short(axis.at[member]);
        const sure = low === null ? "" : `<br>95 %: ${short(low)} to ${short(high)}`;
        return `${clipped(value, 60)}<br><b>${short(found.mean[member])}</b>${sure}<br>n = ${found.n[member]}, jobs ${plain(found.jobs[member])}`;
      }),
    }];
    // All intervals are one path: a thousand elements fewer than error bars take.
    const bars = at.map((member, i) => (found.low[member] === null ? "" : `M${x[i]},${found.low[member]}L${x[i]},${found.high[member]}`)).join("");
    const intervals = { type: "path", path: bars, line: { color: many ? colours.faint : colours.muted, width: 1 }, layer: "below" };
    if (groups.size > 1 && groups.size <= 30 && groups.size < axis.at.length) {
      const places = [...groups.keys()].sort((a, b) => a - b);
      const means = places.map((place) => groups.get(place).reduce((sum, member) => sum + found.mean[member], 0) / groups.get(place).length);
      traces.push({
        type: "scatter", mode: "lines+markers", x: places, y: means, hoverinfo: "skip", line: { color: colours.top, width: 2 },
        marker: { color: colours.top, size: 7, symbol: "diamond", line: { color: colours.card, width: 1 } },
      });
    }
    return Plotly.react(into, traces, layout(colours, 250, {
      shapes: bars ? [intervals] : [], title: { text: clipped(axis.key, 44), font: { size: 13 }, x: 0, xref: "paper", y: .97 },
      xaxis: bottom(axis, colours), yaxis: line(colours, { range: [lowest - room, highest + room] }),
    }), CONFIG);
  }

  function importance(into, colours) {
    const shares = [...report.importance.shares].reverse();
    if (!shares.length) { into.remove(); return null; }
    const trace = {
      type: "bar", orientation: "h", y: shares.map((share, at) => at), x: shares.map(([, share]) => share), marker: { color: colours.accent },
      text: shares.map(([, share]) => `${(100 * share).toFixed(share < .1 ? 1 : 0)} %`), textposition: "outside", cliponaxis: false,
      hoverinfo: "skip",
    };
    return Plotly.react(into, [trace], layout(colours, 50 + 30 * shares.length, {
      margin: { l: 20, r: 56, t: 6, b: 24 }, bargap: .35,
      xaxis: line(colours, { tickformat: ".0%", range: [0, Math.max(...shares.map(([, share]) => share)) * 1.05], fixedrange: true }),
      yaxis: line(colours, { tickvals: shares.map((share, at) => at), ticktext: shares.map(([key]) => clipped(key, 44)), showgrid: false, fixedrange: true, automargin: true }),
    }), CONFIG);
  }

  // Every axis runs from 0 to 1; places on it come from the names, the numbers or their logarithms.
  function spread(axis) {
    const at = axis.log ? axis.at.map((value) => value && Math.log10(value)) : axis.at;
    const present = at.filter((value) => value !== null);
    const [low, high] = axis.names ? [0, Math.max(1, axis.names.length - 1)] : [Math.min(...present), Math.max(...present)];
    const position = (value) => (high > low ? (value - low) / (high - low) : .5);
    const evenly = [0, .25, .5, .75, 1].map((share) => low + share * (high - low));
    const ticks = axis.names
      ? axis.names.map((name, index) => [position(index), clipped(name, 14)]).filter((tick, index) => index % Math.ceil(axis.names.length / 14) === 0)
      : evenly.map((value) => [position(value), short(axis.log ? 10 ** value : value)]);
    // Names leave a little room, so that the lines through one do not hide each other.
    const aside = (index) => (axis.names ? .04 * ((index * .618) % 1 - .5) : 0);
    return { key: axis.key, at: at.map((value, index) => (value === null ? null : position(value) + aside(index))), ticks };
  }
  let boxed = null;
  function parallel(into, colours) {
    const found = report.parallel, score = { key: report.score.name, names: null, log: false, at: found.score };
    const axes = [...found.axes, score].map(spread), last = axes.length - 1;
    // By rank: one bad outlier must not make all others look alike.
    const rank = (at) => 1 - at / Math.max(1, found.rows.length - 1);
    const inside = (at) => !boxed || boxed.every(({ axis, low, high }) => axes[axis].at[at] !== null && axes[axis].at[at] >= low && axes[axis].at[at] <= high);
    const kept = found.rows.map((row, at) => at).filter(inside), traces = [];
    const lines = (members, colour, width, opacity, texts) => {
      const x = [], y = [], text = [];
      for (const at of members) {
        axes.forEach((axis, place) => {
          x.push(place); y.push(axis.at[at]);
          text.push(texts && `job ${plain(found.names[at])}<br>${plain(report.score.name)} <b>${short(found.score[at])}</b>`);
        });
        x.push(null); y.push(null); text.push(null);
      }
      traces.push({ type: "scatter", mode: "lines", x, y, text, hoverinfo: texts ? "text" : "skip", opacity, line: { color: colour, width } });
    };
    if (boxed) lines(found.rows.map((row, at) => at).filter((at) => !inside(at)), colours.line, 1, .5, false);
    for (let step = 0; step < STEPS; step += 1) {
      const members = kept.filter((at) => Math.min(STEPS - 1, Math.floor(rank(at) * STEPS)) === step);
      if (members.length) lines(members, shade(step / (STEPS - 1), colours), 1.4, (found.rows.length > 200 ? .25 : .5) + .5 * step / STEPS, true);
    }
    if (inside(0)) lines([0], colours.top, 3, 1, true);
    // Boxes are drawn around dots: two that are not seen span the figure.
    traces.push({ type: "scatter", mode: "markers", x: [0, last], y: [0, 1], marker: { opacity: 0 }, hoverinfo: "skip" });
    const annotations = axes.flatMap((axis, place) => [
      { x: place, y: 1.09, text: `<b>${clipped(axis.key.split(".").pop(), 20)}</b>`, hovertext: plain(axis.key), showarrow: false, font: { size: 12 } },
      ...axis.ticks.map(([at, text]) => ({
        x: place, y: at, text, showarrow: false, xanchor: place === last ? "right" : "left", xshift: place === last ? -5 : 5,
        font: { size: 11, color: colours.ink }, bgcolor: colours.card, opacity: .9, borderpad: 1,
      })),
    ]);
    const shapes = axes.map((axis, place) => ({ type: "line", x0: place, x1: place, y0: 0, y1: 1, line: { color: colours.muted, width: 1.5 }, layer: "above" }));
    node("boxed").textContent = boxed ? `${kept.length.toLocaleString()} of ${found.rows.length.toLocaleString()} jobs go through.` : "";
    node("unbox").hidden = !boxed;
    return Plotly.react(into, traces, layout(colours, 400, {
      margin: { l: 44, r: 44, t: 40, b: 20 }, dragmode: "select", annotations, shapes, selections: [],
      newselection: { line: { color: colours.accent, width: 2, dash: "solid" } },
      xaxis: { visible: false, fixedrange: true, range: [-.12, last + .12] }, yaxis: { visible: false, fixedrange: true, range: [-.05, 1.14] },
    }), CONFIG);
  }
  function box(event) {
    if (!event?.range) return;
    const [[left, right], [low, high]] = [event.range.x, event.range.y].map((ends) => [...ends].sort((a, b) => a - b));
    const places = [...report.parallel.axes, null].map((axis, place) => place).filter((place) => place >= left && place <= right);
    if (places.length) keep(places.map((axis) => ({ axis, low, high })));
  }
  function keep(boxes) {
    boxed = boxes;
    parallel(node("parallel-plot"), theme());
    if (!boxes) { jobTable.keepOnly(null); return; }
    const axes = [...report.parallel.axes, { names: null, log: false, at: report.parallel.score, key: "" }].map(spread);
    const through = (at) => boxes.every(({ axis, low, high }) => axes[axis].at[at] !== null && axes[axis].at[at] >= low && axes[axis].at[at] <= high);
    jobTable.keepOnly(new Set(report.parallel.rows.filter((row, at) => through(at))));
  }

  function curves(into, colours) {
    const found = report.curves, measure = node("measure").value, traces = [];
    const shown = found.lines.map((lines, at) => at).filter((at) => found.lines[at][measure]);
    for (const at of shown.toReversed()) {
      const [x, y] = found.lines[at][measure], share = 1 - at / Math.max(1, found.lines.length - 1);
      traces.push({
        type: "scatter", mode: x.length > 1 ? "lines" : "markers", x, y, line: { color: at === 0 ? colours.top : shade(share, colours), width: at === 0 ? 3 : 1.4 },
        marker: { color: at === 0 ? colours.top : shade(share, colours) }, opacity: at === 0 ? 1 : .4 + .6 * share, hovertemplate: "%{text}<br>step %{x}: <b>%{y:.5g}</b><extra></extra>",
        text: x.map(() => `job ${plain(found.names[at])}<br>${clipped(found.settings[at], 90)}`),
      });
    }
    return Plotly.react(into, traces, layout(colours, 340, {
      xaxis: line(colours, { title: { text: "step" } }), yaxis: line(colours, { title: { text: clipped(measure, 40) } }), margin: { l: 64, r: 16, t: 10, b: 44 },
    }), CONFIG);
  }

  function front(into, colours) {
    const found = report.front, best = new Set(found.best), all = found.values.map((values, at) => at);
    const told = (at) => `job ${plain(found.jobs[at])}<br>${found.names.map((name, i) => `${clipped(name)} <b>${short(found.values[at][i])}</b>`).join("<br>")}`
      + `<br>${clipped(found.settings[at], 90)}`;
    const dots = (members, more) => ({
      type: "scatter", x: members.map((at) => found.values[at][0]), y: members.map((at) => found.values[at][1]), hoverinfo: "text", text: members.map(told), ...more,
    });
    const ordered = found.best.toSorted((a, b) => found.values[a][0] - found.values[b][0]);
    const way = (at) => `${clipped(found.names[at], 40)} (${found.lower[at] ? "lower" : "higher"} is better)`;
    return Plotly.react(into, [
      dots(all.filter((at) => !best.has(at)), { mode: "markers", marker: { color: colours.faint, size: 7 } }),
      dots(ordered, { mode: found.names.length === 2 ? "lines+markers" : "markers", line: { color: colours.accent, shape: "linear", width: 1.5, dash: "dot" },
        marker: { color: colours.top, size: 10, symbol: "diamond" } }),
    ], layout(colours, 360, {
      xaxis: line(colours, { title: { text: way(0) } }), yaxis: line(colours, { title: { text: way(1) } }), margin: { l: 64, r: 16, t: 10, b: 48 },
    }), CONFIG);
  }

  const places = report.settings.axes.map((axis) => {
    const place = document.createElement("div");
    place.className = "plot";
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${axis.key} against the score`);
    node("settings-plots")?.append(place);
    return place;
  });
  const NAMED = { "importance-plot": importance, "parallel-plot": parallel, "curves-plot": curves, "front-plot": front };
  async function draw() {
    const colours = theme();
    if (node("settings-plots")) for (const [at, axis] of report.settings.axes.entries()) await setting(axis, places[at], colours);
    for (const [name, figure] of Object.entries(NAMED)) if (node(name)) await figure(node(name), colours);
  }
  node("measure")?.addEventListener("change", () => curves(node("curves-plot"), theme()));
  node("unbox")?.addEventListener("click", () => keep(null));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw().then(() => {
    const found = node("parallel-plot");
    if (found) { found.on("plotly_selected", box); found.on("plotly_deselect", () => keep(null)); }
    document.documentElement.dataset.drawn = Math.round(performance.now());
  });
})();
