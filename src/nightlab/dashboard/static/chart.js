"use strict";
/* nightlabChart(element, data, {link}): the progress of a study, or its frontier, drawn with uPlot.

`data` is what dashboard/chart.py says. Returns {update(data), destroy()}. uPlot gives axes, zoom (drag; double click
for the whole) and the cursor; the marks are drawn here. Every state has a shape of its own, not only a colour. All
words of experiments are set as text, never as markup. The arrow keys read the points aloud; Enter opens one, where
`link` (id => url) is given. */
(() => {
  const FAILED = new Set(["crashed", "timeout", "invalid"]);
  const GONE = new Set(["pruned", "reverted"]);
  const FACE = "system-ui, sans-serif";

  function colours(element) {
    const style = getComputedStyle(element);
    const read = (name, other) => style.getPropertyValue(name).trim() || other;
    return {
      ink: read("--chart-ink", "#222"), soft: read("--chart-soft", "#6b6b6b"), grid: read("--chart-grid", "#e4e4e4"),
      ground: read("--chart-ground", "#fff"), best: read("--chart-best", "#1f5fa8"),
      failed: read("--chart-failed", "#c05f00"), lost: read("--chart-lost", "#8b8b8b"),
    };
  }

  const number = (value) => (value === null || value === undefined ? "-" : String(Number(value.toPrecision(6))));
  const short = (text, most) => (text.length <= most ? text : text.slice(0, most - 1).trimEnd() + "\u2026");

  /* One list of what can be pointed at, from left to right. */
  function itemsOf(data) {
    if (data.kind === "frontier") {
      const front = data.front.map((one) => ({ ...one, x: one.complexity, y: one.value, isBest: true }));
      const rest = data.points.map(([x, id, y, status]) => ({ x, id, y, status, isBest: false }));
      return [...rest, ...front].sort((a, b) => a.x - b.x || a.id - b.id);
    }
    const kept = data.kept.map((one) => ({ ...one, x: one.place, y: one.value, status: "kept", isBest: true }));
    const rest = data.points.map(([x, id, y, status]) => ({ x, id, y, status, isBest: false }));
    const failed = data.failed.map(([x, id, status]) => ({ x, id, y: null, status, isBest: false }));
    return [...rest, ...kept, ...failed].sort((a, b) => a.x - b.x || a.id - b.id);
  }

  function wordsOf(item, data) {
    const range = item.low === null || item.low === undefined ? "" : `, 95 % ${number(item.low)} to ${number(item.high)}`;
    const value = item.y === null ? "no number" : `${data.metric} ${number(item.y)}${range}`;
    const grade = item.grade ? ` (${item.grade})` : "";
    const lines = data.kind === "frontier" ? `, ${number(item.x)} lines added` : "";
    const said = item.hypothesis ? `: ${item.hypothesis}` : "";
    return `Experiment ${item.id}, ${item.status}, ${value}${grade}${lines}${said}`;
  }

  /* Marks: a shape for each state. Sizes in CSS pixels, `px` canvas pixels each. */
  function mark(ctx, status, isBest, x, y, px, tint, size = 1) {
    const circle = (radius) => { ctx.beginPath(); ctx.arc(x, y, radius * size * px, 0, 2 * Math.PI); };
    ctx.lineWidth = 1.25 * px;
    if (FAILED.has(status)) {
      const arm = 3.5 * px;
      ctx.strokeStyle = tint.failed;
      ctx.lineWidth = 1.75 * px;
      ctx.beginPath();
      ctx.moveTo(x - arm, y - arm); ctx.lineTo(x + arm, y + arm);
      ctx.moveTo(x - arm, y + arm); ctx.lineTo(x + arm, y - arm);
      ctx.stroke();
    } else if (isBest) {
      ctx.fillStyle = tint.best;
      circle(4.5);
      ctx.fill();
    } else if (GONE.has(status)) {
      const arm = 4.5 * px;
      ctx.strokeStyle = tint.failed;
      ctx.beginPath();
      ctx.moveTo(x, y - arm); ctx.lineTo(x + arm, y); ctx.lineTo(x, y + arm); ctx.lineTo(x - arm, y);
      ctx.closePath();
      ctx.stroke();
    } else if (status === "shelved") {
      ctx.strokeStyle = tint.lost;
      ctx.strokeRect(x - 3 * px, y - 3 * px, 6 * px, 6 * px);
    } else {
      ctx.strokeStyle = tint.lost;
      circle(2.75);
      ctx.stroke();
    }
  }

  /* The ground around a disc, so that it stands out from the line; all of them before any disc. */
  function halo(ctx, x, y, radius, tint) {
    ctx.fillStyle = tint.ground;
    ctx.beginPath();
    ctx.arc(x, y, radius, 0, 2 * Math.PI);
    ctx.fill();
  }

  /* What lies beyond the frame is shown at its edge, as an arrow head that points there. */
  function beyond(ctx, x, y, isAbove, px, tint) {
    const arm = (isAbove ? 4 : -4) * px;
    ctx.fillStyle = tint.lost;
    ctx.beginPath();
    ctx.moveTo(x, y + arm / 4); ctx.lineTo(x + Math.abs(arm), y + 1.5 * arm); ctx.lineTo(x - Math.abs(arm), y + 1.5 * arm);
    ctx.fill();
  }

  function steps(ctx, path, toX, toY, shift) {
    path.forEach(([place, value], n) => {
      if (n === 0) ctx.moveTo(toX(place), toY(value + shift));
      else { ctx.lineTo(toX(place), toY(path[n - 1][1] + shift)); ctx.lineTo(toX(place), toY(value + shift)); }
    });
  }

  function runningBest(ctx, data, toX, toY, px, tint) {
    if (!data.best.length) return;
    const last = data.best[data.best.length - 1];
    const path = [...data.best, [Math.max(data.decided - 1, last[0]), last[1]]];
    if (data.sigma) {
      const back = [...path].reverse();
      ctx.globalAlpha = 0.13;
      ctx.fillStyle = tint.best;
      ctx.beginPath();
      steps(ctx, path, toX, toY, data.sigma);
      back.forEach(([place, value], n) => {
        ctx.lineTo(toX(place), toY(value - data.sigma));
        if (n + 1 < back.length) ctx.lineTo(toX(place), toY(back[n + 1][1] - data.sigma));
      });
      ctx.closePath();
      ctx.fill();
      ctx.globalAlpha = 1;
    }
    ctx.strokeStyle = tint.best;
    ctx.lineWidth = 2 * px;
    ctx.lineJoin = "round";
    ctx.beginPath();
    steps(ctx, path, toX, toY, 0);
    ctx.stroke();
  }

  function front(ctx, data, toX, toY, px, tint) {
    ctx.strokeStyle = tint.best;
    ctx.lineWidth = 1.5 * px;
    ctx.setLineDash([5 * px, 4 * px]);
    ctx.beginPath();
    steps(ctx, data.front.map((one) => [one.complexity, one.value]), toX, toY, 0);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  function errorBar(ctx, item, toX, toY, px, tint) {
    if (item.low === null || item.low === undefined) return;
    const [x, low, high, cap] = [toX(item.x), toY(item.low), toY(item.high), 3 * px];
    ctx.strokeStyle = tint.best;
    ctx.lineWidth = 1.25 * px;
    ctx.beginPath();
    ctx.moveTo(x, low); ctx.lineTo(x, high);
    for (const y of [low, high]) { ctx.moveTo(x - cap, y); ctx.lineTo(x + cap, y); }
    ctx.stroke();
  }

  /* Where the label of a point may stand: first on the side where no experiment has been, then farther off. */
  function* spots(width, isLower) {
    const away = isLower ? 1 : -1;
    for (const far of [15, 30, 46, 64, 84, 106]) {
      for (const side of [-1, 1]) {
        const dx = side < 0 ? -width - 5 : 7;
        yield [dx, away * far];
        if (far < 50) yield [dx, -away * far];
      }
    }
  }

  const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

  /* Names the marked points: the first, the last and the largest gains. A name stands clear of the line and of all
  points if it can, else clear of the other names; one that finds no room stays away. */
  function labels(ctx, chosen, frame, at, px, tint, isLower, around) {
    const most = Math.max(3, Math.floor(frame.width / px / 70));
    const letters = frame.width / px < 520 ? 22 : 38;
    const line = 12 * px;
    const taken = chosen.map((one) => square(at(one), line / 2));
    const order = [chosen[0], chosen[chosen.length - 1]];
    order.push(...chosen.slice(1, -1).sort((a, b) => (b.gain || 0) - (a.gain || 0)));
    ctx.font = `${11 * px}px ${FACE}`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    ctx.lineJoin = "round";
    for (const item of [...new Set(order)].slice(0, most)) {
      const text = short(item.hypothesis, letters) + (item.grade ? ` ${item.grade}` : "");
      const [x, y] = at(item);
      const size = [ctx.measureText(text).width, line];
      const spot = clear([x, y], size, frame, px, isLower, [...taken, ...around]) || clear([x, y], size, frame, px, isLower, taken);
      if (!spot) continue;
      const [left, middle, box] = spot;
      taken.push(box);
      if (Math.abs(middle - y) > 20 * px) leader(ctx, x, y, left < x - 6 * px ? box[2] : left, middle, px, tint);
      ctx.strokeStyle = tint.ground;
      ctx.lineWidth = 3.5 * px;
      ctx.strokeText(text, left, middle);
      ctx.fillStyle = tint.ink;
      ctx.fillText(text, left, middle);
    }
  }

  const square = ([x, y], half) => [x - half, y - half, x + half, y + half];

  /* The first spot near a point whose box is inside the frame and overlaps nothing; none: undefined. */
  function clear([x, y], [width, line], frame, px, isLower, others) {
    const [right, foot] = [frame.left + frame.width, frame.top + frame.height - 13 * px];
    for (const [dx, dy] of spots(width / px, isLower)) {
      const [left, middle] = [x + dx * px, y + dy * px];
      const box = [left - 2 * px, middle - line / 2 - px, left + width + 2 * px, middle + line / 2 + px];
      const fits = box[0] > frame.left && box[2] < right && box[1] > frame.top && box[3] < foot;
      if (fits && !others.some((other) => overlap(box, other))) return [left, middle, box];
    }
    return undefined;
  }

  /* What a name should stand clear of: every other point, and the line, piece by piece. */
  function obstacles(data, items, toX, toY, px) {
    const points = items.filter((one) => !one.isBest && one.y !== null).map((one) => square([toX(one.x), toY(one.y)], 4 * px));
    const path = data.kind === "frontier" ? data.front.map((one) => [one.complexity, one.value]) : [...data.best];
    if (data.kind !== "frontier" && path.length) path.push([data.decided - 1, path[path.length - 1][1]]);
    const line = path.slice(1).flatMap(([place, value], n) => {
      const [x0, y0, x1, y1] = [toX(path[n][0]), toY(path[n][1]), toX(place), toY(value)];
      return [[x0, y0 - px, x1, y0 + px], [x1 - px, Math.min(y0, y1), x1 + px, Math.max(y0, y1)]];
    });
    return [...points, ...line];
  }

  function leader(ctx, x, y, toX, toY, px, tint) {
    ctx.strokeStyle = tint.soft;
    ctx.lineWidth = 0.75 * px;
    ctx.beginPath();
    ctx.moveTo(x, y); ctx.lineTo(toX, toY);
    ctx.stroke();
  }

  /* Marks in a row at an edge stand so far apart at least; where many are, one speaks for its neighbours. */
  function spaced(least) {
    const last = {};
    return (row, x) => {
      if (row in last && x - last[row] < least) return false;
      last[row] = x;
      return true;
    };
  }

  function draw(u, data, items, tint) {
    const { ctx, bbox } = u, px = uPlot.pxRatio;
    const toX = (value) => u.valToPos(value, "x", true), toY = (value) => u.valToPos(value, "y", true);
    const floor = bbox.top + bbox.height - 7 * px;
    const [low, high] = [u.scales.y.min, u.scales.y.max];
    const best = items.filter((one) => one.isBest);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left - 6 * px, bbox.top, bbox.width + 12 * px, bbox.height);
    ctx.clip();
    if (data.kind === "frontier") front(ctx, data, toX, toY, px, tint);
    else runningBest(ctx, data, toX, toY, px, tint);
    const shown = items.filter((one) => one.x >= u.scales.x.min && one.x <= u.scales.x.max).length;
    const size = Math.max(0.55, Math.min(1, (2.5 * bbox.width) / px / Math.max(1, shown) / 2));
    const roomy = spaced(6 * px);
    for (const one of items) {
      if (one.isBest) continue;
      const x = toX(one.x);
      if (one.y === null) roomy("foot", x) && mark(ctx, one.status, false, x, floor, px, tint);
      else if (one.y > high) roomy("top", x) && beyond(ctx, x, bbox.top + px, true, px, tint);
      else if (one.y < low) roomy("below", x) && beyond(ctx, x, bbox.top + bbox.height - px, false, px, tint);
      else mark(ctx, one.status, false, x, toY(one.y), px, tint, size);
    }
    for (const one of best) errorBar(ctx, one, toX, toY, px, tint);
    for (const one of best) halo(ctx, toX(one.x), toY(one.y), 5.75 * size * px, tint);
    for (const one of best) mark(ctx, one.status, true, toX(one.x), toY(one.y), px, tint, size);
    const inside = best.filter((one) => one.x >= u.scales.x.min && one.x <= u.scales.x.max);
    const at = (one) => [toX(one.x), toY(one.y)];
    const around = obstacles(data, items, toX, toY, px);
    if (inside.length) labels(ctx, inside, bbox, at, px, tint, data.direction !== "higher", around);
    ctx.restore();
  }

  function add(parent, name, className, text) {
    const child = document.createElement(name);
    if (className) child.className = className;
    if (text) child.textContent = text;
    parent.append(child);
    return child;
  }

  /* The legend's marks are drawn by the same hand as the chart's. */
  function legend(place, data, tint) {
    const counts = data.counts;
    const has = (...states) => data.points.some((one) => states.includes(one[3]));
    const entries = data.kind === "frontier"
      ? [["kept", true, "nobody is better in both"], ["discarded", false, "the others"]]
      : [["kept", true, `kept (${counts.kept})`], ["discarded", false, "not kept"],
        ...(has("shelved") ? [["shelved", false, "shelved"]] : []),
        ...(has("pruned", "reverted") ? [["pruned", false, "kept, then taken out"]] : []),
        ...(counts.failed ? [["crashed", false, `failed (${counts.failed}), no number`]] : [])];
    place.replaceChildren();
    const px = window.devicePixelRatio || 1;
    for (const [status, isBest, words] of entries) {
      const entry = add(place, "li", "", "");
      const canvas = add(entry, "canvas", "chart-mark", "");
      canvas.width = canvas.height = 14 * px;
      canvas.setAttribute("aria-hidden", "true");
      mark(canvas.getContext("2d"), status, isBest, 7 * px, 7 * px, px, tint);
      add(entry, "span", "", words);
    }
    const notes = [];
    if (data.sigma) notes.push("shaded: one run's noise (1 sd); bars: 95 %");
    if (data.left_out) notes.push(`${data.left_out} more not drawn`);
    if (notes.length) add(place, "li", "chart-note", notes.join(" \u00b7 "));
  }

  function optionsOf(element, state, size) {
    const font = `12px ${FACE}`;
    const axis = (label, more) => ({
      label, font, labelFont: font, labelGap: 2, stroke: () => state.tint.soft, gap: 6,
      grid: { stroke: () => state.tint.grid, width: 1 }, ticks: { show: false }, ...more,
    });
    const isFrontier = state.data.kind === "frontier";
    const better = state.data.direction === "higher" ? "higher is better" : "lower is better";
    const span = (u, low, high) => {
      if (isFrontier && state.data.x && low === state.xs[0] && high === state.xs[state.xs.length - 1]) return state.data.x;
      const room = Math.max(0.5, 0.015 * (high - low));
      return u.isZoomed ? [low, high] : [low - room, high + room];
    };
    return {
      ...size, legend: { show: false }, padding: [10, 22, 0, 0],
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: true }, focus: { prox: -1 } },
      scales: { x: { time: false, range: span }, y: { range: () => stretched(state.data) } },
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [
        axis(isFrontier ? "lines to read, more than at the start" : "experiments, in the order decided", {
          size: 34, labelSize: 18, ...(isFrontier ? {} : { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] }),
        }),
        axis(`${state.data.metric} (${better})`, { size: 58, labelSize: 20 }),
      ],
      hooks: {
        draw: [(u) => draw(u, state.data, state.items, state.tint)],
        setCursor: [(u) => state.follow(u)],
        setSelect: [(u) => { u.isZoomed = u.select.width > 0; state.draggedAt = u.isZoomed ? performance.now() : -1e9; }],
      },
    };
  }

  /* Labels stand on the side where no experiment has been, and failures at the foot: both need room. */
  function stretched({ y: [low, high], direction, kind }) {
    const span = high - low;
    if (kind === "frontier") return [low - 0.12 * span, high + 0.08 * span];
    return direction === "higher" ? [low - 0.08 * span, high + 0.2 * span] : [low - 0.3 * span, high];
  }

  function sizeOf(element) {
    const width = Math.max(240, Math.floor(element.clientWidth));
    return { width, height: Math.round(Math.min(460, Math.max(280, 0.46 * width))) };
  }

  class Chart {
    constructor(element, data, { link = null } = {}) {
      this.element = element;
      this.link = link;
      this.u = null;
      this.at = -1;
      this.draggedAt = -1e9;
      element.classList.add("nightlab-chart");
      element.replaceChildren();
      this.canvas = add(element, "div", "chart-plot", "");
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("role", "application");
      this.canvas.setAttribute("aria-roledescription", "chart");
      this.legend = add(element, "ul", "chart-legend", "");
      this.told = add(element, "p", "chart-told", "");
      this.told.setAttribute("aria-live", "polite");
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      this.canvas.addEventListener("blur", () => this.point(-1));
      this.canvas.addEventListener("click", (event) => this.click(event));
      this.repaint = () => this.paint();
      this.queries = ["(prefers-color-scheme: dark)", "print"].map((one) => window.matchMedia(one));
      for (const query of this.queries) query.addEventListener("change", this.repaint);
      this.observer = new ResizeObserver(() => this.fit());
      this.observer.observe(element);
      this.update(data);
    }

    update(data) {
      const focus = this.items && this.at >= 0 ? this.items[this.at].id : null;
      this.data = data;
      this.items = itemsOf(data);
      this.xs = this.items.map((one) => one.x);
      this.tint = colours(this.element);
      if (!data.y) {
        this.told.textContent = "Nothing to draw yet: no experiment has been measured.";
        return;
      }
      const columns = [this.xs, this.items.map((one) => one.y)];
      if (this.u) this.u.setData(columns, !this.u.isZoomed);
      else this.begin(columns);
      if (this.u.isZoomed) this.u.redraw();
      const kinds = data.kind === "frontier" ? `Metric against lines to read, ${this.items.length} experiments.`
        : `Progress of ${data.metric}: ${data.decided} experiments, ${data.counts.kept} kept, ${data.counts.failed} failed.`;
      const keys = `Arrow left and right read the points, up and down the marked ones${this.link ? ", Enter opens one" : ""}.`;
      this.canvas.setAttribute("aria-label", `${kinds} ${keys}`);
      legend(this.legend, data, this.tint);
      if (focus !== null) this.point(this.items.findIndex((one) => one.id === focus));
    }

    begin(columns) {
      this.told.textContent = "";
      this.u = new uPlot(optionsOf(this.element, this, sizeOf(this.element)), columns, this.canvas);
      this.ring = add(this.u.over, "div", "chart-ring", "");
      this.tip = add(this.u.over, "div", "chart-tip", "");
      this.ring.hidden = this.tip.hidden = true;
    }

    paint() {
      this.tint = colours(this.element);
      if (!this.u) return;
      this.u.redraw(false, true);
      legend(this.legend, this.data, this.tint);
    }

    fit() {
      if (!this.u) return;
      const size = sizeOf(this.element);
      if (size.width === this.u.width && size.height === this.u.height) return;
      this.u.setSize(size);
      this.point(this.at);
    }

    /* Where an item stands, in CSS pixels of the plot. */
    spot(item) {
      const y = item.y === null ? this.u.over.clientHeight - 7 : this.u.valToPos(item.y, "y");
      return [this.u.valToPos(item.x, "x"), Math.min(Math.max(y, 5), this.u.over.clientHeight - 5)];
    }

    follow(u) {
      if (this.isByKey) return;
      const { left, top } = u.cursor;
      let [nearest, least] = [-1, 30 * 30];
      if (left >= 0) {
        this.items.forEach((one, n) => {
          const [x, y] = this.spot(one);
          const far = (x - left) ** 2 + (y - top) ** 2 - (one.isBest ? 60 : 0);
          if (far < least) [nearest, least] = [n, far];
        });
      }
      this.point(nearest);
    }

    point(n) {
      this.at = n;
      if (!this.u) return;
      const item = this.items[n];
      this.ring.hidden = this.tip.hidden = !item;
      if (!item) return;
      const [x, y] = this.spot(item);
      this.ring.style.transform = `translate(${x}px, ${y}px)`;
      this.tip.textContent = wordsOf(item, this.data);
      const { clientWidth: width, clientHeight: height } = this.u.over;
      this.tip.style.left = `${Math.max(0, Math.min(x + 12, width - this.tip.offsetWidth))}px`;
      const isLow = y + this.tip.offsetHeight + 14 > height;
      this.tip.style.top = `${isLow ? Math.max(0, y - this.tip.offsetHeight - 12) : y + 12}px`;
    }

    key(event) {
      if (!this.u || event.altKey || event.ctrlKey || event.metaKey) return;
      const next = this.after(event.key);
      if (next === null) return;
      event.preventDefault();
      this.isByKey = true;
      this.point(next);
      this.isByKey = false;
      this.told.textContent = next < 0 ? "" : wordsOf(this.items[next], this.data);
    }

    /* The point that a key leads to; -1: none any more; null: the key is not ours. */
    after(key) {
      const last = this.items.length - 1;
      const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (key === "Home") return 0;
      if (key === "End") return last;
      if (key === "Escape") return this.at < 0 ? null : -1;
      if (key === "Enter" && this.link && this.at >= 0) { window.location.assign(this.link(this.items[this.at].id)); return this.at; }
      if (!(key in ways)) return null;
      const isAll = key === "ArrowRight" || key === "ArrowLeft";
      let n = this.at < 0 && ways[key] < 0 ? last + 1 : this.at;
      do n += ways[key]; while (n >= 0 && n <= last && !isAll && !this.items[n].isBest);
      return n < 0 || n > last ? Math.max(0, Math.min(this.at, last)) : n;
    }

    /* A click opens what is pointed at; the end of a drag does not. Where a finger points, the first tap only reads. */
    click(event) {
      const item = this.items[this.at];
      if (!this.link || !item || !this.u.over.contains(event.target) || performance.now() - this.draggedAt < 300) return;
      if (window.matchMedia("(pointer: coarse)").matches && this.read !== item.id) this.read = item.id;
      else window.location.assign(this.link(item.id));
    }

    destroy() {
      this.observer.disconnect();
      for (const query of this.queries) query.removeEventListener("change", this.repaint);
      if (this.u) this.u.destroy();
      this.element.replaceChildren();
    }
  }

  window.nightlabChart = (element, data, options) => new Chart(element, data, options);

  /* A page that only shows: <div data-chart="ID"> is drawn from the JSON in <script type="application/json" id="ID">. */
  document.addEventListener("DOMContentLoaded", () => {
    for (const element of document.querySelectorAll("[data-chart]")) {
      window.nightlabChart(element, JSON.parse(document.getElementById(element.dataset.chart).textContent));
    }
  });
})();
