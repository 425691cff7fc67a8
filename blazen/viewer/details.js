/* The details: of the run, of a step, of an attempt, of an event. Everything from the record is inserted as text. */
const MOST_LINKS = 200;

function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

class Details {
  constructor(model, callbacks) {
    this.model = model;
    this.callbacks = callbacks;
    this.root = document.getElementById("details");
  }

  fill(title, badge, left, right) {
    const head = make("h2", "", title);
    if (badge) head.append(make("span", `badge ${badge}`, outcomeName(badge)));
    this.root.replaceChildren(make("div", "columns", make("div", "", head, ...left), make("div", "", ...right)));
    this.root.scrollTop = 0;
  }

  facts(pairs) {
    const list = make("dl", "facts");
    for (const [name, value] of pairs) if (value !== null && value !== undefined && value !== "") list.append(make("dt", "", name), make("dd", "", value));
    return list;
  }

  link(text, action) {
    const link = make("a", "link", text);
    link.href = "#details";
    link.addEventListener("click", (event) => {
      event.preventDefault();
      action();
    });
    return link;
  }

  links(items, toLink) {
    const list = make("ul", "links", ...items.slice(0, MOST_LINKS).map((item) => make("li", "", toLink(item))));
    if (items.length > MOST_LINKS) list.append(make("li", "more", `and ${(items.length - MOST_LINKS).toLocaleString("en")} more`));
    return list;
  }

  eventLink(number) {
    const event = this.model.record.events[number - 1], label = labelOf(event);
    return this.link(`${shortType(event.type)} #${number}${label ? `  ${label}` : ""}`, () => this.callbacks.chooseEvent(event));
  }

  barLink(bar, note = "") {
    const again = bar.attempt.handler ? " (on_error)" : bar.invocation.bars.length > 1 ? ` (attempt ${bar.number})` : "";
    const label = labelOf(this.model.record.events[bar.invocation.event - 1]);
    return make("span", "", make("span", `swatch ${bar.outcome}`), " ", this.link(`${bar.step.name}${again} on #${bar.invocation.event}${label ? ` ${label}` : ""}`, () => this.callbacks.chooseBar(bar, true)),
      ` ${outcomeName(bar.outcome)}, ran ${seconds(bar.end - bar.start)}${note}`);
  }

  error(error, title = "Error") {
    if (!error) return [];
    const parts = [make("h3", "", title), make("pre", "error", `${error.type}: ${error.message}`)];
    if (error.traceback && error.traceback.trim() !== `${error.type}: ${error.message}`) parts.push(make("h3", "", "Traceback"), make("pre", "traceback", error.traceback.trimEnd()));
    return parts;
  }

  by(by) {
    if (by === "start") return "the start of the run";
    if (by === "outside") return "outside the run";
    return this.barLink(this.model.record.invocations[by[0]].bars[by[1]]);
  }

  // --- the run

  showRun() {
    const { record, bars } = this.model;
    const bad = bars.filter((bar) => ["failed", "timed_out", "abandoned"].includes(bar.outcome));
    const slow = [...bars].sort((a, b) => b.end - b.start - (a.end - a.start)).slice(0, 8);
    const waited = [...bars].sort((a, b) => b.start - b.queued - (a.start - a.queued)).slice(0, 5).filter((bar) => bar.start > bar.queued);
    const end = record.ended_by;
    const left = [
      this.facts([
        ["Ended by", end ? whoStopped(end) : null], ["StopEvent", end && end.event ? this.eventLink(end.event) : null], ["Began", record.started_at], ["Took", seconds(record.duration)], ["Run", record.run_id],
        ["Workflow", `${record.workflow}, version ${record.workflow_version}`], ["Usage", this.usage(record.usage)],
      ]),
      ...(bad.length ? [make("h3", "", `Went wrong (${bad.length.toLocaleString("en")})`), this.links(bad, (bar) => this.barLink(bar))] : []),
      make("h3", "", "Ran longest"), this.links(slow, (bar) => this.barLink(bar)),
      ...(waited.length ? [make("h3", "", "Waited longest"), this.links(waited, (bar) => this.barLink(bar, `, waited ${seconds(bar.start - bar.queued)}`))] : []),
    ];
    const right = [...this.error(record.error), make("h3", "", "Input"), payloadView(record.input)];
    if (record.state === "completed") right.push(make("h3", "", "Result"), payloadView(record.result));
    const shown = record.stream;
    if (shown.length) right.push(make("h3", "", `On the stream (${shown.length.toLocaleString("en")})`), this.links(shown, (event) => make("span", "", `${seconds(event.at)}  ${shortType(event.type)}  ${labelOf(event)}`)));
    this.fill("The run", "", left, right);
    this.root.querySelector("h2").append(make("span", `badge ${record.state}`, record.state));
  }

