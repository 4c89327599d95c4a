// Opens a custody page in headless Chromium, and says what it did that it must not.
import { chromium } from "playwright-core";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

export const pagesDir = process.env.SIDEKEY_PAGES;
if (!pagesDir) throw new Error("SIDEKEY_PAGES must name the directory of the pages: run tools/browser.sh");

/** What the pages must show, as the Go test that made them says. */
export const facts = JSON.parse(readFileSync(join(pagesDir, "pages.json"), "utf8"));

const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** Opens a page, calls use with it, and fails if the page complained, asked for anything, or showed a dialog.
 * @param {string} name @param {object} options @param {(page: import("playwright-core").Page) => Promise<void>} use */
export async function withPage(name, { scheme = "light", width = 1440, height = 900, before = undefined, expected = undefined } = {}, use) {
  const profile = mkdtempSync(join(tmpdir(), "sidekey-browser-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.SIDEKEY_CHROMIUM || "/usr/bin/chromium", headless: true, args: flags,
    colorScheme: scheme, viewport: { width, height }, reducedMotion: "reduce", timezoneId: "America/New_York",
  });
  const wrong = [];
  try {
    const page = await context.newPage();
    const url = pathToFileURL(join(pagesDir, name + ".html")).href;
    page.on("console", (m) => { if (["error", "warning"].includes(m.type()) && !expected?.test(m.text())) wrong.push(`console: ${m.text()}`); });
    page.on("pageerror", (e) => wrong.push(`error: ${e.stack}`));
    page.on("request", (r) => { if (r.url() !== url) wrong.push(`request: ${r.url()}`); });
    page.on("dialog", (d) => { wrong.push(`dialog: ${d.message()}`); d.dismiss(); });
    if (before) await page.addInitScript(before);
    await page.goto(url);
    await page.waitForFunction(() => globalThis.custody !== undefined, null, { timeout: 30_000 });
    await settle(page);
    await use(page);
    if (wrong.length) throw new Error(`the page ${name}: ${wrong.join("; ")}`);
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

/** Waits until what was asked for has been drawn. */
export const settle = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done)))));

/** Types a filter and waits for it. */
export async function filter(page, text) {
  await page.fill("#filter", text);
  await page.press("#filter", "Enter"); // applies it at once
  await settle(page);
}

/** The state of the timeline. */
export const view = (page) => page.evaluate(() => globalThis.custody.view());

/** Clicks a place of the timeline's canvas. */
export async function clickPlot(page, x, y) {
  const box = await page.locator("#plot").boundingBox();
  await page.mouse.click(box.x + x, box.y + y);
  await settle(page);
}
