/* The graph: a node for each step, edges for the events that went from one to another, dashed where one only could. */
const STOP = "blazen::StopEvent", ASK = "blazen::InputRequestEvent";
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/* Nodes and edges of a run: between each two steps one edge, with the types of its events and how often they came. */
function graphOf(model) {
  const nodes = [], index = new Map(), edges = new Map();
  const node = (key, title, step = null) => {
    if (!index.has(key)) index.set(key, nodes.push({ key, title, step }) - 1);
    return index.get(key);
  };
  const add = (from, to, type, count) => {
    const key = `${from} ${to}`;
    if (!edges.has(key)) edges.set(key, { from, to, types: new Map() });
    const { types } = edges.get(key);
    types.set(type, (types.get(type) || 0) + count);
  };
  node("start", "start");
  for (const step of model.steps) node(`step ${step.name}`, step.name, step);
  const of = (step) => index.get(`step ${step.name}`);
  const sourceOf = (by) => {
    if (by === "start") return index.get("start");
    if (by === "outside") return node("outside", "from outside");
    return of(model.byName.get(model.record.invocations[by[0]].step));
  };
  const sinkOf = (type) => (type === STOP ? node("end", "end") : type === ASK ? node("asked", "asked outside") : null);
  for (const event of model.record.events) {
    const from = sourceOf(event.by), takers = model.takers[event.number - 1];
    for (const taker of takers) add(from, of(model.byName.get(model.record.invocations[taker].step)), event.type, 1);
    const sink = sinkOf(event.type);
    if (sink !== null) add(from, sink, event.type, 1);
  }
  // What the steps declare and this run did not need.
  for (const step of model.steps) {
    for (const type of step.emits || []) {
      const sink = sinkOf(type);
      if (sink !== null) add(of(step), sink, type, 0);
      for (const taker of model.steps) if (taker.accepts.includes(type)) add(of(step), of(taker), type, 0);
    }
    if (step.accepts.includes("blazen::StartEvent")) add(index.get("start"), of(step), "blazen::StartEvent", 0);
  }
  return { nodes, edges: [...edges.values()] };
}

class Graph {
  constructor(model, callbacks) {
    this.model = model;
    this.callbacks = callbacks;
    this.root = document.getElementById("drawing");
    const { nodes, edges } = graphOf(model);
    this.nodes = nodes;
    this.edges = edges;
    this.measure();
    const size = layOut(nodes, edges);
    this.home = { x: size.left - 18, y: size.top - 18, w: size.right - size.left + 36, h: size.bottom - size.top + 36 };
    this.draw();
    this.view = { ...this.home };
    this.listen();
    new ResizeObserver(() => this.fit()).observe(this.root);
    this.fit();
  }

  measure() {
    const pen = document.createElement("canvas").getContext("2d");
    const width = (text, font) => {
      pen.font = `${font} system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif`;
      return pen.measureText(text).width;
    };
    for (const node of this.nodes) {
      node.lines = node.step ? this.about(node.step) : [];
      node.w = Math.max(node.step ? 92 : 48, width(node.title, "600 13px") + 26, ...node.lines.map((line) => width(line, "11px") + 22));
      node.h = node.step ? 32 + node.lines.length * 15 + 4 : 26;
    }
    for (const edge of this.edges) {
      const texts = [...edge.types].map(([type, count]) => `${shortType(type)}${count > 1 ? ` ×${count.toLocaleString("en")}` : ""}`);
      edge.texts = texts.length > 3 ? [...texts.slice(0, 3), `${texts.length - 3} more`] : texts;
      edge.w = Math.max(...edge.texts.map((text) => width(text, "11px"))) + 8;
      edge.h = edge.texts.length * 14 + 2;
      edge.count = [...edge.types.values()].reduce((a, b) => a + b, 0);
    }
  }

  about(step) {
    const ran = step.bars.length ? `${step.bars.length.toLocaleString("en")} × ${seconds(step.ran / step.bars.length)}` : "not run";
    const rules = [step.run !== "inline" ? step.run : "", step.timeout ? `timeout ${seconds(step.timeout)}` : "", step.retries ? many(step.retries, "retry").replace("retrys", "retries") : "",
      step.max_concurrency ? `max ${step.max_concurrency}` : "", step.on_error ? "on_error" : ""].filter(Boolean);
    return rules.length ? [ran, rules.join(" · ")] : [ran];
  }

  draw() {
    const edges = svg("g"), labels = svg("g"), nodes = svg("g");
    for (const edge of this.edges) {
      const kind = edge.count ? "edge" : "edge declared", points = edge.points;
      const line = svg("path", { d: smooth(points), "stroke-width": edge.count ? Math.min(4.5, 1.2 + Math.log10(edge.count)) : 1.2 });
      const [x, y] = points.at(-1), [fromX, fromY] = leadIn(points);
      const length = Math.hypot(x - fromX, y - fromY) || 1, dx = ((x - fromX) / length) * 8, dy = ((y - fromY) / length) * 8;
      const head = svg("path", { class: "head", d: `M${x} ${y}L${x - dx - dy * 0.5} ${y - dy + dx * 0.5}L${x - dx + dy * 0.5} ${y - dy - dx * 0.5}Z` });
      edge.group = svg("g", { class: kind }, line, head);
      edge.words = svg("g", { class: kind });
      if (edge.label) {
        const [middle, height] = edge.label;
        edge.words.append(svg("rect", { x: middle - edge.w / 2, y: height - edge.h / 2, width: edge.w, height: edge.h, rx: 3 }));
        edge.texts.forEach((text, i) => {
          const word = svg("text", { x: middle, y: height - edge.h / 2 + 12 + i * 14, "text-anchor": "middle" });
          word.textContent = text;
          edge.words.append(word);
        });
      }
      edges.append(edge.group);
      labels.append(edge.words);
    }
    for (const node of this.nodes) nodes.append(this.drawNode(node));
    this.root.replaceChildren(edges, labels, nodes);
  }

