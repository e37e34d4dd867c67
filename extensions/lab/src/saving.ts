/** A save that runs: it is followed from here whether or not a dialog shows it. */

import { Notification } from '@jupyterlab/apputils';
import { Signal } from '@lumino/signaling';
import type { Client } from './api';
import type { Himalia } from './context';
import { Problem } from './problem';
import { Version, isSaving } from './schema';
import type { Feed } from './sse';

/** Events wake it; between them it asks, for bytes are no event. */
const ASK = { visible: 1500, hidden: 15_000 };

export class Saving {
  constructor(
    private readonly client: Client,
    private readonly feed: Feed,
    version: Version,
    readonly requestId: string
  ) {
    this._version = version;
    this.done = this.follow();
  }

  /** Resolves when the version is Saved or Failed, or cannot be read any more. */
  readonly done: Promise<void>;
  readonly changed = new Signal<this, void>(this);

  get version(): Version {
    return this._version;
  }

  /** Why the last question got no answer. */
  get problem(): Problem | null {
    return this._problem;
  }

  private async follow(): Promise<void> {
    let wake = (): void => undefined;
    const unsubscribe = this.feed.subscribe(({ data }) => {
      if (data.includes(this._version.id)) {
        wake();
      }
    });
    try {
      while (isSaving(this._version) && (!this._problem || this._problem.passing)) {
        await new Promise<void>(resolve => {
          const timer = setTimeout(resolve, document.hidden ? ASK.hidden : ASK.visible);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        await this.ask();
      }
    } finally {
      unsubscribe();
    }
  }

  private async ask(): Promise<void> {
    const { owner, environment, number } = this._version;
    try {
      this._version = await this.client.version(owner, environment, number);
      this._problem = null;
    } catch (error) {
      this._problem = error instanceof Problem ? error : Problem.unreachable();
    }
    this.changed.emit();
  }

  private _version: Version;
  private _problem: Problem | null = null;
}

/** Tells how a save ends to whoever has closed its dialog, and on the way that it still runs. */
export function announce(himalia: Himalia, saving: Saving, show: () => void): () => void {
  const { s } = himalia;
  const id = Notification.emit(s.save.saving(saving.version.ref), 'in-progress', {
    autoClose: false,
    actions: [{ label: s.save.show, callback: show }]
  });
  const tell = () => {
    const { version, problem } = saving;
    if (version.phase === 'Saved') {
      Notification.update({ id, type: 'success', message: s.save.saved(version), autoClose: 10_000 });
    } else if (version.phase === 'Failed') {
      const message = `${s.save.failed(version.ref)} ${version.reason_message}`.trim();
      Notification.update({ id, type: 'error', message, autoClose: false });
    } else if (problem && !problem.passing) {
      Notification.update({ id, type: 'error', message: s.problem(problem), autoClose: false });
    }
  };
  void saving.done.then(tell);
  return () => Notification.dismiss(id);
}
