// What the other files share: elements, text, numbers, times. Data becomes text only, never markup.

/** @param {string} id @returns {any} */
const byId = (id) => document.getElementById(id);

/** Makes an element. Strings become text nodes.
 * @param {string} tag @param {Object<string, any>} [attrs] @param {...(Node|string|null|false)} children */
function el(tag, attrs = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child || child === "") node.append(child);
  return node;
}

/** Shows what a terminal or a reader would not: control characters, direction marks, what is invisible.
 * @param {string} s */
const visible = (s) => s.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\p{Cn}\u034f\u115f\u1160\u3164\uffa0]/gu,
  (c) => `\\u{${/** @type {number} */ (c.codePointAt(0)).toString(16)}}`);

/** @param {number} n */
const count = (n) => n.toLocaleString("en-US");

/** @param {number} n @param {string} one @param {string} [many] */
const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

/** Cuts the middle out of s. @param {string} s @param {number} max */
const shorten = (s, max) => s.length <= max ? s : `${s.slice(0, Math.ceil(max / 2) - 1)}…${s.slice(s.length - Math.floor(max / 2))}`;

const SECOND = 1e6, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;

/** @param {number} us microseconds */
function duration(us) {
  const a = Math.abs(us);
  if (a < 1000) return `${Math.round(us)} µs`;
  if (a < SECOND) return `${trim(us / 1000)} ms`;
  if (a < MINUTE) return `${trim(us / SECOND)} s`;
  const parts = [[DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [SECOND, "s"]];
  const first = parts.findIndex(([unit]) => a >= Number(unit));
  const [unit, name] = parts[first];
  const rest = parts[first + 1];
  const whole = Math.floor(a / Number(unit));
  const more = rest ? Math.floor((a % Number(unit)) / Number(rest[0])) : 0;
  return `${us < 0 ? "−" : ""}${whole} ${name}${more ? ` ${more} ${rest[1]}` : ""}`;
}

/** @param {number} v */
const trim = (v) => Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1).replace(/\.0$/, "") : v.toFixed(2).replace(/\.?0+$/, "");

/** @param {number} n */
function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let v = n, i = -1;
  while (v >= 1024 && i < units.length - 1) { v /= 1024; i++; }
  return `${trim(v)} ${units[i]}`;
}

/** How times are shown: UTC unless the reader wants local ones. */
const clock = { local: false };

/** @param {number} v @param {number} [n] */
const pad = (v, n = 2) => String(v).padStart(n, "0");

/** The parts of a time. @param {number} us */
function timeParts(us) {
  const d = new Date(Math.floor(us / 1000));
  const micro = ((us % SECOND) + SECOND) % SECOND;
  return clock.local
    ? { y: d.getFullYear(), mo: d.getMonth() + 1, d: d.getDate(), h: d.getHours(), mi: d.getMinutes(), s: d.getSeconds(), us: micro }
    : { y: d.getUTCFullYear(), mo: d.getUTCMonth() + 1, d: d.getUTCDate(), h: d.getUTCHours(), mi: d.getUTCMinutes(), s: d.getUTCSeconds(), us: micro };
}

/** @param {number} us */
function dateText(us) {
  const p = timeParts(us);
  return `${pad(p.y, 4)}-${pad(p.mo)}-${pad(p.d)}`;
}

/** @param {number} us @param {number} [digits] of the second's fraction */
function timeText(us, digits = 3) {
  const p = timeParts(us);
  const fraction = digits ? "." + pad(Math.floor(p.us), 6).slice(0, digits) : "";
  return `${pad(p.h)}:${pad(p.mi)}:${pad(p.s)}${fraction}`;
}

/** @param {number} us */
const zone = (us) => {
  if (!clock.local) return "UTC";
  const m = -new Date(us / 1000).getTimezoneOffset();
  return `UTC${m < 0 ? "−" : "+"}${pad(Math.floor(Math.abs(m) / 60))}:${pad(Math.abs(m) % 60)}`;
};

/** @param {number} us @param {number} [digits] */
const fullTime = (us, digits = 6) => us ? `${dateText(us)} ${timeText(us, digits)} ${zone(us)}` : "";

/** Quotes s for a shell. @param {string} s */
const shellQuote = (s) => /^[\w@%+=:,./-]+$/.test(s) ? s : `'${s.replaceAll("'", `'\\''`)}'`;

/** The first index in [lo, hi) whose time is not before t. @param {(i: number) => number} at @param {number} lo @param {number} hi @param {number} t */
function firstNotBefore(at, lo, hi, t) {
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (at(mid) < t) lo = mid + 1; else hi = mid;
  }
  return lo;
}

/** @param {number} v @param {number} lo @param {number} hi */
const clamp = (v, lo, hi) => Math.max(lo, Math.min(hi, v));

/** Copies text, by the old way where the new one is not allowed. @param {string} text */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "offscreen", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Says something to who cannot see it. @param {string} text */
const say = (text) => { byId("said").textContent = text; };
