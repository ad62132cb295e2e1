// Airflow around the page. Its frame allows scripts, forms and its own origin, but no links out, no pop-ups and no dialogs.

function reachable() {
  try {
    return window.parent !== window && window.parent.document ? window.parent : null;
  } catch {
    return null; // the frame belongs to another site
  }
}

/** Airflow's own window, or null where the page is open by itself. */
export const airflow = reachable();
