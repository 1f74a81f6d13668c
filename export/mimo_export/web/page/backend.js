// Where answers come from: the graphs of a bundle in this browser, after they have reproduced the golden samples.
import { Local } from "./local.js";

/** The model, when it has passed its self-test. */
export async function connect(report) {
  const local = new Local();
  await local.start(report);
  return local;
}
