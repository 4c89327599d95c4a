// How the page feels with 100 000 records, printed; what is held is generous, as machines differ.
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { facts, filter, pagesDir, settle, view, withPage } from "./browser.mjs";

const page100k = "n100000";

test("100 000 records: size, time to be ready, frames", async (t) => {
  const size = statSync(join(pagesDir, page100k + ".html")).size;
  t.diagnostic(`page: ${facts[page100k].Rows} records, ${(size / 1e6).toFixed(2)} MB, written in ${facts[page100k].Milliseconds} ms`);
  assert.ok(size < 9e6, `${size} bytes`);
  const before = () => {
    const look = () => { if (globalThis.custody) globalThis.readyAt = performance.now(); else setTimeout(look, 2); };
    look();
  };
  await withPage(page100k, { before }, async (page) => {
    const ready = await page.evaluate(() => globalThis.readyAt);
    t.diagnostic(`ready ${Math.round(ready)} ms after navigation`);
    assert.ok(ready < 15_000);

    const box = await page.locator("#plot").boundingBox();
    await page.mouse.move(box.x + 800, box.y + 200);
    for (const [what, deltas] of [["zooming in", Array(40).fill(-110)], ["zooming out", Array(40).fill(110)]]) {
      await page.evaluate(() => {
        globalThis.frames = [];
        let last = performance.now();
        const tick = (now) => {
          if (!globalThis.frames) return;
          globalThis.frames.push(now - last);
          last = now;
          requestAnimationFrame(tick);
        };
        requestAnimationFrame(tick);
      });
      for (const d of deltas) await page.mouse.wheel(0, d);
      await settle(page);
      const frames = (await page.evaluate(() => { const f = globalThis.frames; globalThis.frames = null; return f; })).slice(1).sort((a, b) => a - b);
      t.diagnostic(`${what}: ${frames.length} frames, median ${frames[frames.length >> 1].toFixed(1)} ms, 95th percentile ${frames[Math.floor(frames.length * 0.95)].toFixed(1)} ms`);
      assert.ok(frames[frames.length >> 1] < 500);
    }
    const draws = await page.evaluate(() => Array.from({ length: 60 }, () => globalThis.custody.draw()).sort((a, b) => a - b));
    t.diagnostic(`drawing all ${facts[page100k].Rows} records: median ${draws[30].toFixed(1)} ms, worst of 60 ${draws[59].toFixed(1)} ms`);
    assert.ok(draws[30] < 500);

    const began = Date.now();
    await filter(page, "status:5xx role:triage api");
    t.diagnostic(`filtering: ${Date.now() - began} ms, ${(await view(page)).matched} match`);
    assert.ok(Date.now() - began < 5_000);
  });
});
