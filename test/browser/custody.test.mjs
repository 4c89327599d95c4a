// The custody page as its reader has it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { clickPlot, facts, filter, settle, view, withPage } from "./browser.mjs";

const number = (text) => Number(text.replaceAll(",", ""));

for (const [name, fact] of Object.entries(facts)) {
  test(`${name} opens, asks for nothing, and counts right`, () => withPage(name, {}, async (page) => {
    assert.equal(await page.evaluate(() => globalThis.custody.rows()), fact.Rows);
    const totals = await page.locator("#totals dd").allInnerTexts();
    assert.equal(number(totals[0]), name === "empty" ? 0 : fact.Sessions);
    const verdict = await page.innerText("#verdict-word");
    assert.equal(verdict, fact.Rows === 0 ? "No records" : fact.Findings === 0 ? "Intact" : fact.Findings === 1 ? "1 finding" : `${fact.Findings.toLocaleString("en-US")} findings`);
    const chips = await page.locator("#legend .chip").evaluateAll((all) => all.map((c) => [c.dataset.word, c.querySelector("b").textContent]));
    const got = Object.fromEntries(chips.filter(([word]) => word !== "reflected").map(([word, n]) => [word, number(n)]));
    assert.deepEqual(got, fact.Classes);
    const { matched, lanes } = await view(page);
    assert.equal(matched, fact.Rows);
    assert.equal(lanes, fact.Sessions);
    const rows = await page.locator("#table-rows [role=row]").count();
    assert.ok(rows <= 80, `${rows} rows exist at once`);
    assert.ok(rows >= Math.min(5, fact.Rows), `only ${rows} rows exist`);
    assert.equal(await page.getAttribute("#table", "aria-rowcount"), String(fact.Rows + 1));
  }));
}

test("each class's filter finds as many as there are", () => withPage("n10000", {}, async (page) => {
  for (const [word, n] of Object.entries(facts.n10000.Classes)) {
    await filter(page, `is:${word}`);
    assert.ok((await view(page)).matched === n, `is:${word}`);
  }
}));

test("filters by key, word, status and not", () => withPage("n10000", {}, async (page) => {
  const matched = async (text) => { await filter(page, text); return (await view(page)).matched; };
  const all = facts.n10000.Rows, c = facts.n10000.Classes;
  const uses = await matched("is:use"), triage = await matched("role:triage");
  assert.ok(uses > 0 && uses < all && triage > 0 && triage < all);
  assert.equal(await matched("-role:triage"), all - triage);
  assert.equal(await matched("role:triage role:release"), triage + await matched("role:release"));
  assert.equal(await matched("is:5xx is:denied"), c["5xx"] + c.denied);
  assert.equal(await matched("status:404") + await matched("-status:404"), all);
  assert.ok(await matched("status:5xx") >= c["5xx"]);
  assert.equal(await matched("status:>=500"), await matched("status:5xx"));
  assert.equal(await matched("is:denied host:pastebin reason:host_not_allowed"), await matched("is:denied pastebin"));
  assert.ok(await matched("finding:any") > 0);
  assert.ok(await matched("finding:issuance_not_in_vault") > 0);
  assert.ok(await matched("is:unjoined") >= await matched("is:unseen"));
  assert.equal(await matched("no-such-thing"), 0);
  assert.ok(await page.isVisible("#nothing"));
  assert.match(await page.innerText("#counts"), /^0 of /);
  await page.click("#clear");
  await settle(page);
  assert.equal((await view(page)).matched, all);
}));

test("the legend is a filter, and counts follow", () => withPage("n10000", {}, async (page) => {
  await page.click('#legend [data-word="denied"]');
  await settle(page);
  assert.equal(await page.inputValue("#filter"), "is:denied");
  assert.equal(await page.getAttribute('#legend [data-word="denied"]', "aria-pressed"), "true");
  assert.match(await page.innerText("#counts"), new RegExp(`^${facts.n10000.Classes.denied} of 10,`));
  await page.waitForFunction(() => document.getElementById("said").textContent.includes("match"));
  await page.click('#legend [data-word="denied"]');
  await settle(page);
  assert.equal(await page.inputValue("#filter"), "");
}));

