// A job: all batches of one task of a DAG run, and what Airflow knows of that task.

import { groupOf, isActive, noteOf, stateOf } from "./job_state.js";

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

/** The batches whose rows are not in the report's own figures. */
function uncounted(batches, report) {
  if (!report?.rows) return batches;
  const ids = new Set(report.running);
  const isCut = (report.running_total ?? 0) > ids.size;
  return batches.filter((batch) => ids.has(batch.id) || (isCut && !batch.is_over));
}

/** Rows with an answer, rows that failed, and all of them. */
function rowsOf(batches, report) {
  // Only the task knows which requests were sent a second time, so its own figures come first.
  const waited = uncounted(batches, report);
  const total = report?.rows || add(batches, (batch) => batch.counts.total);
  const answered = Math.min(total, (report?.answered ?? 0) + add(waited, (batch) => batch.counts.completed));
  const failed = (report?.failed ?? 0) + add(waited, (batch) => batch.counts.failed);
  return { total, completed: answered, failed: Math.min(failed, total - answered) };
}

/** What the job has cost: its report has live answers too, its batches also those of tries that began anew. */
function costOf(batches, report) {
  const cost = report?.rows ? report.cost : null;
  const known = (some) => some.every((batch) => batch.cost_is_known || !batch.is_over);
  const ofBatches = { usd: add(batches, (batch) => batch.cost_usd), is_known: known(batches) };
  if (!cost) return ofBatches;
  const waited = uncounted(batches, report);
  const ofReport = {
    usd: cost.usd + (report.state === "complete" ? 0 : add(waited, (batch) => batch.cost_usd)),
    is_known: cost.is_known && known(waited),
  };
  return ofBatches.usd > ofReport.usd * 1.000001 ? ofBatches : ofReport;
}

const newestFirst = (batches) => [...batches].sort((one, other) => (other.created_at ?? 0) - (one.created_at ?? 0));

/**
 * @param {Object[]} loaded the batches of it that are loaded; none, if it has none
 * @param {{origin: Object, task: ?Object, report: ?Object, may_cancel: boolean}} [facts] what Airflow says
 * @param {string} conn the connection that is looked at
 */
export function makeJob(id, loaded, facts, conn) {
  const batches = newestFirst(loaded);
  const task = facts?.task ?? null;
  const report = facts?.report && [conn, ""].includes(facts.report.conn_id) ? facts.report : null;
  const [state, isOver] = stateOf(batches, task, report);
  const ends = batches.map((batch) => batch.ended_at).filter(Boolean);
  const starts = batches.map((batch) => batch.created_at).filter(Boolean);
  const planned = Math.max(report?.batches ?? 0, batches.length);
  return {
    id,
    batches,
    task,
    report,
    state,
    is_over: isOver,
    is_active: isActive(task),
    group: groupOf(state, isOver),
    note: noteOf(batches, task, report, isOver),
    origin: batches[0]?.origin ?? facts.origin,
    dag_known: batches[0]?.dag_known ?? true,
    counts: rowsOf(batches, report),
    planned,
    ended: Math.min(planned, Math.max(report?.finished ?? 0, batches.filter((batch) => batch.is_over).length)),
    rounds: report?.rounds ?? 0,
    tokens: add(batches, (batch) => batch.tokens?.total),
    cost: costOf(batches, report),
    estimate: report?.estimate ?? null,
    created_at: starts.length ? Math.min(...starts) : (task?.began ?? null),
    newest_at: starts.length ? Math.max(...starts) : null,
    ended_at: isOver ? Math.max(...ends, task?.ended ?? 0) || null : null,
    expires_at: Math.max(...batches.map((batch) => (batch.is_over ? 0 : (batch.expires_at ?? 0))), 0) || null,
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
