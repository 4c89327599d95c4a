// The custody path of a record: who asked, where its credential came from, what was done with it, what
// the upstream has of it, and how it ended.

/** A step: its state ("ok", "weak", "bad", "none"), its heading, its fields.
 * @typedef {{state: string, title: string, note?: string, fields: [string, string, string?][]}} Step */

/** @param {any} s @returns {Step} */
function requesterStep(s) {
  const known = s.attribution === "vault-verified";
  return {
    state: !s.requester ? "bad" : known ? "ok" : "weak",
    title: s.requester || "No requester",
    note: known ? "as Vault’s login has it" : s.attribution ? `attribution: ${s.attribution}` : "attribution unknown",
    fields: [["role", s.role], ["session", s.id, "mono"], ["pod", [s.namespace, s.pod].filter(Boolean).join("/")], ["node", s.node], ["account", s.account]],
  };
}

/** @param {string} joined @param {boolean} found @returns {[string, string]} */
function joinState(joined, found) {
  if (!found) return hasVaultLog() ? ["bad", "Vault’s log does not have it"] : ["none", "no Vault log was read"];
  return [joined === "path_and_time" ? "weak" : "ok", `found in Vault’s log ${wordFor(JOINS, joined)}`];
}

/** The place in a log. @param {Table} t @param {number} i */
const placeText = (t, i) => t.str("file").get(i) + (t.num("line")[i] ? `:${t.num("line")[i]}` : "");

/** @param {number} entry 1 + an index of the Vault entries @returns {[string, string, string?][]} */
function vaultFields(entry) {
  if (!entry) return [];
  const v = report.vault, at = entry - 1, get = (/** @type {string} */ name) => v.str(name).get(at);
  return [
    ["in the log", placeText(v, at), "mono"], ["at", fullTime(v.num("time")[at])], ["operation", get("operation")], ["Vault path", get("path"), "mono"],
    ["namespace", get("namespace")], ["token", get("display")], ["entity", get("entity"), "mono"], ["token’s metadata", get("metadata"), "mono"],
    ["from", get("remote"), "mono"], ["correlation", get("correlation"), "mono"], ["Vault’s lease", get("lease"), "mono"], ["error", get("error")],
  ];
}

/** @param {any} i @returns {Step} */
function vaultStep(i) {
  if (standing(i) === "elsewhere") {
    return { state: "none", title: `Read from ${i.kind}`, note: "not from Vault: there is no log to join", fields: [["source", i.path, "mono"]] };
  }
  const [state, note] = joinState(i.joined, Boolean(i.vault));
  return {
    state, title: "Vault", note,
    fields: [["request id", i.request, "mono"], ["path", i.path, "mono"], ["lease", i.lease, "mono"], ["version", i.version ? String(i.version) : ""],
      ...vaultFields(i.vault).filter(([name, value]) => !(name === "Vault’s lease" && value === i.lease) && !(name === "Vault path" && value === i.path))],
  };
}

/** @param {any} i @returns {Step} */
const issuanceStep = (i) => ({
  state: "ok", title: `Issued ${i.credential}`,
  note: i.replaces ? `replaces ${i.replaces}, which an upstream refused` : "",
  fields: [["issued", fullTime(i.issued)], ["expires", fullTime(i.expires)], ["lifetime", i.expires ? duration(i.expires - i.issued) : ""], ["issuance", i.id, "mono"], ["fingerprint", i.fingerprint, "mono"], ["uses", count(i.uses)]],
});

/** @param {any} i @returns {Step} */
const endStep = (i) => ({
  state: i.end === "outstanding" ? "bad" : i.end === "given_up" ? "weak" : "ok",
  title: wordFor({ revoked: "Revoked", expired: "Expired", discarded: "Discarded", given_up: "Given up", session_ended: "Ended with its session", outstanding: "Outstanding" }, i.end) || "End unknown",
  note: i.end === "outstanding" ? "neither revoked nor expired" : i.end === "given_up" ? "its revocation did not succeed" : "",
  fields: [["revoked", fullTime(i.revoked)], ["expires", i.revoked ? "" : fullTime(i.expires)], ["after", i.revoked ? duration(i.revoked - i.issued) : ""]],
});

/** @param {number} row @returns {Step} */
function intentStep(row) {
  const r = report.rows;
  return {
    state: "ok", title: `${r.method(row)} ${r.host(row)}`.trim() || "Intent", note: `record ${count(r.seq[row])}, written before the first byte left`,
    fields: [["at", fullTime(r.time[row])], ["path", r.path(row), "mono"], ["path sent", r.sent(row), "mono"], ["path’s hash", r.hmac(row), "mono"], ["route", r.route(row)], ["request id", r.request(row), "mono"], ["would deny", r.would(row)]],
  };
}