test("a click on a mark shows its record", () => withPage("n100", {}, async (page) => {
  const n = facts.n100.Rows;
  let clicked = 0;
  for (let row = 0; row < n; row++) {
    const place = await page.evaluate((r) => {
      const t = globalThis.custody.time(r);
      globalThis.custody.show(t - 5e6, t + 5e6);
      return globalThis.custody.place(r);
    }, row);
    await settle(page);
    const thing = await page.evaluate(([x, y]) => globalThis.custody.at(x, y), [place.x, place.y]);
    if (thing.kind !== "row" || thing.row !== row) continue; // several at this place
    await clickPlot(page, place.x, place.y);
    assert.equal((await view(page)).selected, row);
    const panel = await page.innerText("#panel");
    const seq = await page.locator("#table-rows .selected .seq").innerText();
    assert.ok(panel.includes(`record ${seq} `), `panel of row ${row} does not name record ${seq}`);
    clicked++;
    await page.keyboard.press("Escape");
    await settle(page);
    assert.ok(!await page.isVisible("#panel"));
    if (clicked === 25) break;
  }
  assert.ok(clicked >= 20, `only ${clicked} marks stood alone`);
}));

test("a use's panel spells out the custody path, and copies the command", () => withPage("n100", {}, async (page) => {
  await filter(page, "is:2xx is:use credential:github");
  await page.locator("#table-rows [role=row]").first().click();
  const steps = await page.locator("#panel .step-title").allInnerTexts();
  assert.equal(steps.length, 7);
  assert.match(steps[0], /@|ci\//);
  assert.deepEqual([steps[1], steps[2]], ["Vault", "Issued github"]);
  assert.match(steps[4], /^Answered 2/);
  assert.equal(steps[5], "Upstream’s access log");
  const command = await page.innerText("#panel .command code");
  assert.match(command, /^sidekey audit trace --session \S+ --lease github\/token\/release\/\w+$/);
  await page.locator("#panel .command button").click();
  await page.waitForFunction(() => document.querySelector("#panel .command button").textContent !== "Copy");
  assert.equal(await page.innerText("#panel .command button"), "Copied");
}));

test("a finding leads to its record, or to its place and time", () => withPage("n10000", {}, async (page) => {
  const groups = await page.locator("#findings h3").allInnerTexts();
  assert.match(groups[0], /^In Vault, not in any trail\s*3$/);
  await page.locator(".finding").first().click();
  assert.match(await page.innerText("#panel"), /vault_unrecorded[\s\S]*used elsewhere[\s\S]*vault-audit\.log:4411/);
  assert.equal((await view(page)).selected, -1);
  await page.locator("section.group", { hasText: "issuance_not_in_vault" }).locator(".finding").first().click();
  await settle(page);
  assert.ok((await view(page)).selected >= 0);
  assert.match(await page.innerText("#panel"), /Vault’s log does not have it/);
  await page.waitForSelector("#table-rows .selected.found");
}));

test("one finding: the only one, and a click away", () => withPage("one-finding", {}, async (page) => {
  assert.equal(await page.locator(".finding").count(), 1);
  await page.locator(".finding").click();
  await settle(page);
  assert.match(await page.innerText("#panel"), /Trail broken[\s\S]*hash of the record before/);
}));

test("thousands of findings are listed in parts", () => withPage("many-findings", {}, async (page) => {
  assert.ok(await page.locator(".finding").count() < 40);
  await page.locator(".more:visible").first().click();
  assert.ok(await page.locator(".finding").count() > 90);
}));

test("everything can be done with keys", () => withPage("n10000", {}, async (page) => {
  await page.keyboard.press("/");
  await page.keyboard.type("is:denied");
  await page.keyboard.press("Enter"); // to the timeline
  await settle(page);
  assert.equal(await page.evaluate(() => document.activeElement.id), "lanes");
  assert.equal((await view(page)).matched, facts.n10000.Classes.denied);
  const whole = await view(page);
  await page.keyboard.press("+");
  await settle(page);
  const near = await view(page);
  assert.ok(near.to - near.from < (whole.to - whole.from) * 0.8);
  await page.keyboard.press("ArrowRight");
  await settle(page);
  assert.ok((await view(page)).from > near.from);
  await page.keyboard.press("-");
  await page.keyboard.press("Home");
  await settle(page);
  assert.deepEqual((await view(page)).from, whole.from);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  assert.match(await page.textContent("#said"), /^Session /);
  await page.keyboard.press("n");
  await page.keyboard.press("n");
  const { selected } = await view(page);
  assert.ok(selected >= 0);
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "panel");
  assert.match(await page.innerText("#panel"), /Denied: /);
  await page.keyboard.press("Escape");
  assert.ok(!await page.isVisible("#panel"));
  await page.keyboard.press("Escape");
  await settle(page);
  assert.equal(await page.inputValue("#filter"), "");
  await page.focus("#table");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("PageDown");
  await page.keyboard.press("End");
  await settle(page);
  assert.equal(await page.evaluate(() => document.getElementById(document.activeElement.getAttribute("aria-activedescendant")).getAttribute("aria-rowindex")), String(facts.n10000.Rows + 1));
  await page.keyboard.press("Enter");
  assert.ok(await page.isVisible("#panel"));
  await page.keyboard.press("Escape");
  await page.keyboard.press("?");
  assert.ok(await page.locator("#help").evaluate((d) => d.open));
  await page.keyboard.press("Escape");
  assert.ok(!await page.locator("#help").evaluate((d) => d.open));
}));

