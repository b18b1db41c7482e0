// Reads a folder that `python -m densespec_conformance export FOLDER` wrote, computes every forward
// question in it from graph.json alone, and compares with what is expected, op by op.
//
//     node examples/read_export.mjs FOLDER [PART OF AN ID]
//
// There is nothing of DenseNets in here: an interpreter of eleven ops and a reader of safetensors, as
// a sample for implementations in languages that densespec does not reach. docs/export.md describes
// the files. Exit status: 0 if all is within bounds, 1 if not, 2 for unusable arguments.

import { readFileSync } from "node:fs";
import { join } from "node:path";

const TYPES = { F64: Float64Array, F32: Float32Array, I64: BigInt64Array, U8: Uint8Array };

function readJson(...path) {
  return JSON.parse(readFileSync(join(...path), "utf8"));
}

// A safetensors file: the header's length, the header in JSON, then the elements.
function readTensors(...path) {
  const file = readFileSync(join(...path));
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + length));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const bytes = file.subarray(8 + length + start, 8 + length + end);
    const data = new TYPES[dtype](Uint8Array.from(bytes).buffer);
    tensors[name] = { shape, data };
  }
  return tensors;
}

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
const zeros = (shape) => ({ shape, data: new Float64Array(product(shape)) });

// Sizes, pads and strides of one to three spatial dimensions, as three.
function threeDimensions(x, op) {
  const missing = 3 - (x.shape.length - 2);
  const fill = (values, value) => [...Array(missing).fill(value), ...values];
  return {
    sizes: fill(x.shape.slice(2), 1),
    window: fill(op.window, 1),
    pads: fill(op.padding ?? op.window.map(() => [0, 0]), [0, 0]),
    strides: fill(op.window.map(() => op.stride), 1),
  };
}

// Calls visit(position, place in the window, index in a channel) for all that is not padding.
function slide(x, op, output, visit) {
  const { sizes, window, pads, strides } = threeDimensions(x, op);
  const outs = [...Array(3 - (output.length - 2)).fill(1), ...output.slice(2)];
  let position = 0;
  for (let a = 0; a < outs[0]; a++)
    for (let b = 0; b < outs[1]; b++)
      for (let c = 0; c < outs[2]; c++, position++) {
        let place = 0;
        for (let i = 0; i < window[0]; i++)
          for (let j = 0; j < window[1]; j++)
            for (let k = 0; k < window[2]; k++, place++) {
              const at = [a, b, c].map((p, d) => p * strides[d] + [i, j, k][d] - pads[d][0]);
              if (at.every((p, d) => p >= 0 && p < sizes[d]))
                visit(position, place, (at[0] * sizes[1] + at[1]) * sizes[2] + at[2]);
            }
      }
}

// Calls visit(output index, input index, place) for every channel of every sample.
function pool(x, op, output, visit) {
  const positions = product(output.slice(2));
  const area = product(x.shape.slice(2));
  const maps = x.shape[0] * x.shape[1];
  slide(x, op, output, (position, place, inside) => {
    for (let map = 0; map < maps; map++) visit(map * positions + position, map * area + inside);
  });
}

// Mirrors maps around their first and last positions, by half a window on each side.
function mirror(x, window) {
  const sizes = x.shape.slice(2);
  const outer = sizes.map((n, d) => n + window[d] - 1);
  const padded = zeros([...x.shape.slice(0, 2), ...outer]);
  for (let i = 0; i < padded.data.length; i++) {
    let [map, stride, from] = [i, 1, 0];
    for (let d = sizes.length - 1; d >= 0; d--) {
      const at = Math.abs((map % outer[d]) - (window[d] - 1) / 2);
      from += stride * (at < sizes[d] ? at : 2 * (sizes[d] - 1) - at);
      map = Math.floor(map / outer[d]);
      stride *= sizes[d];
    }
    padded.data[i] = x.data[map * stride + from];
  }
  return padded;
}

// The factors of a binomial mean of n values: 1/4, 1/2, 1/4 for three.
function binomial(n) {
  let row = [1];
  while (row.length < n) row = [...row, 0].map((f, i) => (f + (row[i - 1] ?? 0)) / 2);
  return row;
}

