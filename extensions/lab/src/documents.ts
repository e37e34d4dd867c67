/** The files of the person: which one is meant, and that it is saved before it travels. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { IFileBrowserFactory } from '@jupyterlab/filebrowser';
import { kindOf } from './inputs';
import type { Strings } from './strings';

export class Documents {
  constructor(
    private readonly app: JupyterFrontEnd,
    private readonly manager: IDocumentManager,
    private readonly browsers: IFileBrowserFactory | null,
    private readonly s: Strings
  ) {}

  /** The document in front, as a path below the lab's root; null when it cannot run as a job. */
  current(): string | null {
    const widget = this.app.shell.currentWidget;
    const context = widget && this.manager.contextForWidget(widget);
    return context ? this.runnable(context.path) : null;
  }

  /** The file that is selected in the file browser; null when it cannot run as a job. */
  selected(): string | null {
    const item = this.browsers?.tracker.currentWidget?.selectedItems().next().value;
    return item && item.type !== 'directory' ? this.runnable(item.path) : null;
  }

  /** Saves every open document with changes, since a project travels as a whole. */
  async saveAll(): Promise<void> {
    const contexts = new Set<DocumentRegistry.Context>();
    for (const widget of this.app.shell.widgets('main')) {
      const context = this.manager.contextForWidget(widget);
      if (context?.model.dirty) {
        contexts.add(context);
      }
    }
    for (const context of contexts) {
      await context.save();
      if (context.model.dirty) {
        throw new Error(this.s.run.saveFailed(context.path));
      }
    }
  }

  refreshBrowser(): void {
    void this.browsers?.tracker.currentWidget?.model.refresh();
  }

  private runnable(path: string): string | null {
    const local = this.manager.services.contents.localPath(path);
    return kindOf(local) === null ? null : local;
  }
}
