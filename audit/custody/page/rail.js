// The rail at the left: the verdict, the totals, the findings, what could not be checked, and the inputs.

/** How many findings of one code are listed at first, and how many more at each asking. */
const AT_FIRST = 5, AT_ONCE = 100;

function fillRail() {
  const n = report.findings.length;
  const none = n === 0 && report.rows.n === 0;
  document.body.classList.toggle("intact", n === 0 && !none);
  document.body.classList.toggle("none", none);
  byId("verdict-word").textContent = none ? "No records" : n === 0 ? "Intact" : plural(n, "finding");
  byId("verdict-more").textContent = n === 0
    ? none ? "There is nothing to check." : hasVaultLog() ? "Every record fits, in both directions." : "The trail fits itself. No Vault log was read."
    : `of ${plural(new Set(report.findings.map((f) => f.code)).size, "kind")}, the gravest first.`;
  fillTotals();
  fillFindings();
  fillNotes();
  fillInputs();
}

function fillTotals() {
  const t = report.totals;
  const joined = t.joined_by_request_id + t.joined_by_correlation_id + t.joined_by_path_and_time;
  const cells = [
    ["Sessions", t.sessions, ""], ["Issuances", t.issuances, ""], ["Uses", t.uses, "is:use"], ["Indeterminate", t.indeterminate, "is:indeterminate"],
    ["Bare", t.bare, "is:bare"], ["Denials", t.denials, "is:denied"], ["Reflections", t.reflections, "is:reflected"], ["Vault calls", t.vault_calls, "is:call"],
  ];
  byId("totals").replaceChildren(...cells.map(([label, n, filter]) => el("div", { class: "total" },
    el("dt", label === "Bare" ? { title: "requests that carried no credential" } : {}, String(label)), el("dd", {}, filter && n ? el("button", { type: "button", class: "link", title: `filter: ${filter}`, onclick: () => setFilter(String(filter)) }, count(Number(n))) : count(Number(n))))));
  byId("joins").replaceChildren(...(hasVaultLog() ? [
    el("div", {}, el("b", {}, count(joined)), " joined to Vault’s log: ", joinedText(t)),
  ] : [el("div", {}, "No Vault log was read: nothing is joined.")]),
  ...(hasAccessLog() ? [el("div", {}, el("b", {}, count(t.access_joined)), " joined to access logs")] : []));
}

/** @param {any} t */
function joinedText(t) {
  return [[t.joined_by_request_id, "by request id"], [t.joined_by_correlation_id, "by correlation id"], [t.joined_by_path_and_time, "by path and time only"]]
    .filter(([n]) => n > 0).map(([n, how]) => `${count(n)} ${how}`).join(", ") || "none";
}

function fillFindings() {
  const groups = new Map();
  for (const f of report.findings) groups.set(f.code, [...(groups.get(f.code) || []), f]);
  byId("findings-part").hidden = groups.size === 0;
  byId("findings").replaceChildren(...[...groups].map(([code, list]) => groupElement(code, list)));
}

/** @param {string} code @param {any[]} list */
function groupElement(code, list) {
  const items = el("ol", { class: "finding-list" });
  const more = el("button", { class: "link more", type: "button", onclick: () => grow(AT_ONCE) });
  let shown = 0;
  const grow = (/** @type {number} */ by) => {
    for (const f of list.slice(shown, shown + by)) items.append(findingElement(f));
    shown = Math.min(list.length, shown + by);
    more.hidden = shown === list.length;
    more.textContent = `${count(list.length - shown)} more`;
  };
  grow(AT_FIRST);
  return el("section", { class: "group" }, el("h3", {}, wordFor(CODES, code), el("span", { class: "pill" }, count(list.length))), el("code", { class: "code" }, code), items, more);
}

/** @param {any} f */
function findingElement(f) {
  return el("li", {}, el("button", { class: "finding", type: "button", id: `finding-${f.index}`, onclick: () => showFinding(f) },
    el("span", { class: "what" }, f.what),
    f.hint && el("span", { class: "hint" }, f.hint),
    el("span", { class: "when" }, [f.time ? fullTime(f.time, 0) : "", f.seq ? `record ${count(f.seq)}` : "", f.where].filter(Boolean).join(" · "))));
}

/** Shows which finding was chosen. @param {number} index */
function markFinding(index) {
  for (const old of document.querySelectorAll(".finding[aria-current]")) old.removeAttribute("aria-current");
  const now = byId(`finding-${index}`);
  if (now) now.setAttribute("aria-current", "true");
}

function fillNotes() {
  byId("notes-part").hidden = report.notes.length === 0;
  byId("notes").replaceChildren(...report.notes.map((n) => el("li", {},
    el("span", {}, visible(n.what), n.count ? el("span", { class: "pill quiet" }, count(n.count)) : null),
    n.mend && el("span", { class: "hint" }, visible(n.mend)))));
}

function fillInputs() {
  const t = report.inputs, kinds = ["trail", "Vault’s log", "access log"], units = ["record", "entry", "line"];
  byId("inputs").replaceChildren(...Array.from({ length: t.n }, (_, i) => {
    const kind = t.num("kind")[i], first = t.num("first")[i], last = t.num("last")[i];
    return el("li", {}, el("span", { class: "input-kind" }, kinds[kind]), el("span", { class: "mono" }, t.str("name").get(i)),
      el("span", { class: "hint" }, [plural(t.num("records")[i], units[kind], kind === 1 ? "entries" : undefined), first ? `${dateText(first)} ${timeText(first, 0)} to ${dateText(first) === dateText(last) ? "" : dateText(last) + " "}${timeText(last, 0)}` : ""].filter(Boolean).join(" · ")));
  }));
}

/** The legend, which filters by class. */
function fillLegend() {
  const by = new Uint32Array(CLASSES.length);
  for (let row = 0; row < report.rows.n; row++) by[report.rows.class[row]]++;
  for (let row = 0; row < report.rows.n; row++) if (report.rows.reflected[row] && report.rows.class[row] !== CLASS.reflected) by[CLASS.reflected]++;
  byId("legend").replaceChildren(...CLASSES.flatMap(([word, label, what], c) => by[c] === 0 ? [] : [
    el("li", {}, el("button", { type: "button", class: "chip", "data-word": word, "aria-pressed": "false", title: what, onclick: () => toggleTerm(`is:${word}`) }, markElement(c), label, el("b", {}, count(by[c])))),
  ]));
}

/** Puts a term into the filter, or takes it out. @param {string} word */
function toggleTerm(word) {
  const words = byId("filter").value.split(/\s+/).filter(Boolean);
  setFilter((words.includes(word) ? words.filter((w) => w !== word) : [...words, word]).join(" "));
}

function markLegend() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  for (const chip of document.querySelectorAll("#legend .chip")) chip.setAttribute("aria-pressed", String(words.includes(`is:${/** @type {HTMLElement} */ (chip).dataset.word}`)));
}
