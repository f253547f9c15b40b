// Write package-lock.json anew, without what clients need only for servers of their own: `npm run lock`.
// `npm ci` takes what a package depends on from the lock file. Overrides in package.json would say it, too, but not to npm 9.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const { without } = JSON.parse(readFileSync("package.json", "utf8"));
const resolve = () => execFileSync("npm", ["install", "--package-lock-only", "--ignore-scripts"], { stdio: "inherit" });

resolve();
const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
for (const [name, dropped] of Object.entries(without)) {
  for (const dependency of dropped) delete lock.packages[`node_modules/${name}`].dependencies[dependency];
}
writeFileSync("package-lock.json", JSON.stringify(lock));
resolve(); // what nothing depends on any more goes
