// The panel beside the timeline: one record, one session, or one finding.

/** Shows children in the panel. @param {string} title @param {number|null} cls @param {...(Node|false)} children */
function openPanel(title, cls, ...children) {
  const panel = byId("panel"), was = panel.hidden;
  const mark = cls === null ? null : markElement(cls);
  byId("panel-title").replaceChildren(...(mark ? [mark] : []), el("span", {}, title));
  byId("panel-body").replaceChildren(...children.filter(Boolean));
  byId("panel-body").scrollTop = 0;
  panel.hidden = false;
  document.body.classList.add("with-panel");
  if (was) resize();
}

function closePanel() {
  if (byId("panel").hidden && view.selected < 0 && !view.time) return;
  const within = byId("panel").contains(document.activeElement);
  byId("panel").hidden = true;
  document.body.classList.remove("with-panel");
  view.selected = -1;
  view.time = 0;
  markFinding(-1);
  if (within) byId("lanes").focus();
  resize();
}

/** @param {Step} step */
function stepElement(step) {
  const fields = step.fields.filter(([, value]) => value);
  return el("li", { class: `step ${step.state}` },
    el("div", { class: "step-title" }, step.title),
    step.note ? el("div", { class: "step-note" }, step.note) : null,
    fields.length > 0 && fieldList(fields));
}

/** @param {[string, string, string?][]} fields */
function fieldList(fields) {
  return el("dl", {}, ...fields.filter(([, value]) => value).flatMap(([name, value, how]) => [el("dt", {}, name), el("dd", { class: how || "" }, value)]));
}

/** The command that prints this, to copy. @param {string} session @param {string} [lease] */
function commandElement(session, lease) {
  const text = `sidekey audit trace --session ${shellQuote(session)}${lease ? ` --lease ${shellQuote(lease)}` : ""}`;
  const button = el("button", { class: "small", type: "button", onclick: async () => {
    const done = await copyText(text);
    button.textContent = done ? "Copied" : "Not copied";
    say(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  } }, "Copy");
  return el("div", { class: "command" }, el("code", {}, text), button);
}

/** @param {string} label @param {string} filter */
const filterButton = (label, filter) => el("button", { class: "small", type: "button", onclick: () => setFilter(filter) }, label);

/** A filter's term. @param {string} key @param {string} value */
const term = (key, value) => `${key}:${/[\s"]/.test(value) ? `"${value.replaceAll('"', "")}"` : value}`;

/** @param {any[]} findings */
function findingNotes(findings) {
  return findings.length > 0 && el("div", { class: "panel-findings" }, ...findings.slice(0, 20).map((f) => el("div", { class: "panel-finding" },
    el("b", {}, wordFor(CODES, f.code)), el("p", {}, f.what), f.hint && el("p", { class: "hint" }, f.hint), f.where && el("p", { class: "mono" }, f.where))));
}

/** @param {number} row */
function showRecord(row) {
  const r = report.rows, s = report.sessions[r.session[row]], i = report.issuances[r.issuance[row] - 1];
  const lease = i ? i.lease : r.lease(row);
  const mine = report.findings.filter((f) => f.row === row || (i && f.issuance === i.id && r.kind[row] === ISSUANCE));
  openPanel(rowTitle(row), r.class[row],
    el("p", { class: "panel-sub" }, `${rowKind(row)} · record ${count(r.seq[row])} · ${fullTime(r.time[row], 3)}`),
    findingNotes(mine),
    el("ol", { class: "steps" }, ...stepsOf(row).map(stepElement)),
    el("div", { class: "buttons" },
      i && filterButton(r.kind[row] === ISSUANCE ? "Show its uses" : "All uses of this issuance", term("issuance", i.id)),
      i && r.kind[row] !== ISSUANCE && i.row >= 0 && el("button", { class: "small", type: "button", onclick: () => jumpTo(i.row) }, "Go to its issuance"),
      filterButton("This session only", term("session", s.id))),
    commandElement(s.id, lease));
}

/** @param {number} row */
function rowKind(row) {
  const r = report.rows;
  return ["use", r.event(row), "call to Vault", "issuance"][r.kind[row]];
}

/** @param {any} s */
function showSession(s) {
  const [from, to] = s.rows, by = new Uint32Array(CLASSES.length);
  for (let row = from; row < to; row++) by[report.rows.class[row]]++;
  openPanel(s.role || "(no role)", CLASS.session,
    el("p", { class: "panel-sub" }, `session · ${plural(s.records, "record")} · ${duration(s.last - s.began)}`),
    findingNotes(report.findings.filter((f) => f.lane === s.index && f.row < 0)),
    fieldList([["requester", s.requester], ["attribution", s.attribution], ["session", s.id, "mono"], ["pod", [s.namespace, s.pod].filter(Boolean).join("/")], ["node", s.node], ["account", s.account],
      ["began", fullTime(s.began, 3)], ["last record", fullTime(s.last, 3)], ["ended", s.ended ? fullTime(s.ended, 3) : "no end on record"], ["reason", s.reason], ["version", s.version]]),
    el("ul", { class: "tally" }, ...CLASSES.map(([word, label], c) => by[c] > 0 && el("li", {},
      el("button", { class: "row-button", type: "button", onclick: () => setFilter(`${term("session", s.id)} is:${word}`) }, markElement(c), label, el("b", {}, count(by[c])))))),
    el("div", { class: "buttons" }, filterButton("This session only", term("session", s.id)),
      el("button", { class: "small", type: "button", onclick: () => glideTo(s.began - (s.last - s.began) * 0.03 - 1e4, Math.max(s.ended, s.last) + (s.last - s.began) * 0.03 + 1e4) }, "Fit to its time")),
    commandElement(s.id));
}

/** Shows a finding, and the place that it is about if the page has it. @param {any} f */
function showFinding(f) {
  markFinding(f.index);
  const i = f.row < 0 && f.issuance ? report.issuances.find((one) => one.id === f.issuance) : null;
  const row = i ? i.row : f.row;
  if (row >= 0) {
    jumpTo(row);
    return;
  }
  view.selected = -1;
  view.time = f.time;
  if (f.lane >= 0) {
    if (view.match && !view.shown.includes(view.lanes[f.lane])) setFilter("");
    view.lane = view.lanes[f.lane];
    byId("lanes").scrollTop = view.lane.y - 20;
  }
  if (f.time && (f.time < view.from || f.time > view.to)) glideTo(f.time - (view.to - view.from) / 2, f.time + (view.to - view.from) / 2);
  const lane = report.sessions[f.lane];
  openPanel(wordFor(CODES, f.code), null,
    el("p", { class: "panel-sub" }, [f.code, fullTime(f.time, 3)].filter(Boolean).join(" · ")),
    findingNotes([f]),
    fieldList([["session", f.session, "mono"], ["role", lane ? lane.role : ""], ["issuance", f.issuance, "mono"], ["record", f.seq ? count(f.seq) : ""], ["in the log", f.where, "mono"]]),
    el("p", { class: "panel-sub" }, "No record of the trail is about this."),
    f.session ? commandElement(f.session) : false);
  redraw();
}
