"use strict";
/* The page, live. It reads (and every form works) without this; with it, what is new appears by itself.

One EventSource while the page is seen; it comes back by itself and says what it had last, so that no row is lost.
Rows are keyed by their experiment: one that comes again takes the place of the one that is there. */
(() => {
  const body = document.body, base = body.dataset.base;
  const byId = (id) => document.getElementById(id);
  const skew = Date.now() / 1000 - Number(body.dataset.now);
  const MOST = 50;
  let source = null, last = null, chart = null, drawing = 0, tabling = 0;

  /* Markup comes from our own server only, with all words in it escaped. */
  const parsed = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  };

  function put(id, html) {
    const place = byId(id);
    if (!place || place.dataset.html === html) return;
    const focus = document.activeElement && place.contains(document.activeElement) ? document.activeElement : null;
    const href = focus && focus.getAttribute("href"), name = focus && focus.id;
    place.replaceChildren(parsed(html));
    place.dataset.html = html;
    if (window.htmx) window.htmx.process(place);
    if (!focus) return;
    const again = (name && byId(name)) || (href && place.querySelector(`a[href="${CSS.escape(href)}"]`)) || place.querySelector("button, a");
    if (again) again.focus({ preventScroll: true });
  }

  function onRow(event) {
    const said = JSON.parse(event.data), rows = byId("rows");
    draw();
    if (body.dataset.experiment === String(said.id)) again("#experiment");
    if (!rows) return;
    const now = byId(`e${said.id}`);
    if (now) { if (!now.contains(document.activeElement)) now.replaceWith(rowOf(said)); return; }
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
    const answer = await fetch(window.location.href, { headers: { accept: "text/html" } }).catch(() => null);
    if (!answer || !answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const headers = page.body.getAttribute("hx-headers");
    if (!headers) return;
    body.setAttribute("hx-headers", headers);
    for (const field of document.querySelectorAll('input[name="token"]')) field.value = JSON.parse(headers)["X-Nightlab-Token"];
  }

  /* Part of the page anew, from its own address. */
  async function again(selector) {
    const answer = await fetch(window.location.href, { headers: { accept: "text/html" } }).catch(() => null);
    if (!answer || !answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const here = document.querySelector(selector), there = page.querySelector(selector);
    if (!here || !there) return;
    if (here.contains(document.activeElement) && document.activeElement.matches("input, textarea")) return;
    here.replaceWith(there);
    if (window.htmx) window.htmx.process(there);
  }

  function tabulate() {
    window.clearTimeout(tabling);
    tabling = window.setTimeout(() => again("#table"), 700);
  }

  function draw() {
    const place = byId("chart");
    if (!place || !window.nightlabChart || drawing) return;
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
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.successful && event.detail.elt.matches("form[data-clears]")) event.detail.elt.reset();
  });
  window.setInterval(tick, 1000);
  draw();
  listen();
})();
