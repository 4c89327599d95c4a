// Mouse, touch and keys on the timeline.

/** The fingers on the plot. @type {Map<number, {x: number, y: number}>} */
const fingers = new Map();

/** What a drag began with. @type {any} */
let grip = null;

function listenToPlot() {
  const box = byId("lanes"), plot = byId("plot");
  plot.addEventListener("wheel", (e) => {
    if (e.offsetX < LABEL) return; // over the labels it scrolls the lanes
    e.preventDefault();
    if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) pan((e.deltaX || e.deltaY) / view.width);
    else zoom((e.ctrlKey ? 1.01 : 1.0018) ** (e.deltaMode === 1 ? e.deltaY * 18 : e.deltaY), timeAt(e.offsetX));
  }, { passive: false });
  box.addEventListener("scroll", () => { view.scroll = box.scrollTop; redraw(); });
  plot.addEventListener("pointerdown", pointerDown);
  plot.addEventListener("pointermove", pointerMove);
  plot.addEventListener("pointerup", pointerUp);
  plot.addEventListener("pointercancel", () => { fingers.clear(); grip = null; });
  plot.addEventListener("pointerleave", () => { view.mouse = null; byId("tip").hidden = true; redraw(); });
  plot.addEventListener("dblclick", (e) => { if (e.offsetX > LABEL && thingAt(e.offsetX, e.offsetY).kind !== "row") zoom(1 / 3, timeAt(e.offsetX)); });
  box.addEventListener("keydown", plotKey);
}

/** @param {PointerEvent} e */
function pointerDown(e) {
  if (e.button !== 0) return;
  byId("plot").setPointerCapture(e.pointerId);
  fingers.set(e.pointerId, { x: e.offsetX, y: e.offsetY });
  cancelAnimationFrame(moving);
  grip = { x: e.offsetX, y: e.offsetY, from: view.from, to: view.to, scroll: view.scroll, moved: false, band: e.shiftKey, label: e.offsetX < LABEL, apart: spread() };
}

/** How far apart two fingers are; 0 if there are not two. */
function spread() {
  const [a, b] = fingers.values();
  return a && b ? Math.max(20, Math.abs(a.x - b.x)) : 0;
}

/** @param {PointerEvent} e */
function pointerMove(e) {
  view.mouse = { x: e.offsetX, y: e.offsetY };
  if (fingers.has(e.pointerId)) fingers.set(e.pointerId, { x: e.offsetX, y: e.offsetY });
  if (!grip) {
    showTip(e.offsetX, e.offsetY);
    return redraw();
  }
  const dx = e.offsetX - grip.x, dy = e.offsetY - grip.y;
  if (Math.abs(dx) + Math.abs(dy) > 4) grip.moved = true;
  if (!grip.moved) return;
  byId("tip").hidden = true;
  const apart = spread();
  if (apart && grip.apart) {
    const about = grip.from + (grip.x - LABEL) / (view.width - LABEL) * (grip.to - grip.from), factor = grip.apart / apart;
    showTimes(about - (about - grip.from) * factor, about + (grip.to - about) * factor);
  } else if (grip.band) {
    view.band = [Math.max(LABEL, grip.x), Math.max(LABEL, e.offsetX)];
    redraw();
  } else {
    byId("lanes").scrollTop = grip.scroll - dy;
    if (!grip.label) {
      const d = dx / view.scale;
      showTimes(grip.from - d, grip.to - d);
    }
  }
}

/** @param {PointerEvent} e */
function pointerUp(e) {
  const g = grip;
  fingers.delete(e.pointerId);
  grip = null;
  if (view.band) {
    const [a, b] = view.band.map(timeAt).sort((x, y) => x - y);
    view.band = null;
    glideTo(a, b);
  } else if (g && !g.moved) click(e.offsetX, e.offsetY);
}

