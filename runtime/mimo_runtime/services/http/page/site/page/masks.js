// Masks as Uint8Array of 0 and 1, row by row: run lengths, outlines, areas, Dice.

/** The mask of COCO run lengths {counts, size: [height, width]}, which go down the columns. */
export function decodeMask({ counts, size: [height, width] }) {
  const mask = new Uint8Array(height * width);
  let place = 0;
  let value = 0;
  for (const count of counts) {
    if (value) {
      for (let i = place; i < place + count; i += 1) mask[(i % height) * width + Math.floor(i / height)] = 1;
    }
    place += count;
    value = 1 - value;
  }
  return mask;
}

/** COCO run lengths of a mask. */
export function encodeMask(mask, width, height) {
  const counts = [];
  let run = 0;
  let value = 0;
  for (let x = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1) {
      if (mask[y * width + x] === value) run += 1;
      else {
        counts.push(run);
        run = 1;
        value = 1 - value;
      }
    }
  }
  counts.push(run);
  return { counts, size: [height, width] };
}

/** Number of pixels. */
export function areaOf(mask) {
  let sum = 0;
  for (let i = 0; i < mask.length; i += 1) sum += mask[i];
  return sum;
}

/** 2 |A and B| / (|A| + |B|); 1 where both are empty. */
export function dice(a, b) {
  let both = 0;
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) {
    both += a[i] & b[i];
    sum += a[i] + b[i];
  }
  return sum ? (2 * both) / sum : 1;
}

/** Pixels of any of some masks. */
export function union(masks, size) {
  const all = new Uint8Array(size);
  for (const mask of masks) for (let i = 0; i < size; i += 1) all[i] |= mask[i];
  return all;
}

/** The edges between inside and outside as a path in pixels of the image, in horizontal and vertical runs. */
export function outlineOf(mask, width, height) {
  const path = new Path2D();
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? mask[y * width + x] : 0);
  const trace = (lines, along, differs, draw) => {
    for (let line = 0; line <= lines; line += 1) {
      let start = -1;
      for (let i = 0; i <= along; i += 1) {
        const edge = i < along && differs(line, i);
        if (edge && start < 0) start = i;
        if (!edge && start >= 0) {
          draw(line, start, i);
          start = -1;
        }
      }
    }
  };
  trace(height, width, (y, x) => at(x, y - 1) !== at(x, y), (y, x0, x1) => {
    path.moveTo(x0, y);
    path.lineTo(x1, y);
  });
  trace(width, height, (x, y) => at(x - 1, y) !== at(x, y), (x, y0, y1) => {
    path.moveTo(x, y0);
    path.lineTo(x, y1);
  });
  return path;
}

/** A picture of the mask in one colour, [r, g, b], alpha 0 to 255. */
export function tinted(mask, width, height, [red, green, blue], alpha) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < mask.length; i += 1) {
    if (mask[i]) image.data.set([red, green, blue, alpha], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Set the pixels within `radius` of the line between two points, in place. */
export function stroke(mask, width, height, [x0, y0], [x1, y1], radius, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(0.5, radius / 2)));
  for (let step = 0; step <= steps; step += 1) {
    const cx = x0 + ((x1 - x0) * step) / steps;
    const cy = y0 + ((y1 - y0) * step) / steps;
    for (let y = Math.max(0, Math.floor(cy - radius)); y <= Math.min(height - 1, Math.floor(cy + radius)); y += 1) {
      for (let x = Math.max(0, Math.floor(cx - radius)); x <= Math.min(width - 1, Math.floor(cx + radius)); x += 1) {
        if ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= radius * radius) mask[y * width + x] = value;
      }
    }
  }
}

/** Set the pixels whose centre lies within a polygon (even-odd), in place. */
export function fillPolygon(mask, width, height, points) {
  const rows = points.map((point) => point[1]);
  const first = Math.max(0, Math.floor(Math.min(...rows)));
  const last = Math.min(height - 1, Math.ceil(Math.max(...rows)));
  for (let y = first; y <= last; y += 1) {
    const middle = y + 0.5;
    const crossings = [];
    points.forEach(([xa, ya], i) => {
      const [xb, yb] = points[(i + 1) % points.length];
      if (ya <= middle !== yb <= middle) crossings.push(xa + ((middle - ya) * (xb - xa)) / (yb - ya));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const end = Math.min(width - 1, Math.ceil(crossings[i + 1] - 0.5) - 1);
      for (let x = Math.max(0, Math.ceil(crossings[i] - 0.5)); x <= end; x += 1) mask[y * width + x] = 1;
    }
  }
}
