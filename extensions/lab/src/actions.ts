/** What can be done with a job from the panel and from its tab. */

import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import type { Client } from './api';
import type { Jobs } from './jobs';
import type { Job } from './schema';
import type { Server } from './server';
import type { Strings } from './strings';

export class JobActions {
  constructor(
    private readonly client: Client,
    private readonly server: Server,
    private readonly jobs: Jobs,
    private readonly s: Strings,
    /** Called after outputs were put beside their source. */
    private readonly written: () => void,
    /** Called after a job is gone. */
    private readonly removed: (job: Job) => void
  ) {}

  async stop(job: Job): Promise<void> {
    await this.tell(async () => {
      await this.client.stop(job.id);
      await this.jobs.refresh();
    });
  }

  async remove(job: Job): Promise<void> {
    const { s } = this;
    const answer = await showDialog({
      title: s.jobs.removeTitle(job.display_name || job.id),
      body: s.jobs.removeBody(job),
      buttons: [Dialog.cancelButton({ label: s.cancel }), Dialog.warnButton({ label: s.jobs.remove })]
    });
    if (!answer.button.accept) {
      return;
    }
    await this.tell(async () => {
      await this.client.remove(job.id);
      this.jobs.drop(job.id);
      this.removed(job);
    });
  }

  async putBack(job: Job): Promise<void> {
    await this.tell(async () => {
      const { sentence } = await this.server.putBack(job.id);
      this.written();
      Notification.success(sentence, { autoClose: 8000 });
    });
  }

  private async tell(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      Notification.error(this.s.problem(error), { autoClose: false });
    }
  }
}
