// Makes a component of a JavaScript module. Run in the plugin's directory, whose
// node_modules hold the tool: node --eval THIS -- SOURCE WIT WORLD OUTPUT
import { writeFile } from 'node:fs/promises';
import { argv } from 'node:process';

import { componentize } from '@bytecodealliance/componentize-js';

const [sourcePath, witPath, worldName, output] = argv.slice(-4);
const { component } = await componentize({
  sourcePath,
  witPath,
  worldName,
  // No console (the contract's `log` is there) and no incoming requests. What
  // stays is `fetch`, timers, `Date` and `Math.random`.
  disableFeatures: ['stdio', 'fetch-event'],
});
await writeFile(output, component);
