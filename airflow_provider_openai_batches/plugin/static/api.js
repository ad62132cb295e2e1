// Calls of the page's own routes, and of one of Airflow's. A failure becomes a Problem with a sentence to show.

import { AIRFLOW } from "./links.js";

const POST = {
  method: "POST",
  headers: { Accept: "application/json", "Content-Type": "application/json" },
  body: "{}",
};

export class Problem extends Error {
  /** @param {number} wait seconds after which to ask again, if the server says so */
  constructor(status, sentence, wait = 0) {
    super(sentence);
    this.status = status;
    this.wait = wait;
  }
}

function call(path, params = {}, options = {}) {
  const given = Object.entries(params).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  return send(`api/${path}?${new URLSearchParams(given)}`, options);
}

async function send(url, options) {
  let answer;
  try {
    answer = await fetch(url, {
      credentials: "same-origin",
      headers: { Accept: "application/json" },
      ...options,
    });
  } catch {
    throw new Problem(0, "Airflow's API server does not answer. The page keeps trying.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  if (answer.status === 401) throw new Problem(401, "Your login expired. Reload Airflow and log in again.");
  if (answer.status === 403 && body.detail === "Forbidden") {
    throw new Problem(
      403,
      "You may not read DAGs here. Ask an administrator of this Airflow for that right.",
    );
  }
  const sentence =
    typeof body.detail === "string" ? body.detail : `The server answered with HTTP ${answer.status}.`;
  throw new Problem(answer.status, sentence, Number(answer.headers.get("Retry-After")) || 0);
}

export const listConnections = () => call("connections");
export const listBatches = (params) => call("batches", params);
export const sumUpCosts = (params) => call("costs", params);
export const sumUpDays = (params) => call("costs/days", params);
export const sumUpJob = (params) => call("jobs/summary", params);
export const cancelJob = (params) => call("jobs/cancel", params, POST);

/** How tasks are, and what they report; the service is not asked. */
export const listTasks = (tasks, params) =>
  call("jobs/tasks", params, { ...POST, body: JSON.stringify({ tasks }) });

/** Set a task to failed through Airflow's own API, so that it stops, and asks for nothing again. */
export function failTask(origin) {
  const e = encodeURIComponent;
  const index = origin.map_index >= 0 ? `/${origin.map_index}` : "";
  const task = `dags/${e(origin.dag_id)}/dagRuns/${e(origin.run_id)}/taskInstances/${e(origin.task_id)}${index}`;
  return send(new URL(`api/v2/${task}`, AIRFLOW), {
    ...POST,
    method: "PATCH",
    body: JSON.stringify({ new_state: "failed" }),
  });
}

export const showBatch = (id, params) => call(`batches/${encodeURIComponent(id)}`, params);
export const cancelBatch = (id, params) =>
  call(`batches/${encodeURIComponent(id)}/cancel`, params, POST);
