/** Opens the dialogs and keeps the save that runs beyond its dialog. */

import { PathExt } from '@jupyterlab/coreutils';
import * as React from 'react';
import type { Himalia } from './context';
import type { Documents } from './documents';
import type { Jobs } from './jobs';
import { Run } from './run';
import { Save } from './save';
import { Saving, announce } from './saving';
import { Job, Version, isSaving } from './schema';
import { Share } from './share';
import { Sheet } from './sheet';

export class Dialogs {
  constructor(
    private readonly himalia: Himalia,
    private readonly jobs: Jobs,
    private readonly documents: Documents,
    private readonly openJob: (job: Job) => void
  ) {}

  /** Shows the save that runs, or asks for a new one. Closed while it runs, a notification takes its place. */
  async save(): Promise<void> {
    const running = this.saving && isSaving(this.saving.version) ? this.saving : null;
    await this.show(running);
  }

  async share(environment: string | null): Promise<void> {
    const { himalia } = this;
    const title = environment === null ? himalia.s.share.command : himalia.s.share.title(environment);
    await new Sheet(title, close => <Share himalia={himalia} close={close} environment={environment} />).open();
  }

  async run(path: string | null, environment: string | null): Promise<void> {
    const { himalia, jobs, documents, openJob } = this;
    const title = path === null ? himalia.s.run.title : himalia.s.run.titleOf(PathExt.basename(path));
    const sheet = new Sheet(title, close => (
      <Run
        himalia={himalia}
        jobs={jobs}
        close={close}
        path={path}
        environment={environment}
        saveDocuments={() => documents.saveAll()}
        openJob={openJob}
      />
    ));
    await sheet.open();
  }

  /** A save that was running when the page was loaded is followed again. */
  async resume(): Promise<void> {
    const { client, feed, place } = this.himalia;
    const workspace = await client.workspace(place.workspace).catch(() => null);
    const snapshot = workspace?.latest_snapshot;
    if (snapshot && isSaving(snapshot) && !this.saving) {
      this.saving = new Saving(client, feed, snapshot, '');
      this.announce(this.saving);
    }
  }

  private async show(saving: Saving | null): Promise<void> {
    const { himalia } = this;
    this.silence();
    const sheet = new Sheet(himalia.s.save.title, close => (
      <Save
        himalia={himalia}
        close={close}
        saving={saving}
        onSaving={started => {
          this.saving = started;
        }}
        next={{
          share: version => void this.share(environmentOf(version)),
          run: version => void this.run(this.documents.current(), version.ref)
        }}
      />
    ));
    await sheet.open();
    if (this.saving && isSaving(this.saving.version)) {
      this.announce(this.saving);
    }
  }

  private announce(saving: Saving): void {
    this.silence();
    this.silence = announce(this.himalia, saving, () => void this.show(saving));
  }

  private saving: Saving | null = null;
  private silence: () => void = () => undefined;
}

function environmentOf(version: Version): string {
  return `${version.owner}/${version.environment}`;
}
