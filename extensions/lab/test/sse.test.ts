import assert from 'node:assert/strict';
import test from 'node:test';
import { Problem } from '../src/problem';
import { Channel, Feed, Locks, Pace, ServerEvent, Visibility, follow, parse } from '../src/sse';

const PACE: Pace = { first: 1, most: 4, silence: 60_000 };
const encoder = new TextEncoder();

function body(...chunks: (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) {
        controller.enqueue(typeof chunk === 'string' ? encoder.encode(chunk) : chunk);
      }
      controller.close();
    }
  });
}

/** A stream that stays open until its reader goes away. */
function open(...chunks: string[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      chunks.forEach(chunk => controller.enqueue(encoder.encode(chunk)));
    }
  });
}

function answer(stream: ReadableStream<Uint8Array>, signal: AbortSignal): Response {
  signal.addEventListener('abort', () => void stream.cancel().catch(() => undefined));
  return new Response(stream.pipeThrough(new TransformStream(), { signal }));
}

async function all(stream: ReadableStream<Uint8Array>): Promise<ServerEvent[]> {
  const events: ServerEvent[] = [];
  for await (const event of parse(stream)) {
    events.push(event);
  }
  return events;
}

class Page implements Visibility {
  visible = true;
  private readonly listeners = new Set<() => void>();

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  show(visible: boolean): void {
    this.visible = visible;
    [...this.listeners].forEach(listener => listener());
  }
}

/** The browser's lock: one holder, the others wait in line. */
class OneLock implements Locks {
  private queue: Promise<unknown> = Promise.resolve();

  request(_name: string, { signal }: { signal: AbortSignal }, callback: () => Promise<void>): Promise<unknown> {
    const mine = this.queue.then(() => (signal.aborted ? undefined : callback()));
    this.queue = mine.catch(() => undefined);
    return mine;
  }
}

class Hub {
  private readonly ends: End[] = [];

  join(): Channel {
    const end = new End(this.ends);
    this.ends.push(end);
    return end;
  }
}

class End implements Channel {
  onmessage: ((message: MessageEvent) => void) | null = null;

  constructor(private readonly ends: End[]) {}

  postMessage(data: unknown): void {
    this.ends.filter(end => end !== this).forEach(end => end.onmessage?.(new MessageEvent('message', { data })));
  }

  close(): void {
    this.ends.splice(this.ends.indexOf(this), 1);
  }
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, 'the condition did not come true in 5 s');
    await new Promise(resolve => setTimeout(resolve, 1));
  }
}

test('events are the same however the bytes are cut', async () => {
  const text = ': hello\n\nid: 7\nevent: log\ndata: {"a":\ndata: "ü"}\n\ndata:x\r\n\r\nid: 8\rdata: y\r\r\n';
  const whole = await all(body(text));
  assert.deepEqual(whole, [
    { id: '7', event: 'log', data: '{"a":\n"ü"}' },
    { id: '7', event: 'message', data: 'x' },
    { id: '8', event: 'message', data: 'y' }
  ]);
  const single = Array.from(encoder.encode(text), byte => Uint8Array.of(byte));
  assert.deepEqual(await all(body(...single)), whole);
});

test('an event that is not finished is not given', async () => {
  assert.deepEqual(await all(body('data: half\n')), []);
});

test('an id without an event is where a lost stream goes on', async () => {
  const asked: string[] = [];
  await follow({
    open: async last => {
      asked.push(last);
      return new Response(body(asked.length === 1 ? ':\n\nid: 41\n\n' : 'data: x\n\n'));
    },
    handle: () => true,
    signal: new AbortController().signal,
    visibility: new Page(),
    pace: PACE
  });
  assert.deepEqual(asked, ['', '41']);
});

test('a lost stream is opened again after the last event seen', async () => {
  const asked: string[] = [];
  const seen: string[] = [];
  const connections: boolean[] = [];
  await follow({
    open: async last => {
      asked.push(last);
      const streams = ['id: 1\ndata: a\n\n', 'id: 2\ndata: b\n\n', 'id: 3\nevent: end\ndata: -\n\n'];
      return new Response(body(streams[asked.length - 1] ?? ''));
    },
    handle: event => {
      seen.push(event.data);
      return event.event === 'end';
    },
    connected: yes => connections.push(yes),
    signal: new AbortController().signal,
    visibility: new Page(),
    pace: PACE
  });
  assert.deepEqual(asked, ['', '1', '2']);
  assert.deepEqual(seen, ['a', 'b', '-']);
  assert.deepEqual(connections, [true, false, true, false, true]);
});

test('a server that is away is asked again, one that refuses is not', async () => {
  let tries = 0;
  const following = follow({
    open: async () => {
      tries++;
      throw tries < 3 ? Problem.unreachable() : new Problem({ status: 403, detail: 'not yours' });
    },
    handle: () => undefined,
    signal: new AbortController().signal,
    visibility: new Page(),
    pace: PACE
  });
  await assert.rejects(following, { detail: 'not yours' });
  assert.equal(tries, 3);
});

test('a silent stream is taken for dead and opened again', async () => {
  let tries = 0;
  await follow({
    open: async (_last, signal) => {
      tries++;
      return answer(tries === 1 ? open() : body('data: x\n\n'), signal);
    },
    handle: () => true,
    signal: new AbortController().signal,
    visibility: new Page(),
    pace: { ...PACE, silence: 20 }
  });
  assert.equal(tries, 2);
});

test('a hidden page holds no stream, and goes on where it was when it is seen again', async () => {
  const page = new Page();
  const asked: string[] = [];
  let closed = 0;
  const stop = new AbortController();
  const following = follow({
    open: async (last, signal) => {
      asked.push(last);
      signal.addEventListener('abort', () => closed++);
      return answer(open(`id: ${asked.length}\ndata: x\n\n`), signal);
    },
    handle: () => undefined,
    lastEventId: '0',
    signal: stop.signal,
    visibility: {
      get visible() {
        return page.visible;
      },
      subscribe: listener => page.subscribe(listener)
    },
    pace: PACE
  });
  await until(() => asked.length === 1);
  await new Promise(resolve => setImmediate(resolve));
  page.show(false);
  await until(() => closed === 1);
  assert.deepEqual(asked, ['0']);
  page.show(true);
  await until(() => asked.length === 2);
  assert.equal(asked[1], '1');
  stop.abort();
  await following;
});

test('two tabs read one stream, both hear it, and the second goes on when the first is hidden', async () => {
  const hub = new Hub();
  const locks = new OneLock();
  const tabs = [new Page(), new Page()];
  const asked: [number, string][] = [];
  const heard: string[][] = [[], []];
  const feeds = tabs.map((page, tab) => {
    const feed = new Feed({
      open: async (last, signal) => {
        asked.push([tab, last]);
        return answer(open(`id: ${asked.length}\ndata: from ${tab}\n\n`), signal);
      },
      channel: hub.join(),
      locks,
      visibility: page,
      pace: PACE
    });
    feed.subscribe(event => heard[tab]?.push(event.data));
    return feed;
  });
  await until(() => heard.every(events => events.length === 1));
  assert.deepEqual(asked, [[0, '']]);
  tabs[0]?.show(false);
  await until(() => heard.every(events => events.length === 2));
  assert.deepEqual(asked, [
    [0, ''],
    [1, '1']
  ]);
  assert.deepEqual(heard, [
    ['from 0', 'from 1'],
    ['from 0', 'from 1']
  ]);
  feeds.forEach(feed => feed.dispose());
});