  drawNode(node) {
    const { x, y, w, h, step } = node, left = x - w / 2, top = y - h / 2;
    const group = svg("g", { class: step ? "node" : "node end" }, svg("rect", { class: "box", x: left, y: top, width: w, height: h, rx: step ? 7 : h / 2 }));
    const write = (text, at, kind) => {
      const line = svg("text", { x, y: at, "text-anchor": "middle", class: kind });
      line.textContent = text;
      group.append(line);
    };
    write(node.title, step ? top + 19 : y + 4.5, "");
    node.lines.forEach((line, i) => write(line, top + 35 + i * 15, "sub"));
    node.group = group;
    if (!step) return group;
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
    group.setAttribute("aria-label", `Step ${step.name}: ${many(step.bars.length, "attempt")}`);
    group.dataset.step = step.name;
    this.drawShares(group, step, left + 8, top + h - 8, w - 16);
    group.addEventListener("click", () => { if (!this.dragged) this.callbacks.chooseStep(step); });
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.callbacks.chooseStep(step);
    });
    return group;
  }

  /* A bar with the share of each outcome. */
  drawShares(group, step, left, top, width) {
    const all = step.bars.length;
    let x = left;
    for (const outcome of OUTCOMES) {
      const share = outcome === "queued" ? 0 : ((step.counts[outcome] || 0) / (all || 1)) * width;
      if (share <= 0) continue;
      const wide = Math.min(Math.max(share, 2), left + width - x);
      if (wide > 0) group.append(svg("rect", { class: `part ${outcome}`, x, y: top, width: wide, height: 3 }));
      x += share;
    }
  }

  // --- what is chosen, and what is searched for

  choose(step) {
    for (const node of this.nodes) node.group.classList.toggle("chosen", Boolean(step) && node.step === step);
    for (const edge of this.edges) {
      const near = Boolean(step) && (this.nodes[edge.from].step === step || this.nodes[edge.to].step === step);
      edge.group.classList.toggle("chosen", near);
      edge.words.classList.toggle("chosen", near);
    }
  }

  match(matches) {
    const found = (step) => !matches || step.invocations.some((invocation) => matches.has(invocation.index));
    for (const node of this.nodes) node.group.classList.toggle("unmatched", Boolean(matches) && !(node.step && found(node.step)));
    for (const edge of this.edges) {
      const dim = Boolean(matches) && [edge.from, edge.to].some((end) => this.nodes[end].group.classList.contains("unmatched"));
      edge.group.classList.toggle("unmatched", dim);
      edge.words.classList.toggle("unmatched", dim);
    }
  }

  // --- moving about

  fit() {
    const { width, height } = this.root.getBoundingClientRect();
    if (!width || !height) return;
    // Not larger than life.
    const scale = Math.min(width / this.home.w, height / this.home.h, 1.15);
    const w = width / scale, h = height / scale;
    this.look({ x: this.home.x + (this.home.w - w) / 2, y: this.home.y + Math.min(0, (this.home.h - h) / 2), w, h });
  }

  look(view) {
    this.view = view;
    this.root.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  }

  listen() {
    this.root.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.root.getBoundingClientRect(), factor = Math.exp(Math.max(-240, Math.min(240, event.deltaY)) * 0.0016);
      const { x, y, w, h } = this.view, wide = Math.min(Math.max(w * factor, 60), this.home.w * 6 + 600), by = wide / w;
      const px = x + ((event.clientX - box.left) / box.width) * w, py = y + ((event.clientY - box.top) / box.height) * h;
      this.look({ x: px - (px - x) * by, y: py - (py - y) * by, w: wide, h: h * by });
    }, { passive: false });
    let drag = null;
    this.root.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, view: this.view };
      this.dragged = false;
    });
    this.root.addEventListener("pointermove", (event) => {
      if (!drag || !(event.buttons & 1)) return;
      const box = this.root.getBoundingClientRect(), dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (Math.hypot(dx, dy) > 4) this.dragged = true;
      if (this.dragged) this.look({ ...drag.view, x: drag.view.x - (dx / box.width) * drag.view.w, y: drag.view.y - (dy / box.height) * drag.view.h });
    });
    this.root.addEventListener("pointerup", () => { drag = null; });
    this.root.addEventListener("dblclick", () => this.fit());
  }
}

/* A line through the points: straight down beside nodes, curved between the layers. */
function smooth(points) {
  let path = `M${points[0][0]} ${points[0][1]}`;
  for (let i = 1; i < points.length; i++) {
    const [x1, y1] = points[i - 1], [x2, y2] = points[i], middle = (y1 + y2) / 2;
    path += Math.abs(y1 - y2) < 1 || x1 === x2 ? `L${x2} ${y2}` : `C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
  }
  return path;
}

/* Where the arrow at the end comes from. */
function leadIn(points) {
  const [x1, y1] = points.at(-2), [x2, y2] = points.at(-1);
  return Math.abs(y1 - y2) < 1 ? [x1, y1] : [x2, y1];
}
