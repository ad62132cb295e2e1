// A job: all batches of one task of a DAG run, and what Airflow knows of that task.

const ACTIVE = new Set([
  "running",
  "deferred",
  "scheduled",
  "queued",
  "restarting",
  "up_for_retry",
  "up_for_reschedule",
]);
const ENDED = { success: "complete", failed: "failed", upstream_failed: "failed" };

/** What tells jobs apart. A batch that no DAG made is a job of its own. */
export function keyOf(batch) {
  const { dag_id: dag, run_id: run, task_id: task } = batch.origin;
  return dag && run && task ? keyOfOrigin(batch.origin, batch.dag_known) : batch.id;
}

export const keyOfOrigin = (origin, isKnown) =>
  JSON.stringify([origin.dag_id, origin.run_id, origin.task_id, origin.map_index, isKnown]);

function add(batches, read) {
  return batches.reduce((sum, batch) => sum + (read(batch) ?? 0), 0);
}

/** Rows with an answer, rows that failed, and all of them. */
function rowsOf(batches, report) {
  // Only the task knows which requests were sent a second time, so its own figures come first.
  const waited = report ? batches.filter((batch) => report.running.includes(batch.id)) : batches;
  const total = report?.rows || add(batches, (batch) => batch.counts.total);
  const answered = Math.min(total, (report?.answered ?? 0) + add(waited, (batch) => batch.counts.completed));
  const failed = (report?.failed ?? 0) + add(waited, (batch) => batch.counts.failed);
  return { total, completed: answered, failed: Math.min(failed, total - answered) };
}

function costOf(batches, report) {
  const isComplete = report?.state === "complete";
  const counted = report?.cost ? batches.filter((batch) => report.running.includes(batch.id)) : batches;
  const usd = (report?.cost?.usd ?? 0) + (isComplete ? 0 : add(counted, (batch) => batch.cost_usd));
  const isKnown =
    (report?.cost?.is_known ?? true) && counted.every((batch) => batch.cost_is_known || !batch.is_over);
  return { usd, is_known: isKnown };
}

/** The state in words, and whether the task or a batch still runs. */
function stateOf(batches, task, report) {
  const running = batches.some((batch) => !batch.is_over);
  if (!task) return [running ? "running" : endOf(batches), !running];
  if (!ACTIVE.has(task.state)) {
    const end = ENDED[task.state] ?? task.state ?? "cleared";
    return end === "complete" && running ? ["running", false] : [end, !running];
  }
  return [wordsOf(task, report), false];
}

function wordsOf(task, report) {
  if (task.state === "up_for_retry") return "waiting to retry";
  if (report?.state === "live") return "asked live";
  if (report?.state === "complete") return "finishing";
  if (report && report.batches - report.finished > report.running.length) return "waiting for room";
  return report?.rounds ? "asked again" : "running";
}

function endOf(batches) {
  const statuses = new Set(batches.map((batch) => batch.status));
  if (statuses.size > 1) return statuses.has("completed") ? "ended" : "failed";
  const [status] = statuses;
  return status === "completed" ? "complete" : status;
}

/** What the job waits for, or what is wrong with it: a sentence, and whether it needs somebody. */
function noteOf(batches, task, report, state, isOver) {
  const running = batches.filter((batch) => !batch.is_over).length;
  if (task && !ACTIVE.has(task.state) && running && state !== "running") {
    const runs = running === 1 ? "1 batch still runs" : `${running} batches still run`;
    return { text: `The task has ended, and ${runs}.`, isAmiss: true };
  }
  if (isOver) return { text: report?.error ?? "", isAmiss: true };
  return { text: report?.waits_for ?? "", isAmiss: false };
}

/** The filter that a job belongs to. */
const GROUPS = { complete: "complete", ended: "complete" };

export function makeJob(id, batches, facts) {
  const { task = null, report = null } = facts ?? {};
  const [state, isOver] = stateOf(batches, task, report);
  const [newest] = batches;
  const ends = batches.map((batch) => batch.ended_at).filter(Boolean);
  const starts = batches.map((batch) => batch.created_at).filter(Boolean);
  return {
    id,
    batches,
    task,
    report,
    state,
    is_over: isOver,
    is_active: Boolean(task && ACTIVE.has(task.state)),
    group: isOver ? (GROUPS[state] ?? "failed") : "running",
    note: noteOf(batches, task, report, state, isOver),
    origin: newest.origin,
    dag_known: newest.dag_known,
    counts: rowsOf(batches, report),
    planned: Math.max(report?.batches ?? 0, batches.length),
    ended: Math.max(report?.finished ?? 0, batches.filter((batch) => batch.is_over).length),
    rounds: report?.rounds ?? 0,
    tokens: add(batches, (batch) => batch.tokens?.total),
    cost: costOf(batches, report),
    estimate: report?.estimate ?? null,
    created_at: starts.length ? Math.min(...starts) : null,
    newest_at: newest.created_at,
    ended_at: isOver && ends.length ? Math.max(...ends) : null,
    expires_at: Math.max(...batches.map((batch) => (batch.is_over ? 0 : (batch.expires_at ?? 0)))) || null,
    may_cancel: batches.some((batch) => batch.may_cancel) || Boolean(!isOver && facts?.may_cancel),
  };
}

/** Rows a second of the batches that are in progress. */
export function paceOf(job, now) {
  const running = job.batches.filter((batch) => batch.status === "in_progress" && batch.in_progress_at);
  return add(
    running,
    ({ counts, in_progress_at }) => (counts.completed + counts.failed) / Math.max(1, now - in_progress_at),
  );
}