/** @param {number} x @param {number} y */
function click(x, y) {
  byId("tip").hidden = true;
  const thing = thingAt(x, y);
  switch (thing.kind) {
    case "label":
      if (x < 26) toggleLane(thing.lane);
      else selectLane(thing.lane);
      break;
    case "row":
      select(thing.row);
      break;
    case "finding":
      showFinding(thing.finding);
      break;
    case "many":
      zoomTo(thing);
      break;
    default:
      closePanel();
  }
}

/** Goes nearer to a place with many records, or to the first of them if nothing is nearer. @param {any} thing */
function zoomTo(thing) {
  const r = report.rows, per = BIN / view.scale, start = report.from + (thing.bin + view.firstBin) * per;
  const rows = thing.track.rows, first = firstNotBefore((k) => r.time[rows[k]], 0, rows.length, start);
  const a = r.time[rows[first]], b = r.time[rows[Math.min(rows.length - 1, first + thing.total - 1)]];
  if (b - a < 20 || view.to - view.from <= SHORTEST_SPAN * 2) return select(thing.row);
  const room = Math.max((b - a) * 0.6, SHORTEST_SPAN);
  glideTo(a - room, b + room);
}

/** @param {any} lane */
function toggleLane(lane) {
  lane.open = !lane.open;
  placeAll();
}

/** @param {any} lane */
function selectLane(lane) {
  view.lane = lane;
  view.selected = -1;
  showSession(lane.session);
  say(`Session ${sessionTitle(lane.session)}, ${plural(lane.session.records, "record")}`);
  redraw();
}

/** @param {number} by */
function moveLane(by) {
  if (!view.shown.length) return;
  const at = view.shown.indexOf(view.lane);
  const lane = view.shown[clamp(at < 0 ? 0 : at + by, 0, view.shown.length - 1)];
  const box = byId("lanes");
  box.scrollTop = clamp(box.scrollTop, lane.y + lane.h - (view.height - AXIS), lane.y);
  view.lane = lane;
  view.selected = -1;
  say(`Session ${sessionTitle(lane.session)}, ${plural(lane.session.records, "record")}`);
  redraw();
}

/** Selects the next record of the lane, or of all if none is chosen. @param {number} by */
function moveRow(by) {
  const r = report.rows, rows = view.rows, mine = (/** @type {number} */ row) => !view.lane || r.session[row] === view.lane.session.index;
  let i = view.selected >= 0 ? rows.indexOf(view.selected) + by : by > 0 ? rowsInView()[0] : rowsInView()[1] - 1;
  while (i >= 0 && i < rows.length && !mine(rows[i])) i += by;
  if (i < 0 || i >= rows.length) return;
  view.selected = rows[i];
  view.time = 0;
  bringIntoView(rows[i]);
  if (!byId("panel").hidden) showRecord(rows[i]);
  say(`${timeText(r.time[rows[i]])} ${rowTitle(rows[i])}: ${rowOutcome(rows[i])}`);
  redraw();
}

/** @param {KeyboardEvent} e */
function plotKey(e) {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const keys = {
    ArrowLeft: () => e.shiftKey ? moveRow(-1) : pan(-0.15),
    ArrowRight: () => e.shiftKey ? moveRow(1) : pan(0.15),
    ArrowUp: () => moveLane(-1),
    ArrowDown: () => moveLane(1),
    "+": () => zoom(1 / 1.4), "=": () => zoom(1 / 1.4), "-": () => zoom(1.4), _: () => zoom(1.4),
    n: () => moveRow(1), p: () => moveRow(-1),
    Home: () => glideTo(report.from, report.to),
    " ": () => { if (view.lane) toggleLane(view.lane); },
    Enter: () => {
      if (view.selected >= 0) select(view.selected);
      else if (view.lane) selectLane(view.lane);
      if (!byId("panel").hidden) byId("panel").focus();
    },
  };
  if (!Object.hasOwn(keys, e.key)) return;
  e.preventDefault();
  keys[e.key]();
}

