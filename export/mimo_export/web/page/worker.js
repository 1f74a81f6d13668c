// Runs the graphs beside the page, so that drawing goes on meanwhile.
import { Model, TooLong } from "./model.js";

let model = null;
const calls = {
  load: async ({ facts }) => {
    model = await Model.load(facts);
  },
  encode: (values) => model.encode(values),
  ask: (values) => model.ask(values),
};
let turn = Promise.resolve();

addEventListener("message", ({ data: { number, name, values } }) => {
  turn = turn.then(async () => {
    try {
      postMessage({ number, result: await calls[name](values) });
    } catch (error) {
      postMessage({ number, error: error instanceof TooLong ? error.message : `The model failed: ${error.message}` });
    }
  });
});
