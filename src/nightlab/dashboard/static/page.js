"use strict";
/* The page, live. It reads (and every form works) without this; with it, what is new appears by itself.

One EventSource while the page is seen; it comes back by itself and says what it had last, so that no row is lost.
Rows are keyed by their experiment: one that comes again takes the place of the one that is there. */
(() => {
  const body = document.body, base = body.dataset.base;
  const byId = (id) => document.getElementById(id);
  const skew = Date.now() / 1000 - Number(body.dataset.now);
  const MOST = 50;
  let source = null, last = null, chart = null, drawing = 0, tabling = 0, saying = 0;

  /* Markup comes from our own server only, with all words in it escaped. */
  const parsed = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  };

  function focusIn(place) {
    const focus = place.contains(document.activeElement) ? document.activeElement : null;
    return focus ? [focus.id, focus.getAttribute("href")] : [null, null];
  }

  function put(id, html) {
    const place = byId(id);
    if (!place || place.dataset.html === html) return;
    const [name, href] = focusIn(place);
    place.replaceChildren(parsed(html));
    place.dataset.html = html;
    refocus(place, name, href);
  }

  /* The focus stays where it was, on what has taken its place. */
  function refocus(place, name, href) {
    if (!name && !href) return;
    const there = (name && byId(name)) || (href && place.querySelector(`a[href="${CSS.escape(href)}"]`)) || place.querySelector("button, a");
    if (there) there.focus({ preventScroll: true });
  }

  async function pageAt(address) {
    const answer = await fetch(address, { headers: { accept: "text/html" } }).catch(() => null);
    return answer && answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
  }

  function onRow(event) {
    const said = JSON.parse(event.data), rows = byId("rows");
    draw();
    if (body.dataset.experiment === String(said.id)) again("#experiment");
    if (!rows) return;
    const now = byId(`e${said.id}`);
    if (now) {
      const [name, href] = focusIn(now), row = rowOf(said);
      now.replaceWith(row);
      refocus(row, name, href);
      return;
    }
    if (rows.closest("table").dataset.open !== "yes") { tabulate(); return; }
    const ids = [...rows.children].map((row) => Number(row.dataset.id));
    if (ids.length >= MOST && said.id < ids[ids.length - 1]) return;
    const older = [...rows.children].find((row) => Number(row.dataset.id) < said.id);
    rows.insertBefore(rowOf(said), older || null);
    while (rows.children.length > MOST) rows.lastElementChild.remove();
    const none = byId("none");
    if (none) none.remove();
  }

  function rowOf(said) {
    const row = parsed(said.html).querySelector("tr");
    row.classList.add("fresh");
    return row;
  }

  function onSummary(event) {
    const said = JSON.parse(event.data);
    for (const one of document.querySelectorAll("[data-state]")) one.textContent = said.words;
    if (said.boot !== body.dataset.boot) renew(said.boot);
    if (!byId("head")) return;
    put("head", said.html);
    const told = byId("told");
    if (told.textContent !== said.said) told.textContent = said.said;
    if (said.state === "unbegun") return;
    const total = byId("total");
    if (total && said.counts.experiments !== undefined && byId("rows").closest("table").dataset.open === "yes") {
      total.textContent = (said.counts.experiments + said.counts.rejected).toLocaleString("en");
    }
    for (const id of ["progress", "experiments"]) {
      if (byId(id).hidden) { byId(id).hidden = false; draw(); }
    }
  }

  /* The server was started anew: its token is another one. */
  async function renew(boot) {
    body.dataset.boot = boot;
    const page = await pageAt(window.location.href);
    if (!page || !page.body.dataset.token) return;
    body.dataset.token = page.body.dataset.token;
    for (const field of document.querySelectorAll('input[name="token"]')) field.value = body.dataset.token;
  }

  /* Part of the page anew, from its own address; not while somebody writes in it. */
  async function again(selector, address = window.location.href) {
    const page = await pageAt(address);
    const here = document.querySelector(selector), there = page && page.querySelector(selector);
    if (!here || !there || here.outerHTML === there.outerHTML) return;
    if ([...here.querySelectorAll("textarea, input[type=search]")].some((one) => one.value !== one.defaultValue)) return;
    const open = [...here.querySelectorAll("details")].map((one) => one.open);
    const across = [...here.querySelectorAll("[data-scrolls]")].map((one) => one.scrollLeft);
    const [name, href] = focusIn(here);
    here.replaceWith(there);
    there.querySelectorAll("details").forEach((one, n) => { one.open = one.open || open[n]; });
    there.querySelectorAll("[data-scrolls]").forEach((one, n) => { one.scrollLeft = across[n] || 0; });
    refocus(there, name, href);
  }

  /* A form that asks something of the lab: sent without leaving the page, and the answer said at its foot. */
  async function ask(form) {
    const fields = new URLSearchParams(new FormData(form));
    fields.set("token", body.dataset.token);
    const buttons = form.querySelectorAll("button");
    buttons.forEach((one) => one.setAttribute("aria-disabled", "true"));
    const answer = await fetch(form.action, { method: "POST", body: fields, headers: { "x-nightlab-part": "1" } }).catch(() => null);
    buttons.forEach((one) => one.removeAttribute("aria-disabled"));
    say(answer ? await answer.text() : null);
    if (!answer || !answer.ok) return;
    if (form.matches("[data-clears]")) form.reset();
    for (const delay of [0, 700, 2000]) window.setTimeout(() => ["#wishes", "#notes"].forEach((one) => byId(one.slice(1)) && again(one)), delay);
  }

  function say(html) {
    const place = byId("said");
    if (html === null) place.replaceChildren(parsed('<p class="refused">The page’s server does not answer; try again.</p>'));
    else place.replaceChildren(parsed(html));
    window.clearTimeout(saying);
    saying = window.setTimeout(() => place.replaceChildren(), 12000);
  }

  /* What is asked for anew as long as it says so: a log that is being written, the list of studies. */
  async function poll() {
    const place = document.querySelector("[data-poll]");
    if (place && !document.hidden) await again(`#${place.id}`, place.dataset.poll);
    window.setTimeout(poll, 1000 * Number((place && place.dataset.every) || 1));
  }

  function tabulate() {
    window.clearTimeout(tabling);
    tabling = window.setTimeout(() => again("#table"), 700);
  }

  function draw() {
    const place = byId("chart");
    if (!place || !window.nightlabChart || drawing || place.closest("[hidden]")) return;
    drawing = window.setTimeout(async () => {
      const answer = await fetch(place.dataset.src).catch(() => null);
      drawing = 0;
      if (!answer || !answer.ok) return;
      const points = await answer.json();
      if (chart) chart.update(points);
      else chart = window.nightlabChart(place, points, { link: (id) => `${base}/e/${id}` });
    }, chart ? 600 : 0);
  }

  function listen() {
    if (source || document.hidden) return;
    const live = document.querySelector("[data-live]");
    if (!live) return;
    const since = last === null ? live.dataset.seq : last;
    source = new EventSource(`${base}/events?since=${encodeURIComponent(since)}`);
    const on = (name, act) => source.addEventListener(name, (event) => { last = event.lastEventId || last; act(event); });
    on("experiment", onRow);
    on("summary", onSummary);
    on("slots", (event) => put("slots", JSON.parse(event.data).html));
    on("reload", () => { again("#table"); draw(); });
    source.onopen = () => link("");
    source.onerror = () => {
      link(" · the page’s server does not answer; trying again");
      if (source.readyState === EventSource.CLOSED) { hush(); window.setTimeout(listen, 3000); }
    };
  }

  function link(words) { byId("link").textContent = words; }

  function hush() {
    if (source) source.close();
    source = null;
  }

  function tick() {
    const now = Date.now() / 1000 - skew;
    for (const one of document.querySelectorAll("time[data-since]")) {
      const s = Math.max(0, now - Number(one.dataset.since));
      one.textContent = s < 120 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
    }
  }

  /* A page nobody sees holds no connection: a browser has only six for one server. */
  document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
  window.addEventListener("pagehide", hush);
  window.addEventListener("pageshow", listen);
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-ask]")) return;
    event.preventDefault();
    ask(event.target);
  });
  window.setInterval(tick, 1000);
  draw();
  listen();
  poll();
})();
