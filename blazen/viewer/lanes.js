/* What the record says, in the shape the views draw: bars (attempts), who produced what, lanes without overlaps. */
const OUTCOMES = ["finished", "retrying", "failed", "timed_out", "cancelled", "abandoned", "running", "queued"];
const OUTCOME_NAMES = { timed_out: "timed out" };
const WIDEST_WITH_WAITING = 12;

function outcomeName(outcome) { return OUTCOME_NAMES[outcome] || outcome; }

function shortType(type) { return type.replace(/^.*::/, ""); }

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value < 0.0009995) return `${Math.max(Math.round(value * 1e6), 1)} µs`;
  if (value < 0.9995) return `${trimmed(value * 1e3)} ms`;
  if (value < 119.95) return `${trimmed(value)} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min ${trimmed(value % 60, 2)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

function trimmed(value, digits = 3) { return String(Number(value.toPrecision(digits))); }

function many(count, word) { return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`; }

/* What tells an event from its like, for the small label of a bar: its first text, else its first number. */
function labelOf(event) {
  let payload = event.payload;
  if (payload && typeof payload === "object" && !Array.isArray(payload) && Object.keys(payload).length === 1 && "data" in payload) payload = payload.data;
  if (typeof payload === "string") return payload.slice(0, 40);
  if (!payload || typeof payload !== "object") return "";
  if (event.type === "blazen::ProgressEvent") return `${payload.current ?? ""}${payload.total ? ` of ${payload.total}` : ""}${payload.label ? `  ${payload.label}` : ""}`;
  const values = Object.entries(payload);
  const text = values.find(([, value]) => typeof value === "string" && value && value.length <= 60);
  if (text) return text[1];
  const number = values.find(([, value]) => typeof value === "number");
  return number ? `${number[0]} ${number[1]}` : "";
}

function readRecord(record) {
  const steps = record.graph.steps.map((step, index) => ({
    ...step, index, bars: [], invocations: [], counts: {}, waited: 0, ran: 0, lanes: 0, queue: null,
  }));
  const byName = new Map(steps.map((step) => [step.name, step]));
  const takers = record.events.map(() => []);
  const bars = [];
  const total = Math.max(record.duration, 1e-6);
  record.invocations.forEach((invocation, index) => {
    const step = byName.get(invocation.step);
    takers[invocation.event - 1].push(index);
    invocation.index = index;
    invocation.produced = invocation.produced || [];
    invocation.bars = invocation.attempts.map((attempt, number) => {
      const bar = {
        index: bars.length, invocation, step, attempt, number: number + 1, outcome: attempt.outcome || "running",
        queued: attempt.queued, start: attempt.started, end: attempt.ended ?? Math.max(record.duration, attempt.started), lane: 0,
      };
      bars.push(bar);
      step.bars.push(bar);
      step.counts[bar.outcome] = (step.counts[bar.outcome] || 0) + 1;
      step.waited += bar.start - bar.queued;
      step.ran += bar.end - bar.start;
      return bar;
    });
    if (!invocation.bars.length) step.counts.queued = (step.counts.queued || 0) + 1;
    step.invocations.push(invocation);
  });
  const counts = {};
  for (const step of steps) {
    putInLanes(step);
    for (const [outcome, count] of Object.entries(step.counts)) counts[outcome] = (counts[outcome] || 0) + count;
  }
  const inOrder = [...bars].sort((a, b) => a.start - b.start || a.index - b.index);
  inOrder.forEach((bar, place) => { bar.place = place; });
  return { record, steps, byName, bars, inOrder, takers, total, counts, haystacks: null };
}

/* Each bar gets the first lane that is free again. Time before the start is drawn in the lane too where that takes few
 * lanes; else it is shown as how many waited. */
function putInLanes(step) {
  const sorted = [...step.bars].sort((a, b) => a.start - b.start || a.index - b.index);
  step.withWaiting = fill(sorted, (bar) => bar.queued, WIDEST_WITH_WAITING);
  if (!step.withWaiting) {
    fill(sorted, (bar) => bar.start, Infinity);
    step.queue = depthOver(step);
  }
  step.lanes = Math.max(1, ...[0].concat(sorted.length ? [sorted.reduce((most, bar) => Math.max(most, bar.lane), 0) + 1] : []));
  step.inLane = Array.from({ length: step.lanes }, () => []);
  for (const bar of sorted) step.inLane[bar.lane].push(bar);
}

