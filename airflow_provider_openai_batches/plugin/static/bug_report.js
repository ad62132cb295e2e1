// The text for a bug report: ids, times, statuses and versions. No prompt, no answer, no message of the service, no key.

import { byId, el } from "./dom.js";

function iso(seconds) {
  const at = new Date(seconds * 1000);
  return seconds && !Number.isNaN(at.getTime()) ? at.toISOString() : "–"; // a report may name any number
}

function lineOf(batch) {
  const { total, completed, failed } = batch.counts;
  const times = [batch.created_at, batch.in_progress_at, batch.ended_at, batch.expires_at].map(iso).join(" ");
  return `${batch.id} ${batch.status} ${completed}+${failed}/${total} ${batch.endpoint ?? "–"} ${batch.model ?? "–"} ${times}`;
}

function reportOf(report) {
  const kept = ["state", "batches", "finished", "rows", "answered", "failed", "again", "rounds", "live"];
  const words = kept.map((name) => `${name}=${report[name]}`).join(" ");
  return `report of ${iso(report.at)}: ${words} running=${report.running_total}`;
}

export function bugReport(job, versions, now) {
  const { origin, task, report } = job;
  const about = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return [
    about.join(", "),
    `at ${iso(now)}`,
    `dag_id=${origin.dag_id} run_id=${origin.run_id} task_id=${origin.task_id} map_index=${origin.map_index}`,
    task
      ? `task: ${task.state}, try ${task.try_number}, began ${iso(task.began)}, ended ${iso(task.ended)}`
      : "task: not known here",
    report ? reportOf(report) : "report: none",
    `job: ${job.state}, ${job.counts.completed}+${job.counts.failed}/${job.counts.total}`,
    "batches: id, status, completed+failed/total, endpoint, model, created, started, ended, window closes",
    ...job.batches.map(lineOf),
  ].join("\n");
}

async function copy(area) {
  area.select();
  try {
    await navigator.clipboard.writeText(area.value);
  } catch {
    // Without https the browser has no clipboard for scripts.
    if (!document.execCommand("copy")) return "Press Ctrl+C to copy.";
  }
  return "Copied.";
}

export function showBugReport(text) {
  const dialog = byId("question");
  const area = el("textarea.mono", { readonly: true, rows: 12, "aria-labelledby": "question-title" });
  area.value = text;
  const said = el("p.muted", { role: "status" });
  const close = el("button.button", { type: "button", onclick: () => dialog.close() }, "Close");
  const button = el("button.button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => said.replaceChildren(await copy(area)));
  dialog.replaceChildren(
    el("h2", { id: "question-title" }, "For a bug report"),
    el("p.muted", {}, "Ids, times, statuses and versions. Prompts, answers and keys are not in it."),
    area,
    said,
    el("p.actions", {}, close, button),
  );
  dialog.showModal();
  button.focus();
}
