// The list of batches: which pages are loaded, and when to load them again.

import { place } from "./address.js";
import { listBatches, listTasks } from "./api.js";

export const INTERVAL = 5; // seconds between two requests while something is running
const IDLE_INTERVAL = 60; // seconds between two looks at the list while no batch is running
export const RETRY_INTERVAL = 15; // seconds from a problem to the next request
const MAX_PAGES = 10; // how many pages a search, a run or a look loads at most in one go
const MAX_TASKS = 100; // how many tasks are asked about at once
const SEARCH_ROWS = 50; // a search for older batches stops when it has found that many

/** As many of them as one look takes: if they are more, each gets its turn. */
function inTurn(all, most, look) {
  if (all.length <= most) return all;
  const from = (look * most) % all.length;
  return [...all.slice(from), ...all.slice(0, from)].slice(0, most);
}

export class BatchList {
  /**
   * @param {Store} store keeps what was loaded
   * @param {{isSearch: function(): boolean, countShown: function(): number, since: function(): ?number}} view
   *     how much is wanted: whether all that matches is searched for, and back to which time
   * @param {function()} changed is called whenever there is something new to draw
   */
  constructor(store, view, changed) {
    Object.assign(this, { store, view, changed });
    this.conn = null;
    this.skew = 0; // by how many seconds the server's clock is ahead of the browser's
    this.round = 0; // answers to an earlier round are thrown away
    this.timer = 0;
    this.reset();
  }

  reset() {
    this.next = null;
    this.hidden = 0;
    this.problem = null;
    this.looked = false;
    this.loading = false;
    this.lookedAt = 0; // when the newest page was loaded last
    this.looks = 0; // how often it was looked again
    this.store.clear(this.conn);
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  /** Whether a batch runs. */
  get isBusy() {
    return this.store.pages.some((page) => this.store.isRunning(page));
  }

  get runs() {
    return this.isBusy || this.store.silentTasks.length > 0;
  }

  /** Run ``work`` and keep its problem, if any. False if another round has begun in the meantime. */
  async attempt(work) {
    const mine = this.round;
    const valid = () => mine === this.round;
    let problem = null;
    try {
      await work(valid);
    } catch (error) {
      problem = error;
      if (error.status === undefined) console.error(error);
    }
    if (!valid()) return false;
    this.problem = problem;
    this.looked = true;
    try {
      this.changed();
    } catch (error) {
      console.error(error); // the page goes on looking
    }
    return true;
  }

  /** Whether there is more to load of what is wanted. */
  get goesOn() {
    const since = this.view.since();
    return Boolean(this.next) && !(since && this.oldest && this.oldest < since);
  }

  get oldest() {
    const times = this.store.batchPages.at(-1)?.map((batch) => batch.created_at) ?? [];
    return times.filter(Boolean).at(-1);
  }

  /** Start over with the newest page; for a DAG, a run or a job, go on through older pages. */
  async load() {
    this.round += 1;
    clearTimeout(this.timer);
    this.reset();
    this.changed();
    const current = await this.attempt(async (valid) => {
      await this.loadNext(valid);
      for (let count = 1; place && this.goesOn && count < MAX_PAGES && valid(); count += 1) {
        await this.loadNext(valid);
      }
      if (place?.task_id && valid()) await this.askForTasks(valid);
    });
    if (current) this.schedule();
  }

  async fetch(after) {
    const within = { dag_id: place?.dag_id, run_id: place?.run_id };
    const answer = await listBatches({ conn_id: this.conn, ...within, after });
    this.skew = answer.now - Date.now() / 1000;
    return answer;
  }

  async loadNext(valid) {
    const after = this.next;
    const answer = await this.fetch(after);
    if (!valid()) return;
    if (after === null) this.lookedAt = this.now();
    this.store.append(after, answer);
    this.next = answer.next;
    this.hidden += answer.hidden;
    this.changed();
    performance.mark("batches-shown"); // seen in the browser's developer tools
  }

  /** Load one more page; during a search, as many as it takes to find some rows. */
  async loadOlder() {
    if (this.loading || !this.goesOn || this.problem?.status === 400) return;
    this.loading = true;
    this.changed();
    const target = this.view.countShown() + SEARCH_ROWS;
    const limit = this.view.isSearch() ? MAX_PAGES : 1;
    await this.attempt(async (valid) => {
      for (
        let count = 0;
        this.goesOn && count < limit && valid() && this.view.countShown() < target;
        count += 1
      ) {
        await this.loadNext(valid);
      }
    });
    this.loading = false;
    this.changed();
  }

  /**
   * Load the newest page again, and the pages on which a batch is running; and ask Airflow about tasks at work.
   *
   * @param {boolean} all load the newest page although no batch runs, and it is not time for it yet
   */
  async refresh(all = false) {
    const { store } = this;
    if (!store.pages.length) return this.load();
    const isDue = all || this.isBusy || this.now() - this.lookedAt >= IDLE_INTERVAL - 1;
    this.looks += 1;
    const current = await this.attempt(async (valid) => {
      const [newest, ...older] = store.pages;
      const running = inTurn(older.filter((one) => store.isRunning(one)), MAX_PAGES - 1, this.looks);
      for (const page of isDue ? [newest, ...running] : running) {
        if (!(await this.reload(page, valid))) return;
      }
      await this.askForTasks(valid);
    });
    if (current) this.schedule();
  }

  /** Load a page again, and go on as far as newer batches have moved its running ones. False to stop. */
  async reload(page, valid) {
    const seen = new Set();
    let after = page.after;
    for (let count = 0; count < MAX_PAGES; count += 1) {
      const answer = await this.fetch(after);
      if (!valid()) return false;
      if (after === null) this.lookedAt = this.now();
      if (after === null && this.isGap(answer)) {
        setTimeout(() => this.load());
        return false;
      }
      this.store.refresh(page, answer);
      for (const { id } of answer.batches) seen.add(id);
      const missing = page.ids.map((id) => this.store.get(id)).filter((one) => !one.is_over && !seen.has(one.id));
      const oldest = answer.batches.at(-1)?.created_at;
      if (!answer.next || missing.every((one) => oldest < one.created_at)) return true;
      after = answer.next;
    }
    return true;
  }

  /** Ask Airflow, and not the service, about tasks at work of which no batch runs, and about the place's task. */
  async askForTasks(valid) {
    const tasks = this.store.silentTasks;
    if (place?.task_id && !this.store.members.size) {
      const { map_index: index, ...names } = place;
      tasks.push({ ...names, map_index: Number(index ?? -1) });
    }
    if (!tasks.length || !valid()) return;
    const answer = await listTasks(inTurn(tasks, MAX_TASKS, this.looks), { conn_id: this.conn });
    if (!valid()) return;
    this.store.takeFacts(answer.jobs);
    // A task that has reported something since may have made a batch.
    if (answer.jobs.some(({ report }) => report?.at > this.lookedAt)) this.lookedAt = 0;
  }

  /** Whether a whole page is new, because there may be others between it and the known ones. */
  isGap({ batches, next }) {
    return Boolean(next) && batches.length > 0 && batches.every((batch) => !this.store.get(batch.id));
  }

  get interval() {
    if (this.problem) return this.problem.wait || RETRY_INTERVAL;
    return this.runs ? INTERVAL : IDLE_INTERVAL;
  }

  schedule(seconds = this.interval) {
    clearTimeout(this.timer);
    if (this.problem?.status === 401) return;
    this.timer = setTimeout(() => (document.hidden ? this.schedule() : this.refresh()), seconds * 1000);
  }
}
