/** The dialog of Save environment: what to call it, how far it is, what comes next. */

import * as React from 'react';
import { idempotencyKey } from './api';
import { Himalia, spawnUrl } from './context';
import { bytes, duration, elapsed } from './format';
import { Problem } from './problem';
import { Action, Field, RequestId, Trouble, Waiting, useLoaded, useNow, useSignal } from './react';
import { Saving } from './saving';
import { Environment, Me, SAVE_PHASES, StatusEntry, Version, Workspace, isSaving } from './schema';
import { SheetView } from './sheet';
import { State } from './state';

export interface NextSteps {
  share: (version: Version) => void;
  run: (version: Version) => void;
}

interface SaveProps {
  himalia: Himalia;
  close: () => void;
  next: NextSteps;
  /** A save that runs already. */
  saving: Saving | null;
  onSaving: (saving: Saving) => void;
}

export function Save(props: SaveProps): React.ReactElement {
  const [saving, setSaving] = React.useState(props.saving);
  const follow = (started: Saving) => {
    props.onSaving(started);
    setSaving(started);
  };
  return saving ? (
    <Progress {...props} saving={saving} again={() => setSaving(null)} />
  ) : (
    <Naming {...props} onSaving={follow} />
  );
}

interface Known {
  me: Me;
  workspace: Workspace;
  environments: Environment[];
}

const LAST_NAME = 'himalia-lab:save-name';

async function known({ client, place }: Himalia): Promise<Known> {
  const [me, workspace, environments] = await Promise.all([
    client.me(),
    client.workspace(place.workspace),
    client.environments()
  ]);
  return { me, workspace, environments };
}

async function lastName({ state, place }: Himalia, { workspace, me }: Known): Promise<string> {
  const kept = await state.fetch(`${LAST_NAME}:${place.workspace}`);
  if (typeof kept === 'string') {
    return kept;
  }
  const snapshot = workspace.latest_snapshot;
  return snapshot && snapshot.owner === me.name ? snapshot.environment : '';
}

function Naming(props: SaveProps): React.ReactElement {
  const { himalia, close } = props;
  const { s } = himalia;
  const loaded = useLoaded(async () => {
    const found = await known(himalia);
    return { ...found, name: await lastName(himalia, found) };
  });
  if (loaded.value) {
    return <NameForm {...props} {...loaded.value} />;
  }
  return (
    <SheetView
      actions={
        <>
          <Action label={s.cancel} onClick={close} />
          {loaded.error !== null && <Action label={s.retry} onClick={loaded.again} primary />}
        </>
      }
    >
      {loaded.error === null ? <Waiting s={s} /> : <Trouble error={loaded.error} s={s} />}
    </SheetView>
  );
}

function NameForm(props: SaveProps & Known & { name: string }): React.ReactElement {
  const { himalia, close, environments } = props;
  const { s } = himalia;
  const [name, setName] = React.useState(props.name);
  const [note, setNote] = React.useState('');
  const [asking, setAsking] = React.useState(false);
  const [error, setError] = React.useState<unknown>(null);
  // One key per content of the form: pressing twice, or again after a lost answer, makes one save.
  const key = React.useMemo(idempotencyKey, [name, note]);
  const owner = props.workspace.owner || props.me.name;
  const mine = environments.filter(environment => environment.mine && !environment.preset);

  const follow = async (load: Promise<{ version: Version; requestId: string }>) => {
    setAsking(true);
    setError(null);
    try {
      const { version, requestId } = await load;
      props.onSaving(new Saving(himalia.client, himalia.feed, version, requestId));
    } catch (problem) {
      setError(problem);
      setAsking(false);
    }
  };
  const submit = () => {
    if (asking || name.trim() === '') {
      return;
    }
    const request = { name: name.trim(), note: note.trim() };
    void himalia.state.save(`${LAST_NAME}:${himalia.place.workspace}`, request.name);
    void follow(himalia.client.save(himalia.place.workspace, request, key));
  };
  const running =
    error instanceof Problem && error.status === 409 && /\/versions\/\d+$/.test(error.link) ? error : null;
  const followRunning = ({ link, requestId }: Problem) =>
    void follow(himalia.client.linked<Version>(link).then(version => ({ version, requestId })));

  return (
    <SheetView
      onSubmit={submit}
      actions={
        <>
          <Action label={s.cancel} onClick={close} />
          {running && <Action label={s.save.follow} onClick={() => followRunning(running)} focus primary />}
          {!running && (
            <Action
              label={asking ? s.save.submitting : s.save.submit}
              primary
              submit
              disabled={asking || name.trim() === ''}
            />
          )}
        </>
      }
    >
      <p className="himalia-Intro">{s.save.intro}</p>
      <Field label={s.save.name} hint={<Becomes name={name.trim()} owner={owner} mine={mine} himalia={himalia} />}>
        <input
          className="jp-mod-styled"
          data-himalia-first
          autoFocus
          value={name}
          onChange={event => setName(event.target.value)}
          placeholder="vision"
          list="himalia-environments"
          autoComplete="off"
          spellCheck={false}
          maxLength={64}
          required
        />
      </Field>
      <datalist id="himalia-environments">
        {mine.map(environment => (
          <option key={environment.ref} value={environment.name} />
        ))}
      </datalist>
      <Field label={s.save.note}>
        <input
          className="jp-mod-styled"
          value={note}
          onChange={event => setNote(event.target.value)}
          placeholder={s.save.notePlaceholder}
          maxLength={500}
        />
      </Field>
      <Trouble error={error} s={s} />
    </SheetView>
  );
}

