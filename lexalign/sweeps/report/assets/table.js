// The table of all jobs: sorted by any column, filtered, a thousand rows at a time. Texts go in as texts, never as markup.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);

const jobTable = (() => {
  const PAGE = 1000;
  const { columns, rows, states } = report.table;
  const table = document.getElementById("table");
  if (!table) return { keepOnly() {} };
  const part = (name) => document.getElementById(name);
  const collator = new Intl.Collator(undefined, { numeric: true });
  const stateAt = columns.findIndex((column) => column.name === "state");
  const texts = rows.map((row) => row.join(" ").toLowerCase());
  const view = { sort: null, down: false, filter: "", measures: false, page: 0, kept: null, ...remembered() };

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
      button.textContent = columns[at].name;
      button.addEventListener("click", () => {
        // Best first where better is higher.
        const first = report.score !== null && columns[at].name === report.score.name && !report.score.lower;
        [view.down, view.sort, view.page] = [view.sort === at ? !view.down : first, at, 0];
        show();
        table.querySelectorAll("th button")[shownColumns().indexOf(at)].focus();
      });
      cell.append(button);
      line.append(cell);
    }
    table.tHead.replaceChildren(line);
  }

  function show() {
    const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.map((row, at) => at)
      .filter((at) => (!view.kept || view.kept.has(at)) && words.every((word) => texts[at].includes(word)));
    if (view.sort !== null) found.sort(compare);
    const from = view.page * PAGE, to = Math.min(from + PAGE, found.length);
    const lines = document.createDocumentFragment(), at = shownColumns();
    for (const index of found.slice(from, to)) {
      const line = document.createElement("tr");
      for (const column of at) {
        const cell = document.createElement("td"), value = rows[index][column];
        cell.textContent = value === null ? "" : String(value);
        if (columns[column].number) cell.className = "number";
        else if (column === stateAt) cell.className = `state ${states[index]}`;
        if (typeof value === "string" && value.length > 32) cell.title = value;
        line.append(cell);
      }
      lines.append(line);
    }
    head();
    table.tBodies[0].replaceChildren(lines);
    const all = rows.length.toLocaleString();
    const range = found.length > PAGE ? `${(from + 1).toLocaleString()} to ${to.toLocaleString()} of ` : "";
    part("shown").textContent = `${range}${found.length.toLocaleString()}${found.length < rows.length ? ` of all ${all}` : ""} jobs`;
    part("before").hidden = part("next").hidden = found.length <= PAGE;
    part("before").disabled = view.page === 0;
    part("next").disabled = to === found.length;
    remember();
  }

  part("filter").value = view.filter;
  part("measures").checked = view.measures;
  part("measures").closest("label").hidden = !columns.some((column) => column.metric);
  part("filter").addEventListener("input", (event) => { [view.filter, view.page] = [event.target.value, 0]; show(); });
  part("measures").addEventListener("change", (event) => { view.measures = event.target.checked; show(); });
  part("before").addEventListener("click", () => { view.page -= 1; show(); });
  part("next").addEventListener("click", () => { view.page += 1; show(); });
  show();
  return { keepOnly(kept) { [view.kept, view.page] = [kept, 0]; show(); } };
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
