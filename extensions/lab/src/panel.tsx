/** The side panel: my jobs, newest first. */

import { ReactWidget } from '@jupyterlab/apputils';
import { ToolbarButtonComponent, closeIcon, downloadIcon, refreshIcon, stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { JobActions } from './actions';
import type { Himalia } from './context';
import { himaliaIcon } from './icons';
import { spent } from './job';
import type { Jobs } from './jobs';
import { Trouble, Waiting, useNow, useSignal } from './react';
import { Job, isLive } from './schema';
import { State } from './state';

export class JobsPanel extends ReactWidget {
  constructor(
    private readonly himalia: Himalia,
    private readonly jobs: Jobs,
    private readonly actions: JobActions,
    private readonly open: (job: Job) => void
  ) {
    super();
    this.id = 'himalia-jobs';
    this.addClass('himalia-Panel');
    this.title.icon = himaliaIcon;
    this.title.caption = himalia.s.jobs.caption;
  }

  override dispose(): void {
    this.unwatch();
    super.dispose();
  }

  /** The list is kept fresh only while somebody looks at it. */
  protected override onAfterShow(): void {
    this.unwatch();
    this.unwatch = this.jobs.watch();
    this.update();
  }

  protected override onAfterHide(): void {
    this.unwatch();
    this.unwatch = () => undefined;
    this.update();
  }

  protected override render(): React.ReactElement {
    const { himalia, jobs, actions, open, isVisible } = this;
    return <List himalia={himalia} jobs={jobs} actions={actions} open={open} visible={isVisible} />;
  }

  private unwatch: () => void = () => undefined;
}

interface ListProps {
  himalia: Himalia;
  jobs: Jobs;
  actions: JobActions;
  open: (job: Job) => void;
  visible: boolean;
}

function List({ himalia, jobs, actions, open, visible }: ListProps): React.ReactElement {
  useSignal(jobs.changed);
  const now = useNow(visible && jobs.live);
  const { s } = himalia;
  return (
    <>
      <div className="himalia-Panel-head">
        <h2>{s.jobs.title}</h2>
        <ToolbarButtonComponent icon={refreshIcon} tooltip={s.jobs.refresh} onClick={() => void jobs.refresh()} />
      </div>
      <Trouble error={jobs.error} s={s} />
      {!jobs.loaded && jobs.error === null && visible && <Waiting s={s} />}
      {jobs.loaded && jobs.items.length === 0 && <p className="himalia-Muted himalia-Panel-empty">{s.jobs.empty}</p>}
      <ul className="himalia-Panel-list">
        {jobs.items.map(job => (
          <Row key={job.id} job={job} now={now} actions={actions} open={open} himalia={himalia} />
        ))}
      </ul>
    </>
  );
}

interface RowProps {
  himalia: Himalia;
  job: Job;
  now: number;
  actions: JobActions;
  open: (job: Job) => void;
}

function Row({ himalia: { s }, job, now, actions, open }: RowProps): React.ReactElement {
  const name = job.display_name || job.id;
  return (
    <li className="himalia-Row">
      <button type="button" className="himalia-Row-open" onClick={() => open(job)} title={s.jobs.open(name)}>
        <span className="himalia-Row-name">{name}</span>
        <span className="himalia-Row-facts">
          <State name={job.status} />
          <span className="himalia-Muted">
            {job.queue_position === null ? spent(job, now) : s.jobs.place(job.queue_position)}
          </span>
        </span>
        <span className="himalia-Row-where himalia-Muted">{s.jobs.runIn(job)}</span>
        {job.status === 'Failed' && job.reason_message !== '' && (
          <span className="himalia-Reason">{job.reason_message}</span>
        )}
      </button>
      <span className="himalia-Row-actions">
        {isLive(job) && (
          <ToolbarButtonComponent
            icon={stopIcon}
            tooltip={s.jobs.stop}
            enabled={job.status !== 'Stopping'}
            onClick={() => void actions.stop(job)}
          />
        )}
        {!isLive(job) && job.outputs > 0 && (
          <ToolbarButtonComponent
            icon={downloadIcon}
            tooltip={s.jobs.putBack}
            onClick={() => void actions.putBack(job)}
          />
        )}
        {!isLive(job) && (
          <ToolbarButtonComponent icon={closeIcon} tooltip={s.jobs.remove} onClick={() => void actions.remove(job)} />
        )}
      </span>
    </li>
  );
}
