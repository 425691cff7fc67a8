/* Puts the views together: what is chosen in one is shown in all. */
const byId = (id) => document.getElementById(id);

class Page {
  constructor(record) {
    const model = readRecord(record);
    this.model = model;
    this.setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    const callbacks = {
      chooseBar: (bar, reveal) => this.chooseBar(bar, reveal),
      chooseStep: (step) => this.chooseStep(step),
      chooseEvent: (event) => this.chooseEvent(event),
    };
    this.details = new Details(model, callbacks);
    this.fillHead();
    this.graph = new Graph(model, callbacks);
    this.timeline = new Timeline(model, callbacks);
    this.found = [];
    this.details.showRun();
    this.listen();
  }

  fillHead() {
    const { record, bars, counts, steps } = this.model;
    document.title = `${record.workflow}: ${record.state}`;
    byId("name").textContent = record.workflow;
    byId("state").textContent = record.state;
    byId("state").classList.add(record.state);
    const facts = [["took", seconds(record.duration)], ["began", record.started_at ? record.started_at.replace("T", " ").replace(/\.\d+Z$/, " UTC") : "–"],
      ["steps", steps.length], ["attempts", bars.length.toLocaleString("en")], ["events", record.events.length.toLocaleString("en")]];
    for (const [name, value] of facts) byId("summary").append(make("div", "", make("dt", "", name), make("dd", "", String(value))));
    for (const outcome of OUTCOMES) {
      if (!counts[outcome]) continue;
      const button = make("button", "", make("span", `swatch ${outcome}`), `${counts[outcome].toLocaleString("en")} ${outcomeName(outcome)}`);
      button.type = "button";
      button.dataset.outcome = outcome;
      button.title = `Find what is ${outcomeName(outcome)}`;
      button.addEventListener("click", () => {
        const query = `is:${outcome}`;
        byId("search").value = byId("search").value.trim() === query ? "" : query;
        this.search();
      });
      byId("legend").append(button);
    }
    if (bars.some((bar) => bar.start > bar.queued)) byId("legend").append(make("span", "note", make("span", "swatch waiting"), "waiting"));
  }

  setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    if (this.timeline) {
      this.timeline.readColours();
      this.timeline.draw();
    }
  }

  // --- choosing

  choose(bar, step) {
    this.timeline.chosen = bar;
    this.timeline.chosenStep = step;
    for (const one of this.model.steps) one.row.classList.toggle("chosen", one === step);
    this.graph.choose(step);
    this.timeline.drawSoon();
  }

  chooseBar(bar, reveal) {
    if (!bar) return this.back();
    this.choose(bar, bar.step);
    this.details.showBar(bar);
    if (reveal) this.timeline.reveal(bar);
  }

  chooseStep(step) {
    this.choose(null, step);
    this.details.showStep(step);
    if (step.bars.length) this.timeline.scroll.scrollTop = step.top - 30;
  }

  chooseEvent(event) {
    const taker = this.model.takers[event.number - 1].map((index) => this.model.record.invocations[index]).find((one) => one.bars.length);
    if (taker) this.choose(taker.bars[0], taker.bars[0].step);
    this.details.showEvent(event);
  }

  back() {
    this.choose(null, null);
    if (this.query) this.details.showMatches(this.query, this.found);
    else this.details.showRun();
  }

  // --- searching

  search() {
    this.query = byId("search").value.trim();
    this.found = this.query ? searchFor(this.model, this.query) : [];
    const matches = this.query ? new Set(this.found.map((invocation) => invocation.index)) : null;
    this.timeline.matches = matches;
    this.timeline.tip.hidden = true;
    this.graph.match(matches);
    this.place = -1;
    byId("matches").textContent = this.query ? `${this.found.length.toLocaleString("en")} of ${this.model.record.invocations.length.toLocaleString("en")}` : "";
    for (const button of byId("legend").querySelectorAll("button")) button.setAttribute("aria-pressed", String(this.query === `is:${button.dataset.outcome}`));
    this.back();
  }

  goTo(by) {
    if (!this.found.length) return;
    this.place = (this.place < 0 && by < 0 ? this.found.length - 1 : this.place + by + this.found.length) % this.found.length;
    const invocation = this.found[this.place];
    byId("matches").textContent = `${(this.place + 1).toLocaleString("en")} of ${this.found.length.toLocaleString("en")}`;
    const wanted = this.query.match(/(?:^|\s)is:(\S+)/)?.[1];
    const bar = invocation.bars.find((one) => one.outcome === wanted) || invocation.bars.at(-1);
    if (bar) this.chooseBar(bar, true);
    else this.chooseEvent(this.model.record.events[invocation.event - 1]);
  }

  // --- keys and buttons

  listen() {
    let waiting = 0;
    byId("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.search(), this.model.bars.length > 2000 ? 120 : 0);
    });
    byId("find").addEventListener("submit", (event) => event.preventDefault());
    byId("search").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      clearTimeout(waiting);
      if (byId("search").value.trim() !== (this.query || "")) this.search();
      this.goTo(event.shiftKey ? -1 : 1);
    });
    byId("next").addEventListener("click", () => this.goTo(1));
    byId("previous").addEventListener("click", () => this.goTo(-1));
    byId("in").addEventListener("click", () => this.timeline.zoom(0.6));
    byId("out").addEventListener("click", () => this.timeline.zoom(1 / 0.6));
    byId("fit").addEventListener("click", () => this.timeline.fit());
    byId("theme").addEventListener("click", () => this.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => this.setTheme(event.matches ? "dark" : "light"));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof HTMLInputElement;
    if (event.key === "Escape") {
      if (typing || !this.timeline.chosenStep) {
        byId("search").value = "";
        this.search();
      }
      if (typing) this.timeline.scroll.focus();
      this.back();
    } else if (event.key === "/" && !typing) {
      event.preventDefault();
      byId("search").focus();
      byId("search").select();
    } else if (!typing && !event.defaultPrevented && ["+", "=", "-", "0", "n", "p"].includes(event.key)) {
      this.timeline.key(event);
    }
  }
}

window.recordPage = new Page(JSON.parse(byId("record").textContent));
