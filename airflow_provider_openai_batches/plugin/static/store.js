// What was loaded: the pages of the service's list, their batches by id, and what Airflow says of their tasks.

import { keyOf, keyOfOrigin, makeJob } from "./jobs.js";

export class Store {
  constructor() {
    this.clear();
  }

  clear() {
    this.pages = []; // {after, ids}
    this.byId = new Map();
    this.members = new Map(); // the ids of a job's batches
    this.facts = new Map(); // what Airflow says of a job's task
    this.made = new Map(); // jobs, until something of them changes
  }

  get size() {
    return this.byId.size;
  }

  get batches() {
    return [...this.byId.values()];
  }

  get(id) {
    return this.byId.get(id);
  }

  /** The batches of each page. A batch may be on two pages, if newer ones moved it on; it counts once. */
  get batchPages() {
    return this.pages.map(({ ids }) => ids.map((id) => this.byId.get(id)));
  }

  /** A page of the list below the others. */
  append(after, answer) {
    this.pages.push({ after, ids: this.takeNew(answer.batches) });
    this.takeFacts(answer.jobs);
  }

  /** A page that was loaded again; what is new on it is newer than all else. */
  refresh(page, answer) {
    const fresh = this.takeNew(answer.batches);
    page.ids = [...fresh, ...page.ids];
    for (const batch of answer.batches) this.update(batch);
    this.takeFacts(answer.jobs);
  }

  takeNew(batches) {
    const fresh = batches.filter((batch) => !this.byId.has(batch.id));
    for (const batch of fresh) {
      this.byId.set(batch.id, batch);
      const key = keyOf(batch);
      if (!this.members.has(key)) this.members.set(key, []);
      this.members.get(key).push(batch.id);
      this.made.delete(key);
    }
    return fresh.map((batch) => batch.id);
  }

  update(batch) {
    const before = this.byId.get(batch.id);
    if (!before || JSON.stringify(before) === JSON.stringify(batch)) return;
    this.byId.set(batch.id, batch);
    this.made.delete(keyOf(batch));
  }

  takeFacts(jobs = []) {
    for (const facts of jobs) {
      const key = keyOfOrigin(facts.origin, true);
      if (JSON.stringify(this.facts.get(key)) === JSON.stringify(facts)) continue;
      this.facts.set(key, facts);
      this.made.delete(key);
    }
  }

  job(key) {
    const ids = this.members.get(key);
    if (!ids) return null;
    if (!this.made.has(key)) {
      const batches = ids.map((id) => this.byId.get(id));
      this.made.set(key, makeJob(key, batches, this.facts.get(key)));
    }
    return this.made.get(key);
  }

  /** The jobs whose newest batch is on each page. */
  get jobPages() {
    const seen = new Set();
    return this.batchPages.map((batches) => {
      const keys = [...new Set(batches.map(keyOf))].filter((key) => !seen.has(key));
      for (const key of keys) seen.add(key);
      return keys.map((key) => this.job(key));
    });
  }

  get jobs() {
    return this.jobPages.flat();
  }

  /** Whether something on a page may still change. */
  isRunning({ ids }) {
    return ids.some((id) => !this.byId.get(id).is_over || !this.job(keyOf(this.byId.get(id))).is_over);
  }
}
