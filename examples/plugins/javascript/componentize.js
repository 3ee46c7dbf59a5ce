// Turns plugin.js into a component: node componentize.js WIT_DIRECTORY OUTPUT
import { writeFile } from 'node:fs/promises';
import { argv } from 'node:process';

import { componentize } from '@bytecodealliance/componentize-js';

const [, , witPath, output] = argv;
const { component } = await componentize({
  sourcePath: 'plugin.js',
  witPath,
  worldName: 'executor-plugin',
  // No console (the contract's `log` is there) and no incoming requests. What
  // stays is `fetch`, timers, `Date` and `Math.random`.
  disableFeatures: ['stdio', 'fetch-event'],
});
await writeFile(output, component);