  usage(usage) {
    if (!usage || !(usage.input_tokens || usage.output_tokens || usage.cost_usd)) return null;
    return `${(usage.input_tokens || 0).toLocaleString("en")} tokens in, ${(usage.output_tokens || 0).toLocaleString("en")} out` + (usage.cost_usd ? `, ${usage.cost_usd.toFixed(4)} USD` : "");
  }

  // --- a step

  showStep(step) {
    const slow = [...step.bars].sort((a, b) => b.end - b.start - (a.end - a.start));
    const waiting = step.invocations.filter((invocation) => !invocation.bars.length);
    const outcomes = OUTCOMES.filter((outcome) => step.counts[outcome]).map((outcome) => `${step.counts[outcome].toLocaleString("en")} ${outcomeName(outcome)}`);
    const longest = slow.length ? slow[0].end - slow[0].start : 0, middle = slow.length ? slow[slow.length >> 1] : null;
    this.fill(`Step ${step.name}`, "", [
      this.facts([
        ["Attempts", step.bars.length.toLocaleString("en")], ["Outcomes", outcomes.join(", ")],
        ["Running", slow.length ? `${seconds(step.ran)} in all, half of them under ${seconds(middle.end - middle.start)}, longest ${seconds(longest)}` : null],
        ["Waiting", slow.length ? `${seconds(step.waited)} in all` : null], ["At once", step.withWaiting ? null : `up to ${step.lanes}`],
        ["Accepts", step.accepts.map(shortType).join(", ")], ["Returns", step.emits ? step.emits.map(shortType).join(", ") || "nothing" : "not declared"],
        ["Runs", step.run], ["Timeout", step.timeout ? seconds(step.timeout) : null], ["Retries", step.retries || null],
        ["At most at once", step.max_concurrency], ["Fallback", step.on_error ? "on_error" : null],
      ]),
    ], [
      ...(waiting.length ? [make("h3", "", `Queued when the run ended (${waiting.length.toLocaleString("en")})`), this.links(waiting, (invocation) => this.eventLink(invocation.event))] : []),
      make("h3", "", "Attempts, longest first"), slow.length ? this.links(slow, (bar) => this.barLink(bar)) : "It did not run.",
    ]);
  }

  // --- an attempt

  showBar(bar) {
    const { record } = this.model, { attempt, invocation } = bar, event = record.events[invocation.event - 1];
    const wait = bar.start - bar.queued, ran = bar.end - bar.start, stopped = attempt.stopped;
    const split = make("div", "split", make("i", "waiting"), make("i", bar.outcome));
    split.title = "waiting and running";
    split.firstChild.style.width = `${(wait / (wait + ran || 1)) * 100}%`;
    split.lastChild.style.flex = "1";
    const produced = invocation.produced.filter((number) => {
      const made = record.events[number - 1].by;
      return Array.isArray(made) && made[0] === invocation.index && made[1] === bar.number - 1;
    });
    const others = invocation.bars.filter((one) => one !== bar);
    const left = [
      this.facts([
        ["Waited", seconds(wait)], ["Ran", attempt.ended === undefined || attempt.ended === null ? `${seconds(ran)} so far` : seconds(ran)],
        ["Queued at", seconds(bar.queued)], ["Started at", seconds(bar.start)], ["Ended at", attempt.ended === undefined || attempt.ended === null ? null : seconds(bar.end)],
        ["Told to stop by", stopped ? make("span", "who", whoStopped(stopped)) : null],
        ["Told at", stopped && stopped.at < bar.end ? seconds(stopped.at) : null],
        ["Stopping event", stopped && stopped.event ? this.eventLink(stopped.event) : null],
        ["Result", attempt.dropped ? "dropped: the run had ended" : null],
        ["Given", this.eventLink(invocation.event)], ["Caused by", this.by(event.by)],
      ]),
      split,
      make("h3", "", `Consequences (${produced.length.toLocaleString("en")})`),
      produced.length ? this.links(produced, (number) => this.consequence(number)) : "It produced no events.",
      ...(others.length ? [make("h3", "", "Other attempts"), this.links(others, (one) => this.barLink(one))] : []),
    ];
    const name = attempt.handler ? `${bar.step.name}: on_error` : invocation.bars.length > 1 ? `${bar.step.name}: attempt ${bar.number}` : bar.step.name;
    this.fill(name, bar.outcome, left, [...this.error(attempt.error), make("h3", "", `Payload of ${event.type} #${event.number}`), payloadView(event.payload)]);
  }

