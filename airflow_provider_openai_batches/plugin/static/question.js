// The question before a batch or a whole job is cancelled.

import { cancelBatch, cancelJob, failTask } from "./api.js";
import { announce, byId, el, foreign } from "./dom.js";
import { number, progress } from "./format.js";

const CONFLICT = 409;

/**
 * @param {{title: string, what: Node, sentences: string[], yes: string, said: string}} question
 * @param {function(): Promise<?string>} act does it; returns what did not work, if anything
 */
function ask({ title, what, sentences, yes, said }, act) {
  const dialog = byId("question");
  const problem = el("p.amiss", { role: "alert" });
  const keep = el("button.button", { type: "button", onclick: () => dialog.close() }, "Keep it running");
  const go = el("button.button.danger", { type: "button" }, yes);
  go.addEventListener("click", async () => {
    go.disabled = true;
    problem.textContent = "";
    try {
      problem.textContent = (await act()) ?? "";
    } catch (error) {
      problem.textContent = error.message;
    }
    go.disabled = false;
    // It may have been closed meanwhile, and another question asked.
    const isAsked = dialog.open && go.isConnected;
    if (isAsked && problem.textContent) return;
    if (isAsked) dialog.close();
    announce(problem.textContent || said);
  });
  dialog.replaceChildren(
    el("h2", { id: "question-title" }, title),
    el("p.mono", {}, what),
    ...sentences.map((sentence, at) => el(at ? "p.muted" : "p", {}, sentence)),
    problem,
    el("p.actions", {}, keep, go),
  );
  dialog.showModal();
  keep.focus();
}

const PAID = "are paid for and their results are kept; the others will not run.";

/** Ask, then cancel a batch; ``done`` gets the updated batch. */
export function askAndCancel(batch, params, done) {
  const { total, completed, failed } = progress(batch);
  const rest = total
    ? `${number(completed + failed)} of ${number(total)} requests are done. They ${PAID}`
    : `Requests that are done ${PAID}`;
  const question = {
    title: "Cancel this batch?",
    what: foreign(batch.id),
    sentences: [rest, "A task that waits for it fails, unless it is set up to go on."],
    yes: "Cancel the batch",
    said: `Batch ${batch.id} is being cancelled.`,
  };
  ask(question, async () => done((await cancelBatch(batch.id, params)).batch));
}

/** Cancel each running batch of a job that no task of this Airflow made. */
async function cancelEach(job, params) {
  const answer = { batches: [], problems: [], complete: true };
  for (const { id } of job.batches.filter((batch) => batch.may_cancel)) {
    try {
      answer.batches.push((await cancelBatch(id, params)).batch);
    } catch ({ message }) {
      answer.problems.push({ batch_id: id, message });
    }
  }
  return answer;
}

/** Cancel all batches of a task. While it is at work the server refuses that, because it would ask again. */
async function cancelTask(job, params) {
  const wanted = { ...params, ...job.origin };
  try {
    return await cancelJob(wanted);
  } catch (problem) {
    if (problem.status !== CONFLICT) throw problem;
  }
  try {
    await failTask(job.origin);
  } catch (problem) {
    if (problem.status !== CONFLICT) throw problem; // it has failed meanwhile
  }
  return cancelJob(wanted);
}

/** Ask, then cancel a whole job; ``done`` gets its batches. */
export function askAndCancelJob(job, params, done) {
  const { total, completed, failed } = job.counts;
  const running = job.batches.filter((batch) => !batch.is_over).length;
  const isTask = Boolean(job.dag_known && job.origin.task_id);
  const names = [job.origin.dag_id, job.origin.run_id, job.origin.task_id].filter(Boolean);
  const question = {
    title: "Cancel this job?",
    what: foreign(names.join(" · ") || job.batches[0].id),
    sentences: [
      `${number(completed + failed)} of ${number(total)} requests are done. They ${PAID}`,
      isTask &&
        "If its task is at work, Airflow sets it to failed, without a retry, so that nothing is asked again. Clear it to go on later.",
      running === 1 ? "1 batch of it runs now." : `${number(running)} batches of it run now.`,
    ].filter(Boolean),
    yes: "Cancel the job",
    said: "The job is cancelled.",
  };
  ask(question, async () => {
    const answer = await (isTask ? cancelTask : cancelEach)(job, params);
    done(answer.batches);
    const failures = answer.problems.map(({ batch_id: id, message }) => `${id}: ${message}`);
    if (!answer.complete) failures.push("There may be older batches of this job that were not looked at.");
    return failures.join(" ") || null;
  });
}
