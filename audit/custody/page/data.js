// The report as typed arrays. A record is a row's index; "1 + index" columns have 0 for none.

const USE = 0, EVENT = 1, CALL = 2, ISSUANCE = 3;

/** A table of the report: n rows and its columns. @typedef {{n: number, num: (name: string) => Float64Array, str: (name: string) => Column}} Table */
/** A column of strings: get gives a row's, list has all different ones. @typedef {{get: (i: number) => string, index: (Uint32Array|null), list: string[]}} Column */

/** @type {any} the report; see load */
let report = null;

/** Reads the page's data. */
async function load() {
  const text = atob(byId("data").textContent.trim());
  const zip = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) zip[i] = text.charCodeAt(i);
  const raw = JSON.parse(await gunzip(zip));
  byId("data").remove();

  const strings = raw.strings.map(visible);
  /** @type {Object<string, Table>} */
  const tables = {};
  for (const [name, t] of Object.entries(raw.tables)) tables[name] = readTable(/** @type {any} */ (t), strings);
  report = { generated: raw.generated, totals: raw.totals, notes: raw.notes || [], strings, ...tables };
  readRows();
  readSessions();
  readFindings();
  readRange();
}

/** @param {{n: number, c: Object<string, {d?: number[], v?: number[], s?: number[], t?: string[]}>}} t @param {string[]} strings @returns {Table} */
function readTable(t, strings) {
  /** @type {Object<string, Float64Array>} */
  const numbers = {};
  /** @type {Object<string, Column>} */
  const texts = {};
  for (const [name, c] of Object.entries(t.c)) {
    if (c.d) {
      const values = numbers[name] = new Float64Array(t.n);
      for (let i = 0, sum = 0; i < c.d.length; i++) values[i] = sum += c.d[i];
    } else if (c.v) {
      numbers[name] = new Float64Array(t.n);
      numbers[name].set(c.v);
    } else if (c.t) {
      const list = c.t.map(visible);
      texts[name] = { get: (i) => list[i] || "", index: null, list };
    } else if (c.s) {
      const index = new Uint32Array(t.n);
      index.set(c.s);
      texts[name] = { get: (i) => strings[index[i]], index, list: strings };
    }
  }
  const zeros = new Float64Array(t.n), none = { get: () => "", index: null, list: [] };
  return { n: t.n, num: (name) => numbers[name] || zeros, str: (name) => texts[name] || none };
}

/** Names the rows' columns, classifies them, and puts them in the order of time. */
function readRows() {
  const t = report.rows, r = { n: t.n, str: t.str };
  for (const name of ["kind", "session", "time", "seq", "issuance", "call", "status", "answered", "attempts", "in", "out", "duration", "reflected", "access"]) {
    r[name] = t.num(name);
  }
  for (const name of ["event", "method", "host", "path", "sent", "hmac", "route", "request", "reason", "would", "error", "detail", "by", "lease"]) {
    r[name] = t.str(name).get;
  }
  report.rows = r;
  r.outcome = r.seq.map((seq, i) => r.answered[i] && seq + r.answered[i]);
  for (let i = 0, n = 0; i < t.n; i++) if (r.access[i]) r.access[i] = ++n; // their lines are in the order of the rows
  r.class = new Uint8Array(t.n);
  const joins = hasVaultLog();
  for (let i = 0; i < t.n; i++) r.class[i] = classify(r, i, joins);
  r.byTime = new Uint32Array(t.n);
  for (let i = 0; i < t.n; i++) r.byTime[i] = i;
  r.byTime.sort((a, b) => r.time[a] - r.time[b] || a - b);
}