test("the table sorts by time, and follows the timeline", () => withPage("n10000", {}, async (page) => {
  const first = () => page.locator("#table-rows [role=row]").first().locator(".time").innerText();
  const early = await first();
  await page.click("#sort");
  assert.ok(await first() > early);
  assert.equal(await page.locator("[aria-sort]").getAttribute("aria-sort"), "descending");
  await page.click("#sort");
  const { from, to } = await view(page);
  await page.evaluate(([a, b]) => globalThis.custody.show(a, b), [(from + to) / 2, to]);
  await settle(page);
  assert.ok(await first() > early);
  const rows = Number(await page.getAttribute("#table", "aria-rowcount")) - 1;
  assert.match(await page.innerText("#counts"), new RegExp(`${rows.toLocaleString("en-US")} in view$`));
}));

test("wheel, drag, brush, fold", () => withPage("n10000", {}, async (page) => {
  const box = await page.locator("#plot").boundingBox(), over = await page.locator("#overview").boundingBox();
  const whole = await view(page);
  await page.mouse.move(box.x + 700, box.y + 150);
  await page.mouse.wheel(0, -600);
  await settle(page);
  const near = await view(page);
  assert.ok(near.to - near.from < (whole.to - whole.from) * 0.5);
  await page.mouse.down();
  await page.mouse.move(box.x + 600, box.y + 150, { steps: 4 });
  await page.mouse.up();
  await settle(page);
  const moved = await view(page);
  assert.ok(moved.from > near.from && Math.abs((moved.to - moved.from) - (near.to - near.from)) < 2);
  await page.click("#fit");
  await page.mouse.move(over.x + 14, over.y + 20);
  await page.mouse.down();
  await page.mouse.move(over.x + 300, over.y + 20, { steps: 4 });
  await page.mouse.up();
  await settle(page);
  const brushed = await view(page);
  assert.ok(brushed.from > whole.from && Math.abs(brushed.to - whole.to) < 2);
  const tall = await page.locator("#tall").evaluate((e) => e.offsetHeight);
  await page.click("#fold");
  await settle(page);
  assert.notEqual(await page.locator("#tall").evaluate((e) => e.offsetHeight), tall);
}));

