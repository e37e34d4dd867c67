/** One job: its state in a line, its log, what can be done with it. */

import { ReactWidget } from '@jupyterlab/apputils';
import * as React from 'react';
import type { JobActions } from './actions';
import type { Himalia } from './context';
import { duration, elapsed } from './format';
import { jobIcon } from './icons';
import type { Jobs } from './jobs';
import { Log } from './log';
import { Problem } from './problem';
import { Trouble, Waiting, useNow, useSignal } from './react';
import { Job, isLive } from './schema';
import { State } from './state';

export interface Followed {
  job: Job;
  refresh: () => void;
}

/** A job as it is now: from the list while it is in it, else read by itself. */
export function useJob(jobs: Jobs, id: string, first: Job): Followed {
  useSignal(jobs.changed);
  React.useEffect(() => jobs.watch(), [jobs]);
  const listed = jobs.items.find(job => job.id === id);
  return { job: listed ?? first, refresh: () => void jobs.refresh() };
}

/** How long it ran, or has been waiting. */
export function spent(job: Job, now: number): string {
  const until = job.finished_at ?? (isLive(job) ? null : job.created_at);
  return duration(elapsed(job.started_at ?? job.created_at, until, now));
}

interface JobLineProps {
  job: Job;
  himalia: Himalia;
}

/** State, time, place in the queue; and why, when it ended badly. */
export function JobLine({ job, himalia: { s } }: JobLineProps): React.ReactElement {
  const now = useNow(isLive(job));
  const facts = [
    spent(job, now),
    s.jobs.runIn(job),
    ...(job.queue_position === null ? [] : [s.jobs.place(job.queue_position)]),
    ...(job.exit_code ? [s.jobs.exit(job.exit_code)] : []),
    ...(job.outputs > 0 ? [s.jobs.outputs(job)] : [])
  ];
  return (
    <div className="himalia-JobLine" aria-live="polite">
      <State name={job.status} />
      <span className="himalia-Muted">{facts.join(' · ')}</span>
      {job.reason_message !== '' && <div className="himalia-Reason">{job.reason_message}</div>}
    </div>
  );
}

interface JobViewProps {
  himalia: Himalia;
  jobs: Jobs;
  actions: JobActions;
  job: Job;
}

function JobView({ himalia, jobs, actions, job: first }: JobViewProps): React.ReactElement {
  const { job, refresh } = useJob(jobs, first.id, first);
  const { s } = himalia;
  return (
    <div className="himalia-Job">
      <div className="himalia-Job-head">
        <div>
          <h2 title={job.id}>{job.display_name || job.id}</h2>
          <JobLine job={job} himalia={himalia} />
        </div>
        <div className="himalia-Job-actions">
          {isLive(job) ? (
            <button
              type="button"
              className="jp-mod-styled jp-mod-reject"
              disabled={job.status === 'Stopping'}
              onClick={() => void actions.stop(job)}
            >
              {s.jobs.stop}
            </button>
          ) : (
            <>
              {job.outputs > 0 && (
                <button type="button" className="jp-mod-styled jp-mod-accept" onClick={() => void actions.putBack(job)}>
                  {s.jobs.putBack}
                </button>
              )}
              <button type="button" className="jp-mod-styled jp-mod-reject" onClick={() => void actions.remove(job)}>
                {s.jobs.remove}
              </button>
            </>
          )}
        </div>
      </div>
      <Log himalia={himalia} job={job} onEnd={refresh} />
    </div>
  );
}

/** A job in a tab of the main area. Its log is read only while the tab is in view. */
export class JobWidget extends ReactWidget {
  constructor(
    private readonly himalia: Himalia,
    private readonly jobs: Jobs,
    private readonly actions: JobActions,
    readonly jobId: string
  ) {
    super();
    this.id = `himalia-job-${jobId}`;
    this.addClass('himalia-JobWidget');
    this.title.icon = jobIcon;
    this.title.label = jobId;
    this.title.closable = true;
    jobs.changed.connect(this.follow, this);
    this.job = jobs.items.find(job => job.id === jobId) ?? null;
    if (this.job === null) {
      void this.read();
    } else {
      this.name();
    }
  }

  override dispose(): void {
    this.jobs.changed.disconnect(this.follow, this);
    super.dispose();
  }

  protected override onAfterShow(): void {
    this.update();
  }

  protected override onAfterHide(): void {
    this.update();
  }

  protected override render(): React.ReactElement {
    const { himalia, jobs, actions, job, error } = this;
    if (!this.isVisible) {
      return <></>;
    }
    if (job === null) {
      return (
        <div className="himalia-Job">
          {error === null ? <Waiting s={himalia.s} /> : <Trouble error={error} s={himalia.s} />}
        </div>
      );
    }
    return <JobView himalia={himalia} jobs={jobs} actions={actions} job={job} />;
  }

  private async read(): Promise<void> {
    try {
      this.job = await this.himalia.client.job(this.jobId);
      this.name();
    } catch (error) {
      this.error = error instanceof Problem && error.status === 404 ? new Error(this.himalia.s.jobs.gone) : error;
    }
    this.update();
  }

  private follow(): void {
    const job = this.jobs.items.find(one => one.id === this.jobId);
    if (job) {
      this.job = job;
      this.name();
    }
  }

  private name(): void {
    this.title.label = this.job?.display_name || this.jobId;
    this.title.caption = this.jobId;
  }

  private job: Job | null;
  private error: unknown = null;
}
