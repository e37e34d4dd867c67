/**
 * What the REST API of Himalia answers, as `himalia.schema` describes it. States are plain strings: one this page does
 * not know is shown as it is.
 */

export type Visibility = 'private' | 'people' | 'group' | 'everyone';
export type JobKind = 'script' | 'notebook' | 'command';

export interface StatusEntry {
  status: string;
  reason_code: string;
  reason_message: string;
  start_time: string;
  end_time: string | null;
}

export interface Machine {
  name: string;
  display_name: string;
  cpu: number;
  memory_bytes: number;
  shm_bytes: number;
  default: boolean;
}

export interface Me {
  name: string;
  admin: boolean;
  groups: string[];
  scopes: string[];
}

export interface Version {
  id: string;
  ref: string;
  owner: string;
  environment: string;
  number: number;
  phase: string;
  reason_code: string;
  reason_message: string;
  status_history: StatusEntry[];
  digest: string | null;
  size_bytes: number | null;
  layers: number | null;
  workspace_id: string | null;
  note: string;
  warnings: string[];
  created_at: string;
  saved_at: string | null;
  progress_bytes: number | null;
  progress_message: string;
}

export interface Environment {
  ref: string;
  owner: string;
  name: string;
  description: string;
  visibility: Visibility;
  people: string[];
  group: string | null;
  preset: boolean;
  mine: boolean;
  runs_as_you: string;
  latest: Version | null;
  versions: Version[];
}

export interface Workspace {
  id: string;
  owner: string;
  name: string;
  display_name: string;
  status: string;
  environment: string | null;
  machine: string;
  latest_snapshot: Version | null;
}

export interface SaveRequest {
  name: string;
  note: string;
}

export interface ShareRequest {
  visibility: Visibility;
  people: string[];
  group: string | null;
}

export interface Job {
  id: string;
  owner: string;
  display_name: string;
  kind: JobKind;
  command: string[];
  environment: string;
  digest: string;
  machine: string;
  working_dir: string;
  status: string;
  reason_code: string;
  reason_message: string;
  status_history: StatusEntry[];
  exit_code: number | null;
  attempt: number;
  queue_position: number | null;
  max_run_seconds: number | null;
  input: { digest: string; path: string; git_commit: string; git_dirty: boolean } | null;
  outputs: number;
  output_bytes: number;
  log_bytes: number;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

export interface Event {
  id: number;
  time: string;
  actor: string;
  target_kind: string;
  target: string;
  owner: string;
  status: string;
  reason_code: string;
  reason_message: string;
}

export interface Page<T> {
  items: T[];
  next_token: string | null;
}

/** What the server half of this extension takes at `himalia/jobs`. */
export interface RunRequest {
  path: string;
  kind: JobKind;
  environment: string;
  machine: string | null;
  arguments: string[];
  parameters: Record<string, unknown>;
  max_run_seconds: number | null;
  display_name: string;
}

/** What it answers: the job, and what the packer did in one sentence. */
export interface Submitted {
  job: Job;
  packed: string;
}

export interface PutBack {
  written: number;
  sentence: string;
}

export const LIVE_JOB_STATES: ReadonlySet<string> = new Set([
  'Creating',
  'Queuing',
  'EnvPreparing',
  'Running',
  'Stopping'
]);

export const SAVE_PHASES: readonly string[] = ['Committing', 'Pushing', 'Verifying', 'Saved'];

export function isLive(job: Job): boolean {
  return LIVE_JOB_STATES.has(job.status);
}

export function isSaving(version: Version): boolean {
  return version.phase !== 'Saved' && version.phase !== 'Failed';
}
