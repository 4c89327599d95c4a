// What of the timeline is in view, and what is where in it.

/** @type {any} from and to are times, scale is pixels a microsecond, match is null where all rows do */
const view = { from: 0, to: 1, scale: 1, width: 0, height: 0, dpr: 1, scroll: 0, tall: 0, firstBin: 0, lanes: [], shown: [], lane: null, match: null, rows: null, selected: -1, time: 0, mouse: null, band: null };

const SHORTEST_SPAN = 200; // microseconds

/** @param {number} t */
const xOf = (t) => LABEL + (t - view.from) * view.scale;
/** @param {number} x */
const timeAt = (x) => view.from + (x - LABEL) / view.scale;

/** Shows the times between two. @param {number} from @param {number} to */
function showTimes(from, to) {
  const all = report.to - report.from, span = clamp(to - from, SHORTEST_SPAN, all * 1.2);
  const start = clamp(from, report.from - all * 0.1, report.to + all * 0.1 - span);
  view.from = start;
  view.to = start + span;
  view.scale = Math.max(1, view.width - LABEL) / span;
  redraw();
}

/** @param {number} factor below 1 is nearer @param {number} [about] the time that stays where it is */
function zoom(factor, about = (view.from + view.to) / 2) {
  const span = clamp((view.to - view.from) * factor, SHORTEST_SPAN, (report.to - report.from) * 1.2);
  const part = (about - view.from) / (view.to - view.from);
  showTimes(about - part * span, about + (1 - part) * span);
}

/** @param {number} part of what is in view */
const pan = (part) => { const d = (view.to - view.from) * part; showTimes(view.from + d, view.to + d); };

let moving = 0;

/** Goes there in a few frames, unless the reader wants no motion. @param {number} from @param {number} to */
function glideTo(from, to) {
  cancelAnimationFrame(moving);
  const a = view.from, b = view.to, began = performance.now();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return showTimes(from, to);
  const step = (/** @type {number} */ now) => {
    const t = clamp((now - began) / 220, 0, 1), e = 1 - (1 - t) ** 3;
    showTimes(a + (from - a) * e, b + (to - b) * e);
    if (t < 1) moving = requestAnimationFrame(step);
  };
  moving = requestAnimationFrame(step);
}

let waiting = false;

/** Draws at the next frame. */
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawAll();
  });
}

function drawAll() {
  drawLanes();
  drawBrush();
  updateTable();
  updateCounts();
}

/** Fits the canvases to the window. */
function resize() {
  const box = byId("lanes"), canvas = byId("plot");
  view.dpr = window.devicePixelRatio || 1;
  view.width = box.clientWidth;
  view.height = box.clientHeight;
  canvas.width = Math.round(view.width * view.dpr);
  canvas.height = Math.round(view.height * view.dpr);
  canvas.style.width = `${view.width}px`;
  canvas.style.height = `${view.height}px`;
  pen = canvas.getContext("2d");
  sprites.length = 0;
  scrollLanes();
  sizeOverview();
  showTimes(view.from, view.to);
}

/** Gives the lanes' box the height of all of them, so that it scrolls. */
function scrollLanes() {
  byId("tall").style.height = `${view.tall + AXIS}px`;
  view.scroll = byId("lanes").scrollTop;
}

/** Leaves the table the room that all lanes do not need. */
function shareRoom() {
  const tall = view.lanes.reduce((sum, lane) => sum + (lane.open ? openHeight(lane) : COMPACT), 0);
  byId("timeline").style.height = `${Math.max(260, tall + AXIS + 67 + 14)}px`;
}

/** Applies the filter's rows. @param {Uint32Array} rows */
function showRows(rows) {
  view.rows = rows;
  view.match = null;
  if (rows.length !== report.rows.n) {
    view.match = new Uint8Array(report.rows.n);
    for (const row of rows) view.match[row] = 1;
  }
  placeAll();
}

/** Places the lanes anew. */
function placeAll() {
  const { shown, height } = placeLanes(view.lanes, view.match);
  view.shown = shown;
  view.tall = height;
  if (!shown.includes(view.lane)) view.lane = null;
  byId("nothing").hidden = shown.length > 0;
  byId("nothing").textContent = report.sessions.length ? "No session has a record that matches." : "There are no sessions.";
  shareRoom();
  scrollLanes();
  redraw();
}

/** The part of what matches that is in view, as indices of view.rows. @returns {[number, number]} */
function rowsInView() {
  const time = report.rows.time, at = (/** @type {number} */ i) => time[view.rows[i]];
  const lo = firstNotBefore(at, 0, view.rows.length, view.from);
  return [lo, firstNotBefore(at, lo, view.rows.length, view.to + 0.5)];
}

