/** The dialog of Run as job: in which environment, on which machine, with what; then what was packed, and the live log. */

import * as React from 'react';
import type { Himalia } from './context';
import { TIME_UNITS, TimeUnit, kindOf, parameters, seconds, words } from './inputs';
import { JobLine, useJob } from './job';
import type { Jobs } from './jobs';
import { Log } from './log';
import { Action, Field, Select, Trouble, Waiting, useLoaded } from './react';
import { Environment, Job, Machine, RunRequest, Submitted, Workspace, isLive } from './schema';
import { SheetView } from './sheet';

interface RunProps {
  himalia: Himalia;
  jobs: Jobs;
  close: () => void;
  /** Null lets the person name the file. */
  path: string | null;
  /** The environment to start with, as "ada/vision:3"; null means the workspace's own. */
  environment: string | null;
  /** Saves what is open and not saved. */
  saveDocuments: () => Promise<void>;
  openJob: (job: Job) => void;
}

export function Run(props: RunProps): React.ReactElement {
  const [submitted, setSubmitted] = React.useState<Submitted | null>(null);
  return submitted ? <Running {...props} {...submitted} /> : <Choosing {...props} onSubmitted={setSubmitted} />;
}

interface Choice {
  ref: string;
  label: string;
  environment: Environment;
  /** This workspace was started from it, or saved as it. */
  ours: boolean;
}

interface Known {
  choices: Choice[];
  machines: Machine[];
  /** The environment and machine to begin with. */
  environment: string;
  machine: string;
}

type ChoosingProps = RunProps & { onSubmitted: (submitted: Submitted) => void };

function Choosing(props: ChoosingProps): React.ReactElement {
  const { himalia, close } = props;
  const { s } = himalia;
  const loaded = useLoaded(() => known(himalia, props.environment));
  if (loaded.value && loaded.value.choices.length > 0) {
    return <Form {...props} known={loaded.value} />;
  }
  return (
    <SheetView
      actions={
        <>
          <Action label={s.close} onClick={close} focus />
          {loaded.error !== null && <Action label={s.retry} onClick={loaded.again} primary />}
        </>
      }
    >
      {loaded.error !== null ? (
        <Trouble error={loaded.error} s={s} />
      ) : loaded.value ? (
        <p>{s.run.noEnvironment}</p>
      ) : (
        <Waiting s={s} />
      )}
    </SheetView>
  );
}

async function known({ client, place, s }: Himalia, wanted: string | null): Promise<Known> {
  const [environments, machines, workspace] = await Promise.all([
    client.environments(),
    client.machines(),
    client.workspace(place.workspace).catch(() => null)
  ]);
  const saved = savedHere(workspace);
  const from = workspace?.environment ?? place.environment;
  const choices = environments.flatMap(environment => choicesOf(environment, [wanted, saved, from]));
  for (const one of choices) {
    const hint = one.ref === saved ? s.run.fromHere : one.ref === from ? s.run.here : '';
    one.label += hint && ` (${hint})`;
    one.ours = hint !== '';
  }
  const offered = (ref: string | null) => (choices.some(one => one.ref === ref) ? ref : null);
  return {
    choices,
    machines,
    environment: offered(wanted) ?? offered(saved) ?? offered(from) ?? choices[0]?.ref ?? '',
    machine: (machines.find(machine => machine.default) ?? machines[0])?.name ?? ''
  };
}

/** What this workspace was last saved as: the nearest to what it is now. */
function savedHere(workspace: Workspace | null): string | null {
  const snapshot = workspace?.latest_snapshot;
  return snapshot?.phase === 'Saved' ? snapshot.ref : null;
}

/** The latest version of an environment, and those of it that are wanted by name. */
function choicesOf(environment: Environment, wanted: (string | null)[]): Choice[] {
  const { latest, ref } = environment;
  const named = wanted.filter(one => one !== null && one.startsWith(`${ref}:`));
  const refs = new Set([...(latest?.phase === 'Saved' ? [latest.ref] : []), ...named]) as Set<string>;
  return [...refs].map(one => ({ ref: one, label: one, environment, ours: false }));
}