/** @param {any} r @param {number} i @param {boolean} joins whether there is a log of Vault @returns {number} its class */
function classify(r, i, joins) {
  switch (r.kind[i]) {
    case CALL: return !joins || report.calls.num("vault")[r.call[i] - 1] ? CLASS.call : CLASS.lostCall;
    case ISSUANCE: return CLASS.issuance;
  }
  const event = r.event(i);
  if (event === "request.denied" || event === "connection.refused") return CLASS.denied;
  if (event === "secret.reflected") return CLASS.reflected;
  if (event.startsWith("kill.")) return CLASS.kill;
  if (event.startsWith("policy.")) return CLASS.policy;
  if (!event.startsWith("request.")) return CLASS.session;
  if (r.kind[i] === USE && !r.outcome[i]) return CLASS.indeterminate;
  if (r.error(i)) return CLASS.error;
  const status = r.status[i];
  return status >= 500 ? CLASS.c5 : status >= 400 ? CLASS.c4 : status >= 300 ? CLASS.c3 : status > 0 ? CLASS.c2 : r.kind[i] === USE ? CLASS.error : CLASS.indeterminate;
}

/** Gives each session its rows and issuances. Rows come by session, then by time. */
function readSessions() {
  const t = report.sessions, i = report.issuances, list = [];
  for (let k = 0; k < t.n; k++) {
    const s = { index: k, rows: [0, 0], issuances: [], findings: 0 };
    for (const name of ["id", "role", "requester", "attribution", "namespace", "pod", "node", "account", "version", "reason"]) s[name] = t.str(name).get(k);
    for (const name of ["began", "last", "ended", "records"]) s[name] = t.num(name)[k];
    const at = (/** @type {number} */ row) => report.rows.session[row];
    s.rows = [firstNotBefore(at, 0, report.rows.n, k), firstNotBefore(at, 0, report.rows.n, k + 1)];
    list.push(s);
  }
  report.sessions = list;
  report.issuances = Array.from({ length: i.n }, (_, k) => {
    const one = { index: k, row: -1 };
    for (const name of ["id", "credential", "kind", "path", "request", "correlation", "lease", "fingerprint", "replaces", "end", "joined"]) one[name] = i.str(name).get(k);
    for (const name of ["session", "version", "issued", "expires", "revoked", "vault", "uses"]) one[name] = i.num(name)[k];
    list[one.session].issuances.push(one);
    return one;
  });
  const r = report.rows;
  for (let row = 0; row < r.n; row++) if (r.kind[row] === ISSUANCE) report.issuances[r.issuance[row] - 1].row = row;
}

function readFindings() {
  const t = report.findings, sessions = new Map(report.sessions.map((s) => [s.id, s]));
  report.rows.found = new Uint8Array(report.rows.n);
  report.findings = Array.from({ length: t.n }, (_, k) => {
    const f = { index: k, row: t.num("row")[k] - 1, time: t.num("time")[k], seq: t.num("seq")[k], lane: -1 };
    for (const name of ["code", "session", "issuance", "where", "what", "hint"]) f[name] = t.str(name).get(k);
    if (f.row >= 0) {
      report.rows.found[f.row] = 1;
      f.time = f.time || report.rows.time[f.row];
    }
    const s = sessions.get(f.session);
    if (s) { s.findings++; f.lane = s.index; }
    return f;
  });
}

/** The times that the whole timeline shows. The end of what outlives the records may lie outside. */
function readRange() {
  let from = Infinity, to = -Infinity;
  const see = (/** @type {number} */ t) => { if (t) { from = Math.min(from, t); to = Math.max(to, t); } };
  const r = report.rows;
  if (r.n) { see(r.time[r.byTime[0]]); see(r.time[r.byTime[r.n - 1]]); }
  for (const s of report.sessions) { see(s.began); see(s.last); see(s.ended); }
  for (const f of report.findings) see(f.time);
  for (const i of report.issuances) see(i.revoked);
  if (from === Infinity) { from = report.generated - HOUR; to = report.generated; }
  const room = Math.max(to - from, SECOND);
  for (const i of report.issuances) if (i.end === "expired" && i.expires > to) to = Math.min(i.expires, from + room * 1.15);
  const margin = Math.max((to - from) * 0.02, SECOND / 2);
  report.from = from - margin;
  report.to = to + margin;
  for (const i of report.issuances) i.until = lastsUntil(i);
}

/** When an issuance's bar ends. @param {any} i */
function lastsUntil(i) {
  if (i.end === "outstanding") return report.to;
  if (i.revoked) return i.revoked;
  const s = report.sessions[i.session];
  if (i.end === "session_ended" && s.ended) return s.ended;
  return Math.max(i.issued, i.expires || s.last);
}
