// Reads the name of an AsyncAPI document, prints what the parser says of it, one finding a line, and fails on an error.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, path] = process.argv.slice(2);
const { Parser } = createRequire(`${modules}/`)("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
const names = ["error", "warning", "information", "hint"];
for (const { severity, code, path: where, message } of diagnostics) {
  console.log(`${names[severity]}: ${code} at ${where.join(".")}: ${message}`);
}
process.exit(document && !diagnostics.some(({ severity }) => severity === 0) ? 0 : 1);
