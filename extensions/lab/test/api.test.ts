import assert from 'node:assert/strict';
import test from 'node:test';
import { Client, Send, idempotencyKey } from '../src/api';
import { Problem } from '../src/problem';

const URL_ = 'http://himalia--service.himalia.localhost:8000/services/himalia';

interface Sent {
  url: string;
  init: RequestInit;
  headers: Headers;
}

function client(answers: (sent: Sent) => Response): { client: Client; sent: Sent[] } {
  const sent: Sent[] = [];
  const send: Send = async (url, init) => {
    const one = { url, init, headers: new Headers(init.headers) };
    sent.push(one);
    return answers(one);
  };
  return { client: new Client(() => ({ url: URL_, token: 'the-page-token' }), send), sent };
}

function problem(status: number, fields: object): Response {
  return new Response(JSON.stringify(fields), {
    status,
    headers: { 'Content-Type': 'application/problem+json', 'X-Request-ID': 'req-header' }
  });
}

test('a request carries the token of the page in its header, and no cookie', async () => {
  const { client: api, sent } = client(() => Response.json({ name: 'ada', admin: false, groups: [], scopes: [] }));
  assert.equal((await api.me()).name, 'ada');
  assert.equal(sent[0]?.url, `${URL_}/api/v1/me`);
  assert.equal(sent[0]?.headers.get('Authorization'), 'Bearer the-page-token');
  assert.equal(sent[0]?.init.credentials, 'omit');
});

test('a list is read to its last page', async () => {
  const { client: api, sent } = client(({ url }) =>
    Response.json(
      url.includes('page_token=')
        ? { items: [{ name: 'b' }], next_token: null }
        : { items: [{ name: 'a' }], next_token: 'x y' }
    )
  );
  assert.deepEqual(
    (await api.machines()).map(machine => machine.name),
    ['a', 'b']
  );
  assert.match(sent[1]?.url ?? '', /page_token=x%20y$/);
});

test('a problem keeps the sentence, the code, the request id and the link of its document', async () => {
  const { client: api } = client(() =>
    problem(409, { code: 'save_running', detail: 'A save runs.', request_id: 'req-1', link: '/x' })
  );
  const refused = api.save('ws-1', { name: 'vision', note: '' }, 'key');
  await assert.rejects(refused, (error: Problem) => {
    assert.deepEqual(
      [error.status, error.code, error.detail, error.requestId, error.link, error.passing],
      [409, 'save_running', 'A save runs.', 'req-1', '/x', false]
    );
    return true;
  });
});

test('an answer that is no problem document still gives a status and a request id', async () => {
  const { client: api } = client(
    () => new Response('<h1>Bad gateway</h1>', { status: 502, headers: { 'X-Request-ID': 'req-2' } })
  );
  await assert.rejects(api.me(), { status: 502, detail: '', requestId: 'req-2', passing: true });
});

test('no answer at all is a problem of its own', async () => {
  const { client: api } = client(() => {
    throw new TypeError('Failed to fetch');
  });
  await assert.rejects(api.me(), { code: 'unreachable', status: 0, passing: true });
});

test('a save can be repeated by its key and tells the request it came from', async () => {
  const { client: api, sent } = client(() =>
    Response.json({ ref: 'ada/vision:1' }, { status: 202, headers: { 'X-Request-ID': 'req-3' } })
  );
  const accepted = await api.save('ws-1', { name: 'vision', note: 'first' }, 'key-1');
  assert.equal(accepted.requestId, 'req-3');
  assert.equal(sent[0]?.headers.get('Idempotency-Key'), 'key-1');
  assert.equal(sent[0]?.headers.get('Content-Type'), 'application/json');
  assert.deepEqual(JSON.parse(String(sent[0]?.init.body)), { name: 'vision', note: 'first' });
});

test('a link is followed in all the forms a server may write it', async () => {
  for (const link of [
    '/environments/ada/vision/versions/3',
    '/api/v1/environments/ada/vision/versions/3',
    '/services/himalia/api/v1/environments/ada/vision/versions/3',
    `${URL_}/api/v1/environments/ada/vision/versions/3`
  ]) {
    const { client: api, sent } = client(() => Response.json({}));
    await api.linked(link);
    assert.equal(sent[0]?.url, `${URL_}/api/v1/environments/ada/vision/versions/3`);
  }
});

test('a stream says where it was', async () => {
  const { client: api, sent } = client(() => new Response(''));
  const { signal } = new AbortController();
  await api.events('41', signal);
  await api.logStream('job-1', 17, '', signal);
  assert.equal(sent[0]?.headers.get('Last-Event-ID'), '41');
  assert.equal(sent[1]?.headers.has('Last-Event-ID'), false);
  assert.equal(sent[1]?.headers.get('Accept'), 'text/event-stream');
  assert.equal(sent[1]?.url, `${URL_}/api/v1/jobs/job-1/log?offset=17`);
});

test('keys are long and differ', () => {
  assert.match(idempotencyKey(), /^[0-9a-f]{32}$/);
  assert.notEqual(idempotencyKey(), idempotencyKey());
});
