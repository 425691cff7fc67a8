"use strict";

/* A layered layout of a directed graph, from top to bottom: edges that close a cycle are turned round, each node stands
 * one layer below the lowest that leads to it, long edges get a place in every layer they pass, and each layer is put in
 * the order of its neighbours.
 *
 * nodes: [{w, h}], edges: [{from, to, w, h}] with indices and the size of the label. Adds x, y (the middle) to nodes, and
 * points [[x, y], ...] and label [x, y] to edges. Returns the size of the drawing. */
function layOut(nodes, edges) {
  const GAP_X = 26, GAP_Y = 34;
  const turned = cycleEdges(nodes.length, edges);
  const forward = edges.map((edge, i) =>
    edge.from === edge.to ? null : turned[i] ? [edge.to, edge.from] : [edge.from, edge.to]);
  const layerOf = longestPaths(nodes.length, forward.filter(Boolean));
  const depth = Math.max(0, ...layerOf) + 1;

  // Cells: the nodes, and places that long edges pass.
  const cells = nodes.map((node, i) => ({ w: node.w, layer: layerOf[i], up: [], down: [] }));
  const chains = forward.map((ends, i) => {
    if (!ends) return null;
    const chain = [ends[0]];
    for (let layer = layerOf[ends[0]] + 1; layer < layerOf[ends[1]]; layer++) {
      chain.push(cells.length);
      cells.push({ w: Math.max(10, (edges[i].w || 0) * 0.6), layer, up: [], down: [] });
    }
    chain.push(ends[1]);
    for (let at = 1; at < chain.length; at++) {
      cells[chain[at - 1]].down.push(chain[at]);
      cells[chain[at]].up.push(chain[at - 1]);
    }
    return chain;
  });

  const layers = Array.from({ length: depth }, () => []);
  cells.forEach((cell, i) => layers[cell.layer].push(i));
  order(layers, cells);
  place(layers, cells, GAP_X);

  // Vertical places: labels stand between the layers, in as many rows as they need to keep clear of each other.
  const labels = Array.from({ length: depth }, () => []);
  edges.forEach((edge, i) => {
    const chain = chains[i];
    if (!chain || !edge.w) return;
    const part = Math.floor((chain.length - 2) / 2);
    const x = (cells[chain[part]].x + cells[chain[part + 1]].x) / 2;
    labels[cells[chain[part]].layer].push({ edge, x, left: x - edge.w / 2, right: x + edge.w / 2, h: edge.h, row: 0 });
  });
  let y = 0;
  const tops = [], heights = [];
  for (let layer = 0; layer < depth; layer++) {
    const height = Math.max(20, ...layers[layer].filter((i) => i < nodes.length).map((i) => nodes[i].h));
    tops.push(y);
    heights.push(height);
    const ends = [];
    for (const label of labels[layer].sort((a, b) => a.left - b.left)) {
      label.row = ends.findIndex((end) => end < label.left - 4);
      if (label.row < 0) label.row = ends.push(0) - 1;
      ends[label.row] = label.right;
    }
    const rowHeight = Math.max(0, ...labels[layer].map((label) => label.h)) + 3;
    for (const label of labels[layer]) label.edge.label = [label.x, y + height + 18 + (label.row + 0.5) * rowHeight];
    y += height + GAP_Y + ends.length * rowHeight;
  }
  nodes.forEach((node, i) => {
    node.x = cells[i].x;
    node.y = tops[layerOf[i]] + heights[layerOf[i]] / 2;
  });
  edges.forEach((edge, i) => {
    if (!chains[i]) {
      const { x, y, w, h } = nodes[edge.from], side = x + w / 2;
      edge.points = [[side, y - h / 4], [side + 26, y - h / 4], [side + 26, y + h / 4], [side, y + h / 4]];
      edge.label = [side + 30 + (edge.w || 0) / 2, y];
      return;
    }
    edge.points = chains[i].flatMap((cell) => {
      if (cell < nodes.length) return [[nodes[cell].x, nodes[cell].y]];
      const { x, layer } = cells[cell];
      return [[x, tops[layer]], [x, tops[layer] + heights[layer]]];
    });
    edge.points[0][1] += nodes[chains[i][0]].h / 2;
    edge.points.at(-1)[1] -= nodes[chains[i].at(-1)].h / 2;
    if (turned[i]) edge.points.reverse();
  });
  const left = Math.min(...cells.map((cell) => cell.x - cell.w / 2), ...edges.filter((e) => e.label).map((e) => e.label[0] - e.w / 2));
  const right = Math.max(...cells.map((cell) => cell.x + cell.w / 2), ...edges.filter((e) => e.label).map((e) => e.label[0] + e.w / 2));
  return { left, right, top: 0, bottom: y - GAP_Y };
}

