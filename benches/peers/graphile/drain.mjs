// graphile-worker, which the host is measured against, in a process of its own:
// `node drain.mjs fill|drain URL JOBS`. It says `ready`, `began` and `ran`, and
// ends with its standard input, as the peers in Rust do (../src/main.rs).
//
// The runner is never stopped: without batched completion it does not wait for
// its deletions, and stopping it ends the pool of connections that some of them
// still wait for, which leaves those jobs locked for good.

import { once } from "node:events";
import { Logger, makeWorkerUtils, run } from "graphile-worker";

const SUBMITTED = 1000;
const CONCURRENCY = 10;
const LOCAL_QUEUE = 100;

const [action, connectionString, count] = process.argv.slice(2);
const jobs = Number(count);

/** Silent about each job, not about what goes wrong. */
const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

async function fill() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  for (let begin = 0; begin < jobs; begin += SUBMITTED) {
    const length = Math.min(SUBMITTED, jobs - begin);
    await utils.addJobs(
      Array.from({ length }, () => ({ identifier: "bench", payload: {} })),
    );
  }
  await utils.release();
}

async function drain() {
  console.log("ready");
  await once(process.stdin, "data");
  process.stdin.on("end", () => process.exit(0));
  let handled = 0;
  const runner = await run({
    preset: {
      worker: {
        connectionString,
        logger,
        concurrentJobs: CONCURRENCY,
        // One more listens.
        maxPoolSize: CONCURRENCY + 1,
        localQueue: { size: LOCAL_QUEUE },
      },
    },
    taskList: {
      bench: () => {
        handled += 1;
        if (handled === 1) console.log("began");
        if (handled === jobs) console.log("ran");
      },
    },
    // A crontab file is looked for otherwise.
    parsedCronItems: [],
  });
  await runner.promise;
  throw new Error("the runner ended");
}

switch (action) {
  case "fill":
    await fill();
    break;
  case "drain":
    await drain();
    break;
  default:
    throw new Error("usage: drain.mjs fill|drain URL JOBS");
}
