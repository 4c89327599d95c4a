// The table under the timeline: what matches and is in view. Only the rows on the screen exist.

const ROW = 27;

/** @type {any} from and to are the part of rows in view, by is 1 or -1, follows says to show what was selected */
const table = { from: 0, to: 0, rows: null, by: 1, cursor: 0, built: "", follows: false };

/** Brings the table to what the timeline shows. */
function updateTable() {
  const [from, to] = rowsInView(), body = byId("table-body");
  if (from !== table.from || to !== table.to || table.rows !== view.rows) {
    table.from = from;
    table.to = to;
    table.rows = view.rows;
    table.cursor = clamp(table.cursor, 0, Math.max(0, to - from - 1));
    table.built = "";
    byId("table").setAttribute("aria-rowcount", String(to - from + 1));
    byId("table-tall").style.height = `${(to - from) * ROW}px`;
    if (body.scrollTop > (to - from) * ROW) body.scrollTop = 0;
  }
  if (table.follows && view.selected >= 0) showInTable(view.selected);
  buildRows(body.scrollTop, body.clientHeight);
}

/** Scrolls to a row, if it is in view. @param {number} row */
function showInTable(row) {
  const time = report.rows.time, body = byId("table-body");
  let i = firstNotBefore((k) => time[view.rows[k]], table.from, table.to, time[row]);
  while (i < table.to && view.rows[i] !== row) i++;
  if (i >= table.to) return;
  table.cursor = table.by > 0 ? i - table.from : table.to - 1 - i;
  const top = table.cursor * ROW;
  if (top < body.scrollTop || top + ROW > body.scrollTop + body.clientHeight) body.scrollTop = Math.max(0, top - body.clientHeight / 2);
}

/** The row at a place of the table. @param {number} k */
const tableRow = (k) => view.rows[table.by > 0 ? table.from + k : table.to - 1 - k];

/** @param {number} scroll @param {number} height */
function buildRows(scroll, height) {
  const n = table.to - table.from, first = Math.max(0, Math.floor(scroll / ROW) - 4), last = Math.min(n, Math.ceil((scroll + height) / ROW) + 4);
  const key = [first, last, view.selected, table.cursor, table.by, clock.local].join();
  if (key === table.built) return;
  table.built = key;
  const rows = [];
  for (let k = first; k < last; k++) rows.push(rowElement(k));
  const box = byId("table-rows");
  box.style.transform = `translateY(${first * ROW}px)`;
  box.replaceChildren(...rows);
  byId("table-empty").hidden = n > 0;
  byId("table").setAttribute("aria-activedescendant", table.cursor >= first && table.cursor < last ? `row-${table.cursor}` : "");
}

/** @param {number} k */
function rowElement(k) {
  const r = report.rows, row = tableRow(k), s = report.sessions[r.session[row]], i = report.issuances[r.issuance[row] - 1];
  const cell = (/** @type {string} */ name, /** @type {string} */ text, /** @type {Node|null} */ mark = null) => el("div", { role: "gridcell", class: name, title: text.length > 24 ? shorten(text, 300) : null }, mark, shorten(text, 160));
  return el("div", { role: "row", id: `row-${k}`, class: `tr${k === table.cursor ? " cursor" : ""}${row === view.selected ? " selected" : ""}${r.found[row] ? " found" : ""}`, "aria-rowindex": k + 2, "aria-selected": row === view.selected ? "true" : "false", "data-row": row },
    cell("time", `${dateText(r.time[row]).slice(5)} ${timeText(r.time[row])}`),
    cell("who", s.role, null), cell("session", fitId(s.id)),
    cell("what", rowTitle(row), markElementOnce(r.class[row])),
    cell("credential", i ? i.credential : ""), cell("outcome", rowOutcome(row)), cell("route", r.route(row)), cell("seq", count(r.seq[row])));
}

/** A session's id is told apart by its end. @param {string} id */
const fitId = (id) => shorten(id, 18);

/** @type {ImageBitmap[]|HTMLCanvasElement[]} */
let smallMarks = [];

/** A mark that is copied, not drawn. @param {number} cls */
function markElementOnce(cls) {
  const made = smallMarks[cls] || (smallMarks[cls] = markElement(cls));
  const copy = /** @type {HTMLCanvasElement} */ (made.cloneNode());
  copy.getContext("2d")?.drawImage(/** @type {any} */ (made), 0, 0);
  return copy;
}

/** @param {number} to */
function moveCursor(to) {
  const body = byId("table-body"), n = table.to - table.from;
  table.cursor = clamp(to, 0, Math.max(0, n - 1));
  const top = table.cursor * ROW;
  if (top < body.scrollTop) body.scrollTop = top;
  else if (top + ROW > body.scrollTop + body.clientHeight) body.scrollTop = top + ROW - body.clientHeight;
  buildRows(body.scrollTop, body.clientHeight);
}

/** @param {KeyboardEvent} e */
function tableKey(e) {
  if (e.target instanceof HTMLButtonElement) return;
  const page = Math.max(1, Math.floor(byId("table-body").clientHeight / ROW) - 1);
  const to = { ArrowDown: table.cursor + 1, ArrowUp: table.cursor - 1, PageDown: table.cursor + page, PageUp: table.cursor - page, Home: 0, End: table.to - table.from - 1 }[e.key];
  if (to !== undefined) {
    e.preventDefault();
    moveCursor(to);
  } else if (e.key === "Enter" && table.to > table.from) {
    e.preventDefault();
    select(tableRow(table.cursor));
    byId("panel").focus();
  }
}

function listenToTable() {
  const body = byId("table-body");
  body.addEventListener("scroll", () => buildRows(body.scrollTop, body.clientHeight));
  for (const moves of ["wheel", "pointerdown", "keydown"]) byId("table").addEventListener(moves, () => { table.follows = false; }, { passive: true });
  byId("table").addEventListener("keydown", tableKey);
  body.addEventListener("click", (e) => {
    const line = /** @type {HTMLElement} */ (e.target).closest("[data-row]");
    if (!line) return;
    table.cursor = Number(line.getAttribute("aria-rowindex")) - 2;
    select(Number(/** @type {HTMLElement} */ (line).dataset.row));
  });
  byId("sort").addEventListener("click", () => {
    table.by = -table.by;
    table.cursor = 0;
    body.scrollTop = 0;
    byId("sort").parentElement.setAttribute("aria-sort", table.by > 0 ? "ascending" : "descending");
    byId("sort-arrow").textContent = table.by > 0 ? "▲" : "▼";
    buildRows(0, body.clientHeight);
  });
}

let counting = 0;

/** Says how much matches and is in view: at once to the eye, when it rests to the ear. */
function updateCounts() {
  const all = report.rows.n, n = view.rows.length, [from, to] = [table.from, table.to];
  byId("counts").textContent = `${n === all ? plural(all, "record") : `${count(n)} of ${plural(all, "record")}`} · ${count(to - from)} in view`;
  clearTimeout(counting);
  counting = setTimeout(() => { if (byId("said").dataset.filter !== byId("filter").value) { byId("said").dataset.filter = byId("filter").value; say(`${n === all ? "all" : count(n)} of ${plural(all, "record")} match`); } }, 600);
}
