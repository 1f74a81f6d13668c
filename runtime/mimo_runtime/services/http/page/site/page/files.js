// Files that are dropped or chosen: folders, zip archives, single files.

const MOST_FILES = 5000;
const MOST_BYTES = 512 * 2 ** 20;
const NO_IMAGE = /(^|\/)(\.[^/]*|DICOMDIR|thumbs\.db|[^/]*\.(txt|json|csv|xml|md|log|html?|pdf))$|^__MACOSX\//i;

/** The files of a drop, with those in folders, as [name, Blob], in the order of their names; archives are unpacked. */
export async function filesOfDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = entries.length ? (await Promise.all(entries.map(filesOfEntry))).flat() : [...transfer.files];
  return unpacked(files);
}

async function filesOfEntry(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const entries = [];
  for (;;) {
    const more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!more.length) break;
    entries.push(...more);
    if (entries.length > MOST_FILES) throw new Error(`A folder holds more than ${MOST_FILES} files.`);
  }
  return (await Promise.all(entries.map(filesOfEntry))).flat();
}

/** Blobs of files; zip archives become their members. */
export async function unpacked(files) {
  const named = [];
  for (const file of files) {
    const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
    if (head[0] === 0x50 && head[1] === 0x4b && head[2] === 3 && head[3] === 4) named.push(...(await membersOf(file)));
    else named.push([file.webkitRelativePath || file.name, file]);
  }
  const kept = named.length > 1 ? named.filter(([name]) => !NO_IMAGE.test(name)) : named;
  if (kept.length > MOST_FILES) throw new Error(`These are ${kept.length} files. At most ${MOST_FILES} can be opened at once.`);
  kept.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  return kept.map(([, blob]) => blob);
}

/** The members of a zip archive, by its central directory. */
async function membersOf(file) {
  const broken = new Error("The zip archive cannot be read. Pack it again.");
  const tail = new DataView(await file.slice(Math.max(0, file.size - 65557)).arrayBuffer());
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw broken;
  const count = tail.getUint16(end + 10, true);
  const start = tail.getUint32(end + 16, true);
  if (count > MOST_FILES || count === 0xffff) throw new Error(`The archive holds more than ${MOST_FILES} files.`);
  const list = new DataView(await file.slice(start, start + tail.getUint32(end + 12, true)).arrayBuffer());
  const members = [];
  let bytes = 0;
  for (let index = 0, at = 0; index < count; index += 1) {
    if (at + 46 > list.byteLength || list.getUint32(at, true) !== 0x02014b50) throw broken;
    const [flags, method] = [list.getUint16(at + 8, true), list.getUint16(at + 10, true)];
    const [packed, size] = [list.getUint32(at + 20, true), list.getUint32(at + 24, true)];
    const length = list.getUint16(at + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(list.buffer, at + 46, length));
    const offset = list.getUint32(at + 42, true);
    at += 46 + length + list.getUint16(at + 30, true) + list.getUint16(at + 32, true);
    if (name.endsWith("/")) continue;
    bytes += size;
    if (flags & 1) throw new Error("The zip archive is encrypted. Unpack it first.");
    if (bytes > MOST_BYTES) throw new Error(`The archive unpacks to more than ${MOST_BYTES >> 20} MB.`);
    members.push([name, await memberOf(file, offset, method, packed, size, broken)]);
  }
  return members;
}

async function memberOf(file, offset, method, packed, size, broken) {
  const head = new DataView(await file.slice(offset, offset + 30).arrayBuffer());
  if (head.byteLength < 30 || head.getUint32(0, true) !== 0x04034b50) throw broken;
  const start = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const data = file.slice(start, start + packed);
  if (method === 0) return data;
  if (method !== 8) throw broken;
  const reader = data.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  for (let done = 0; ; ) {
    const { value, done: ends } = await reader.read().catch(() => {
      throw broken;
    });
    if (ends) return new Blob(parts);
    done += value.length;
    if (done > size) throw broken;
    parts.push(value);
  }
}
