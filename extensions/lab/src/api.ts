/**
 * The control plane, as the lab page calls it: cross-origin, with the page's own token (the visitor's) in the header and
 * never with cookies.
 */

import { Problem } from './problem';
import type { Environment, Job, Machine, Me, Page, SaveRequest, ShareRequest, Version, Workspace } from './schema';

export interface Access {
  /** `…/services/himalia`, without a slash at the end. */
  url: string;
  token: string;
}

/** A save that was accepted, and the id of the request that asked for it, for support. */
export interface Accepted {
  version: Version;
  requestId: string;
}

export type Send = (url: string, init: RequestInit) => Promise<Response>;

const BASE = '/api/v1';
const MOST_PAGES = 20;

export class Client {
  constructor(
    private readonly access: () => Access,
    private readonly send: Send = (url, init) => fetch(url, init)
  ) {}

  me(): Promise<Me> {
    return this.read('/me');
  }

  machines(): Promise<Machine[]> {
    return this.all('/machines');
  }

  workspace(id: string): Promise<Workspace> {
    return this.read(`/workspaces/${segment(id)}`);
  }

  environments(): Promise<Environment[]> {
    return this.all('/environments');
  }

  environment(owner: string, name: string): Promise<Environment> {
    return this.read(`/environments/${segment(owner)}/${segment(name)}`);
  }

  version(owner: string, name: string, number: number): Promise<Version> {
    return this.read(`/environments/${segment(owner)}/${segment(name)}/versions/${number}`);
  }

  /** What a problem's `link` points at; links are paths of this API, with or without its prefix. */
  linked<T>(link: string): Promise<T> {
    const path = new URL(link, this.access().url).pathname;
    const at = path.indexOf(BASE);
    return this.read(at < 0 ? path : path.slice(at + BASE.length));
  }

  async save(workspace: string, request: SaveRequest, key: string): Promise<Accepted> {
    const response = await this.call(`/workspaces/${segment(workspace)}/environments`, {
      method: 'POST',
      body: JSON.stringify(request),
      headers: { 'Idempotency-Key': key }
    });
    return { version: (await response.json()) as Version, requestId: response.headers.get('X-Request-ID') ?? '' };
  }

  async share(owner: string, name: string, request: ShareRequest): Promise<Environment> {
    const path = `/environments/${segment(owner)}/${segment(name)}`;
    const response = await this.call(path, { method: 'PATCH', body: JSON.stringify(request) });
    return (await response.json()) as Environment;
  }

  async jobs(limit: number): Promise<Job[]> {
    const page = await this.read<Page<Job>>(`/jobs?limit=${limit}`);
    return page.items;
  }

  job(id: string): Promise<Job> {
    return this.read(`/jobs/${segment(id)}`);
  }

  async stop(id: string): Promise<void> {
    await this.call(`/jobs/${segment(id)}/stop`, { method: 'POST' });
  }

  async remove(id: string): Promise<void> {
    await this.call(`/jobs/${segment(id)}`, { method: 'DELETE' });
  }

  /** The whole log as it is now. */
  log(id: string): Promise<Response> {
    return this.call(`/jobs/${segment(id)}/log`, { headers: { Accept: 'text/plain' } });
  }

  /** The live log from byte `offset` on. */
  logStream(id: string, offset: number, lastEventId: string, signal: AbortSignal): Promise<Response> {
    return this.stream(`/jobs/${segment(id)}/log?offset=${offset}`, lastEventId, signal);
  }

  events(lastEventId: string, signal: AbortSignal): Promise<Response> {
    return this.stream('/events', lastEventId, signal);
  }

  private stream(path: string, lastEventId: string, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { Accept: 'text/event-stream' };
    if (lastEventId) {
      headers['Last-Event-ID'] = lastEventId;
    }
    return this.call(path, { headers, signal, cache: 'no-store' });
  }

  private async read<T>(path: string): Promise<T> {
    const response = await this.call(path, {});
    return (await response.json()) as T;
  }

  private async all<T>(path: string): Promise<T[]> {
    const items: T[] = [];
    let token: string | null = null;
    for (let page = 0; page < MOST_PAGES; page++) {
      const query: string = token === null ? '?limit=100' : `?limit=100&page_token=${encodeURIComponent(token)}`;
      const answer: Page<T> | T[] = await this.read(path + query);
      if (Array.isArray(answer)) {
        return answer;
      }
      items.push(...answer.items);
      token = answer.next_token;
      if (token === null) {
        break;
      }
    }
    return items;
  }

  private async call(path: string, init: RequestInit): Promise<Response> {
    const { url, token } = this.access();
    const headers = new Headers(init.headers);
    headers.set('Authorization', `Bearer ${token}`);
    if (init.body !== undefined) {
      headers.set('Content-Type', 'application/json');
    }
    let response: Response;
    try {
      response = await this.send(url + BASE + path, { ...init, headers, credentials: 'omit' });
    } catch (error) {
      if (init.signal?.aborted) {
        throw error;
      }
      throw Problem.unreachable();
    }
    if (!response.ok) {
      throw await Problem.of(response);
    }
    return response;
  }
}

/** A key that makes a creation safe to repeat. `crypto.randomUUID` is missing on plain-http domains. */
export function idempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, b => b.toString(16).padStart(2, '0')).join('');
}

function segment(value: string): string {
  return encodeURIComponent(value);
}
