// The state of a job in words, and what is said about it.

const ENDED = { success: "complete", failed: "failed", upstream_failed: "failed" };
const NOT_BEGUN = new Set([null, "scheduled", "queued"]); // null: it was cleared
const ACTIVE = new Set([...NOT_BEGUN, "running", "deferred", "restarting", "up_for_retry", "up_for_reschedule"]);
// The filter that an ended job belongs to; all others have failed.
const GROUPS = { complete: "complete", ended: "complete" };

/** Whether a task is at work, or going to be. */
export const isActive = (task) => Boolean(task) && ACTIVE.has(task.state);

export const groupOf = (state, isOver) => (isOver ? (GROUPS[state] ?? "failed") : "running");

/** The state in words, and whether neither the task nor a batch runs. */
export function stateOf(batches, task, report) {
  const running = batches.some((batch) => !batch.is_over);
  if (!task) return [running ? "running" : endOf(batches), !running];
  if (isActive(task)) return [activeWords(task, report), false];
  const end = ENDED[task.state] ?? task.state;
  return end === "complete" && running ? ["running", false] : [end, !running];
}

function activeWords(task, report) {
  if (task.state === "up_for_retry") return "waiting to retry";
  if (NOT_BEGUN.has(task.state) && (!report || report.state !== "waiting")) return "about to start";
  if (report?.state === "live") return "asked live";
  if (report?.state === "complete") return "finishing";
  const atService = report && (report.running_total || report.running.length);
  if (report && report.batches - report.finished > atService) return "waiting for room";
  return report?.rounds ? "asked again" : "running";
}

function endOf(batches) {
  const statuses = new Set(batches.map((batch) => batch.status));
  if (statuses.size > 1) return statuses.has("completed") ? "ended" : "failed";
  const [status] = statuses;
  return status === "completed" ? "complete" : (status ?? "unknown");
}

/** What the job waits for, or what is wrong with it: a sentence, and whether it needs somebody. */
export function noteOf(batches, task, report, isOver) {
  const running = batches.filter((batch) => !batch.is_over).length;
  if (task && !isActive(task) && task.state !== "success" && running) {
    const runs = running === 1 ? "1 batch still runs" : `${running} batches still run`;
    return { text: `The task has ended, and ${runs}.`, isAmiss: true };
  }
  if (isOver) return { text: report?.state === "failed" ? report.error : "", isAmiss: true };
  return { text: report?.waits_for ?? "", isAmiss: false };
}
