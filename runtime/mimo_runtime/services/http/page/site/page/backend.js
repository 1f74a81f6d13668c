// Where answers come from: the service that this page was loaded from. A page without a service has another file of this name.
import { Server } from "./api.js";

/** The service, when its model is ready. `report` takes a sentence, `askKey` gives the key that a person types. */
export async function connect(report, askKey) {
  const server = new Server();
  server.askKey = askKey;
  await server.wait(report);
  return server;
}
