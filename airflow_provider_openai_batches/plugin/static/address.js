// What the address says. What the user chose is kept in Airflow's address, which can be reloaded and sent to others,
// and in the frame's own. Airflow before 3.3 never passes its own on to the frame.

import { airflow } from "./airflow.js";

const CHOICES = ["conn_id", "view", "status", "dag", "hours", "text"];
const PLACE = ["dag_id", "run_id", "task_id", "map_index"];
const PAUSE = 200; // milliseconds; browsers limit how often an address may change

const own = new URLSearchParams(location.search);
const around = new URLSearchParams(airflow?.location.search);
let timer = 0;

function placeIn(search) {
  // Airflow 3.1 enters the id of a run as it is, and a "+" of it is no space.
  const given = new URLSearchParams(search.replaceAll("+", "%2B"));
  const found = PLACE.map((name) => [name, given.get(name)]).filter(([, value]) => value);
  return given.get("dag_id") ? Object.fromEntries(found) : null;
}

/** The DAG, the run or the job that is shown alone: its ids as far as they are given. */
export const place = placeIn(location.search) ?? placeIn(airflow?.location.search ?? "");

/** Whether something is within that place. */
export const isHere = (origin) =>
  PLACE.every((name) => !place?.[name] || String(origin[name] ?? "") === place[name]);

/** What the address says of each choice. */
export const chosen = Object.fromEntries(CHOICES.map((name) => [name, own.get(name) ?? around.get(name)]));

function write(target, choices) {
  const { pathname, search, hash } = target.location;
  const query = new URLSearchParams(search);
  for (const [name, value] of Object.entries(choices)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = String(query).replaceAll("+", "%20");
  target.history.replaceState(target.history.state, "", `${pathname}${text && "?"}${text}${hash}`);
}

/** Keep these choices; the empty ones are left out. */
export function keep(choices) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    write(window, { ...place, ...choices });
    if (airflow) write(airflow, choices);
  }, PAUSE);
}

// At once, because Airflow 3.3 takes the frame's address for its own when the frame has loaded.
write(window, { ...place, ...chosen });
