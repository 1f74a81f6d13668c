// A numeric fault must never look like a finding: mimo_runtime/model/output_check.py.

/** Throw unless all outputs {name: {data}} of a graph are finite and in range. `rules`: {limit, fractions, tolerance}. */
export function checkOutputs(graph, outputs, { limit, fractions, tolerance }) {
  for (const [name, { data, type }] of Object.entries(outputs)) {
    if (type !== "float32") continue;
    const [low, high] = fractions.includes(name) ? [-tolerance, 1 + tolerance] : [-limit, limit];
    for (let i = 0; i < data.length; i += 1) {
      if (!(data[i] >= low && data[i] <= high)) throw new Error(`graph ${graph} gave ${data[i]} in its output ${name}`);
    }
  }
}
