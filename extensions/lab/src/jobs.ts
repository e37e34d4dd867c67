/** The person's jobs, kept as the server has them while somebody looks. */

import { Signal } from '@lumino/signaling';
import type { Client } from './api';
import { Event, Job, isLive } from './schema';
import type { Feed } from './sse';

const SHOWN = 50;
/** The feed tells of changes; this is for those it lost. */
const RESYNC = 30_000;

export class Jobs {
  constructor(
    private readonly client: Client,
    private readonly feed: Feed
  ) {}

  readonly changed = new Signal<this, void>(this);

  get items(): readonly Job[] {
    return this._items;
  }

  /** Whether the list was read once. */
  get loaded(): boolean {
    return this._loaded;
  }

  get error(): unknown {
    return this._error;
  }

  get live(): boolean {
    return this._items.some(isLive);
  }

  /** Keeps the list fresh until the answer is called; several may watch. */
  watch(): () => void {
    this.watchers++;
    if (this.watchers === 1) {
      this.begin();
    }
    let watching = true;
    return () => {
      if (watching) {
        watching = false;
        this.watchers--;
        if (this.watchers === 0) {
          this.end();
        }
      }
    };
  }

  async refresh(): Promise<void> {
    const round = ++this.round;
    try {
      this.mine ??= this.client.me().then(me => me.name);
      const [name, items] = await Promise.all([this.mine, this.client.jobs(SHOWN)]);
      if (round === this.round) {
        this._items = items.filter(job => job.owner === name);
        this._error = null;
        this._loaded = true;
      }
    } catch (error) {
      if (round === this.round) {
        this._error = error;
        this.mine = this._loaded ? this.mine : null;
      }
    }
    this.changed.emit();
  }

  /** Puts a job that an answer brought into the list. */
  put(job: Job): void {
    const known = this._items.some(one => one.id === job.id);
    this._items = known ? this._items.map(one => (one.id === job.id ? job : one)) : [job, ...this._items];
    this.changed.emit();
  }

  drop(id: string): void {
    this._items = this._items.filter(job => job.id !== id);
    this.changed.emit();
  }

  private begin(): void {
    const seen = () => void (document.hidden || this.refresh());
    const timer = setInterval(seen, RESYNC);
    document.addEventListener('visibilitychange', seen);
    const unsubscribe = this.feed.subscribe(({ data }) => {
      if (targetKind(data) === 'job') {
        this.soon();
      }
    });
    this.end = () => {
      clearInterval(timer);
      clearTimeout(this.pending);
      this.pending = undefined;
      document.removeEventListener('visibilitychange', seen);
      unsubscribe();
    };
    void this.refresh();
  }

  /** A burst of events is one refresh. */
  private soon(): void {
    this.pending ??= setTimeout(() => {
      this.pending = undefined;
      void this.refresh();
    }, 150);
  }

  private _items: readonly Job[] = [];
  private _loaded = false;
  private _error: unknown = null;
  private mine: Promise<string> | null = null;
  private round = 0;
  private watchers = 0;
  private pending: ReturnType<typeof setTimeout> | undefined;
  private end: () => void = () => undefined;
}

function targetKind(data: string): string {
  try {
    return (JSON.parse(data) as Partial<Event>).target_kind ?? '';
  } catch {
    return '';
  }
}