/** Keys that work everywhere. @param {KeyboardEvent} e */
function pageKey(e) {
  const typing = e.target instanceof HTMLInputElement;
  if (e.key === "/" && !typing) {
    e.preventDefault();
    byId("filter").focus();
    byId("filter").select();
  } else if (e.key === "Escape") {
    if (byId("help").open) return;
    if (!byId("panel").hidden) closePanel();
    else if (byId("filter").value) setFilter("");
    if (typing) byId("lanes").focus();
  } else if (e.key === "?" && !typing) {
    byId("help").showModal();
  }
}

/** @param {number} x @param {number} y */
function showTip(x, y) {
  const tip = byId("tip"), thing = thingAt(x, y);
  byId("plot").style.cursor = thing.kind === "row" || thing.kind === "many" || thing.kind === "label" || thing.kind === "finding" ? "pointer" : "default";
  const lines = thing.kind === "row" ? rowTip(thing.row) : thing.kind === "many" ? manyTip(thing) : thing.kind === "label" ? laneTip(thing.lane)
    : thing.kind === "finding" ? [el("div", { class: "tip-alarm" }, wordFor(CODES, thing.finding.code)), el("div", { class: "tip-more" }, thing.finding.what)] : null;
  tip.hidden = !lines;
  if (!lines) return;
  tip.replaceChildren(...lines);
  const w = tip.offsetWidth, h = tip.offsetHeight, box = byId("plot").getBoundingClientRect();
  tip.style.left = `${clamp(box.left + x + (x > view.width * 0.65 ? -w - 14 : 14), 4, innerWidth - w - 4)}px`;
  tip.style.top = `${clamp(box.top + y + 16, 4, innerHeight - h - 4)}px`;
}

/** @param {number} row */
function rowTip(row) {
  const r = report.rows, i = report.issuances[r.issuance[row] - 1];
  const lines = [
    el("div", { class: "tip-head" }, markElement(r.class[row]), shorten(rowTitle(row), 90)),
    el("div", { class: "tip-more" }, [rowOutcome(row), r.duration[row] ? duration(r.duration[row]) : "", `record ${count(r.seq[row])}`].filter(Boolean).join(" · ")),
    el("div", { class: "tip-more" }, fullTime(r.time[row], 3)),
  ];
  if (i) lines.push(el("div", { class: "tip-more" }, `${shorten(i.credential, 40)} · issued ${timeText(i.issued, 0)}`));
  if (r.found[row]) lines.push(el("div", { class: "tip-alarm" }, ...report.findings.filter((f) => f.row === row).slice(0, 3).map((f) => el("div", {}, wordFor(CODES, f.code)))));
  return lines;
}

/** @param {any} thing */
function manyTip(thing) {
  const list = [], per = BIN / view.scale, from = report.from + (thing.bin + view.firstBin) * per;
  for (let c = 0; c < FOUND; c++) {
    const n = thing.track.counts[thing.bin * WIDTH + c];
    if (n) list.push(el("div", { class: "tip-row" }, markElement(c), CLASSES[c][1], el("b", {}, count(n))));
  }
  return [el("div", { class: "tip-head" }, plural(thing.total, "record")), el("div", { class: "tip-more" }, `${timeText(from)} + ${duration(per)}`), ...list, el("div", { class: "tip-more" }, "click to look closer")];
}

/** @param {any} lane */
function laneTip(lane) {
  const s = lane.session;
  return [
    el("div", { class: "tip-head" }, s.role || "(no role)"), el("div", { class: "tip-more mono" }, s.id),
    el("div", { class: "tip-more" }, `${s.requester || "no requester"} · ${s.attribution || "no attribution"}`),
    el("div", { class: "tip-more" }, `${plural(s.records, "record")} · ${plural(s.issuances.length, "issuance")} · ${plural(s.findings, "finding")}`),
  ];
}