test("UTC and local time", () => withPage("n100", {}, async (page) => {
  const time = () => page.locator("#table-rows .time").first().innerText();
  assert.equal(await time(), "11-20 08:03:12.000");
  await page.click("#clock");
  await settle(page);
  assert.equal(await time(), "11-20 03:03:12.000"); // New York
  assert.match(await page.innerText("#generated"), /UTC−05:00$/);
}));

test("light, dark, and the system's", () => withPage("n100", { scheme: "dark" }, async (page) => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const corner = () => page.evaluate(() => { 
    const plot = document.getElementById("plot"), c = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    c.drawImage(plot, 30 - plot.width, 4 - plot.height);
    return [...c.getImageData(0, 0, 1, 1).data];
  });
  assert.equal(await ground(), "rgb(16, 21, 28)");
  assert.ok((await corner())[0] < 60);
  await page.click("#theme");
  await settle(page);
  assert.equal(await ground(), "rgb(255, 255, 255)");
  assert.ok((await corner())[0] > 200);
  await page.click("#theme");
  await settle(page);
  assert.equal(await ground(), "rgb(16, 21, 28)");
}));

test("hostile strings stay text", () => withPage("hostile", {}, async (page) => {
  const elements = () => page.evaluate(() => ({ bad: document.querySelectorAll("img, svg, iframe, object, embed, a, link, base, meta[http-equiv=refresh]").length, scripts: document.scripts.length, handlers: [...document.querySelectorAll("*")].flatMap((e) => [...e.attributes]).filter((a) => a.name.startsWith("on")).length }));
  const n = facts.hostile.Rows;
  for (let k = 0; k < Math.min(n, 60); k++) {
    await page.evaluate(() => document.getElementById("table").focus());
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    assert.deepEqual(await elements(), { bad: 0, scripts: 1, handlers: 0 });
  }
  for (const f of await page.locator(".finding").all()) await f.click();
  const box = await page.locator("#plot").boundingBox();
  for (let x = 20; x < box.width; x += 60) for (let y = 50; y < box.height; y += 40) await page.mouse.move(box.x + x, box.y + y);
  for (const text of ["</script>", "<img", "constructor:x", "is:__proto__", "__proto__", '"', "\\u{202e}"]) await filter(page, text);
  assert.deepEqual(await elements(), { bad: 0, scripts: 1, handlers: 0 });
  const text = await page.evaluate(() => document.body.textContent);
  assert.ok(!/[\u202a-\u202e\u2066-\u2069\u0000\u001b\u2028]/.test(text), "an invisible character is shown as it is");
}));

test("the policy refuses markup from text, styles and scripts", () => withPage("n100", { expected: /TrustedHTML/ }, async (page) => {
  await assert.rejects(page.evaluate(() => { document.body.innerHTML = "<b>x</b>"; }), /TrustedHTML/);
}));

test("without DecompressionStream", () => withPage("n10000", { before: () => { delete globalThis.DecompressionStream; } }, async (page) => {
  assert.equal(await page.evaluate(() => globalThis.custody.rows()), facts.n10000.Rows);
}));

test("narrow, and printed", () => withPage("n100", { width: 620, height: 900 }, async (page) => {
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  assert.ok((await page.locator("#plot").boundingBox()).height > 120);
  const pdf = await page.pdf({ preferCSSPageSize: true, printBackground: true });
  assert.ok(pdf.length > 10_000);
}));

test("landmarks and names", () => withPage("n100", {}, async (page) => {
  for (const role of ["banner", "navigation", "main", "search"]) assert.equal(await page.getByRole(role).count(), 1, role);
  assert.equal(await page.getByRole("heading", { level: 1 }).count(), 1);
  const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input")].filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || (e.id && document.querySelector(`label[for="${e.id}"]`)))).map((e) => e.outerHTML));
  assert.deepEqual(nameless, []);
}));
