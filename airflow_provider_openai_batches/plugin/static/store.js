// What was loaded: the pages of the service's list, their batches by id, and what Airflow says of their tasks.

import { keyOf, keyOfOrigin, makeJob } from "./jobs.js";

const isSame = (one, other) => JSON.stringify(one) === JSON.stringify(other);

export class Store {
  constructor() {
    this.clear(null);
  }

  /** @param {?string} conn the connection that is looked at from now on */
  clear(conn) {
    this.conn = conn;
    this.pages = []; // {after, ids}
    this.byId = new Map();
    this.members = new Map(); // the ids of a job's batches
    this.facts = new Map(); // what Airflow says of a job's task
    this.made = new Map(); // jobs, until something of them changes
  }

  get size() {
    return this.byId.size;
  }

  get jobCount() {
    return this.members.size + this.withoutBatches.length;
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
    for (const batch of fresh) this.put(batch);
    return fresh.map((batch) => batch.id);
  }

  put(batch) {
    const key = keyOf(batch);
    this.byId.set(batch.id, batch);
    if (!this.members.has(key)) this.members.set(key, new Set());
    this.members.get(key).add(batch.id);
    this.made.delete(key);
  }

  update(batch) {
    const before = this.byId.get(batch.id);
    if (!before || isSame(before, batch)) return;
    const key = keyOf(before);
    this.members.get(key).delete(batch.id);
    this.made.delete(key);
    this.put(batch);
    if (this.members.get(key).size) return;
    // It is another job's now: its DAG was deleted, or is back.
    this.members.delete(key);
    this.facts.delete(key);
  }

  takeFacts(jobs = []) {
    for (const facts of jobs) {
      const key = keyOfOrigin(facts.origin, true);
      if (isSame(this.facts.get(key), facts)) continue;
      this.facts.set(key, facts);
      this.made.delete(key);
    }
  }

  job(key) {
    const [ids, facts] = [this.members.get(key), this.facts.get(key)];
    if (!ids && !facts) return null;
    if (!this.made.has(key)) {
      const batches = [...(ids ?? [])].map((id) => this.byId.get(id));
      this.made.set(key, makeJob(key, batches, facts, this.conn));
    }
    return this.made.get(key);
  }

  /** Jobs of which Airflow knows, and the loaded pages have no batch. */
  get withoutBatches() {
    const told = [...this.facts].filter(([key, { task, report }]) => !this.members.has(key) && (task || report));
    return told.map(([key]) => key);
  }

  /** The jobs whose newest batch is on each page. */
  get jobPages() {
    const seen = new Set();
    const pages = this.batchPages.map((batches) => {
      const keys = [...new Set(batches.map(keyOf))].filter((key) => !seen.has(key));
      for (const key of keys) seen.add(key);
      return keys.map((key) => this.job(key));
    });
    if (pages.length) pages[0].unshift(...this.withoutBatches.map((key) => this.job(key)));
    return pages;
  }

  /** Whether a batch on a page still runs. */
  isRunning({ ids }) {
    return ids.some((id) => !this.byId.get(id).is_over);
  }

  /** The tasks that are at work although no loaded batch of theirs runs: the list alone says nothing of them. */
  get silentTasks() {
    const jobs = [...new Set([...this.members.keys(), ...this.facts.keys()])].map((key) => this.job(key));
    return jobs
      .filter((job) => job.is_active && job.batches.every((batch) => batch.is_over))
      .map((job) => job.origin);
  }
}
