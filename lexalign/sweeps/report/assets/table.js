// The table of all jobs: sorted by any column, filtered, put in as far as one has scrolled. Texts go in as texts, never as markup.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);

const jobTable = (() => {
  const AT_ONCE = 200;
  const { columns, rows, states } = report.table;
  const table = document.getElementById("table");
  if (!table) return { keepOnly() {} };
  const part = (name) => document.getElementById(name);
  const collator = new Intl.Collator(undefined, { numeric: true });
  const stateAt = columns.findIndex((column) => column.name === "state");
  const texts = rows.map((row) => row.join(" ").toLowerCase());
  const view = { sort: null, down: false, filter: "", measures: false, kept: null, ...remembered() };

  // A page of a running sweep loads itself again: it comes back as it was left.
  function remembered() {
    try {
      const found = JSON.parse(sessionStorage.getItem(location.pathname) || "{}");
      return typeof found.sort === "number" && !columns[found.sort] ? {} : found;
    } catch { return {}; }
  }
  function remember() {
    const { sort, down, filter, measures } = view;
    try { sessionStorage.setItem(location.pathname, JSON.stringify({ sort, down, filter, measures })); } catch { /* no storage here */ }
  }
  const shownColumns = () => columns.map((column, at) => at).filter((at) => view.measures || !columns[at].metric);

  function compare(a, b) {
    const [x, y] = [rows[a][view.sort], rows[b][view.sort]];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY || a - b;  // without a value: last, whichever way
    const by = columns[view.sort].number ? Number(x) - Number(y) : collator.compare(x, y);
    return (view.down ? -by : by) || a - b;
  }

  function head() {
    const line = document.createElement("tr");
    for (const at of shownColumns()) {
      const cell = document.createElement("th");
      cell.scope = "col";
      if (columns[at].number) cell.className = "number";
      if (view.sort === at) cell.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = columns[at].title;
      button.title = columns[at].name;
      button.addEventListener("click", () => {
        // Best first where better is higher.
        const first = report.score !== null && columns[at].name === report.score.name && !report.score.lower;
        [view.down, view.sort] = [view.sort === at ? !view.down : first, at];
        show();
        table.querySelectorAll("th button")[shownColumns().indexOf(at)].focus();
      });
      cell.append(button);
      line.append(cell);
    }
    table.tHead.replaceChildren(line);
  }

  function cell(index, column) {
    const found = document.createElement("td"), value = rows[index][column];
    found.textContent = value === null ? "" : String(value);
    if (columns[column].number) found.className = "number";
    else if (column === stateAt) found.className = `state ${states[index]}`;
    if (typeof value === "string" && value.length > 32) found.title = value;
    return found;
  }

  let found = [];
  function more() {
    const lines = document.createDocumentFragment(), shown = shownColumns(), from = table.tBodies[0].rows.length;
    for (const index of found.slice(from, from + AT_ONCE)) {
      const line = document.createElement("tr");
      line.append(...shown.map((column) => cell(index, column)));
      lines.append(line);
    }
    table.tBodies[0].append(lines);
  }

  function show() {
    const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.map((row, at) => at)
      .filter((at) => (!view.kept || view.kept.has(at)) && words.every((word) => texts[at].includes(word)));
    if (view.sort !== null) found.sort(compare);
    head();
    table.tBodies[0].replaceChildren();
    table.parentElement.scrollTop = 0;
    more();
    const all = rows.length.toLocaleString();
    part("shown").textContent = `${found.length.toLocaleString()}${found.length < rows.length ? ` of all ${all}` : ""} jobs`;
    remember();
  }

  part("filter").value = view.filter;
  part("measures").checked = view.measures;
  part("measures").closest("label").hidden = !columns.some((column) => column.metric);
  part("filter").addEventListener("input", (event) => { view.filter = event.target.value; show(); });
  part("measures").addEventListener("change", (event) => { view.measures = event.target.checked; show(); });
  table.parentElement.addEventListener("scroll", ({ target }) => {
    if (target.scrollTop + 2 * target.clientHeight > target.scrollHeight) more();
  });
  show();
  return { keepOnly(kept) { view.kept = kept; show(); } };
})();

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);  // not allowed here: it is marked, to be copied by hand
      button.textContent = "Marked";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
