/**
 * The one reader of server-sent events. `EventSource` can send no token, so this reads a `fetch` stream; and since
 * HTTP/1.1 gives all tabs of an origin six connections per host, a stream is open only while its page is visible and
 * the feed of events is read by one tab, which tells the others.
 */

import { Problem } from './problem';

export interface ServerEvent {
  id: string;
  event: string;
  data: string;
}

/** What a stream tells besides its events. */
export interface Hints {
  /** Some bytes came. */
  alive?(): void;
  /** A place to resume from, without an event. */
  mark?(id: string): void;
}

/** Parses the `text/event-stream` format, whatever the boundaries of its chunks. */
export async function* parse(body: ReadableStream<Uint8Array>, hints: Hints = {}): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const pending = new Pending(hints);
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      hints.alive?.();
      rest += decoder.decode(value, { stream: true });
      // A CR at the end of a chunk may be the first half of CRLF.
      const held = rest.endsWith('\r') ? 1 : 0;
      const lines = rest.slice(0, rest.length - held).split(/\r\n|\n|\r/);
      rest = (lines.pop() ?? '') + rest.slice(rest.length - held);
      for (const line of lines) {
        const event = pending.line(line);
        if (event) {
          yield event;
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

class Pending {
  constructor(private readonly hints: Hints) {}

  private id = '';
  private event = '';
  private data: string[] = [];

  line(line: string): ServerEvent | null {
    if (line === '') {
      return this.flush();
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') {
      this.data.push(value);
    } else if (field === 'event') {
      this.event = value;
    } else if (field === 'id' && !value.includes('\0')) {
      this.id = value;
    }
    return null;
  }

  private flush(): ServerEvent | null {
    const { data, event } = this;
    this.data = [];
    this.event = '';
    if (data.length === 0) {
      this.hints.mark?.(this.id);
      return null;
    }
    return { id: this.id, event: event || 'message', data: data.join('\n') };
  }
}

/** Whether the page can be seen. */
export interface Visibility {
  readonly visible: boolean;
  subscribe(listener: () => void): () => void;
}

export const PAGE: Visibility = {
  get visible() {
    return !document.hidden;
  },
  subscribe(listener) {
    document.addEventListener('visibilitychange', listener);
    return () => document.removeEventListener('visibilitychange', listener);
  }
};

export interface Pace {
  /** The first wait before a new try; it doubles up to `most`. */
  first: number;
  most: number;
  /** The server sends a comment each 15 s: a stream silent for this long is dead. */
  silence: number;
}

const PACE: Pace = { first: 1000, most: 30_000, silence: 45_000 };

export interface Following {
  open(lastEventId: string, signal: AbortSignal): Promise<Response>;
  /** Called for each event; `true` ends the following. */
  handle(event: ServerEvent): boolean | void;
  /** Called for a place to resume from that comes without an event. */
  mark?(id: string): void;
  /** Called when the stream is lost and comes back. */
  connected?(yes: boolean): void;
  lastEventId?: string;
  signal: AbortSignal;
  visibility?: Visibility;
  pace?: Pace;
}

/**
 * Reads a stream until its handler ends it or the signal aborts, over lost connections and hidden pages, going on after
 * the last event seen. Throws the problem when the server says no for good.
 */
export async function follow(following: Following): Promise<void> {
  const { signal, visibility = PAGE, pace = PACE } = following;
  const position = { id: following.lastEventId ?? '' };
  let wait = pace.first;
  while (!signal.aborted) {
    await untilVisible(visibility, signal);
    const outcome = await readOnce(following, position, visibility, pace.silence);
    if (outcome.ended || signal.aborted) {
      return;
    }
    if (outcome.problem && !outcome.problem.passing) {
      throw outcome.problem;
    }
    if (visibility.visible) {
      following.connected?.(false);
      wait = outcome.progressed ? pace.first : wait;
      await pause(wait, signal);
      wait = Math.min(wait * 2, pace.most);
    }
  }
}

interface Outcome {
  ended: boolean;
  progressed: boolean;
  problem?: Problem;
}

async function readOnce(
  following: Following,
  position: { id: string },
  visibility: Visibility,
  silence: number
): Promise<Outcome> {
  const outcome: Outcome = { ended: false, progressed: false };
  const abort = new AbortController();
  const drop = () => abort.abort();
  const unsubscribe = visibility.subscribe(() => visibility.visible || drop());
  following.signal.addEventListener('abort', drop);
  let watchdog = setTimeout(drop, silence);
  const alive = () => {
    outcome.progressed = true;
    clearTimeout(watchdog);
    watchdog = setTimeout(drop, silence);
  };
  try {
    const response = await following.open(position.id, abort.signal);
    following.connected?.(true);
    const mark = (id: string) => {
      position.id = id || position.id;
      following.mark?.(position.id);
    };
    for await (const event of parse(response.body ?? new ReadableStream(), { alive, mark })) {
      position.id = event.id || position.id;
      if (following.handle(event) === true) {
        outcome.ended = true;
        break;
      }
    }
  } catch (error) {
    if (error instanceof Problem) {
      outcome.problem = error;
    } else if (!abort.signal.aborted && !isNetwork(error)) {
      throw error;
    }
  } finally {
    clearTimeout(watchdog);
    unsubscribe();
    following.signal.removeEventListener('abort', drop);
    drop();
  }
  return outcome;
}

/** Browsers report a connection that broke in mid-stream as a TypeError. */
function isNetwork(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof DOMException && error.name === 'NetworkError');
}

function untilVisible(visibility: Visibility, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    if (visibility.visible || signal.aborted) {
      resolve();
      return;
    }
    const done = () => {
      if (visibility.visible || signal.aborted) {
        unsubscribe();
        signal.removeEventListener('abort', done);
        resolve();
      }
    };
    const unsubscribe = visibility.subscribe(done);
    signal.addEventListener('abort', done);
  });
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done);
  });
}

