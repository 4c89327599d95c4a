// The words for what is shown: classes of records, findings, joins, ends.

/** A record's class, which is its colour and shape. */
const CLASS = { c2: 0, c3: 1, c4: 2, c5: 3, indeterminate: 4, error: 5, denied: 6, reflected: 7, kill: 8, policy: 9, session: 10, call: 11, lostCall: 12, issuance: 13 };

/** By class: the word after "is:", the legend's label, and what it means. */
const CLASSES = [
  ["2xx", "2xx", "answered 2xx (or 101)"],
  ["3xx", "3xx", "answered 3xx"],
  ["4xx", "4xx", "answered 4xx"],
  ["5xx", "5xx", "answered 5xx"],
  ["indeterminate", "Indeterminate", "no outcome on record: whether it reached the upstream is not known"],
  ["error", "Error", "failed, or cut off"],
  ["denied", "Denied", "refused by the policy, or a connection refused"],
  ["reflected", "Reflected", "the answer held the credential, which was masked"],
  ["kill", "Kill switch", "the kill switch was engaged or released"],
  ["policy", "Policy", "a policy was loaded or refused"],
  ["session", "Session", "the session's beginning, verification and end"],
  ["seen", "Vault call", "a call to Vault, which Vault's log has too if one was read"],
  ["unseen", "Unseen call", "a call to Vault that was not found in Vault's log"],
  ["issuance", "Issuance", "a value of a credential was issued"],
];

/** The classes that must be seen however rare they are. */
const GRAVE = [CLASS.c5, CLASS.indeterminate, CLASS.error, CLASS.denied, CLASS.reflected, CLASS.kill, CLASS.lostCall];

/** By class: 1 if it is grave. */
const IS_GRAVE = CLASSES.map((_, c) => GRAVE.includes(c) ? 1 : 0);

/** The headings of the findings' codes; a code without one is shown as it is. */
const CODES = {
  vault_unrecorded: "In Vault, not in any trail",
  use_without_issuance: "Use without issuance",
  issuance_not_in_vault: "Issuance not in Vault’s log",
  call_not_in_vault: "Call not in Vault’s log",
  issuance_mismatch: "Issuance differs from Vault’s log",
  call_mismatch: "Call differs from Vault’s log",
  trail_broken: "Trail broken",
  trail_truncated: "Trail truncated",
  vault_log_broken: "Vault’s log broken",
  access_unrecorded: "In an access log, not in any trail",
  access_missing: "Missing from the access log",
  access_mismatch: "Access log differs",
  issuance_outstanding: "Issuance outstanding",
  call_unanswered: "Call without a recorded answer",
};

const JOINS = {
  request_id: "by request id",
  correlation_id: "by correlation id",
  path_and_time: "by path and time only, the weakest way",
};

const ENDS = {
  revoked: "revoked",
  expired: "expired",
  discarded: "discarded",
  given_up: "given up: its revocation did not succeed",
  session_ended: "ended with its session",
  outstanding: "outstanding: neither revoked nor expired",
};

/** @param {Object<string, string>} words @param {string} key */
const wordFor = (words, key) => Object.hasOwn(words, key) ? words[key] : key;

/** What an issuance has in Vault's log: "joined", "lost" or "elsewhere", as it came from no Vault. @param {any} i */
const standing = (i) => i.vault ? "joined" : i.kind && i.kind !== "vault" ? "elsewhere" : "lost";

/** One line for a record. @param {number} row */
function rowTitle(row) {
  const r = report.rows;
  switch (r.kind[row]) {
    case ISSUANCE: return `issued ${report.issuances[r.issuance[row] - 1].credential}`;
    case CALL: return `Vault ${r.method(row)} ${r.path(row)}`;
  }
  const host = r.host(row);
  if (host || r.method(row)) return `${r.method(row)} ${host}${r.sent(row) || r.path(row)}`.trim();
  return [r.event(row), r.detail(row)].filter(Boolean).join(" · ");
}

/** What came of a record. @param {number} row */
function rowOutcome(row) {
  const r = report.rows;
  if (r.kind[row] === ISSUANCE) {
    const i = report.issuances[r.issuance[row] - 1];
    return i.end === "outstanding" ? "outstanding" : wordFor(ENDS, i.end).split(":")[0];
  }
  const parts = [];
  if (r.class[row] === CLASS.indeterminate) parts.push("indeterminate");
  if (r.class[row] === CLASS.denied) parts.push(r.reason(row) || "denied");
  if (r.status[row]) parts.push(String(r.status[row]));
  if (r.class[row] === CLASS.denied) return parts.join(" · ");
  if (r.reason(row)) parts.push(r.reason(row));
  if (r.error(row)) parts.push(r.error(row));
  if (r.reflected[row]) parts.push("reflected");
  if (r.kind[row] === CALL && r.class[row] === CLASS.lostCall && hasVaultLog()) parts.push("not in Vault’s log");
  if (r.would(row)) parts.push(`would deny: ${r.would(row)}`);
  return parts.join(" · ");
}

const hasVaultLog = () => hasInput(1);
const hasAccessLog = () => hasInput(2);

/** @param {number} kind of an input */
function hasInput(kind) {
  for (let i = 0; i < report.inputs.n; i++) if (report.inputs.num("kind")[i] === kind) return true;
  return false;
}

/** @param {any} s */
const sessionTitle = (s) => `${s.role || "(no role)"} · ${s.id}`;
