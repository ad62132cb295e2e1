// Where the focus goes when what had it is gone. Without this it would be lost, and the keys would start at the top.

let row = null; // the row of a table that had it last

/** The button that a dialog has in focus at first. */
const first = (dialog) => dialog?.querySelector("[autofocus]");

/** Redraw a dialog, and leave the focus on the link or button that now stands for the one that had it. */
export function keepingFocus(dialog, redraw) {
  const had = dialog.contains(document.activeElement) ? document.activeElement : null;
  redraw();
  if (!had || had.isConnected) return;
  const isSame = (one) => one.tagName === had.tagName && one.textContent === had.textContent;
  ([...dialog.querySelectorAll("a, button")].find(isSame) ?? first(dialog))?.focus();
}

// The browser gives the focus back to what had it before a dialog. This is for a button that is gone by then.
function closed() {
  if (document.activeElement !== document.body) return;
  const below = [...document.querySelectorAll("dialog[open]")].at(-1);
  (first(below) ?? row?.querySelector(".open"))?.focus();
}

document.addEventListener("focusin", ({ target }) => (row = target.closest(".row[data-id]") ?? row));
document.addEventListener("close", closed, true);