/** The part of `LockManager` the feed uses; absent on origins the browser does not trust (plain http, real domain). */
export interface Locks {
  request(name: string, options: { signal: AbortSignal }, callback: () => Promise<void>): Promise<unknown>;
}

export interface Channel {
  onmessage: ((message: MessageEvent) => void) | null;
  postMessage(message: unknown): void;
  close(): void;
}

export interface FeedOptions {
  open(lastEventId: string, signal: AbortSignal): Promise<Response>;
  channel: Channel;
  locks: Locks | null;
  visibility?: Visibility;
  pace?: Pace;
}

const LOCK = 'himalia:events';

/** What the reading tab tells the others: an event, or only where to go on. */
interface Told {
  id: string;
  event?: ServerEvent;
}

/** The feed of events: read by one visible tab of the origin, heard by all. */
export class Feed {
  constructor(private readonly options: FeedOptions) {
    this.visibility = options.visibility ?? PAGE;
    options.channel.onmessage = message => this.hear(message.data as Told);
    this.unsubscribe = this.visibility.subscribe(() => this.lead());
    this.lead();
  }

  subscribe(listener: (event: ServerEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  dispose(): void {
    this.disposed = true;
    this.unsubscribe();
    this.turn?.abort();
    this.options.channel.onmessage = null;
    this.options.channel.close();
    this.listeners.clear();
  }

  /** Takes its turn at reading while visible, gives it up when hidden. */
  private lead(): void {
    if (this.disposed || !this.visibility.visible) {
      this.turn?.abort();
      this.turn = null;
      return;
    }
    if (this.turn) {
      return;
    }
    const turn = new AbortController();
    this.turn = turn;
    const { locks } = this.options;
    const read = () => this.read(turn.signal);
    const reading = locks ? locks.request(LOCK, { signal: turn.signal }, read) : read();
    void Promise.resolve(reading).catch(error => {
      if (!turn.signal.aborted) {
        console.warn('Himalia: the feed of events ended', error);
      }
    });
  }

  private read(signal: AbortSignal): Promise<void> {
    const { open, channel, pace } = this.options;
    const tell = (told: Told) => {
      this.hear(told);
      // Without locks every tab reads for itself.
      if (this.options.locks) {
        channel.postMessage(told);
      }
    };
    return follow({
      open,
      signal,
      visibility: this.visibility,
      pace,
      lastEventId: this.lastEventId,
      mark: id => tell({ id }),
      handle: event => tell({ id: event.id, event })
    });
  }

  private hear({ id, event }: Told): void {
    this.lastEventId = id || this.lastEventId;
    if (event) {
      for (const listener of [...this.listeners]) {
        listener(event);
      }
    }
  }

  private readonly visibility: Visibility;
  private readonly listeners = new Set<(event: ServerEvent) => void>();
  private readonly unsubscribe: () => void;
  private turn: AbortController | null = null;
  private lastEventId = '';
  private disposed = false;
}
