/** Himalia in JupyterLab: save the environment, share it, run files in it as jobs, watch them. */

import { ILabShell, ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Clipboard, ICommandPalette, MainAreaWidget, WidgetTracker } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { IFileBrowserFactory } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { JobActions } from './actions';
import { Client } from './api';
import { CommandIDs } from './commands';
import { Himalia, place } from './context';
import { Dialogs } from './dialogs';
import { Documents } from './documents';
import { himaliaIcon, jobIcon, saveIcon } from './icons';
import { JobWidget } from './job';
import { Jobs } from './jobs';
import { JobsPanel } from './panel';
import { Job } from './schema';
import { Server } from './server';
import { Feed } from './sse';
import { DOMAIN, strings } from './strings';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'himalia-lab:plugin',
  description: 'Save the environment, share it, run files in it as jobs.',
  autoStart: true,
  requires: [IDocumentManager, IStateDB],
  optional: [ITranslator, ICommandPalette, ILauncher, IFileBrowserFactory, ILayoutRestorer, ILabShell],
  activate: (
    app: JupyterFrontEnd,
    documentManager: IDocumentManager,
    state: IStateDB,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    browsers: IFileBrowserFactory | null,
    restorer: ILayoutRestorer | null,
    labShell: ILabShell | null
  ) => {
    const here = place();
    if (here === null) {
      console.info('himalia-lab: this lab does not run in Himalia; nothing is added to it.');
      return;
    }
    const s = strings((translator ?? nullTranslator).load(DOMAIN));
    const client = new Client(() => ({ url: here.url, token: PageConfig.getToken() }));
    const feed = new Feed({
      open: (lastEventId, signal) => client.events(lastEventId, signal),
      channel: new BroadcastChannel('himalia:events'),
      locks: navigator.locks ?? null
    });
    const himalia: Himalia = {
      client,
      feed,
      server: new Server(app.serviceManager.serverSettings),
      state,
      s,
      place: here,
      copy: text => Clipboard.copyToSystem(text)
    };
    const jobs = new Jobs(client, feed);
    const documents = new Documents(app, documentManager, browsers, s);
    const tracker = new WidgetTracker<MainAreaWidget<JobWidget>>({ namespace: 'himalia-jobs' });
    const openJob = (job: Job) => void app.commands.execute(CommandIDs.openJob, { id: job.id });
    const actions = new JobActions(
      client,
      himalia.server,
      jobs,
      s,
      () => documents.refreshBrowser(),
      job => tracker.find(widget => widget.content.jobId === job.id)?.dispose()
    );
    const dialogs = new Dialogs(himalia, jobs, documents, openJob);
    const panel = new JobsPanel(himalia, jobs, actions, openJob);
    app.shell.add(panel, 'left', { rank: 450 });

    app.commands.addCommand(CommandIDs.saveEnvironment, {
      label: s.save.title,
      caption: s.save.caption,
      icon: saveIcon,
      execute: () => dialogs.save()
    });
    app.commands.addCommand(CommandIDs.shareEnvironment, {
      label: s.share.command,
      icon: himaliaIcon,
      execute: () => dialogs.share(null)
    });
    app.commands.addCommand(CommandIDs.runAsJob, {
      label: args => (args.isContextMenu === true || args.isPalette === true ? s.run.menu : s.run.title),
      caption: s.run.caption,
      icon: jobIcon,
      isVisible: args => args.isContextMenu !== true || documents.selected() !== null,
      execute: args => dialogs.run(args.isContextMenu === true ? documents.selected() : documents.current(), null)
    });
    app.commands.addCommand(CommandIDs.showJobs, {
      label: s.jobs.show,
      icon: himaliaIcon,
      execute: () => app.shell.activateById(panel.id)
    });
    app.commands.addCommand(CommandIDs.openJob, {
      label: s.run.openJob,
      isVisible: () => false,
      execute: args => {
        const id = String(args.id);
        const open = tracker.find(widget => widget.content.jobId === id) ?? tab(id);
        app.shell.activateById(open.id);
      }
    });

    const tab = (id: string): MainAreaWidget<JobWidget> => {
      const content = new JobWidget(himalia, jobs, actions, id);
      const widget = new MainAreaWidget({ content });
      widget.id = `${content.id}-tab`;
      void tracker.add(widget);
      app.shell.add(widget, 'main');
      return widget;
    };

    if (restorer) {
      restorer.add(panel, panel.id);
      void restorer.restore(tracker, {
        command: CommandIDs.openJob,
        args: widget => ({ id: widget.content.jobId }),
        name: widget => widget.content.jobId
      });
    }
    for (const command of [
      CommandIDs.saveEnvironment,
      CommandIDs.shareEnvironment,
      CommandIDs.runAsJob,
      CommandIDs.showJobs
    ]) {
      palette?.addItem({ command, category: s.himalia, args: { isPalette: true } });
    }
    launcher?.add({ command: CommandIDs.saveEnvironment, category: s.himalia, rank: 1 });
    launcher?.add({ command: CommandIDs.showJobs, category: s.himalia, rank: 2 });
    labShell?.currentChanged.connect(() => app.commands.notifyCommandChanged(CommandIDs.runAsJob));
    void app.restored.then(() => dialogs.resume());
  }
};

export default plugin;
