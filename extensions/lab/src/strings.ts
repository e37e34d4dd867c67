/** Every word this extension shows, so that another language is one catalogue away. */

import type { TranslationBundle } from '@jupyterlab/translation';
import { bytes } from './format';
import { BadParameter, UnclosedQuote } from './inputs';
import { Problem } from './problem';
import type { Environment, Job, Machine, Version, Visibility } from './schema';

export type Strings = ReturnType<typeof strings>;

export const DOMAIN = 'himalia_lab';

// A catalogue is one long list by nature.
export function strings(trans: TranslationBundle) {
  const __ = trans.__.bind(trans);

  const visibility: Record<Visibility, { label: string; caption: string }> = {
    private: { label: __('Private'), caption: __('Only you.') },
    people: { label: __('People'), caption: __('The people you name.') },
    group: { label: __('Group'), caption: __('Everybody in one of your groups.') },
    everyone: { label: __('Everyone'), caption: __('Everybody who can log in here.') }
  };

  return {
    himalia: __('Himalia'),
    close: __('Close'),
    cancel: __('Cancel'),
    retry: __('Try again'),
    loading: __('Loading…'),
    goesOn: __('You can close this; it goes on.'),

    save: {
      title: __('Save environment'),
      caption: __('Save what is installed in this workspace as an environment'),
      intro: __(
        'Keeps what is installed in this workspace and every file outside your home folder. Home and shared folders are not part of it.'
      ),
      name: __('Name'),
      note: __('Note'),
      notePlaceholder: __('What is new in it (optional)'),
      next: (ref: string, last: number | null) =>
        last === null
          ? __('Becomes a new version of %1.', ref)
          : __('Becomes a new version of %1, after %2.', ref, last),
      first: (ref: string) => __('Becomes %1:1, a new environment, private until you share it.', ref),
      submit: __('Save environment'),
      submitting: __('Asking…'),
      saving: (ref: string) => __('Saving %1', ref),
      follow: __('Follow that save'),
      saved: (version: Version) =>
        version.size_bytes === null
          ? __('%1 is saved.', version.ref)
          : __('%1 is saved. It adds %2.', version.ref, bytes(version.size_bytes)),
      failed: (ref: string) => __('%1 was not saved.', ref),
      unchanged: __('Your workspace is as it was.'),
      lost: __('Himalia does not answer just now. The save goes on; this page asks again.'),
      next_steps: __('What now?'),
      share: __('Share…'),
      run: __('Run a job…'),
      open: __('Open a workspace from it'),
      copy: (ref: string) => __('Copy %1', ref),
      copied: __('Copied'),
      show: __('Show'),
      phase: (phase: string): string => {
        const captions: Record<string, string> = {
          Committing: __('reading what changed'),
          Pushing: __('to the registry'),
          Verifying: __('booting it once, without network or home'),
          Saved: __('ready to use')
        };
        return captions[phase] ?? '';
      }
    },

    share: {
      title: (ref: string) => __('Share %1', ref),
      command: __('Share environment…'),
      warning: __(
        'Programs in it run as them, with their home folder and their groups’ files. Share what you would want them to run.'
      ),
      who: __('Who may use it'),
      option: visibility,
      people: __('Names'),
      peoplePlaceholder: __('ben, eve'),
      group: __('Group'),
      noGroups: __('You are in no group.'),
      submit: __('Share'),
      submitPrivate: __('Make private'),
      done: (environment: Environment) => {
        switch (environment.visibility) {
          case 'people':
            return __('%1 is shared with %2.', environment.ref, environment.people.join(', '));
          case 'group':
            return __('%1 is shared with group %2.', environment.ref, environment.group ?? '');
          case 'everyone':
            return __('%1 is shared with everyone.', environment.ref);
          default:
            return __('%1 is private.', environment.ref);
        }
      },
      needPeople: __('Name at least one person.'),
      choose: __('Environment'),
      none: __('You have no environment to share yet. Save this workspace first.')
    },

    run: {
      title: __('Run as job'),
      titleOf: (name: string) => __('Run %1 as a job', name),
      caption: __('Run this file as a job, in an environment and on a machine of your choice'),
      menu: __('Run as job…'),
      path: __('File'),
      pathPlaceholder: __('digits/train.py'),
      badPath: __('Only .py, .ipynb and .sh files run as jobs.'),
      environment: __('Environment'),
      noEnvironment: __('No environment is saved yet. Save this workspace first.'),
      mine: __('Mine'),
      shared: __('Shared with me'),
      presets: __('Offered here'),
      here: __('this workspace was started from it'),
      fromHere: __('the last save of this workspace'),
      unsaved: __('What you installed since the last save is not in it.'),
      machine: __('Machine'),
      machineOption: (machine: Machine) =>
        __('%1: %2 CPU, %3', machine.display_name || machine.name, machine.cpu, bytes(machine.memory_bytes)),
      arguments: __('Arguments'),
      argumentsPlaceholder: __('--epochs 10 --name "first try"'),
      parameters: __('Parameters'),
      parametersPlaceholder: __('one per line: epochs = 10'),
      most: __('Stop after'),
      noLimit: __('no limit'),
      units: { min: __('minutes'), h: __('hours'), d: __('days') },
      frozen: __('The project folder is packed now: what you edit afterwards changes nothing in this job.'),
      submit: __('Run as job'),
      submitting: __('Packing and submitting…'),
      openJob: __('Open in a tab'),
      submitted: (job: Job) => __('%1 is submitted.', job.display_name || job.id),
      saveFailed: (path: string) => __('%1 could not be saved, so nothing was submitted.', path)
    },

    jobs: {
      title: __('Jobs'),
      caption: __('Himalia: my jobs'),
      show: __('Show my jobs'),
      empty: __('No jobs yet. Open a notebook or a script and press “Run as job”.'),
      refresh: __('Refresh'),
      log: __('Log'),
      open: (name: string) => __('Open %1', name),
      stop: __('Stop job'),
      remove: __('Delete job'),
      putBack: __('Put outputs beside the source'),
      removeTitle: (name: string) => __('Delete %1?', name),
      removeBody: (job: Job) =>
        job.outputs > 0
          ? __('Its log and %1 outputs (%2) go with it.', job.outputs, bytes(job.output_bytes))
          : __('Its log goes with it.'),
      outputs: (job: Job) =>
        job.outputs === 1 ? __('1 output') : __('%1 outputs, %2', job.outputs, bytes(job.output_bytes)),
      place: (position: number) => (position === 1 ? __('next in the queue') : __('place %1 in the queue', position)),
      exit: (code: number) => __('exit code %1', code),
      runIn: (job: Job) => __('%1 on %2', job.environment, job.machine),
      gone: __('This job is deleted.')
    },

    log: {
      follow: __('Follow'),
      followCaption: __('Keep the end of the log in view'),
      find: __('Find'),
      findPlaceholder: __('Find in log'),
      matches: (at: number, of: number) => (of === 0 ? __('none') : __('%1 of %2', at, of)),
      next: __('Next match'),
      previous: __('Previous match'),
      download: __('Download log'),
      waiting: __('Nothing written yet.'),
      none: __('It wrote nothing.'),
      lost: __('Connection lost; it goes on where it was.'),
      dropped: (lines: number) => __('The first %1 lines are not shown; download the log to read them.', lines)
    },

    requestId: (id: string) => __('Request %1', id),

    /** What happened and what to do next, from whatever was thrown. */
    problem: (error: unknown): string => {
      if (error instanceof UnclosedQuote) {
        return __('A quote (%1) is opened and not closed.', error.quote);
      }
      if (error instanceof BadParameter) {
        return __('“%1” is not a parameter. Write one per line: epochs = 10', error.line);
      }
      if (!(error instanceof Problem)) {
        return error instanceof Error ? error.message : String(error);
      }
      if (error.detail) {
        return error.detail;
      }
      switch (error.status) {
        case 0:
          return __('Himalia does not answer. What runs goes on; try again in a moment.');
        case 401:
          return __('Your login has ended. Reload the page to log in again.');
        case 403:
          return __('You are not allowed to do this here.');
        case 404:
          return __('It is not there (any more).');
        case 429:
          return __('That was a lot at once. Try again in a minute.');
        case 502:
        case 503:
        case 504:
          return __('Himalia is starting or restarting. Try again in a moment.');
        default:
          return __('Himalia answered with status %1.', error.status);
      }
    }
  };
}
