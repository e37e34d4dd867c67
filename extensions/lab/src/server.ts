/** The server half of this extension: it packs the project folder, which only the workspace can see. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { Problem } from './problem';
import type { PutBack, RunRequest, Submitted } from './schema';

export class Server {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  submit(request: RunRequest): Promise<Submitted> {
    return this.post('jobs', request);
  }

  /** Puts a job's outputs beside its source. */
  putBack(job: string): Promise<PutBack> {
    return this.post(`jobs/${encodeURIComponent(job)}/outputs`, {});
  }

  private async post<T>(path: string, body: unknown): Promise<T> {
    const url = URLExt.join(this.settings.baseUrl, 'himalia', path);
    const init = { method: 'POST', body: JSON.stringify(body) };
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
    } catch {
      throw Problem.unreachable();
    }
    if (!response.ok) {
      throw await Problem.of(response);
    }
    return (await response.json()) as T;
  }
}
