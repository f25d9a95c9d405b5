// A browser for the tests: one JSON command a line in, one JSON answer a line out. Arguments: playwright-core, chromium.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const [, , core, executablePath] = process.argv;
const { chromium } = createRequire(import.meta.url)(core);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
let page = null;
let problems = [];

const commands = {
  async open({ url, width = 1280, height = 900, scheme = "light", motion = "reduce" }) {
    if (page) await page.context().close();
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: motion });
    page = await context.newPage();
    problems = [];
    page.on("console", (message) => { if (["error", "warning"].includes(message.type())) problems.push(message.text()); });
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("requestfailed", (request) => problems.push(`${request.url()} failed`));
    await page.goto(url);
  },
  evaluate: ({ script }) => page.evaluate(script),
  async wait({ script, timeout = 60000 }) {  // waitForFunction would be stopped by the page's content security policy
    const until = Date.now() + timeout;
    while (!(await page.evaluate(script).catch(() => false))) {
      if (Date.now() > until) throw new Error(`never true: ${script}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return true;
  },
  press: ({ key }) => page.keyboard.press(key),
  type: ({ text }) => page.keyboard.type(text),
  click: ({ selector }) => page.click(selector),
  screenshot: ({ path }) => page.screenshot({ path }).then(() => true),
  problems: () => problems,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...options } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ value: (await commands[name](options)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