interface BecomesProps {
  name: string;
  owner: string;
  mine: Environment[];
  himalia: Himalia;
}

function Becomes({ name, owner, mine, himalia: { s } }: BecomesProps): React.ReactElement | null {
  if (name === '') {
    return null;
  }
  const existing = mine.find(environment => environment.name === name && environment.owner === owner);
  const ref = `${owner}/${name}`;
  return <>{existing ? s.save.next(ref, existing.latest?.number ?? null) : s.save.first(ref)}</>;
}

interface ProgressProps extends SaveProps {
  saving: Saving;
  again: () => void;
}

function Progress({ himalia, close, next, saving, again }: ProgressProps): React.ReactElement {
  useSignal(saving.changed);
  const { s } = himalia;
  const { version, problem } = saving;
  const now = useNow(isSaving(version));
  if (version.phase === 'Saved') {
    return <SavedView himalia={himalia} close={close} next={next} version={version} />;
  }
  const failed = version.phase === 'Failed';
  return (
    <SheetView
      actions={
        <>
          <Action label={s.close} onClick={close} focus />
          {failed && <Action label={s.retry} onClick={again} primary />}
        </>
      }
    >
      <p className="himalia-Heading">{failed ? s.save.failed(version.ref) : s.save.saving(version.ref)}</p>
      <Phases himalia={himalia} version={version} now={now} />
      {failed ? (
        <div className="himalia-Trouble" role="alert">
          {version.reason_message || version.reason_code} {s.save.unchanged}
          {saving.requestId !== '' && <RequestId id={saving.requestId} s={s} />}
        </div>
      ) : problem ? (
        problem.passing ? (
          <p className="himalia-Muted">{s.save.lost}</p>
        ) : (
          <Trouble error={problem} s={s} />
        )
      ) : (
        <p className="himalia-Muted">{s.goesOn}</p>
      )}
    </SheetView>
  );
}

interface PhasesProps {
  himalia: Himalia;
  version: Version;
  now: number;
}

function Phases({ himalia: { s }, version, now }: PhasesProps): React.ReactElement {
  const reached = version.status_history.map(entry => entry.status);
  const last = version.phase === 'Failed' ? reached.filter(name => name !== 'Failed').at(-1) : version.phase;
  const current = SAVE_PHASES.indexOf(last ?? '');
  return (
    <ol className="himalia-Phases" aria-live="polite">
      {SAVE_PHASES.map((phase, place) => {
        const state =
          place < current ? 'done' : place > current ? 'ahead' : version.phase === 'Failed' ? 'failed' : 'now';
        const entry = version.status_history.find(one => one.status === phase);
        return (
          <li
            key={phase}
            className={`himalia-Phase himalia-mod-${state}`}
            aria-current={state === 'now' ? 'step' : undefined}
          >
            <span className="himalia-Phase-mark" aria-hidden="true" />
            <span className="himalia-Phase-name">{phase}</span>
            <span className="himalia-Phase-caption">
              {state === 'now' ? version.progress_message || s.save.phase(phase) : s.save.phase(phase)}
            </span>
            <span className="himalia-Phase-numbers">
              {state === 'now' && version.progress_bytes ? `${bytes(version.progress_bytes)} · ` : ''}
              {entry && state !== 'ahead' && phase !== 'Saved' ? spent(entry, state === 'done', now) : ''}
            </span>
          </li>
        );
      })}
    </ol>
  );
}

function spent(entry: StatusEntry, done: boolean, now: number): string {
  return done && entry.end_time === null ? '' : duration(elapsed(entry.start_time, entry.end_time, now));
}

interface SavedProps {
  himalia: Himalia;
  close: () => void;
  next: NextSteps;
  version: Version;
}

function SavedView({ himalia, close, next, version }: SavedProps): React.ReactElement {
  const { s } = himalia;
  const [copied, setCopied] = React.useState(false);
  const me = useLoaded(() => himalia.client.me());
  const go = (step: (version: Version) => void) => () => {
    close();
    step(version);
  };
  const copy = () => {
    himalia.copy(version.ref);
    setCopied(true);
  };
  return (
    <SheetView actions={<Action label={s.close} onClick={close} focus />}>
      <p className="himalia-Heading">
        <State name="Saved" /> {s.save.saved(version)}
      </p>
      {version.warnings.map(warning => (
        <p key={warning} className="himalia-Warning">
          {warning}
        </p>
      ))}
      <p className="himalia-Field-label">{s.save.next_steps}</p>
      <div className="himalia-Steps">
        <Action label={s.save.share} onClick={go(next.share)} />
        <Action label={s.save.run} onClick={go(next.run)} />
        {me.value && (
          <a
            className="jp-Dialog-button jp-mod-styled jp-mod-reject"
            href={spawnUrl(me.value.name, version.ref)}
            target="_blank"
            rel="noopener"
          >
            {s.save.open}
          </a>
        )}
        <Action label={copied ? s.save.copied : s.save.copy(version.ref)} onClick={copy} />
      </div>
    </SheetView>
  );
}
