// Links out of the page. The sandbox of Airflow's frame blocks them, so Airflow's own document opens them.

import { airflow } from "./airflow.js";
import { el, foreign } from "./dom.js";

export const AIRFLOW = new URL("../", new URL(".", location.href));

function follow(event) {
  if (event.button > 1 || !airflow) return;
  const link = event.currentTarget;
  const apart = link.target === "_blank" || event.ctrlKey || event.metaKey || event.button === 1;
  const twin = airflow.document.createElement("a");
  twin.href = link.href;
  twin.target = apart ? "_blank" : "_self";
  twin.rel = "noopener noreferrer";
  event.preventDefault();
  twin.click();
}

function out(href, target, content, title) {
  const stop = (event) => {
    event.stopPropagation();
    follow(event);
  };
  return el(
    "a",
    { href, target, rel: "noopener noreferrer", title, onclick: stop, onauxclick: stop },
    content,
  );
}

export const inAirflow = (path, content, title) => out(new URL(path, AIRFLOW).href, "_top", content, title);
export const elsewhere = (href, content) => out(href, "_blank", content, href);

const e = encodeURIComponent;

/** The DAG, run and task of a batch or job as links, or as plain text if this Airflow has no such DAG. */
export function origin(item) {
  const { dag_id: dag, run_id: run, task_id: task, map_index: index } = item.origin;
  const place = (path, text) =>
    item.dag_known ? inAirflow(path, foreign(text), text) : el("span", { title: text }, foreign(text));
  const suffix = index >= 0 ? `/mapped/${index}` : "";
  return {
    dag: dag && place(`dags/${e(dag)}`, dag),
    run: dag && run && place(`dags/${e(dag)}/runs/${e(run)}`, run),
    task:
      dag &&
      run &&
      task &&
      place(
        `dags/${e(dag)}/runs/${e(run)}/tasks/${e(task)}${suffix}`,
        index >= 0 ? `${task} [${index}]` : task,
      ),
  };
}
