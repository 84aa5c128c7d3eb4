// The operators' page in a real browser: node check.mjs BASE TOKEN CAMPAIGN JOB PAGES-AS-JSON [FOLDER FOR SCREENSHOTS]
// Prints one line of JSON for each finding, and "looked at N pages" at the end. Every wait has a limit.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

const [base, token, campaign, job, list, shots] = process.argv.slice(2);
const paths = JSON.parse(list);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WAIT_MS = 15_000;
let looked = 0;
const found = (what) => console.log(JSON.stringify(what));

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  // By a pipe it ends with this process, whatever ends that.
  pipe: true,
  timeout: 60_000,
  protocolTimeout: 60_000,
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(WAIT_MS);
  page.on("console", (line) => line.type() === "error" && found({ console: line.text() }));
  page.on("pageerror", (error) => found({ script: String(error) }));

  // By keyboard alone, from the login on: whoever can't use a mouse gets in, and stops a campaign.
  await page.goto(`${base}/`);
  await page.type("input[name=token]", token);
  await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
  if (new URL(page.url()).pathname !== "/") found({ login: page.url() });
  const press = async (action) => {
    const selector = `form[action="${action}"] button`;
    await page.waitForSelector(selector);
    for (let tabs = 0; tabs < 200; tabs += 1) {
      await page.keyboard.press("Tab");
      if (await page.evaluate((s) => document.activeElement?.matches(s) ?? false, selector)) {
        const outlined = await page.evaluate(() => {
          const style = getComputedStyle(document.activeElement);
          return style.outlineStyle !== "none" || style.boxShadow !== "none";
        });
        if (!outlined) found({ focus_not_seen: action });
        await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
        return;
      }
    }
    found({ out_of_reach_by_keyboard: action });
  };
  page.on("dialog", (dialog) => dialog.accept());
  await page.goto(`${base}/campaigns/${campaign}`);
  await press(`/do/campaigns/${campaign}/pause`);
  await page.goto(`${base}/campaigns/${campaign}`);
  await press(`/do/campaigns/${campaign}/resume`);

  // Every page: light and dark, on a desk and on a phone.
  for (const scheme of ["light", "dark"]) {
    for (const [name, viewport] of Object.entries({
      desk: { width: 1280, height: 900 },
      phone: { width: 390, height: 844, isMobile: true, hasTouch: true },
    })) {
      const view = await browser.newPage();
      view.setDefaultTimeout(WAIT_MS);
      // Only for axe, which is put into the page; without it the page is looked at above.
      await view.setBypassCSP(true);
      await view.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await view.setViewport(viewport);
      for (const path of paths) {
        const answer = await view.goto(`${base}${path}`);
        if (answer.status() !== 200) found({ path, status: answer.status() });
        const wide = await view.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        if (wide > 0) {
          const past = await view.evaluate(() =>
            [...document.querySelectorAll("body *")]
              .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth)
              .map((e) => `${e.tagName.toLowerCase()}.${e.className}`)
              .slice(0, 5),
          );
          found({ path, scheme, name, wider_than_the_screen_by: wide, past_the_edge: past });
        }
        await view.evaluate(axe);
        const { violations } = await view.evaluate(async () => await globalThis.axe.run());
        for (const { id, help, nodes } of violations) {
          found({ path, scheme, name, axe: id, help, at: nodes.slice(0, 3).map((node) => node.target.join(" ")) });
        }
        if (shots) {
          const file = `${path === "/" ? "overview" : path.split("/")[1]}-${scheme}-${name}.png`;
          await view.screenshot({ path: `${shots}/${file}`, fullPage: true });
        }
        looked += 1;
      }
      await view.close();
    }
  }

  // Without scripts everything can still be read and pressed.
  const bare = await browser.newPage();
  await bare.setJavaScriptEnabled(false);
  await bare.goto(`${base}/jobs/${job}`);
  const text = await bare.$eval("main", (main) => main.textContent);
  if (!text.includes(job)) found({ without_scripts: "the job's page is empty" });
} finally {
  await browser.close();
}
console.log(`looked at ${looked} pages`);
