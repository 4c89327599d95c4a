// The axis of time.

const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5,
  SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND, 30 * SECOND,
  MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 365 * DAY,
];

/** The ticks between two times, about 110 px apart. @param {number} from @param {number} to @param {number} width */
function ticks(from, to, width) {
  const want = (to - from) / Math.max(1, width / 110);
  const step = STEPS.find((s) => s >= want) || STEPS[STEPS.length - 1];
  const shift = clock.local ? new Date(from / 1000).getTimezoneOffset() * MINUTE : 0;
  const list = [];
  for (let t = Math.ceil((from - shift) / step) * step + shift; t <= to; t += step) list.push(t);
  return { step, list };
}

/** @param {number} us @param {number} step */
function tickText(us, step) {
  const p = timeParts(us);
  if (step >= DAY || (p.h === 0 && p.mi === 0 && p.s === 0 && p.us < 1)) return dateText(us).slice(5);
  if (step >= MINUTE) return `${pad(p.h)}:${pad(p.mi)}`;
  return timeText(us, step >= SECOND ? 0 : step >= 1000 ? 3 : 6);
}

/** Draws the axis above the lanes, and lines through them.
 * @param {CanvasRenderingContext2D} c @param {number} left @param {number} width @param {number} height */
function drawAxis(c, left, width, height) {
  const { step, list } = ticks(view.from, view.to, width);
  c.font = `11px ${ink.sans}`;
  c.textAlign = "center";
  c.textBaseline = "middle";
  for (const t of list) {
    const x = Math.round(xOf(t)) + 0.5;
    c.strokeStyle = ink["--grid"];
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(x, AXIS);
    c.lineTo(x, height);
    c.stroke();
    c.fillStyle = ink["--soft"];
    const half = c.measureText(tickText(t, step)).width / 2;
    if (x - half > left && x + half < left + width) c.fillText(tickText(t, step), x, AXIS - 10);
  }
  c.fillStyle = ink["--faint"];
  c.textAlign = "left";
  c.fillText(`${dateText(view.from)} · ${duration(view.to - view.from)} in view · ${zone(view.from)}`, left + 6, 10);
}
