// Which batches there are: what was asked for, what came, and when to ask again.

import { listBatches } from "./api.js";

export const EVERY = 5; // seconds between two looks while something runs
const SELDOM = 60; // while nothing does
const AFTER_A_PROBLEM = 15;
const AT_ONCE = 10; // pages that one search, or one run, is looked for in
const ENOUGH = 50; // rows that a search for older batches is content with

export class BatchList {
  /**
   * @param {Table} table keeps the rows
   * @param {{run: ?Object, isFiltered: function(): boolean, countShown: function(): number}} view
   * @param {function()} changed is called whenever there is something new to draw
   */
  constructor(table, view, changed) {
    Object.assign(this, { table, view, changed });
    this.conn = null;
    this.skew = 0; // seconds that the server's clock is ahead of this one's
    this.round = 0; // whatever an earlier round still waits for is thrown away
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

  /** Do ``work``, and keep the sentence if it fails. False if another round began meanwhile. */
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

  /** Begin anew, with the newest page; a run's batches are looked for in the next ones too. */
  async load() {
    this.round += 1;
    clearTimeout(this.timer);
    this.reset();
    this.changed();
    const current = await this.attempt(async (valid) => {
      await this.loadNext(valid);
      for (let count = 1; this.view.run && this.next && count < AT_ONCE && valid(); count += 1) {
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

  /** One page more; while something is searched for, as many as it takes to find some. */
  async loadOlder() {
    if (this.loading || !this.next || this.problem?.status === 400) return;
    this.loading = true;
    this.changed();
    const target = this.view.countShown() + ENOUGH;
    const limit = this.view.isFiltered() || this.view.run ? AT_ONCE : 1;
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

  /** Look again at the newest page, and at the pages on which something runs. */
  async refresh() {
    if (!this.pages.length) return this.load();
    const current = await this.attempt(async (valid) => {
      for (const page of this.pages.filter((one, at) => at === 0 || this.moves(one)).slice(0, AT_ONCE)) {
        const answer = await this.fetch(page.after);
        if (!valid()) return;
        if (page.after === null && !this.takeNewest(page, answer)) return void setTimeout(() => this.load());
        for (const batch of answer.batches) this.table.update(batch, this.now());
      }
    });
    if (current) this.schedule();
  }

  moves(page) {
    return page.ids.some((id) => this.table.get(id)?.is_over === false);
  }

  /** False if so much is new that there may be a gap between it and what is known. */
  takeNewest(page, answer) {
    const fresh = answer.batches.filter((batch) => !this.table.get(batch.id));
    if (fresh.length && fresh.length === answer.batches.length && answer.next) return false;
    this.table.prepend(fresh, this.now());
    page.ids = [...fresh.map((batch) => batch.id), ...page.ids];
    return true;
  }

  schedule(seconds = this.problem ? AFTER_A_PROBLEM : this.runs ? EVERY : SELDOM) {
    clearTimeout(this.timer);
    if (this.problem?.status === 401) return;
    this.timer = setTimeout(() => (document.hidden ? this.schedule() : this.refresh()), seconds * 1000);
  }
}
