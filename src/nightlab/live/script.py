"""The script tag: puts copy into a page that already shows the champion, and says what was seen and done.

<script src="https://lab.example/nl.js" data-consent="yes" data-segment="device=phone" async></script>
<h1 data-nightlab-slot="headline">the champion's headline</h1>
<a data-nightlab="signup" href="/signup">a click on it is an outcome</a>

It replaces text on success only, never markup, and does nothing where the browser objects or nobody consented. It is
`async`: a `defer` that never comes would hold up the page's own scripts.
`nightlab.consent()` begins later, `nightlab.track("order", 49.9)` tells an outcome from code.
"""

from __future__ import annotations

import re

_SOURCE = """
(function () {
  var d = document, n = navigator, s = d.currentScript, a = s.dataset, base = s.src.replace(/\\/nl\\.js.*/, ""),
    key = "nightlab", token = a.token, seen = 0, off = n.globalPrivacyControl || n.doNotTrack == "1", started = 0;
  function post(path, body) {
    body.consent = true;
    return fetch(base + path, {method: "POST", body: JSON.stringify(body), keepalive: true, credentials: "omit",
      signal: AbortSignal.timeout(3000)}).then(function (r) { if (!r.ok) throw r.status; return r.json(); });
  }
  function keep(t) { if (t) { token = t; try { localStorage.setItem(key, t); } catch (e) {} } }
  function expose() {
    if (seen || !token || d.visibilityState != "visible") return;
    seen = 1;
    post("/v1/expose", {token: token, segment: a.segment || ""}).then(function (r) {
      keep(r.token);
    }, function () { seen = 0; });
  }
  function fill(copy) {
    d.querySelectorAll("[data-nightlab-slot]").forEach(function (e) {
      var t = copy[e.dataset.nightlabSlot];
      if (typeof t == "string" && e.textContent != t) e.textContent = t;
    });
  }
  function ready(f) { if (d.readyState == "loading") d.addEventListener("DOMContentLoaded", f); else f(); }
  function id() {
    return Array.from(crypto.getRandomValues(new Uint8Array(12)), function (b) { return b.toString(16); }).join("-");
  }
  function track(name, value, event, tries) {
    if (off || !token) return;
    event = event || id();
    tries = tries || 0;
    post("/v1/event", {token: token, id: event, name: name, value: value || 0}).catch(function (e) {
      if (tries < 3 && !(e >= 400 && e < 429)) setTimeout(track, 1e3 << tries, name, value, event, tries + 1);
    });
  }
  function start() {
    if (off || started) return;
    started = 1;
    d.addEventListener("visibilitychange", expose);
    if (token) return ready(expose);
    try { token = localStorage.getItem(key); } catch (e) {}
    post("/v1/assign", {token: token}).then(function (r) {
      ready(function () { fill(r.copy); token = ""; keep(r.token); expose(); });
    }).catch(function () { token = ""; });
  }
  d.addEventListener("click", function (e) {
    var g = e.target.closest && e.target.closest("[data-nightlab]");
    if (g) track(g.dataset.nightlab);
  });
  window.nightlab = {track: track, consent: start};
  if (a.consent == "yes") start();
})();
"""


def _small(source: str) -> str:
    lines = " ".join(line.strip() for line in source.strip().splitlines())
    return re.sub(r"\s*([{}();,=<>!?:|&+])\s*", r"\1", lines)


SCRIPT = _small(_SOURCE)
"""What is sent: under 2,000 bytes."""