/* Which edges lead back to a node on the way to them. */
function cycleEdges(count, edges) {
  const leaving = Array.from({ length: count }, () => []);
  edges.forEach((edge, i) => edge.from !== edge.to && leaving[edge.from].push(i));
  const state = new Uint8Array(count), turned = new Array(edges.length).fill(false);
  for (let root = 0; root < count; root++) {
    if (state[root]) continue;
    const way = [[root, 0]];
    state[root] = 1;
    while (way.length) {
      const top = way.at(-1), edge = leaving[top[0]][top[1]++];
      if (edge === undefined) {
        state[top[0]] = 2;
        way.pop();
      } else if (state[edges[edge].to] === 1) {
        turned[edge] = true;
      } else if (state[edges[edge].to] === 0) {
        state[edges[edge].to] = 1;
        way.push([edges[edge].to, 0]);
      }
    }
  }
  return turned;
}

/* The layer of each node: the length of the longest way to it. */
function longestPaths(count, pairs) {
  const layer = new Array(count).fill(0), missing = new Array(count).fill(0);
  const leaving = Array.from({ length: count }, () => []);
  for (const [from, to] of pairs) {
    leaving[from].push(to);
    missing[to]++;
  }
  const ready = missing.flatMap((left, i) => (left ? [] : [i]));
  while (ready.length) {
    const node = ready.pop();
    for (const to of leaving[node]) {
      layer[to] = Math.max(layer[to], layer[node] + 1);
      if (--missing[to] === 0) ready.push(to);
    }
  }
  return layer;
}

/* Put each layer in the order of the middle of its neighbours, downwards and upwards in turn; the best order is kept. */
function order(layers, cells) {
  let best = layers.map((layer) => [...layer]), fewest = crossings(layers, cells);
  for (let round = 0; round < 12 && fewest; round++) {
    const down = round % 2 === 0;
    for (const layer of down ? layers : [...layers].reverse()) {
      const middle = new Map(layer.map((cell, at) => {
        const near = (down ? cells[cell].up : cells[cell].down).map((other) => cells[other].at);
        return [cell, near.length ? near.reduce((a, b) => a + b) / near.length : at];
      }));
      layer.sort((a, b) => middle.get(a) - middle.get(b));
      layer.forEach((cell, at) => { cells[cell].at = at; });
    }
    const found = crossings(layers, cells);
    if (found < fewest) {
      fewest = found;
      best = layers.map((layer) => [...layer]);
    }
  }
  best.forEach((layer, i) => { layers[i] = layer; });
}

function crossings(layers, cells) {
  let count = 0;
  for (const layer of layers) layer.forEach((cell, at) => { cells[cell].at = at; });
  for (const layer of layers) {
    const ends = layer.flatMap((cell) => cells[cell].down.map((other) => cells[other].at).sort((a, b) => a - b));
    for (let i = 0; i < ends.length; i++) for (let j = i + 1; j < ends.length; j++) if (ends[i] > ends[j]) count++;
  }
  return count;
}

/* Give each cell an x: as near to its neighbours as the order and the width of its layer allow. */
function place(layers, cells, gap) {
  for (const layer of layers) {
    let x = 0;
    for (const cell of layer) {
      cells[cell].x = x + cells[cell].w / 2;
      x += cells[cell].w + gap;
    }
    for (const cell of layer) cells[cell].x -= x / 2;
  }
  // The last sweep goes down, and leaves the first layer where it is: so a chain of single steps becomes straight.
  const rounds = 25;
  for (let round = 0; round < rounds; round++) {
    const down = round % 2 === 0;
    for (const layer of down ? layers.slice(round === rounds - 1 ? 1 : 0) : [...layers].reverse()) {
      const wish = layer.map((cell) => {
        const near = round > 15 && round < rounds - 2 ? [...cells[cell].up, ...cells[cell].down] : down ? cells[cell].up : cells[cell].down;
        return near.length ? near.reduce((sum, other) => sum + cells[other].x, 0) / near.length : cells[cell].x;
      });
      const apart = (i) => (cells[layer[i - 1]].w + cells[layer[i]].w) / 2 + gap;
      const right = [...wish], left = [...wish];
      for (let i = 1; i < layer.length; i++) right[i] = Math.max(right[i], right[i - 1] + apart(i));
      for (let i = layer.length - 2; i >= 0; i--) left[i] = Math.min(left[i], left[i + 1] - apart(i + 1));
      layer.forEach((cell, i) => { cells[cell].x = (left[i] + right[i]) / 2; });
    }
  }
}