  consequence(number) {
    const takers = this.model.takers[number - 1].map((index) => this.model.record.invocations[index]);
    const line = make("span", "", this.eventLink(number));
    takers.slice(0, 6).forEach((invocation, i) => line.append(i ? ", " : " → ", invocation.bars.length
      ? this.link(invocation.step, () => this.callbacks.chooseBar(invocation.bars[0], true)) : `${invocation.step} (queued)`));
    if (takers.length > 6) line.append(` and ${takers.length - 6} more`);
    return line;
  }

  // --- an event

  showEvent(event) {
    const takers = this.model.takers[event.number - 1].map((index) => this.model.record.invocations[index]);
    this.fill(`${shortType(event.type)} #${event.number}`, "", [
      this.facts([["Type", event.type], ["Queued at", seconds(event.at)], ["Caused by", this.by(event.by)]]),
      make("h3", "", `Taken by (${takers.length})`),
      takers.length ? this.links(takers, (invocation) => invocation.bars.length ? this.barLink(invocation.bars.at(-1)) : `${invocation.step}: still queued when the run ended`)
        : event.type === STOP ? "It ends the run." : event.type === ASK ? "It is answered from outside." : "No step.",
    ], [make("h3", "", "Payload"), payloadView(event.payload)]);
  }

  // --- what a search has found

  showMatches(query, found) {
    this.fill(`${many(found.length, "match").replace("matchs", "matches")} for “${query}”`, "", [
      this.links(found, (invocation) => invocation.bars.length ? this.barLink(invocation.bars.at(-1)) : this.eventLink(invocation.event)),
    ], [make("h3", "", "How to search"), "Every word must occur in the step’s name, its event’s type, number or payload, or in an error. is:failed, is:retrying, is:timed_out, is:cancelled, is:abandoned, is:queued and is:finished ask for an outcome."]);
  }
}

/* A payload as indented JSON; what JSON could not say is shown as what it stands for. */
function payloadView(payload) {
  const view = make("pre", "payload");
  if (payload === undefined) payload = null;
  writeValue(view, payload, "");
  return view;
}

function writeValue(into, value, indent) {
  const deeper = `${indent}  `;
  if (value && typeof value === "object" && !Array.isArray(value) && typeof value.$blazen === "string") {
    writeTagged(into, value, indent);
  } else if (value && typeof value === "object") {
    const list = Array.isArray(value), entries = Object.entries(value);
    if (!entries.length) return into.append(list ? "[]" : "{}");
    if (list && entries.every(([, item]) => item === null || typeof item !== "object") && JSON.stringify(value).length < 90) return into.append(JSON.stringify(value).replaceAll(",", ", "));
    into.append(list ? "[\n" : "{\n");
    entries.forEach(([key, item], i) => {
      into.append(deeper);
      if (!list) into.append(make("span", "tag", key), ": ");
      writeValue(into, item, deeper);
      into.append(i < entries.length - 1 ? ",\n" : "\n");
    });
    into.append(indent, list ? "]" : "}");
  } else {
    into.append(typeof value === "string" && value.includes("\n") && value.length > 60 ? `"""${value}"""` : JSON.stringify(value));
  }
  return into;
}

function writeTagged(into, value, indent) {
  const number = (size) => (size ?? 0).toLocaleString("en"), items = Array.isArray(value.items) ? value.items : [];
  if (value.$blazen === "cut") {
    into.append(JSON.stringify(value.text), make("span", "tag", ` … ${number(value.size)} characters in all`));
  } else if (value.$blazen === "repr") {
    into.append(make("span", "tag", `${value.type} `), String(value.repr));
    if (value.size !== undefined) into.append(make("span", "tag", `  ${number(value.size)} bytes`));
    if (value.characters !== undefined) into.append(make("span", "tag", `  ${number(value.characters)} characters in all`));
  } else if (value.$blazen === "list") {
    writeValue(into, items, indent);
    into.append(make("span", "tag", `  the first ${number(items.length)} of ${number(value.size)}`));
  } else if (value.$blazen === "dict") {
    into.append("{\n");
    for (const item of items) {
      into.append(`${indent}  `);
      writeValue(into, item?.[0] ?? null, `${indent}  `);
      into.append(": ");
      writeValue(into, item?.[1] ?? null, `${indent}  `);
      into.append(",\n");
    }
    into.append(`${indent}}`);
    if (items.length < value.size) into.append(make("span", "tag", `  the first ${number(items.length)} of ${number(value.size)}`));
  } else {
    into.append(JSON.stringify(value));
  }
}
