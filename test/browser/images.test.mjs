// The pictures of docs/images; only with SIDEKEY_IMAGES (tools/browser.sh --images).
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { settle, withPage } from "./browser.mjs";

const dir = process.env.SIDEKEY_IMAGES;

for (const n of [100, 10000, 100000]) {
  for (const scheme of ["light", "dark"]) {
    test(`custody-${n}-${scheme}.png`, { skip: !dir && "SIDEKEY_IMAGES is not set" }, () => withPage(`n${n}`, { scheme }, async (page) => {
      if (n === 100) { // with a record open
        await page.locator("section.group", { hasText: "access_missing" }).locator(".finding").click();
        await page.click("#fit");
      }
      await page.mouse.move(0, 0);
      await settle(page);
      const path = join(dir, `custody-${n}-${scheme}.png`);
      await page.screenshot({ path });
      execFileSync("pngquant", ["--force", "--ext=.png", "--speed=1", "160", path]);
      assert.ok(statSync(path).size < 200 * 1024, `${statSync(path).size} bytes`);
    }));
  }
}
