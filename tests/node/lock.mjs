// Rewrite package-lock.json without the dependencies that clients need only for servers of their own: `npm run lock`.
// `npm ci` reads a package's dependencies from the lock file. Overrides in package.json have the same effect, but not in npm 9.
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
resolve(); // removes packages that are no longer needed