function Form(props: ChoosingProps & { known: Known }): React.ReactElement {
  const { himalia, close, known } = props;
  const { s, server } = himalia;
  const [path, setPath] = React.useState(props.path ?? '');
  const [environment, setEnvironment] = React.useState(known.environment);
  const [machine, setMachine] = React.useState(known.machine);
  const [line, setLine] = React.useState('');
  const [values, setValues] = React.useState('');
  const [most, setMost] = React.useState('');
  const [unit, setUnit] = React.useState<TimeUnit>('h');
  const [asking, setAsking] = React.useState(false);
  const [error, setError] = React.useState<unknown>(null);
  const kind = kindOf(path);
  const chosen = known.choices.find(one => one.ref === environment);

  const request = (): RunRequest => {
    if (kind === null) {
      throw new Error(s.run.badPath);
    }
    return {
      path: path.trim(),
      kind,
      environment,
      machine: machine || null,
      arguments: kind === 'script' ? words(line) : [],
      parameters: kind === 'notebook' ? parameters(values) : {},
      max_run_seconds: seconds(most, unit),
      display_name: ''
    };
  };
  const submit = async () => {
    if (asking) {
      return;
    }
    setError(null);
    setAsking(true);
    try {
      const wanted = request();
      await props.saveDocuments();
      const submitted = await server.submit(wanted);
      props.jobs.put(submitted.job);
      props.onSubmitted(submitted);
    } catch (problem) {
      setError(problem);
      setAsking(false);
    }
  };

  return (
    <SheetView
      onSubmit={() => void submit()}
      actions={
        <>
          <Action label={s.cancel} onClick={close} />
          <Action
            label={asking ? s.run.submitting : s.run.submit}
            submit
            primary
            disabled={asking}
            focus={props.path !== null}
          />
        </>
      }
    >
      {props.path === null && (
        <Field label={s.run.path}>
          <input
            className="jp-mod-styled"
            value={path}
            onChange={event => setPath(event.target.value)}
            placeholder={s.run.pathPlaceholder}
            spellCheck={false}
            autoFocus
            required
          />
        </Field>
      )}
      <Field label={s.run.environment} hint={<EnvironmentHint chosen={chosen} himalia={himalia} />}>
        <Select value={environment} onChange={event => setEnvironment(event.target.value)}>
          <Options label={s.run.mine} choices={known.choices.filter(({ environment: e }) => e.mine && !e.preset)} />
          <Options label={s.run.shared} choices={known.choices.filter(({ environment: e }) => !e.mine && !e.preset)} />
          <Options label={s.run.presets} choices={known.choices.filter(({ environment: e }) => e.preset)} />
        </Select>
      </Field>
      <Field label={s.run.machine}>
        <Select value={machine} onChange={event => setMachine(event.target.value)}>
          {known.machines.map(one => (
            <option key={one.name} value={one.name}>
              {s.run.machineOption(one)}
            </option>
          ))}
        </Select>
      </Field>
      {kind === 'notebook' ? (
        <Field label={s.run.parameters}>
          <textarea
            className="jp-mod-styled"
            rows={3}
            value={values}
            onChange={event => setValues(event.target.value)}
            placeholder={s.run.parametersPlaceholder}
            spellCheck={false}
          />
        </Field>
      ) : (
        <Field label={s.run.arguments}>
          <input
            className="jp-mod-styled"
            value={line}
            onChange={event => setLine(event.target.value)}
            placeholder={s.run.argumentsPlaceholder}
            spellCheck={false}
            autoComplete="off"
          />
        </Field>
      )}
      <Field label={s.run.most}>
        <span className="himalia-Pair">
          <input
            className="jp-mod-styled"
            type="number"
            min="0"
            step="any"
            value={most}
            onChange={event => setMost(event.target.value)}
            placeholder={s.run.noLimit}
          />
          <Select value={unit} aria-label={s.run.most} onChange={event => setUnit(event.target.value as TimeUnit)}>
            {(Object.keys(TIME_UNITS) as TimeUnit[]).map(one => (
              <option key={one} value={one}>
                {s.run.units[one]}
              </option>
            ))}
          </Select>
        </span>
      </Field>
      <p className="himalia-Muted">{s.run.frozen}</p>
      <Trouble error={error} s={s} />
    </SheetView>
  );
}

function Options({ label, choices }: { label: string; choices: Choice[] }): React.ReactElement | null {
  if (choices.length === 0) {
    return null;
  }
  return (
    <optgroup label={label}>
      {choices.map(one => (
        <option key={one.ref} value={one.ref}>
          {one.label}
        </option>
      ))}
    </optgroup>
  );
}

function EnvironmentHint({
  chosen,
  himalia: { s }
}: {
  chosen: Choice | undefined;
  himalia: Himalia;
}): React.ReactElement {
  const foreign = chosen?.environment.runs_as_you ?? '';
  if (foreign) {
    return <span className="himalia-Warning">{foreign}</span>;
  }
  return <>{chosen?.ours ? s.run.unsaved : chosen?.environment.description}</>;
}

function Running(props: RunProps & Submitted): React.ReactElement {
  const { himalia, jobs, close, openJob, packed } = props;
  const { s } = himalia;
  const { job, refresh } = useJob(jobs, props.job.id, props.job);
  const open = () => {
    close();
    openJob(job);
  };
  return (
    <SheetView
      actions={
        <>
          <Action label={s.run.openJob} onClick={open} />
          <Action label={s.close} onClick={close} focus primary />
        </>
      }
    >
      <p className="himalia-Heading">{job.display_name || job.id}</p>
      <JobLine job={job} himalia={himalia} />
      {packed !== '' && <p className="himalia-Packed">{packed}</p>}
      <Log himalia={himalia} job={job} onEnd={refresh} />
      {isLive(job) && <p className="himalia-Muted">{s.goesOn}</p>}
    </SheetView>
  );
}
