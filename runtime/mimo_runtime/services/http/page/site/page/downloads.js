// What can be saved: made in the page (PNG, JSON), or by the service (DICOM objects, reports).
import { element } from "./results.js";

/** Formats that the service writes, with their names for people. */
const OBJECTS = [["seg", "SEG"], ["sr", "SR"], ["pdf", "PDF report"], ["html", "Report"], ["nifti", "NIfTI"], ["contours", "Outlines"]];

/** Save a blob under a name that says nothing of a patient. */
export function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

/** Buttons in `box`. `state()` is the page's; `report(text)` shows a sentence; `attempt(work)` shows what fails. */
export function showDownloads(box, backend, view, state, report, attempt) {
  const button = (label, work) => element("button", { type: "button", textContent: label, onclick: () => attempt(work) });
  box.append(
    button("PNG", async () => save(await view.toPng(), "mimo-picture.png")),
    button("JSON", async () => save(new Blob([JSON.stringify(state().answer, null, 1)], { type: "application/json" }), "mimo-answer.json")),
  );
  if (!backend.hasObjects) return;
  for (const [format, label] of OBJECTS) {
    box.append(button(label, async () => {
      report(`${label} is being written.`);
      const { files, left_out: leftOut } = await backend.objects(state().asked, [format]);
      for (const [name, content] of Object.entries(files)) save(new Blob([bytesOf(content)]), `mimo-${name}`);
      report(leftOut[format] ? `${label} cannot be written: ${leftOut[format]}.` : `${label} is saved.`);
    }));
  }
}
