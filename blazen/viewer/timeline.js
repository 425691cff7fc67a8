/* The timeline: a canvas over a scroll container, a gutter with the names of the steps, and an overview of the whole run. */
class Timeline {
  constructor(model, callbacks) {
    this.model = model;
    this.callbacks = callbacks;
    this.matches = null; // Set of invocation indices, or null when nothing is searched for
    this.chosen = null; // a bar
    this.chosenStep = null;
    for (const name of ["scroll", "canvas", "overview", "gutter", "rows", "tall", "shown", "tip"]) this[name] = document.getElementById(name);
    this.margin = model.total * 0.015;
    this.from = -this.margin;
    this.to = model.total + this.margin;
    this.makeRows();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.scroll);
    this.resize();
  }

  // --- rows

  makeRows() {
    const lanes = this.model.steps.reduce((sum, step) => sum + step.lanes, 0);
    this.laneHeight = lanes <= 40 ? 20 : lanes <= 120 ? 14 : lanes <= 400 ? 9 : 5;
    let top = 26;
    for (const step of this.model.steps) {
      step.top = top;
      step.stripTop = top + 5;
      step.stripHeight = step.queue ? 22 : 0;
      step.laneTop = step.stripTop + step.stripHeight + (step.queue ? 4 : 0);
      step.height = Math.max(step.laneTop - top + step.lanes * this.laneHeight + 6, 30);
      top += step.height;
      const row = document.createElement("button");
      row.type = "button";
      row.dataset.step = step.name;
      row.className = step.index ? "" : "first";
      row.style.top = `${step.top}px`;
      row.style.height = `${step.height}px`;
      row.classList.toggle("low", step.height < 38);
      const name = document.createElement("b");
      name.textContent = step.name;
      const note = document.createElement("small");
      note.textContent = step.bars.length ? `${step.bars.length.toLocaleString("en")} × ${seconds(step.ran / step.bars.length)}` : "not run";
      row.title = `${step.name}: ${many(step.bars.length, "attempt")}, ran ${seconds(step.ran)}, waited ${seconds(step.waited)}`;
      row.append(name, note);
      row.addEventListener("click", () => this.callbacks.chooseStep(step));
      row.addEventListener("focus", () => {
        this.gutter.scrollTop = 0;
        if (step.top < this.scroll.scrollTop || step.top + 30 > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = step.top - 30;
      });
      step.row = row;
      this.rows.append(row);
    }
    this.height = top + 4;
  }

  resize() {
    const width = this.scroll.clientWidth, height = this.scroll.clientHeight, ratio = window.devicePixelRatio || 1;
    for (const [canvas, w, h] of [[this.canvas, width, height], [this.overview, this.overview.clientWidth, this.overview.clientHeight]]) {
      canvas.width = Math.max(1, Math.round(w * ratio));
      canvas.height = Math.max(1, Math.round(h * ratio));
    }
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.tall.style.height = `${Math.max(0, this.height - height)}px`;
    this.width = width;
    this.overviewPicture = null;
    this.readColours();
    this.draw();
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colours = {};
    for (const name of [...OUTCOMES, "panel", "line", "soft", "ink", "dim", "accent", "waiting"]) this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    this.overviewPicture = null;
  }

  // --- moving about

  x(time) { return ((time - this.from) / (this.to - this.from)) * this.width; }

  time(x) { return this.from + (x / this.width) * (this.to - this.from); }

  show(from, to) {
    const least = Math.min(Math.max(this.model.total * 1e-7, 2e-6), this.model.total);
    const most = this.model.total + 2 * this.margin;
    const span = Math.min(Math.max(to - from, least), most);
    const middle = (from + to) / 2;
    from = Math.min(Math.max(middle - span / 2, -this.margin), this.model.total + this.margin - span);
    this.from = from;
    this.to = from + span;
    this.drawSoon();
  }

  zoom(factor, at = (this.from + this.to) / 2) { this.show(at - (at - this.from) * factor, at + (this.to - at) * factor); }

  pan(share) {
    const by = (this.to - this.from) * share;
    this.show(this.from + by, this.to + by);
  }

  fit() { this.show(-this.margin, this.model.total + this.margin); }

  /* Bring a bar into view, and close enough to be seen. */
  reveal(bar) {
    const length = bar.end - bar.start, span = this.to - this.from;
    if (bar.start < this.from || bar.end > this.to || (length > 0 && length < span / 400)) {
      const wanted = length > span ? length * 1.3 : length > 0 && length < span / 400 ? Math.max(length * 60, this.model.total / 5000) : span;
      this.show((bar.start + bar.end - wanted) / 2, (bar.start + bar.end + wanted) / 2);
    }
    const top = this.top(bar);
    if (top < this.scroll.scrollTop + 30) this.scroll.scrollTop = top - 60;
    else if (top + this.laneHeight > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = top - this.scroll.clientHeight / 2;
    this.drawSoon();
  }

  listen() {
    this.scroll.addEventListener("scroll", () => this.drawSoon());
    this.scroll.addEventListener("wheel", (event) => {
      if (event.shiftKey) {
        event.preventDefault();
        this.scroll.scrollTop += event.deltaY || event.deltaX;
      } else {
        event.preventDefault();
        const unit = event.deltaMode ? 16 : 1, left = this.scroll.getBoundingClientRect().left;
        if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan((event.deltaX * unit) / this.width);
        else this.zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY * unit)) * 0.0022), this.time(event.clientX - left));
      }
    }, { passive: false });
    this.listenToPointer();
    this.scroll.addEventListener("keydown", (event) => this.key(event));
    const move = (event) => {
      const box = this.overview.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * this.model.total, span = this.to - this.from;
      this.show(at - span / 2, at + span / 2);
    };
    this.overview.addEventListener("pointerdown", (event) => {
      this.overview.setPointerCapture(event.pointerId);
      move(event);
    });
    this.overview.addEventListener("pointermove", (event) => { if (event.buttons & 1) move(event); });
  }

  listenToPointer() {
    let drag = null;
    const end = (event) => {
      if (drag && !drag.moved && event.type === "pointerup") this.callbacks.chooseBar(this.barAt(event.clientX, event.clientY), false);
      drag = null;
      this.scroll.style.cursor = "";
    };
    this.scroll.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.offsetX > this.width) return;
      drag = { x: event.clientX, y: event.clientY, from: this.from, to: this.to, top: this.scroll.scrollTop, moved: false };
      if (event.target === this.canvas) this.canvas.setPointerCapture(event.pointerId);
    });
    this.scroll.addEventListener("pointermove", (event) => {
      if (!drag) {
        this.hover(event);
        return;
      }
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      drag.moved = true;
      this.tip.hidden = true;
      this.scroll.style.cursor = "grabbing";
      const by = (-dx / this.width) * (drag.to - drag.from);
      this.show(drag.from + by, drag.to + by);
      this.scroll.scrollTop = drag.top - dy;
    });
    this.scroll.addEventListener("pointerup", end);
    this.scroll.addEventListener("pointercancel", end);
    this.scroll.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      "+": () => this.zoom(0.6), "=": () => this.zoom(0.6), "-": () => this.zoom(1 / 0.6), 0: () => this.fit(), Home: () => this.fit(),
      ArrowLeft: () => this.pan(-0.12), ArrowRight: () => this.pan(0.12),
      ArrowUp: () => { this.scroll.scrollTop -= 60; }, ArrowDown: () => { this.scroll.scrollTop += 60; },
      PageUp: () => { this.scroll.scrollTop -= this.scroll.clientHeight * 0.9; }, PageDown: () => { this.scroll.scrollTop += this.scroll.clientHeight * 0.9; },
      n: () => this.step(1), p: () => this.step(-1), Enter: () => document.getElementById("details").focus(),
    };
    const done = keys[event.key];
    if (!done) return;
    event.preventDefault();
    done();
  }

  /* The next or previous attempt in time; among the matches while something is searched for. */
  step(by) {
    const list = this.model.inOrder;
    let place = this.chosen ? this.chosen.place + by : by > 0 ? 0 : list.length - 1;
    while (list[place] && this.matches && !this.matches.has(list[place].invocation.index)) place += by;
    if (list[place]) this.callbacks.chooseBar(list[place], true);
  }

  // --- where things are

  top(bar) { return bar.step.laneTop + bar.lane * this.laneHeight; }

  /* Where a bar is on the screen, for whoever wants to point at it. */
  boxOf(bar) {
    const box = this.scroll.getBoundingClientRect(), from = this.x(bar.start), to = Math.max(this.x(bar.end), from + 3);
    return { x: box.left + from, y: box.top + this.top(bar) - this.scroll.scrollTop, width: to - from, height: this.laneHeight - 2 };
  }

  barAt(clientX, clientY) {
    const box = this.scroll.getBoundingClientRect();
    const x = clientX - box.left, y = clientY - box.top + this.scroll.scrollTop;
    const step = this.model.steps.find((one) => y >= one.laneTop && y < one.top + one.height);
    if (!step) return null;
    const lane = step.inLane[Math.floor((y - step.laneTop) / this.laneHeight)];
    if (!lane) return null;
    let found = null, nearest = 6;
    for (let at = firstFrom(lane, this.time(x - 8)); at < lane.length; at++) {
      const bar = lane[at], from = this.x(bar.start), to = Math.max(this.x(bar.end), from + 3);
      if (from > x + 8) break;
      const away = x < from ? from - x : x > to ? x - to : 0;
      if (away < nearest) [nearest, found] = [away, bar];
      if (!away && (!this.matches || this.matches.has(bar.invocation.index))) return bar;
    }
    return found;
  }

  hover(event) {
    const bar = this.barAt(event.clientX, event.clientY);
    this.scroll.style.cursor = bar ? "pointer" : "";
    this.tip.hidden = !bar;
    if (!bar) return;
    const given = this.model.record.events[bar.invocation.event - 1];
    const label = labelOf(given);
    this.tip.textContent = `${bar.step.name}${bar.attempt.handler ? ", on_error" : bar.number > 1 ? `, attempt ${bar.number}` : ""}: ${outcomeName(bar.outcome)}\n` +
      `${shortType(given.type)} #${given.number}${label ? `  ${label}` : ""}\nwaited ${seconds(bar.start - bar.queued)}, ran ${seconds(bar.end - bar.start)}` +
      (bar.attempt.error ? `\n${bar.attempt.error.type}: ${bar.attempt.error.message.slice(0, 160)}` : "");
    const x = Math.min(event.clientX + 14, innerWidth - this.tip.offsetWidth - 8);
    const y = event.clientY + 18 + this.tip.offsetHeight > innerHeight ? event.clientY - this.tip.offsetHeight - 10 : event.clientY + 18;
    this.tip.style.left = `${Math.max(4, x)}px`;
    this.tip.style.top = `${y}px`;
  }

  // --- drawing

  drawSoon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.asked = false;
    const ratio = window.devicePixelRatio || 1, to = this.canvas.getContext("2d");
    const top = this.scroll.scrollTop, height = this.scroll.clientHeight, { width, colours } = this;
    to.setTransform(ratio, 0, 0, ratio, 0, 0);
    to.clearRect(0, 0, width, height);
    to.save();
    to.translate(0, -top);
    const ticks = this.ticks();
    to.fillStyle = colours.line;
    for (const tick of ticks) to.fillRect(Math.round(this.x(tick)), top, 1, height);
    for (const step of this.model.steps) {
      if (step.top + step.height < top || step.top > top + height) continue;
      if (step === this.chosenStep) {
        to.fillStyle = colours.soft;
        to.globalAlpha = 0.6;
        to.fillRect(0, step.top, width, step.height);
        to.globalAlpha = 1;
      }
      to.fillStyle = colours.line;
      to.fillRect(0, step.top, width, 1);
      if (step.queue) this.drawQueue(to, step);
      const first = Math.max(0, Math.floor((top - step.laneTop) / this.laneHeight));
      const last = Math.min(step.lanes - 1, Math.ceil((top + height - step.laneTop) / this.laneHeight));
      for (let lane = first; lane <= last; lane++) this.drawLane(to, step, step.inLane[lane]);
    }
    if (this.chosen) this.drawChosen(to);
    to.restore();
    this.drawAxis(to, ticks);
    this.rows.style.transform = `translateY(${-top}px)`;
    // The name of a step stays in sight while any of its lanes is.
    for (const step of this.model.steps) step.row.style.paddingTop = `${Math.max(3, Math.min(top + 4 - step.top, step.height - 42))}px`;
    this.drawOverview();
    const { total } = this.model;
    this.shown.textContent = `${seconds(Math.max(0, this.from))} – ${seconds(Math.min(total, this.to))} of ${seconds(this.model.record.duration)}`;
    this.shown.dataset.from = this.from;
    this.shown.dataset.to = this.to;
  }

  drawLane(to, step, lane) {
    const { colours, width, laneHeight } = this, high = laneHeight - (laneHeight > 8 ? 4 : 1);
    const y = step.laneTop + (lane.length ? lane[0].lane : 0) * laneHeight + (laneHeight > 8 ? 2 : 0);
    let drawnTo = -1, drawn = "";
    for (let at = firstFrom(lane, this.from); at < lane.length; at++) {
      const bar = lane[at], from = this.x(bar.start);
      if ((step.withWaiting ? this.x(bar.queued) : from) > width) break;
      const till = Math.max(this.x(bar.end), from + 2.5);
      const dim = this.matches && !this.matches.has(bar.invocation.index);
      const look = dim ? "dim" : bar.outcome;
      // Bars closer together than a pixel are drawn once, except where they differ.
      if (till - drawnTo < 0.75 && (look === drawn || look === "finished" || dim)) continue;
      to.globalAlpha = dim ? 0.16 : 1;
      if (step.withWaiting && bar.start > bar.queued) {
        const since = Math.max(this.x(bar.queued), -4);
        to.fillStyle = colours.dim;
        to.globalAlpha *= 0.45;
        to.fillRect(since, y + high / 2 - 1, Math.max(from - since, 0), 2);
        to.fillRect(since, y + high / 2 - 4, 1, 8);
        to.globalAlpha = dim ? 0.16 : 1;
      }
      to.fillStyle = colours[bar.outcome];
      // A seam, so that two that follow each other do not look like one.
      const left = Math.max(from, -4), wide = Math.min(till, width + 4) - left - (till - from > 6 ? 1 : 0);
      if (wide > 12 && high > 7) {
        to.beginPath();
        to.roundRect(left, y, wide, high, 3);
        to.fill();
      } else {
        to.fillRect(left, y, wide, high);
      }
      if (bar.outcome === "cancelled" || bar.outcome === "abandoned" || bar.outcome === "timed_out") this.hatch(to, left, y, wide, high);
      if (wide > 46 && high >= 10 && !dim) this.writeOn(to, bar, left, y, wide, high);
      drawnTo = till;
      drawn = look;
    }
    to.globalAlpha = 1;
  }

  hatch(to, x, y, wide, high) {
    if (wide < 6 || high < 5) return;
    to.save();
    to.beginPath();
    to.rect(x, y, wide, high);
    to.clip();
    to.strokeStyle = this.colours.panel;
    to.globalAlpha *= 0.4;
    to.lineWidth = 1.5;
    to.beginPath();
    for (let at = x - high; at < x + wide; at += 7) {
      to.moveTo(at, y + high);
      to.lineTo(at + high, y);
    }
    to.stroke();
    to.restore();
  }

  writeOn(to, bar, x, y, wide, high) {
    const given = this.model.record.events[bar.invocation.event - 1], label = labelOf(given);
    const again = bar.attempt.handler ? "on_error " : bar.number > 1 ? `attempt ${bar.number} ` : "";
    to.save();
    to.beginPath();
    to.rect(x + 4, y, wide - 8, high);
    to.clip();
    to.font = `${high >= 12 ? 11 : 9}px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif`;
    to.textBaseline = "middle";
    to.fillStyle = document.documentElement.dataset.theme === "dark" ? "#0c1118" : "#ffffff";
    to.fillText(`${again}#${given.number}${label ? ` ${label}` : ""}`, Math.max(x, 0) + 6, y + high / 2 + 0.5);
    to.restore();
  }

  /* How many attempts waited, as an area. */
  drawQueue(to, step) {
    const { depth, most } = step.queue, bottom = step.stripTop + step.stripHeight;
    if (!most) return;
    to.fillStyle = this.colours.waiting;
    to.beginPath();
    let at = Math.max(0, firstAfter(depth, this.from) - 1), x = this.x(depth[at][0]), y = bottom, peak = 0, column = -1;
    to.moveTo(x, bottom);
    for (; at < depth.length && x <= this.width; at++) {
      x = this.x(depth[at][0]);
      // One point per pixel is enough: the highest of those that fall on it.
      if (Math.floor(x) !== column) {
        to.lineTo(x, y);
        peak = 0;
        column = Math.floor(x);
      }
      peak = Math.max(peak, depth[at][1]);
      y = bottom - (depth[at][1] / most) * step.stripHeight;
      to.lineTo(x, bottom - (peak / most) * step.stripHeight);
      to.lineTo(x, y);
    }
    to.lineTo(Math.min(x, this.width), bottom);
    to.fill();
    to.font = '10px system-ui, "DejaVu Sans", sans-serif';
    to.fillStyle = this.colours.dim;
    to.textBaseline = "top";
    to.textAlign = "right";
    to.fillText(`up to ${most.toLocaleString("en")} waiting`, this.width - 8, step.stripTop);
    to.textAlign = "left";
  }

  /* The chosen attempt, its cause and its consequences. */
  drawChosen(to) {
    const bar = this.chosen, { record, takers } = this.model, high = this.laneHeight - (this.laneHeight > 8 ? 4 : 1);
    const middle = (one) => this.top(one) + this.laneHeight / 2;
    to.lineWidth = 1.6;
    to.strokeStyle = this.colours.accent;
    const curve = (x1, y1, x2, y2) => {
      const bend = Math.max(18, Math.min(90, Math.abs(x2 - x1) / 2));
      to.beginPath();
      to.moveTo(x1, y1);
      to.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2, y2);
      to.stroke();
      to.beginPath();
      to.arc(x2, y2, 2.5, 0, 7);
      to.fillStyle = this.colours.accent;
      to.fill();
    };
    const given = record.events[bar.invocation.event - 1];
    if (Array.isArray(given.by)) {
      const cause = record.invocations[given.by[0]].bars[given.by[1]];
      curve(this.x(given.at), middle(cause), this.x(bar.start), middle(bar));
    }
    let left = 300;
    for (const number of bar.invocation.produced) {
      const made = record.events[number - 1];
      if (!Array.isArray(made.by) || made.by[1] !== bar.number - 1) continue;
      for (const taker of takers[number - 1]) {
        const next = record.invocations[taker].bars[0];
        if (next && left-- > 0) curve(this.x(made.at), middle(bar), this.x(next.start), middle(next));
      }
    }
    const from = this.x(bar.start), till = Math.max(this.x(bar.end), from + 3), y = this.top(bar) + (this.laneHeight > 8 ? 2 : 0);
    if (bar.start > bar.queued) {
      to.fillStyle = this.colours.accent;
      to.fillRect(this.x(bar.queued), y + high / 2 - 1, from - this.x(bar.queued), 2);
    }
    to.strokeStyle = this.colours.ink;
    to.lineWidth = 2;
    to.strokeRect(from - 1.5, y - 1.5, till - from + 3, high + 3);
  }

  ticks() {
    const step = niceStep((this.to - this.from) / Math.max(2, this.width / 110));
    const ticks = [];
    for (let at = Math.ceil(Math.max(0, this.from) / step); at * step <= Math.min(this.to, this.model.total * 1.0001) && ticks.length < 60; at++) ticks.push(at * step);
    return ticks;
  }

  drawAxis(to, ticks) {
    const { colours, width } = this;
    to.fillStyle = colours.panel;
    to.globalAlpha = 0.93;
    to.fillRect(0, 0, width, 24);
    to.globalAlpha = 1;
    to.fillStyle = colours.line;
    to.fillRect(0, 24, width, 1);
    to.font = '11px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif';
    to.textBaseline = "middle";
    const digits = ticks.length > 1 ? Math.max(0, Math.ceil(-Math.log10(ticks[1] - ticks[0]) - 1e-9)) : 3;
    for (const tick of ticks) {
      const x = Math.round(this.x(tick));
      to.fillStyle = colours.line;
      to.fillRect(x, 16, 1, 8);
      to.fillStyle = colours.dim;
      const text = tickLabel(tick, digits, this.to);
      if (x + 8 + to.measureText(text).width < width) to.fillText(text, x + 4, 12);
    }
  }

  /* How much ran, over the whole run; drawn once, and the shown part marked anew each time. */
  drawOverview() {
    const ratio = window.devicePixelRatio || 1, to = this.overview.getContext("2d");
    const width = this.overview.clientWidth, height = this.overview.clientHeight;
    if (!this.overviewPicture) {
      this.overviewPicture = document.createElement("canvas");
      this.overviewPicture.width = this.overview.width;
      this.overviewPicture.height = this.overview.height;
      const picture = this.overviewPicture.getContext("2d");
      picture.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.drawLoad(picture, width, height);
    }
    to.setTransform(1, 0, 0, 1, 0, 0);
    to.clearRect(0, 0, this.overview.width, this.overview.height);
    to.drawImage(this.overviewPicture, 0, 0);
    to.setTransform(ratio, 0, 0, ratio, 0, 0);
    const from = (Math.max(0, this.from) / this.model.total) * width, till = (Math.min(this.model.total, this.to) / this.model.total) * width;
    to.fillStyle = this.colours.panel;
    to.globalAlpha = 0.66;
    to.fillRect(0, 0, from, height);
    to.fillRect(till, 0, width - till, height);
    to.globalAlpha = 1;
    to.strokeStyle = this.colours.accent;
    to.lineWidth = 1.5;
    to.strokeRect(from + 0.75, 0.75, Math.max(till - from, 3) - 1.5, height - 1.5);
  }

  drawLoad(to, width, height) {
    const columns = Math.max(1, Math.floor(width)), load = new Float64Array(columns), bad = new Uint8Array(columns);
    const perColumn = this.model.total / columns;
    for (const bar of this.model.bars) {
      const first = Math.min(columns - 1, Math.floor(bar.start / perColumn)), last = Math.min(columns - 1, Math.floor(bar.end / perColumn));
      if (first === last) {
        load[first] += Math.max((bar.end - bar.start) / perColumn, 0.05);
      } else {
        load[first] += first + 1 - bar.start / perColumn;
        for (let at = first + 1; at < last; at++) load[at] += 1;
        load[last] += bar.end / perColumn - last;
      }
      if (bar.outcome === "failed" || bar.outcome === "timed_out" || bar.outcome === "retrying" || bar.outcome === "abandoned") {
        bad[last] = Math.max(bad[last], bar.outcome === "retrying" ? 1 : 2);
      }
    }
    const most = load.reduce((a, b) => Math.max(a, b), 1);
    to.fillStyle = this.colours.finished;
    to.globalAlpha = 0.7;
    for (let at = 0; at < columns; at++) {
      const high = (load[at] / most) * (height - 8);
      if (high > 0) to.fillRect(at, height - Math.max(high, 1), 1, Math.max(high, 1));
    }
    to.globalAlpha = 1;
    for (let at = 0; at < columns; at++) {
      if (!bad[at]) continue;
      to.fillStyle = bad[at] === 1 ? this.colours.retrying : this.colours.failed;
      to.fillRect(at - 1, 0, 3, 5);
    }
  }
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  for (const factor of [1, 2, 5]) if (factor * power >= least) return factor * power;
  return 10 * power;
}

/* All labels of an axis in one unit, with as many digits as tell them apart. */
function tickLabel(time, digits, largest) {
  if (time === 0) return "0";
  if (largest < 0.001) return `${(time * 1e6).toFixed(Math.max(0, digits - 6))} µs`;
  if (largest < 1) return `${(time * 1e3).toFixed(Math.max(0, digits - 3))} ms`;
  if (largest < 600) return `${time.toFixed(digits)} s`;
  return `${Math.floor(time / 60)}:${(time % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0")}`;
}

/* The first bar of a lane that ends at `time` or later; bars of a lane follow each other. */
function firstFrom(lane, time) {
  let low = 0, high = lane.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lane[middle].end < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

function firstAfter(depth, time) {
  let low = 0, high = depth.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (depth[middle][0] <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}
