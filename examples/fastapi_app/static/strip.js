// The strip at the foot of the page: asks who sent the files, while somebody looks.
"use strict";

const rows = document.querySelector("#transfers tbody");
let shown = "";

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${bytes.toFixed(unit && bytes < 100 ? 1 : 0)} ${units[unit]}`;
}

function duration(seconds) {
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`;
}

function asked(range) {
  const found = /^bytes=(\d+)-(\d*)$/.exec(range);
  if (!found) return range || "the whole file";
  const from = found[1] === "0" ? "the start" : size(Number(found[1]));
  return found[2] ? `${from} to ${size(Number(found[2]) + 1)}` : `from ${from}`;
}

function cell(text, label) {
  const element = document.createElement("td");
  element.textContent = text;
  element.dataset.label = label;
  return element;
}

function row(transfer) {
  const element = document.createElement("tr");
  const sender = cell("", "Sent by");
  const badge = document.createElement("span");
  badge.className = `sender ${transfer.sender.toLowerCase()}`;
  badge.textContent = transfer.sender;
  sender.append(badge);
  const busy = duration(transfer.busy) + (transfer.done ? "" : ", still sending");
  element.append(cell(transfer.file, "File"), cell(asked(transfer.asked), "Asked for"), sender,
    cell(size(transfer.sent), "Through the app"), cell(busy, "App busy for"));
  return element;
}

function show(text) {
  const transfers = JSON.parse(text);
  if (text !== shown && transfers.length) rows.replaceChildren(...transfers.map(row));
  shown = text;
}

async function look() {
  try {
    if (!document.hidden) {
      // An answer that never comes, or a 502, must not end the strip.
      const response = await fetch("/transfers", { signal: AbortSignal.timeout(10000) });
      if (response.ok) show(await response.text());
      else if (response.status < 500) return;  // signed out in another tab: stop asking
    }
  } catch {
    // The page is being left, or the demo has ended.
  }
  setTimeout(look, 1000);
}

look();
