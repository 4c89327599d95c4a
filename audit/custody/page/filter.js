// The filter: words and key:value. Different keys must all hold, of the same key one must.

/** The keys, and the rows' columns or the way in which each is looked up. */
const KEYS = {
  role: bySession("role"), session: bySession("id"), requester: bySession("requester"), pod: bySession("pod"),
  credential: byIssuance("credential"), issuance: byIssuance("id"), source: byIssuance("kind"),
  lease: anyOf(byColumn("lease"), byIssuance("lease")),
  request: anyOf(byColumn("request"), byIssuance("request")),
  host: byColumn("host"), method: exactColumn("method"), path: anyOf(byColumn("path"), byColumn("sent"), byColumn("hmac")),
  route: byColumn("route"), reason: byColumn("reason"), error: byColumn("error"), event: byColumn("event"), by: byColumn("by"),
  status: byStatus, seq: bySeq, finding: byFinding, is: byClass,
};

/** What a word is looked for in. */
const ANYWHERE = ["role", "session", "requester", "credential", "issuance", "lease", "request", "host", "path", "route", "reason", "error", "event", "by"];

/** @typedef {(row: number) => boolean} Test */

/** Splits text into terms: words, key:value, "quoted values", and - before each.
 * @param {string} text @returns {{key: string, value: string, not: boolean}[]} */
function terms(text) {
  const list = [];
  for (const m of text.matchAll(/(-?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))/gi)) {
    const key = (m[2] || "").toLowerCase();
    let value = (m[3] ?? m[4]).toLowerCase();
    const known = Object.hasOwn(KEYS, key);
    if (key && !known) value = `${key}:${value}`;
    if (value) list.push({ key: known ? key : "", value, not: m[1] === "-" });
  }
  return list;
}

/** @param {string} text @returns {Test|null} null: everything matches */
function compile(text) {
  const must = [], groups = new Map();
  for (const { key, value, not } of terms(text)) {
    const test = key ? KEYS[key](value) : anywhere(value);
    if (not) must.push((/** @type {number} */ row) => !test(row));
    else if (!key) must.push(test);
    else groups.set(key, [...(groups.get(key) || []), test]);
  }
  for (const tests of groups.values()) must.push(tests.length === 1 ? tests[0] : (/** @type {number} */ row) => tests.some((t) => t(row)));
  return must.length === 0 ? null : (row) => must.every((t) => t(row));
}

/** The rows that match, in the order of time. @param {string} text @returns {Uint32Array} */
function search(text) {
  const test = compile(text), all = report.rows.byTime;
  if (!test) return all;
  const found = new Uint32Array(all.length);
  let n = 0;
  for (const row of all) if (test(row)) found[n++] = row;
  return found.subarray(0, n);
}

/** Which different strings of a column hold value. @param {Column} column @param {(s: string) => boolean} holds @returns {Test} */
function columnTest(column, holds) {
  const { index, list } = column;
  const hits = new Uint8Array(list.length);
  let any = false;
  for (let i = 0; i < list.length; i++) if (list[i] && holds(list[i].toLowerCase())) { hits[i] = 1; any = true; }
  if (!any) return () => false;
  return index ? (row) => hits[index[row]] === 1 : (row) => hits[row] === 1;
}

/** @param {string} name */
function byColumn(name) {
  return (/** @type {string} */ value) => columnTest(report.rows.str(name), (s) => s.includes(value));
}

/** @param {string} name */
function exactColumn(name) {
  return (/** @type {string} */ value) => columnTest(report.rows.str(name), (s) => s === value);
}

/** @param {string} field */
function bySession(field) {
  return (/** @type {string} */ value) => {
    const hits = report.sessions.map((s) => s[field].toLowerCase().includes(value));
    return (/** @type {number} */ row) => hits[report.rows.session[row]];
  };
}

/** @param {string} field */
function byIssuance(field) {
  return (/** @type {string} */ value) => {
    const hits = report.issuances.map((i) => i[field].toLowerCase().includes(value));
    return (/** @type {number} */ row) => report.rows.issuance[row] > 0 && hits[report.rows.issuance[row] - 1];
  };
}

/** @param {...((value: string) => Test)} makers */
function anyOf(...makers) {
  return (/** @type {string} */ value) => {
    const tests = makers.map((m) => m(value));
    return (/** @type {number} */ row) => tests.some((t) => t(row));
  };
}

/** @param {string} value @returns {Test} */
function anywhere(value) {
  return anyOf(...ANYWHERE.map((key) => KEYS[key]), byColumn("detail"))(value);
}

/** "5xx", "404", ">=500", "<400". @param {string} value @returns {Test} */
function byStatus(value) {
  const status = report.rows.status;
  const m = /^(>=|<=|>|<)?(\d)(\d\d|xx)$/.exec(value);
  if (!m) return () => false;
  const lo = Number(m[2] + m[3].replace("xx", "00")), hi = m[3] === "xx" ? lo + 99 : lo;
  switch (m[1]) {
    case ">=": return (row) => status[row] >= lo;
    case "<=": return (row) => status[row] > 0 && status[row] <= hi;
    case ">": return (row) => status[row] > hi;
    case "<": return (row) => status[row] > 0 && status[row] < lo;
  }
  return (row) => status[row] >= lo && status[row] <= hi;
}

/** @param {string} value @returns {Test} */
function bySeq(value) {
  const n = Number(value);
  return (row) => report.rows.seq[row] === n || (report.rows.outcome[row] === n && n > 0);
}

/** @param {string} value a code's part, or "any" @returns {Test} */
function byFinding(value) {
  const rows = new Set();
  for (const f of report.findings) if (f.row >= 0 && (value === "any" || f.code.includes(value))) rows.add(f.row);
  return (row) => rows.has(row);
}

/** @param {string} value @returns {Test} */
function byClass(value) {
  const r = report.rows;
  const of = (/** @type {number} */ row) => report.issuances[r.issuance[row] - 1];
  switch (value) {
    case "reflected": return (row) => r.reflected[row] === 1 || r.class[row] === CLASS.reflected;
    case "unjoined": return (row) => r.class[row] === CLASS.lostCall || (r.class[row] === CLASS.issuance && standing(of(row)) === "lost");
    case "outstanding": return (row) => r.class[row] === CLASS.issuance && of(row).end === "outstanding";
    case "use": return (row) => r.kind[row] === USE;
    case "bare": return (row) => r.kind[row] === EVENT && (r.event(row) === "request.intent" || r.event(row) === "request.outcome");
    case "call": return (row) => r.kind[row] === CALL;
    case "found": return (row) => r.found[row] === 1;
  }
  const c = CLASSES.findIndex(([word]) => word === value);
  return (row) => r.class[row] === c;
}