/** Where a row is drawn on the canvas, or null if its lane is filtered out. @param {number} row */
function placeOf(row) {
  const r = report.rows, lane = view.lanes[r.session[row]];
  if (!lane || !view.shown.includes(lane)) return null;
  const top = AXIS + lane.y - view.scroll;
  let track = lane.whole;
  if (lane.open) {
    const i = report.issuances[r.issuance[row] - 1];
    const find = (/** @type {(t: Track) => boolean} */ is) => lane.tracks.find(is) || lane.whole;
    track = i ? find((t) => t.issuances.includes(i)) : r.kind[row] === CALL ? find((t) => t.kind === "calls") : find((t) => t.kind === "events");
  }
  const [from, h] = marksIn(track, top + track.y);
  const y = r.kind[row] === ISSUANCE ? lane.open ? from + h / 2 : from + h - 6 : from + h - MARK - 1;
  return { x: xOf(r.time[row]), y, lane };
}

/** What is at a place of the canvas. @param {number} x @param {number} y
 * @returns {{kind: string, lane?: any, finding?: any, row?: number, track?: any, bin?: number, total?: number}} */
function thingAt(x, y) {
  if (y < AXIS) return { kind: "axis" };
  const at = y - AXIS + view.scroll;
  const lane = view.shown.find((l) => at >= l.y && at < l.y + l.h);
  if (!lane) return { kind: "none" };
  if (x < LABEL) return { kind: "label", lane };
  const loose = lane.loose.find((f) => Math.abs(xOf(f.time) - x) < 6);
  if (loose && at - lane.y < 14) return { kind: "finding", finding: loose, lane };
  const track = tracksOf(lane).find((t) => at >= lane.y + t.y && at < lane.y + t.y + t.h);
  if (!track) return { kind: "lane", lane };
  const near = nearest(track, x);
  if (near) return { ...near, lane, track };
  const t = timeAt(x);
  const bar = track.issuances.findLast((i) => t >= i.issued - 3 / view.scale && t <= i.until + 3 / view.scale);
  return bar && bar.row >= 0 ? { kind: "row", row: bar.row, lane, track } : { kind: "lane", lane };
}

/** The mark or the place of many at x. @param {any} track @param {number} x */
function nearest(track, x) {
  const r = report.rows, rows = track.rows;
  const bin = Math.floor((timeAt(x) - report.from) * view.scale / BIN) - view.firstBin;
  if (track.bins.includes(bin)) {
    const total = inBin(track, bin), first = track.counts[bin * WIDTH + FOUND + 1];
    if (total > 1) return { kind: "many", row: rows[first], bin, total };
  }
  const i = firstNotBefore((k) => r.time[rows[k]], 0, rows.length, timeAt(x));
  let best = -1;
  for (const k of [i - 1, i]) {
    if (k < 0 || k >= rows.length || Math.abs(xOf(r.time[rows[k]]) - x) > 6) continue;
    if (best < 0 || Math.abs(xOf(r.time[rows[k]]) - x) < Math.abs(xOf(r.time[best]) - x)) best = rows[k];
  }
  return best < 0 ? null : { kind: "row", row: best };
}

/** Selects a row: marks it, and shows its panel. @param {number} row @param {{move?: boolean}} [how] */
function select(row, { move = false } = {}) {
  view.selected = row;
  view.time = 0;
  view.lane = view.lanes[report.rows.session[row]];
  table.follows = true;
  if (move) bringIntoView(row);
  showRecord(row);
  redraw();
}

/** @param {number} row */
function bringIntoView(row) {
  const t = report.rows.time[row], span = view.to - view.from;
  if (t < view.from + span * 0.05 || t > view.to - span * 0.05) glideTo(t - span / 2, t + span / 2);
  const place = placeOf(row);
  if (place && (place.y < AXIS + 10 || place.y > view.height - 14)) byId("lanes").scrollTop += place.y - view.height / 2;
}

/** Goes to a row wherever it is, near enough that it stands alone, and selects it. @param {number} row */
function jumpTo(row) {
  if (view.match && !view.match[row]) setFilter("");
  const r = report.rows, rows = view.rows, at = rows.indexOf(row), i = r.kind[row] === ISSUANCE && report.issuances[r.issuance[row] - 1];
  const gap = Math.min(...[at - 1, at + 1].filter((k) => k >= 0 && k < rows.length).map((k) => Math.abs(r.time[rows[k]] - r.time[row])), Infinity);
  const span = Math.min(view.to - view.from, clamp(gap * 60, (report.to - report.from) / 400, report.to - report.from));
  if (i) glideTo(i.issued - (i.until - i.issued) * 0.25, i.until + (i.until - i.issued) * 0.25);
  else glideTo(r.time[row] - span / 2, r.time[row] + span / 2);
  const place = placeOf(row);
  if (place) byId("lanes").scrollTop += place.y - view.height / 2;
  select(row);
}