function fill(sorted, begin, most) {
  const order = [...sorted].sort((a, b) => begin(a) - begin(b) || a.start - b.start || a.index - b.index);
  const free = []; // of each lane the time it is free from
  const heap = []; // lanes, the one that is free first on top
  const less = (a, b) => free[a] < free[b] || (free[a] === free[b] && a < b);
  const sink = (at) => {
    for (;;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < heap.length && less(heap[child], heap[least])) least = child;
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  };
  const rise = (at) => {
    while (at && less(heap[at], heap[(at - 1) >> 1])) {
      [heap[at], heap[(at - 1) >> 1]] = [heap[(at - 1) >> 1], heap[at]];
      at = (at - 1) >> 1;
    }
  };
  for (const bar of order) {
    if (heap.length && free[heap[0]] <= begin(bar)) {
      bar.lane = heap[0];
      free[bar.lane] = bar.end;
      sink(0);
    } else {
      if (free.length >= most) return false;
      bar.lane = free.push(bar.end) - 1;
      heap.push(bar.lane);
      rise(heap.length - 1);
    }
  }
  return true;
}

/* How many attempts waited, over time: [[time, count], ...]. */
function depthOver(step) {
  const changes = [];
  for (const bar of step.bars) if (bar.start > bar.queued) changes.push([bar.queued, 1], [bar.start, -1]);
  changes.sort((a, b) => a[0] - b[0]);
  const depth = [];
  let count = 0, most = 0;
  for (const [time, change] of changes) {
    count += change;
    most = Math.max(most, count);
    if (depth.length && depth.at(-1)[0] === time) depth.at(-1)[1] = count;
    else depth.push([time, count]);
  }
  return { depth, most };
}

/* Of each invocation the text a search looks through; made when somebody searches for the first time. */
function haystackOf(model, index) {
  if (!model.haystacks) {
    model.haystacks = model.record.invocations.map((invocation) => {
      const event = model.record.events[invocation.event - 1];
      const parts = [invocation.step, event.type, `#${event.number}`, JSON.stringify(event.payload ?? null)];
      for (const number of invocation.produced) {
        const made = model.record.events[number - 1];
        // What it ended the run with, or asked, is given to no step: it is found where it was made.
        if (!model.takers[number - 1].length) parts.push(made.type, JSON.stringify(made.payload ?? null));
      }
      for (const attempt of invocation.attempts) {
        if (attempt.error) parts.push(attempt.error.type, attempt.error.message, attempt.error.traceback || "");
        if (attempt.stopped) parts.push(whoStopped(attempt.stopped));
      }
      return parts.join("\n").toLowerCase();
    });
  }
  return model.haystacks[index];
}

/* The invocations that have all words of the query; `is:failed` asks for an outcome. */
function searchFor(model, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const outcomes = words.filter((word) => word.startsWith("is:")).map((word) => word.slice(3));
  const plain = words.filter((word) => !word.startsWith("is:"));
  return model.record.invocations.filter((invocation, index) => {
    const met = (wanted) => invocation.bars.some((bar) => bar.outcome === wanted) || (wanted === "queued" && !invocation.bars.length);
    if (!outcomes.every(met)) return false;
    if (!plain.length) return true;
    const haystack = haystackOf(model, index);
    return plain.every((word) => haystack.includes(word));
  });
}

/* Who had an attempt stop, or the run end, in words. */
function whoStopped(stop) {
  const step = stop.step ? `“${stop.step}”` : "";
  switch (stop.by) {
    case "step_timeout": return `the timeout of step ${step}`;
    case "run_timeout": return "the timeout of the run";
    case "cancel_step": return `cancel_step(${stop.step ? JSON.stringify(stop.step) : ""})`;
    case "cancel": return stop.detail ? `cancel(): ${stop.detail}` : "cancel(), without a reason";
    case "block": return "the handler's block, left by an exception";
    case "pause": return "a pause of the run";
    case "caller_scope": return "the caller, whose own scope was cancelled";
    case "step_failure": return `the failure of step ${step}`;
    case "stop_event": return `the StopEvent${stop.step ? ` of step ${step}` : ""}, which ended the run`;
    case "exception": return `an exception that ends every run: ${stop.detail || ""}`;
    default: return `the engine: ${stop.detail || "the run could not go on"}`;
  }
}