const OPS = {
  Conv(op, w, [x], shape) {
    const y = zeros(shape);
    const [n, channels] = x.shape;
    const filters = shape[1];
    const positions = product(shape.slice(2));
    const area = product(x.shape.slice(2));
    const places = product(op.window);
    if (op.bias)
      y.data.forEach((_, i) => (y.data[i] = w.bias.data[Math.floor(i / positions) % filters]));
    slide(x, op, shape, (position, place, inside) => {
      for (let s = 0; s < n; s++)
        for (let c = 0; c < channels; c++) {
          const value = x.data[(s * channels + c) * area + inside];
          for (let f = 0; f < filters; f++)
            y.data[(s * filters + f) * positions + position] +=
              value * w.kernel.data[(f * channels + c) * places + place];
        }
    });
    return y;
  },
  BatchNorm(op, w, [x], shape) {
    const area = product(shape.slice(2));
    return map(x, (value, i) => {
      const c = Math.floor(i / area) % op.channels;
      const deviation = Math.sqrt(w.running_variance.data[c] + op.epsilon);
      const normal = (value - w.running_mean.data[c]) / deviation;
      return w.gamma.data[c] * normal + w.beta.data[c];
    });
  },
  Relu: (op, w, [x]) => map(x, (value) => Math.max(value, 0)),
  Dropout: (op, w, [x]) => x,
  Concat(op, w, xs, shape) {
    const y = zeros(shape);
    const sample = product(shape.slice(1));
    let start = 0;
    for (const x of xs) {
      const size = product(x.shape.slice(1));
      for (let s = 0; s < shape[0]; s++)
        y.data.set(x.data.subarray(s * size, (s + 1) * size), s * sample + start);
      start += size;
    }
    return y;
  },
  MaxPool(op, w, [x], shape) {
    const y = zeros(shape);
    y.data.fill(-Infinity);
    pool(x, op, shape, (to, from) => (y.data[to] = Math.max(y.data[to], x.data[from])));
    return y;
  },
  AvgPool(op, w, [x], shape) {
    const y = zeros(shape);
    pool(x, op, shape, (to, from) => (y.data[to] += x.data[from] / product(op.window)));
    return y;
  },
  BlurPool(op, w, [x], shape) {
    const y = zeros(shape);
    const padded = mirror(x, op.window);
    const factors = op.window.reduce((all, n) => all.flatMap((f) => binomial(n).map((g) => f * g)), [1]);
    const positions = product(shape.slice(2));
    const area = product(padded.shape.slice(2));
    slide(padded, op, shape, (position, place, inside) => {
      for (let map = 0; map < x.shape[0] * x.shape[1]; map++)
        y.data[map * positions + position] += factors[place] * padded.data[map * area + inside];
    });
    return y;
  },
  GlobalPool(op, w, [x], shape) {
    const area = product(x.shape.slice(2));
    const values = (i) => x.data.subarray(i * area, (i + 1) * area);
    const max = (i) => values(i).reduce((a, b) => Math.max(a, b));
    const mean = (i) => values(i).reduce((a, b) => a + b) / area;
    const channels = x.shape[1];
    const both = (i) => {
      const [sample, c] = [Math.floor(i / (2 * channels)), i % (2 * channels)];
      return c < channels ? mean(sample * channels + c) : max(sample * channels + c - channels);
    };
    const kinds = { avg: mean, max, avgmax: (i) => (mean(i) + max(i)) / 2, catavgmax: both };
    return map(zeros(shape), (_, i) => kinds[op.kind](i));
  },
  Dense(op, w, [x], shape) {
    return map(zeros(shape), (_, i) => {
      const [s, u] = [Math.floor(i / op.units), i % op.units];
      let sum = op.bias ? w.bias.data[u] : 0;
      for (let f = 0; f < op.features; f++)
        sum += w.kernel.data[u * op.features + f] * x.data[s * op.features + f];
      return sum;
    });
  },
  Softmax(op, w, [x], shape) {
    const classes = shape[1];
    return map(x, (value, i) => {
      const row = x.data.subarray(i - (i % classes), i - (i % classes) + classes);
      const largest = row.reduce((a, b) => Math.max(a, b));
      return Math.exp(value - largest) / row.reduce((sum, v) => sum + Math.exp(v - largest), 0);
    });
  },
};

function map(x, f) {
  return { shape: x.shape, data: Float64Array.from(x.data, f) };
}

function run(graph, weights, x) {
  const values = {};
  for (const node of graph.nodes) {
    if (node.op === "Input") values[node.name] = x;
    else {
      const own = {};
      for (const [short, name] of Object.entries(node.weights)) own[short] = weights[name];
      const inputs = node.inputs.map((name) => values[name]);
      values[node.name] = OPS[node.op](node, own, inputs, [x.shape[0], ...node.shape]);
    }
  }
  return values;
}

// Largest difference over the largest expected magnitude.
function relativeError(actual, expected) {
  if (actual.shape.join() !== expected.shape.join()) return Infinity;
  let [difference, scale] = [0, 0];
  for (let i = 0; i < expected.data.length; i++) {
    const apart = Math.abs(actual.data[i] - expected.data[i]);
    difference = Number.isNaN(apart) ? Infinity : Math.max(difference, apart);
    scale = Math.max(scale, Math.abs(expected.data[i]));
  }
  return scale ? difference / scale : difference;
}

function check(root, question) {
  const folder = join(root, question.folder);
  const weights = readTensors(folder, "weights.safetensors");
  const values = run(readJson(folder, "graph.json"), weights, readTensors(folder, "inputs.safetensors").x);
  const expected = readTensors(folder, "expected.safetensors");
  const bounds = readJson(folder, "bounds.json").relative;
  const closest = { share: 0, name: "", error: 0, allowed: 0 };
  for (const name of Object.keys(values).filter((name) => name in expected)) {
    const error = relativeError(values[name], expected[name]);
    const share = error / bounds[name];
    if (!(share <= 1)) return { ok: false, name, error, allowed: bounds[name] };
    if (share > closest.share) Object.assign(closest, { share, name, error, allowed: bounds[name] });
  }
  return { ok: true, ...closest };
}

function main([root, part = ""]) {
  if (root === undefined) {
    console.error("usage: node read_export.mjs FOLDER [PART OF AN ID]");
    return 2;
  }
  const index = readJson(root, "index.json");
  if (index.kind !== "densespec export" || index.format !== 1) {
    console.error(`${root} is no export of format 1`);
    return 2;
  }
  const questions = index.questions.filter((q) => q.kind === "forward" && q.id.includes(part));
  if (questions.length === 0) {
    console.error(`no forward question has "${part}" in its id`);
    return 2;
  }
  let failed = 0;
  for (const question of questions) {
    const { ok, name, error, allowed } = check(root, question);
    failed += ok ? 0 : 1;
    const [off, most] = [error, allowed].map((value) => value.toExponential(1));
    console.log(`${ok ? "ok  " : "FAIL"} ${question.id.padEnd(52)} ${off} of ${most} at ${name}`);
  }
  console.log(`${questions.length - failed} of ${questions.length} within bounds`);
  return failed ? 1 : 0;
}

process.exitCode = main(process.argv.slice(2));
