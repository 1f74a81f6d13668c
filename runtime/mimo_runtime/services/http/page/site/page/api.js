// The HTTP service: files, pictures, questions with events, objects.

/** A refusal of the service: a sentence, a word and a status. */
export class Refused extends Error {
  constructor(message, type, status) {
    super(message);
    this.type = type;
    this.status = status;
  }
}

async function refusalOf(response) {
  const { error } = await response.json().catch(() => ({ error: {} }));
  return new Refused(error.message ?? `The service answered with status ${response.status}.`, error.type, response.status);
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The service at the address of this page. */
export class Server {
  /** Whether clinical objects and pictures with a window can be had. */
  hasObjects = true;

  /** Whether sentences can be had. */
  hasText = true;

  constructor() {
    this.key = "";
    this.askKey = async () => "";
    this.files = new Map();
  }

  /** A response that is 2xx. A missing key is asked for; a full queue is waited for. */
  async call(path, options = {}, patience = 5) {
    const headers = { ...options.headers, ...(this.key ? { Authorization: `Bearer ${this.key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The service does not answer. Is it running?", "unreachable", 0);
    }
    if (response.ok) return response;
    if (response.status === 401) {
      const key = await this.askKey();
      if (key) {
        this.key = key;
        return this.call(path, options, patience);
      }
    }
    if (response.status === 429 && patience) {
      await pause(300 * (6 - patience));
      return this.call(path, options, patience - 1);
    }
    throw await refusalOf(response);
  }

  /** Wait until a model is in service. `report` takes a sentence. */
  async wait(report) {
    for (;;) {
      try {
        await this.call("ready");
        return;
      } catch (error) {
        if (error.status !== 503) throw error;
        report("The model is being loaded and tested.");
        await pause(700);
      }
    }
  }

  /** {id, entities, modalities, device, …} */
  async model() {
    return (await this.call("v1/model")).json();
  }

  /** Store files; their ids. What is no image is counted, and left out unless it is the only one. `progress(done, all)`. */
  async upload(blobs, progress) {
    const ids = [];
    let refusal = null;
    for (const [index, blob] of blobs.entries()) {
      progress(index, blobs.length);
      try {
        ids.push(await this.store(blob));
      } catch (error) {
        if (error.status !== 422 && error.status !== 413) throw error;
        refusal = error;
      }
    }
    if (!ids.length) throw refusal ?? new Refused("There is no file.", "empty", 0);
    return { ids, leftOut: blobs.length - ids.length };
  }

  async store(blob) {
    const response = await this.call("v1/files", {
      method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" },
    });
    const { id } = await response.json();
    this.files.set(id, blob);
    return id;
  }

  /** The frames of stored files in order: {frames, stacks, modality, number, series, notes}. */
  async series(ids, number = 1) {
    return (await this.json("v1/series", { images: ids, series: number })).json();
  }

  json(path, body, options = {}) {
    return this.call(path, {
      ...options, method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...options.headers },
    });
  }

  /** Repeat `action` once where the service has forgotten an image that this page still has. */
  async known(id, action) {
    try {
      return await action();
    } catch (error) {
      if (error.status !== 404 || !this.files.has(id)) throw error;
      await this.store(this.files.get(id));
      return action();
    }
  }

  /** A frame as a picture, with its window [centre, width] or null. */
  async picture({ image, frame }, modality, window, signal) {
    const query = new URLSearchParams({ frame });
    if (modality) query.set("modality", modality);
    if (window) query.set("window", window.join(","));
    const response = await this.known(image, () => this.call(`v1/images/${image}/picture?${query}`, { signal }));
    const shown = response.headers.get("X-Window");
    return { bitmap: await createImageBitmap(await response.blob()), window: shown ? shown.split(",").map(Number) : null };
  }

  /** Encode a frame before a question comes; what is known of it. */
  async prepare({ image, frame }, modality, signal) {
    const query = new URLSearchParams({ frame });
    if (modality) query.set("modality", modality);
    return (await this.known(image, () => this.call(`v1/images/${image}?${query}`, { signal }))).json();
  }

  /** The answer to a question; `draft` takes the text as it grows. */
  async ask(body, draft, signal) {
    const headers = { Accept: "text/event-stream" };
    const response = await this.known(body.image, () => this.json("v1/ask", body, { headers, signal }));
    let text = "";
    for await (const [name, data] of eventsOf(response.body)) {
      if (name === "draft") draft((text += data.text));
      if (name === "error") throw new Refused(data.error.message, data.error.type, data.error.code);
      if (name === "answer") return data;
    }
    throw new Refused("The answer ended early.", "incomplete", 0);
  }

  /** Clinical objects of an answer: {files: {name: base64}, left_out: {format: reason}}. */
  async objects(body, formats) {
    const response = await this.known(body.image, () => this.json("v1/ask", { ...body, objects: formats, contours: false }));
    return (await response.json()).objects;
  }
}

/** Server-sent events of a stream, as [name, data]. */
export async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]);
      const data = fields.filter(([name]) => name === "data").map(([, text]) => text).join("\n");
      yield [Object.fromEntries(fields).event, JSON.parse(data)];
    }
  }
}
