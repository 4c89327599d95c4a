// Colours and shapes. Colours are told apart by the colour-blind too (after Okabe and Ito), and each
// class has a shape of its own.

/** @type {Object<string, string>} the theme's colours, from the style sheet */
const ink = {};

/** By class: its colour's name in the style sheet, and its shape. */
const LOOKS = [
  ["--c2", "dot"], ["--c3", "right"], ["--c4", "up"], ["--c5", "square"], ["--unknown", "ring"], ["--error", "cross"],
  ["--denied", "diamond"], ["--reflected", "star"], ["--kill", "octagon"], ["--policy", "flag"], ["--session", "post"],
  ["--call", "tick"], ["--lost", "brokenTick"], ["--bar-line", "bar"],
];

/** Reads the colours of the theme in force. */
function readInk() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["--text", "--soft", "--faint", "--line", "--grid", "--panel", "--ground", "--lane", "--accent", "--alarm", "--warn", "--good", "--bar", "--bar-line", "--bar-text",
    ...LOOKS.map(([name]) => name)]) ink[name] = style.getPropertyValue(name).trim();
  ink.sans = style.getPropertyValue("--sans").trim();
  ink.mono = style.getPropertyValue("--mono").trim();
  ink.c = LOOKS.map(([name]) => ink[name]);
  sprites.length = 0;
}

/** How each shape is drawn at 0, 0 with a radius of r. @type {Object<string, (c: CanvasRenderingContext2D, r: number) => void>} */
const SHAPES = {
  dot(c, r) { c.arc(0, 0, r * 0.92, 0, 7); c.fill(); },
  right(c, r) { polygon(c, [[-r * 0.8, -r], [r, 0], [-r * 0.8, r]]); c.fill(); },
  up(c, r) { polygon(c, [[-r * 1.1, r * 0.85], [0, -r * 1.05], [r * 1.1, r * 0.85]]); c.fill(); },
  square(c, r) { c.rect(-r * 0.9, -r * 0.9, r * 1.8, r * 1.8); c.fill(); },
  ring(c, r) { c.lineWidth = r * 0.5; c.arc(0, 0, r * 0.82, 0, 7); c.stroke(); },
  cross(c, r) { c.lineWidth = r * 0.55; c.moveTo(-r * 0.8, -r * 0.8); c.lineTo(r * 0.8, r * 0.8); c.moveTo(-r * 0.8, r * 0.8); c.lineTo(r * 0.8, -r * 0.8); c.stroke(); },
  diamond(c, r) { polygon(c, [[0, -r * 1.25], [r * 1.25, 0], [0, r * 1.25], [-r * 1.25, 0]]); c.fill(); },
  star(c, r) { polygon(c, Array.from({ length: 10 }, (_, i) => spoke(i / 10, i % 2 ? r * 0.55 : r * 1.35))); c.fill(); },
  octagon(c, r) { polygon(c, Array.from({ length: 8 }, (_, i) => spoke((i + 0.5) / 8, r * 1.2))); c.fill(); c.fillStyle = ink["--panel"]; c.fillRect(-r * 0.7, -r * 0.22, r * 1.4, r * 0.44); },
  flag(c, r) { c.fillRect(-r * 0.8, -r * 1.1, r * 0.35, r * 2.2); polygon(c, [[-r * 0.6, -r * 1.1], [r * 1.1, -r * 0.4], [-r * 0.6, r * 0.3]]); c.fill(); },
  post(c, r) { c.fillRect(-r * 0.25, -r * 1.2, r * 0.5, r * 2.4); c.fillRect(-r * 0.8, -r * 1.2, r * 1.6, r * 0.45); c.fillRect(-r * 0.8, r * 0.75, r * 1.6, r * 0.45); },
  tick(c, r) { c.fillRect(-r * 0.28, -r * 1.2, r * 0.56, r * 2.4); },
  brokenTick(c, r) { c.fillRect(-r * 0.28, -r * 1.2, r * 0.56, r * 0.9); c.fillRect(-r * 0.28, r * 0.3, r * 0.56, r * 0.9); c.fillRect(-r, -r * 0.2, r * 2, r * 0.4); },
  bar(c, r) { c.rect(-r * 1.2, -r * 0.6, r * 2.4, r * 1.2); c.fillStyle = ink["--bar"]; c.fill(); c.lineWidth = 1; c.stroke(); },
};

/** @param {number} turn @param {number} r @returns {[number, number]} */
const spoke = (turn, r) => [Math.sin(turn * 2 * Math.PI) * r, -Math.cos(turn * 2 * Math.PI) * r];

/** @param {CanvasRenderingContext2D} c @param {number[][]} points */
function polygon(c, points) {
  points.forEach(([x, y], i) => i ? c.lineTo(x, y) : c.moveTo(x, y));
  c.closePath();
}

/** @param {CanvasRenderingContext2D} c @param {number} cls @param {number} x @param {number} y @param {number} r */
function drawShape(c, cls, x, y, r) {
  c.save();
  c.translate(x, y);
  c.fillStyle = c.strokeStyle = ink.c[cls];
  c.beginPath();
  SHAPES[LOOKS[cls][1]](c, r);
  c.restore();
}

const MARK = 4, SPRITE = 16;

/** @type {HTMLCanvasElement[]} the marks, drawn once: pictures are copied faster than paths are filled */
const sprites = [];

/** Draws a mark on a timeline. @param {CanvasRenderingContext2D} c @param {number} cls @param {number} x @param {number} y */
function drawMark(c, cls, x, y) {
  let sprite = sprites[cls];
  if (!sprite) {
    const scale = window.devicePixelRatio || 1;
    sprite = document.createElement("canvas");
    sprite.width = sprite.height = Math.round(SPRITE * scale);
    const own = /** @type {CanvasRenderingContext2D} */ (sprite.getContext("2d"));
    own.scale(sprite.width / SPRITE, sprite.width / SPRITE);
    drawShape(own, cls, SPRITE / 2, SPRITE / 2, MARK);
    sprites[cls] = sprite;
  }
  c.drawImage(sprite, x - SPRITE / 2, y - SPRITE / 2, SPRITE, SPRITE);
}

/** An element with a mark in it, for legends and lists. @param {number} cls */
function markElement(cls) {
  const scale = window.devicePixelRatio || 1, canvas = el("canvas", { class: "mark", "aria-hidden": "true", width: SPRITE * scale, height: SPRITE * scale });
  const paint = () => {
    const c = canvas.getContext("2d");
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, SPRITE, SPRITE);
    drawShape(c, cls, SPRITE / 2, SPRITE / 2, MARK);
  };
  paint();
  canvas.addEventListener("ink", paint);
  return canvas;
}

/** @type {CanvasPattern|null} */
let hatchPattern = null;

/** The fill of what Vault's log does not have. @param {CanvasRenderingContext2D} c */
function hatch(c) {
  if (hatchPattern && ink.hatched) return hatchPattern;
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const t = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  t.strokeStyle = ink["--bar-line"];
  t.lineWidth = 1.2;
  for (const x of [-6, 0, 6]) { t.moveTo(x, 6); t.lineTo(x + 6, 0); }
  t.stroke();
  ink.hatched = "yes";
  return hatchPattern = c.createPattern(tile, "repeat");
}