/** @param {number} row @returns {Step} */
function outcomeStep(row) {
  const r = report.rows, cls = r.class[row];
  if (cls === CLASS.indeterminate) {
    return { state: "bad", title: "No outcome on record", note: "whether it reached the upstream is not known", fields: [] };
  }
  return {
    state: cls === CLASS.c2 || cls === CLASS.c3 ? "ok" : "weak", title: r.status[row] ? `Answered ${r.status[row]}` : "Failed",
    note: r.outcome[row] ? `record ${count(r.outcome[row])}` : "",
    fields: [["error", r.error(row)], ["reason", r.reason(row)], ["took", r.duration[row] ? duration(r.duration[row]) : ""], ["attempts", r.attempts[row] ? String(r.attempts[row]) : ""],
      ["body", r.in[row] || r.out[row] ? `${bytes(r.in[row])} sent, ${bytes(r.out[row])} received` : ""], ["reflected", r.reflected[row] ? "the answer held the credential, which was masked" : ""], ["detail", r.detail(row)]],
  };
}

/** @param {number} row @returns {Step} */
function accessStep(row) {
  const at = report.rows.access[row] - 1, a = report.access, get = (/** @type {string} */ name) => a.str(name).get(at);
  if (at < 0) {
    const missing = hasAccessLog() && report.rows.request(row);
    return { state: "none", title: "Upstream’s access log", note: missing ? "no line names it" : hasAccessLog() ? "it carried no request id to look for" : "no access log was read", fields: [] };
  }
  return {
    state: "ok", title: "Upstream’s access log", note: "has the same request id",
    fields: [["line", placeText(a, at), "mono"], ["at", a.num("timed")[at] ? fullTime(report.rows.time[row] + a.num("later")[at]) : ""], ["method", get("method")], ["path", get("path"), "mono"], ["status", a.num("status")[at] ? String(a.num("status")[at]) : ""], ["from", get("remote"), "mono"]],
  };
}

/** @param {number} row @returns {Step} */
function callStep(row) {
  const r = report.rows, at = r.call[row] - 1, c = report.calls, entry = c.num("vault")[at];
  const [state, note] = joinState(c.str("joined").get(at), Boolean(entry));
  return {
    state, title: `Vault: ${r.method(row)} ${r.path(row)}`, note,
    fields: [["at", fullTime(r.time[row])], ["status", r.status[row] ? String(r.status[row]) : "no answer"], ["error", r.error(row)], ["took", r.duration[row] ? duration(r.duration[row]) : ""],
      ["request id", r.request(row), "mono"], ["correlation", c.str("correlation").get(at), "mono"], ["lease", r.lease(row), "mono"], ...vaultFields(entry)],
  };
}

/** @param {number} row @returns {Step} */
function eventStep(row) {
  const r = report.rows, denied = r.class[row] === CLASS.denied;
  return {
    state: denied || r.class[row] === CLASS.kill ? "bad" : r.class[row] === CLASS.reflected ? "weak" : "ok",
    title: denied ? `Denied: ${r.reason(row) || "no reason"}` : r.event(row), note: denied ? "nothing was sent to the upstream" : "",
    fields: [["at", fullTime(r.time[row])], ["request", rowTitle(row), "mono"], ["route", r.route(row)], ["status", r.status[row] ? String(r.status[row]) : ""], ["reason", denied ? "" : r.reason(row)],
      ["would deny", r.would(row)], ["path’s hash", r.hmac(row), "mono"], ["error", r.error(row)], ["by", r.by(row)], ["detail", r.detail(row)], ["request id", r.request(row), "mono"]],
  };
}

/** The steps of a record, in the order in which they happened. @param {number} row @returns {Step[]} */
function stepsOf(row) {
  const r = report.rows, s = report.sessions[r.session[row]], i = report.issuances[r.issuance[row] - 1];
  switch (r.kind[row]) {
    case USE: return [requesterStep(s), vaultStep(i), issuanceStep(i), intentStep(row), outcomeStep(row), accessStep(row), endStep(i)];
    case ISSUANCE: return [requesterStep(s), vaultStep(i), issuanceStep(i), endStep(i)];
    case CALL: return [requesterStep(s), callStep(row)];
  }
  if (r.event(row) === "request.intent") return [requesterStep(s), intentStep(row), outcomeStep(row)];
  return [requesterStep(s), eventStep(row)];
}
