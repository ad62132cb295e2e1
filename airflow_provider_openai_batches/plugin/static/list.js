// The list of batches: which pages are loaded, and when to load them again.

import { listBatches } from "./api.js";

export const INTERVAL = 5; // seconds between two requests while a batch is running
const IDLE_INTERVAL = 60; // seconds between two requests while no batch is running
export const RETRY_INTERVAL = 15; // seconds from a problem to the next request
const MAX_PAGES = 10; // how many pages a search or a run loads at most in one go
const SEARCH_ROWS = 50; // a search for older batches stops when it has found that many

export class BatchList {
  /**
   * @param {Table} table keeps the rows
   * @param {{run: ?Object, isFiltered: function(): boolean, countShown: function(): number}} view
   * @param {function()} changed is called whenever there is something new to draw
   */
  constructor(table, view, changed) {
    Object.assign(this, { table, view, changed });
    this.conn = null;
    this.skew = 0; // by how many seconds the server's clock is ahead of the browser's
    this.round = 0; // answers to an earlier round are thrown away
    this.timer = 0;
    this.reset();
  }

  reset() {
    this.pages = []; // {after, ids}
    this.next = null;
    this.hidden = 0;
    this.problem = null;
    this.looked = false;
    this.loading = false;
    this.table.clear();
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  get runs() {
    return this.table.batches.some((batch) => !batch.is_over);
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
    this.changed();
    return true;
  }

  /** Start over with the newest page; for a run, go on through older pages. */
  async load() {
    this.round += 1;
    clearTimeout(this.timer);
    this.reset();
    this.changed();
    const current = await this.attempt(async (valid) => {
      await this.loadNext(valid);
      for (let count = 1; this.view.run && this.next && count < MAX_PAGES && valid(); count += 1) {
        await this.loadNext(valid);
      }
    });
    if (current) this.schedule();
  }

  async fetch(after) {
    const answer = await listBatches({ conn_id: this.conn, ...this.view.run, after });
    this.skew = answer.now - Date.now() / 1000;
    return answer;
  }

  async loadNext(valid) {
    const after = this.next;
    const answer = await this.fetch(after);
    if (!valid()) return;
    this.table.append(answer.batches, this.now());
    this.pages.push({ after, ids: answer.batches.map((batch) => batch.id) });
    this.next = answer.next;
    this.hidden += answer.hidden;
    this.changed();
    performance.mark("batches-shown"); // seen in the browser's developer tools
  }

  /** Load one more page; during a search, as many as it takes to find some rows. */
  async loadOlder() {
    if (this.loading || !this.next || this.problem?.status === 400) return;
    this.loading = true;
    this.changed();
    const target = this.view.countShown() + SEARCH_ROWS;
    const limit = this.view.isFiltered() || this.view.run ? MAX_PAGES : 1;
    await this.attempt(async (valid) => {
      for (
        let count = 0;
        this.next && count < limit && valid() && this.view.countShown() < target;
        count += 1
      ) {
        await this.loadNext(valid);
      }
    });
    this.loading = false;
    this.changed();
  }

  /** Load the newest page again, and the pages on which a batch is running. */
  async refresh() {
    if (!this.pages.length) return this.load();
    const current = await this.attempt(async (valid) => {
      for (const page of this.pages.filter((one, at) => at === 0 || this.isRunning(one)).slice(0, MAX_PAGES)) {
        const answer = await this.fetch(page.after);
        if (!valid()) return;
        if (page.after === null && !this.takeNewest(page, answer)) return void setTimeout(() => this.load());
        for (const batch of answer.batches) this.table.update(batch, this.now());
      }
    });
    if (current) this.schedule();
  }

  isRunning(page) {
    return page.ids.some((id) => this.table.get(id)?.is_over === false);
  }

  /** False if the whole page is new, because there may be a gap between it and the known rows. */
  takeNewest(page, answer) {
    const fresh = answer.batches.filter((batch) => !this.table.get(batch.id));
    if (fresh.length && fresh.length === answer.batches.length && answer.next) return false;
    this.table.prepend(fresh, this.now());
    page.ids = [...fresh.map((batch) => batch.id), ...page.ids];
    return true;
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
