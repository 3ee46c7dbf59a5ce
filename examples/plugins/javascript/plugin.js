// An executor plugin in JavaScript: every part of the contract on one page.
//
// Handles `code/build-test`, a role the contract has a report for, and
// `docs/render`, one it has none for. README.md lists what the payload steers.

import {
  config,
  log,
  progress,
  reportUsage,
  stop,
  storeArtifact,
} from 'cogo:executor/host@0.1.0';

// Well below the two seconds that the host waits once it asked to stop.
const STOP_CHECK_MS = 250;

// A failure of the contract is thrown as a plain object; an `Error` is a bug
// and becomes a trap.
const retryable = (code, message, retryAfterMs) =>
  ({ tag: 'retryable', val: { code, message, retryAfterMs } });
const permanent = (code, message) => ({ tag: 'permanent', val: { code, message } });
const INTERRUPTED = { tag: 'interrupted' };

export const plugin = {
  // Constants only: the host calls it once, with nothing to reach.
  describe: () => ({
    name: 'javascript-example',
    version: '0.1.0',
    kind: 'real',
    handles: ['code/build-test', 'docs/render'],
    configKeys: ['GREETING', 'FETCH_ORIGIN'],
    egress: ['config:FETCH_ORIGIN'],
  }),
};

export const executor = {
  async execute(task) {
    try {
      return await run(task);
    } catch (thrown) {
      // Without this line a bug would show as a trap and nothing else.
      if (thrown instanceof Error) log('error', `${thrown}\n${thrown.stack}`);
      throw thrown;
    }
  },
};

async function run(task) {
  const started = Date.now();
  const payload = read(task.payload);
  const greeting = `${config('GREETING') ?? 'Hello'}, ${payload.greet ?? 'world'}!`;
  log('info', `${greeting} (attempt ${task.attempt} of ${task.maxAttempts})`);
  progress(0.1, 'greeted');
  // Before anything can fail: what a failed attempt spent counts too.
  reportUsage({ costMicroUsd: 0n, tokens: BigInt(greeting.split(' ').length) });

  if (payload.fail === 'retryable') {
    throw retryable('example_retryable', 'fails, as the payload asked', 1000n);
  }
  if (payload.fail === 'permanent') {
    throw permanent('example_permanent', 'fails for good, as the payload asked');
  }
  if (payload.fetch !== undefined) {
    store('fetched.bin', 'application/octet-stream', await download(payload.fetch));
    progress(0.6, 'fetched');
  }
  giveWay();

  switch (`${task.route.service}/${task.route.role}`) {
    case 'code/build-test':
      return buildTest(payload, greeting, started);
    case 'docs/render':
      return render(payload, greeting);
    default:
      throw permanent('role_unsupported', `does not handle ${task.route.service}/${task.route.role}`);
  }
}

function buildTest(payload, greeting, started) {
  const failures = payload.failures ?? 0;
  const text = new TextEncoder().encode(`${greeting}\n${failures} of 3 tests failed\n`);
  const reportUrl = store('report.txt', 'text/plain; charset=utf-8', text);
  // Failing tests are a finished task with a negative verdict, not a failure.
  const report = {
    passed: failures === 0,
    tests: 3,
    failures,
    durationMs: BigInt(Date.now() - started),
    reportUrl,
  };
  return { report: { tag: 'build-test', val: report }, snippet: greeting, attributes: [] };
}

function render(payload, greeting) {
  const title = escape(payload.title ?? greeting);
  const text = escape(payload.text ?? '');
  const page = `<!doctype html><meta charset="utf-8"><title>${title}</title><h1>${title}</h1><p>${text}</p>\n`;
  const body = new TextEncoder().encode(page);
  const url = store('index.html', 'text/html; charset=utf-8', body);
  const report = JSON.stringify({ page_url: url, bytes: body.length });
  return { report: { tag: 'custom', val: report }, snippet: greeting, url, attributes: [] };
}

// The payload comes from whoever put the task on the bus: parsed once, here.
function read(text) {
  const payload = parse(text);
  for (const key of ['greet', 'fail', 'fetch', 'title', 'text']) {
    if (!['string', 'undefined'].includes(typeof payload[key])) {
      throw permanent('payload_invalid', `\`${key}\` is not a string`);
    }
  }
  if (payload.fetch !== undefined && !isHttp(payload.fetch)) {
    throw permanent('payload_invalid', `\`fetch\` is not an http or https URL: ${payload.fetch}`);
  }
  const { failures = 0 } = payload;
  if (!Number.isInteger(failures) || failures < 0 || failures > 3) {
    throw permanent('payload_invalid', '`failures` is not a number from 0 to 3');
  }
  return payload;
}

function parse(text) {
  try {
    const payload = JSON.parse(text);
    if (payload !== null && typeof payload === 'object' && !Array.isArray(payload)) return payload;
  } catch {
    // Neither is JSON at all.
  }
  throw permanent('payload_invalid', 'the payload is not a JSON object');
}

function isHttp(text) {
  try {
    return ['http:', 'https:'].includes(new URL(text).protocol);
  } catch {
    return false;
  }
}

// The engine's `fetch` says nothing of why it failed, so even a request that the
// host refuses is retried; the host's own log names the missing grant.
async function download(url) {
  log('debug', `fetching ${url}`);
  let response, body;
  try {
    response = await unlessStopped(fetch(url));
    body = await unlessStopped(response.arrayBuffer());
  } catch (thrown) {
    if (!(thrown instanceof Error)) throw thrown;
    throw retryable('fetch_failed', `${url}: ${thrown.message}`);
  }
  if (response.status === 429 || response.status >= 500) {
    const seconds = response.headers.get('retry-after') ?? '';
    const retryAfterMs = /^\d{1,9}$/.test(seconds) ? BigInt(seconds) * 1000n : undefined;
    throw retryable('fetch_refused', `${url}: status ${response.status}`, retryAfterMs);
  }
  if (!response.ok) throw permanent('fetch_refused', `${url}: status ${response.status}`);
  return new Uint8Array(body);
}

// The engine's event loop cannot await `stop-signal`, so a timer asks `stop`.
async function unlessStopped(work) {
  let timer;
  const stopped = new Promise((_, reject) => {
    timer = setInterval(() => stop() !== undefined && reject(INTERRUPTED), STOP_CHECK_MS);
  });
  try {
    return await Promise.race([work, stopped]);
  } finally {
    clearInterval(timer);
  }
}

function giveWay() {
  if (stop() !== undefined) throw INTERRUPTED;
}

function store(path, contentType, body) {
  try {
    return storeArtifact(path, contentType, body);
  } catch (error) {
    // A `result` of the host throws its error side as `payload`.
    const { tag, val } = error.payload;
    if (tag === 'unavailable') throw retryable('artifacts_unavailable', val);
    throw permanent('artifact_refused', `${path}: ${tag} ${val ?? ''}`);
  }
}

function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
