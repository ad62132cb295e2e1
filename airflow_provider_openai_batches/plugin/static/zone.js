// The time zone that the user chose in Airflow's menu. Airflow keeps it in the browser; before that, both take the
// browser's own.

const KEY = "timezone";

/** The name of the zone, or undefined for the browser's own. */
export function zone() {
  try {
    const chosen = JSON.parse(localStorage.getItem(KEY)) ?? undefined;
    new Intl.DateTimeFormat("en", { timeZone: chosen }); // fails if the browser does not know it
    return chosen;
  } catch {
    return undefined;
  }
}

/** Call this when another zone is chosen: around the page's frame, or in another window. */
export function followZone(changed) {
  addEventListener("storage", ({ key }) => (key === KEY || key === null) && changed());
}
