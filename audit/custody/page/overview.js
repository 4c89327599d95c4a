// The overview: how many records there were over the whole time, and the brush over what is in view.

const OVER_BIN = 3, OVER_LEFT = 12;

/** The overview's picture without its brush. @type {HTMLCanvasElement} */
const density = document.createElement("canvas");
/** @type {{from: number, to: number, width: number, height: number}} */
const over = { from: 0, to: 1, width: 0, height: 0 };

function sizeOverview() {
  const box = byId("overview-box"), canvas = byId("overview");
  over.width = box.clientWidth;
  over.height = box.clientHeight;
  for (const c of [canvas, density]) {
    c.width = Math.round(over.width * view.dpr);
    c.height = Math.round(over.height * view.dpr);
  }
  canvas.style.width = `${over.width}px`;
  canvas.style.height = `${over.height}px`;
  over.from = report.from;
  over.to = report.to;
  drawDensity();
}

/** @param {number} t */
const overX = (t) => OVER_LEFT + (t - over.from) / (over.to - over.from) * (over.width - 2 * OVER_LEFT);
/** @param {number} x */
const overTime = (x) => over.from + (x - OVER_LEFT) / (over.width - 2 * OVER_LEFT) * (over.to - over.from);

/** Draws how many of the rows that match there are, by class. */
function drawDensity() {
  if (!over.width || !view.rows) return;
  const c = /** @type {CanvasRenderingContext2D} */ (density.getContext("2d"));
  c.setTransform(view.dpr, 0, 0, view.dpr, 0, 0);
  c.clearRect(0, 0, over.width, over.height);
  const r = report.rows, bins = Math.ceil((over.width - 2 * OVER_LEFT) / OVER_BIN) + 1, n = CLASSES.length;
  const counts = new Uint32Array(bins * n), totals = new Uint32Array(bins);
  const per = (over.width - 2 * OVER_LEFT) / (over.to - over.from) / OVER_BIN;
  for (const row of view.rows) {
    const bin = clamp(Math.floor((r.time[row] - over.from) * per), 0, bins - 1);
    counts[bin * n + r.class[row]]++;
    totals[bin]++;
  }
  const most = totals.reduce((a, b) => Math.max(a, b), 1), floor = over.height - 16, high = floor - 12;
  for (let bin = 0; bin < bins; bin++) {
    if (!totals[bin]) continue;
    const x = OVER_LEFT + bin * OVER_BIN, full = Math.max(3, high * Math.sqrt(totals[bin] / most));
    let y = floor, room = full;
    for (let k = 0; k < n; k++) if (counts[bin * n + k]) room -= IS_GRAVE[k];
    for (let k = 0; k < n; k++) {
      const m = counts[bin * n + k];
      if (!m) continue;
      const part = IS_GRAVE[k] + Math.max(0, room) * m / totals[bin];
      c.fillStyle = ink.c[k];
      c.fillRect(x, y - part, OVER_BIN - 0.6, part);
      y -= part;
    }
  }
  c.fillStyle = ink["--line"];
  c.fillRect(OVER_LEFT, floor, over.width - 2 * OVER_LEFT, 1);
  drawOverTicks(c, floor);
  drawOverPins(c);
}

/** @param {CanvasRenderingContext2D} c @param {number} floor */
function drawOverTicks(c, floor) {
  const { step, list } = ticks(over.from, over.to, over.width);
  c.font = `10px ${ink.sans}`;
  c.fillStyle = ink["--faint"];
  c.textAlign = "center";
  c.textBaseline = "middle";
  for (const t of list) {
    const half = c.measureText(tickText(t, step)).width / 2, x = overX(t);
    if (x - half > 2 && x + half < over.width - 2) c.fillText(tickText(t, step), x, floor + 9);
  }
}

/** @param {CanvasRenderingContext2D} c */
function drawOverPins(c) {
  c.fillStyle = ink["--alarm"];
  let last = -Infinity;
  const times = report.findings.map((f) => f.time).filter(Boolean).sort((a, b) => a - b);
  for (const t of times) {
    const x = overX(t);
    if (x - last < 3) continue;
    last = x;
    c.beginPath();
    polygon(c, [[x - 4, 1], [x + 4, 1], [x, 8]]);
    c.fill();
  }
}

/** Draws the overview with the brush. */
function drawBrush() {
  const c = byId("overview").getContext("2d");
  c.setTransform(1, 0, 0, 1, 0, 0);
  c.clearRect(0, 0, density.width, density.height);
  if (!density.width) return;
  c.drawImage(density, 0, 0);
  c.setTransform(view.dpr, 0, 0, view.dpr, 0, 0);
  const a = clamp(overX(view.from), 0, over.width), b = clamp(overX(view.to), 0, over.width);
  const h = over.height - 16;
  c.fillStyle = ink["--panel"];
  c.globalAlpha = 0.66;
  c.fillRect(0, 0, a, h);
  c.fillRect(b, 0, over.width - b, h);
  c.globalAlpha = 1;
  c.strokeStyle = ink["--accent"];
  c.lineWidth = 1.5;
  c.beginPath();
  c.roundRect(a + 0.75, 0.75, Math.max(3, b - a - 1.5), h - 1.5, 3);
  c.stroke();
  c.fillStyle = ink["--accent"];
  for (const x of [a, b]) {
    c.beginPath();
    c.roundRect(clamp(x - 2.5, 0, over.width - 5), h / 2 - 9, 5, 18, 2.5);
    c.fill();
  }
}

/** What of the brush is at x: "from", "to", "inside" or "outside". @param {number} x */
function brushAt(x) {
  const a = overX(view.from), b = overX(view.to);
  if (b - a > 24 || x < a || x > b) {
    if (Math.abs(x - a) < 7) return "from";
    if (Math.abs(x - b) < 7) return "to";
  }
  return x > a && x < b ? "inside" : "outside";
}

/** Lets the brush be dragged, by an end or whole, and made anew. */
function listenToOverview() {
  const canvas = byId("overview");
  /** @type {{part: string, x: number, from: number, to: number}|null} */
  let held = null;
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    held = { part: brushAt(e.offsetX), x: e.offsetX, from: view.from, to: view.to };
  });
  canvas.addEventListener("pointermove", (e) => {
    const part = held ? held.part : brushAt(e.offsetX);
    canvas.style.cursor = part === "inside" ? held ? "grabbing" : "grab" : part === "outside" ? "crosshair" : "ew-resize";
    if (!held) return;
    const t = overTime(e.offsetX), moved = t - overTime(held.x);
    if (held.part === "inside") showTimes(held.from + moved, held.to + moved);
    else if (held.part === "from") showTimes(Math.min(t, held.to - SHORTEST_SPAN), held.to);
    else if (held.part === "to") showTimes(held.from, Math.max(t, held.from + SHORTEST_SPAN));
    else if (Math.abs(e.offsetX - held.x) > 3) showTimes(Math.min(t, overTime(held.x)), Math.max(t, overTime(held.x)));
  });
  canvas.addEventListener("pointerup", (e) => {
    if (held && held.part === "outside" && Math.abs(e.offsetX - held.x) <= 3) {
      const t = overTime(e.offsetX), half = (view.to - view.from) / 2;
      glideTo(t - half, t + half);
    }
    held = null;
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    zoom(1.0018 ** e.deltaY, clamp(overTime(e.offsetX), view.from, view.to));
  }, { passive: false });
}
