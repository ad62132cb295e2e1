// Calls of the page's own routes. A failure becomes a Problem with a sentence to show.

export class Problem extends Error {
  /** @param {number} wait seconds after which to ask again, if the server says so */
  constructor(status, sentence, wait = 0) {
    super(sentence);
    this.status = status;
    this.wait = wait;
  }
}

async function call(path, params = {}, options = {}) {
  const given = Object.entries(params).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  const url = `api/${path}?${new URLSearchParams(given)}`;
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
export const showBatch = (id, params) => call(`batches/${encodeURIComponent(id)}`, params);
export const cancelBatch = (id, params) =>
  call(`batches/${encodeURIComponent(id)}/cancel`, params, {
    method: "POST",
    headers: { Accept: "application/json", "Content-Type": "application/json" },
    body: "{}",
  });
