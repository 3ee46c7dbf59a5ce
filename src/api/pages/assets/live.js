// Keeps a page of the dashboard up to date, and adds keys and copying. Pages
// are complete without it. Nothing that was fetched is ever run or written as
// markup: it is parsed as an inert document, and its nodes are adopted.
"use strict";

const STREAM = "/api/events";
const PAUSE_MS = 1000; // Between two updates, at the least.
const SLOW_MS = 15000; // Leases and heartbeats pass without an event.
const RETRY_MS = 2000; // While the host is away.

const notice = document.getElementById("notice");
const main = () => document.getElementById("main");

let after = document.body.dataset.after;
let stream = null;
let timer = null;
let due = 0;
let busy = false;
let wanted = false;
let last = 0;

// Whoever selects text or fills in a field is not disturbed.
function occupied() {
  const selection = document.getSelection();
  const within = selection && !selection.isCollapsed && main().contains(selection.anchorNode);
  const field = document.activeElement;
  return within || (field && field.matches("main input, main select, main textarea"));
}

function say(text) {
  if (notice.textContent !== text) notice.textContent = text;
}

// What is due earlier stays so: a stream that fails again and again must not
// put off the look that would tell.
function schedule(ms) {
  const at = Date.now() + ms;
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(() => {
    timer = null;
    update();
  }, ms);
}

function news() {
  wanted = true;
  if (!busy) schedule(Math.max(0, last + PAUSE_MS - Date.now()));
}

async function update() {
  if (busy || document.hidden) return;
  if (occupied()) {
    if (wanted) say("Paused while you select or type.");
    schedule(PAUSE_MS);
    return;
  }
  busy = true;
  wanted = false;
  let next = SLOW_MS;
  try {
    const response = await fetch(location.href, {
      headers: { accept: "text/html" },
      cache: "no-store",
    });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const heading = fresh.querySelector("main h1");
    if (response.status >= 500 || response.status === 429 || !heading) {
      say("Not up to date: " + (heading ? heading.textContent : "HTTP " + response.status));
      next = RETRY_MS;
    } else if (!sameAssets(fresh)) {
      location.reload();
      return;
    } else if (!occupied()) {
      replace(fresh);
      say("");
    }
  } catch {
    say("The host cannot be reached. This page shows what was last known, and goes on by itself.");
    next = RETRY_MS;
  }
  last = Date.now();
  busy = false;
  schedule(wanted ? PAUSE_MS : next);
}

// Another version of the host serves another script and style.
function sameAssets(fresh) {
  const urls = (page) =>
    [...page.querySelectorAll("head link, head script")].map((e) => e.getAttribute("href") || e.getAttribute("src"));
  return urls(document).join() === urls(fresh).join();
}

// How to find an element again in the next rendering.
function place(element) {
  if (element.id) return "#" + CSS.escape(element.id);
  const alike = [...main().querySelectorAll(element.localName)];
  return [element.localName, alike.indexOf(element)];
}

function find(where) {
  if (typeof where === "string") return main().querySelector(where);
  return main().querySelectorAll(where[0])[where[1]];
}

function replace(fresh) {
  const old = main();
  const focused = old.contains(document.activeElement) && document.activeElement;
  const focus = focused === old ? "main" : focused ? place(focused) : null;
  const folds = [...old.querySelectorAll("details[id]")].map((e) => [e.id, e.open]);
  const scrolled = [...old.querySelectorAll(".wide, pre")]
    .filter((e) => e.scrollLeft || e.scrollTop)
    .map((e) => [place(e), e.scrollLeft, e.scrollTop]);
  const [x, y] = [window.scrollX, window.scrollY];
  old.replaceWith(document.adoptNode(fresh.getElementById("main")));
  document.title = fresh.title;
  for (const [id, open] of folds) {
    const fold = document.getElementById(id);
    if (fold) fold.open = open;
  }
  for (const [where, left, top] of scrolled) {
    const element = find(where);
    if (element) [element.scrollLeft, element.scrollTop] = [left, top];
  }
  equip();
  const target = focus === "main" ? main() : focus && find(focus);
  if (target) target.focus({ preventScroll: true });
  window.scrollTo(x, y);
}

function follow() {
  if (stream || document.hidden || after === undefined) return;
  const source = new EventSource(STREAM + "?after=" + encodeURIComponent(after));
  stream = source;
  source.onopen = () => {
    if (notice.textContent) news();
  };
  source.onmessage = (message) => {
    if (message.lastEventId) after = message.lastEventId;
    news();
  };
  source.onerror = () => {
    // A browser comes back by itself, unless it was turned away.
    if (source.readyState === EventSource.CLOSED && stream === source) {
      stream = null;
      setTimeout(follow, RETRY_MS);
    }
    schedule(RETRY_MS);
  };
}

function leave() {
  if (stream) stream.close();
  stream = null;
  clearTimeout(timer);
  timer = null;
}

document.addEventListener("visibilitychange", () => {
  leave();
  if (document.hidden) return;
  follow();
  news();
});
// A page that is kept for going back must not hold a stream.
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => {
  if (event.persisted) {
    follow();
    news();
  }
});

async function copy(code, button) {
  try {
    // Only where the page came over TLS or loopback.
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch {
    document.getSelection().selectAllChildren(code);
    button.textContent = "selected";
  }
  setTimeout(() => (button.textContent = "copy"), 1500);
}

// What a page has only where there is a script.
function equip() {
  for (const time of main().querySelectorAll("time")) {
    time.title = new Date(time.dateTime).toLocaleString() + " here";
  }
  for (const code of main().querySelectorAll("code.cli")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "copy";
    button.setAttribute("aria-label", "Copy: " + code.textContent);
    button.addEventListener("click", () => copy(code, button));
    code.after(button);
  }
}

let prefix = false;
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const keys = document.getElementById("keys");
  if (prefix) {
    prefix = false;
    const link = document.querySelector('header a[data-key="' + CSS.escape(event.key) + '"]');
    if (link) {
      event.preventDefault();
      location.assign(link.href);
    }
  } else if (event.key === "g") {
    prefix = true;
    setTimeout(() => (prefix = false), 1500);
  } else if (event.key === "/") {
    const field = main().querySelector("form.filters input:not([type=hidden])");
    event.preventDefault();
    if (field) field.focus();
    else location.assign("/ui/tasks");
  } else if (event.key === "?" && !keys.open) {
    keys.showModal();
  }
});

equip();
follow();
schedule(SLOW_MS);
