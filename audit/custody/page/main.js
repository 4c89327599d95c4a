// Starts the page.

let filtering = 0;

/** @param {string} text */
function setFilter(text) {
  byId("filter").value = text;
  applyFilter();
}

function applyFilter() {
  clearTimeout(filtering);
  byId("clear").hidden = byId("filter").value === "";
  markLegend();
  showRows(search(byId("filter").value));
  drawDensity();
}

/** The themes, in the order of the button; "" is the system's. */
const THEMES = [["", "Auto"], ["light", "Light"], ["dark", "Dark"]];

/** @param {string} theme */
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = wordFor(Object.fromEntries(THEMES), theme);
  paint();
}

/** Draws everything anew, as its colours or its times changed. */
function paint() {
  readInk();
  ink.hatched = "";
  smallMarks = [];
  for (const mark of document.querySelectorAll("canvas.mark")) mark.dispatchEvent(new Event("ink"));
  table.built = "";
  drawDensity();
  redraw();
}

function setClock() {
  clock.local = !clock.local;
  byId("clock").textContent = clock.local ? "Local time" : "UTC";
  byId("clock").setAttribute("aria-pressed", String(clock.local));
  fillFindings();
  fillInputs();
  fillHeader();
  if (view.selected >= 0 && !byId("panel").hidden) showRecord(view.selected);
  paint();
}

function fillHeader() {
  byId("generated").textContent = report.generated ? `Generated ${fullTime(report.generated, 0)}` : "";
}

function listen() {
  listenToPlot();
  listenToOverview();
  listenToTable();
  document.addEventListener("keydown", pageKey);
  byId("filter").addEventListener("input", () => {
    clearTimeout(filtering);
    filtering = setTimeout(applyFilter, report.rows.n > 20000 ? 120 : 20);
  });
  byId("filter").addEventListener("keydown", (e) => { if (e.key === "Enter") { applyFilter(); byId("lanes").focus(); } });
  byId("clear").addEventListener("click", () => { setFilter(""); byId("filter").focus(); });
  byId("theme").addEventListener("click", () => {
    const at = THEMES.findIndex(([t]) => t === (document.documentElement.dataset.theme || ""));
    setTheme(THEMES[(at + 1) % THEMES.length][0]);
  });
  byId("clock").addEventListener("click", setClock);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("fit").addEventListener("click", () => glideTo(report.from, report.to));
  byId("nearer").addEventListener("click", () => zoom(1 / 2));
  byId("farther").addEventListener("click", () => zoom(2));
  byId("fold").addEventListener("click", () => {
    const open = view.shown.some((lane) => !lane.open);
    for (const lane of view.lanes) lane.open = open;
    placeAll();
  });
  byId("panel-close").addEventListener("click", closePanel);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  new ResizeObserver(resize).observe(byId("lanes"));
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
}

const PRINTED = 200;

/** Prints in light colours, with the beginning of the table. @param {boolean} on */
function print(on) {
  const root = document.documentElement;
  if (on) root.dataset.before = root.dataset.theme || "";
  root.dataset.theme = on ? "light" : root.dataset.before || "";
  readInk();
  ink.hatched = "";
  table.built = "";
  if (!on) return resize();
  byId("plot").height = Math.round((view.height = Math.min(view.tall + AXIS, view.width * 0.6)) * view.dpr);
  drawDensity();
  drawAll();
  buildRows(0, (PRINTED - 4) * ROW);
  byId("print-note").textContent = table.to - table.from > PRINTED ? `The first ${PRINTED} of ${plural(table.to - table.from, "record")} in view.` : "";
}

/** For tests and the console: what is drawn where. Read only. */
function inspect() {
  return Object.freeze({
    rows: () => report.rows.n,
    view: () => ({ from: view.from, to: view.to, matched: view.rows.length, lanes: view.shown.length, selected: view.selected }),
    place: (/** @type {number} */ row) => { const p = placeOf(row); return p && { x: p.x, y: p.y }; },
    show: (/** @type {number} */ from, /** @type {number} */ to) => showTimes(from, to),
    time: (/** @type {number} */ row) => report.rows.time[row],
    at: (/** @type {number} */ x, /** @type {number} */ y) => { const t = thingAt(x, y); return { kind: t.kind, row: t.row ?? -1 }; },
    draw: () => { const began = performance.now(); drawAll(); return performance.now() - began; },
  });
}

async function start() {
  try {
    await load();
  } catch (err) {
    document.body.classList.remove("loading");
    byId("loading").textContent = `The data of this page cannot be read: ${/** @type {Error} */ (err).message}`;
    return;
  }
  readInk();
  view.lanes = makeLanes();
  view.rows = report.rows.byTime;
  view.from = report.from;
  view.to = report.to;
  fillHeader();
  fillRail();
  fillLegend();
  byId("loading").remove();
  document.body.classList.remove("loading");
  byId("fold").hidden = report.sessions.length < 2;
  resize();
  listen();
  applyFilter();
  Object.defineProperty(window, "custody", { value: inspect() });
}

start();
