/** The dialog of sharing: who else may use an environment. */

import { Notification } from '@jupyterlab/apputils';
import * as React from 'react';
import type { Himalia } from './context';
import { names } from './inputs';
import { Action, Field, Select, Trouble, Waiting, useLoaded } from './react';
import type { Environment, Me, Visibility } from './schema';
import { SheetView } from './sheet';

interface ShareProps {
  himalia: Himalia;
  close: () => void;
  /** "ada/vision"; null lets the person choose among theirs. */
  environment: string | null;
}

export function Share(props: ShareProps): React.ReactElement {
  const { himalia, close } = props;
  const { s } = himalia;
  const loaded = useLoaded(async () => {
    const [me, environments] = await Promise.all([himalia.client.me(), himalia.client.environments()]);
    return { me, mine: environments.filter(environment => environment.mine && !environment.preset) };
  });
  const mine = loaded.value?.mine ?? [];
  const [ref, setRef] = React.useState(props.environment);
  const chosen = mine.find(environment => environment.ref === ref) ?? (ref === null ? mine[0] : undefined);
  if (!loaded.value || !chosen) {
    return (
      <SheetView actions={<Action label={s.close} onClick={close} focus />}>
        {loaded.error !== null ? (
          <Trouble error={loaded.error} s={s} />
        ) : loaded.value ? (
          <p>{s.share.none}</p>
        ) : (
          <Waiting s={s} />
        )}
      </SheetView>
    );
  }
  const chooser = props.environment === null && (
    <Field label={s.share.choose}>
      <Select value={chosen.ref} onChange={event => setRef(event.target.value)}>
        {mine.map(environment => (
          <option key={environment.ref}>{environment.ref}</option>
        ))}
      </Select>
    </Field>
  );
  return (
    <ShareForm
      key={chosen.ref}
      himalia={himalia}
      close={close}
      me={loaded.value.me}
      environment={chosen}
      chooser={chooser}
    />
  );
}

interface ShareFormProps {
  himalia: Himalia;
  close: () => void;
  me: Me;
  environment: Environment;
  chooser: React.ReactNode;
}

const ORDER: Visibility[] = ['private', 'people', 'group', 'everyone'];

function ShareForm({ himalia, close, me, environment, chooser }: ShareFormProps): React.ReactElement {
  const { s, client } = himalia;
  const [visibility, setVisibility] = React.useState(environment.visibility);
  const [people, setPeople] = React.useState(environment.people.join(', '));
  const [group, setGroup] = React.useState(environment.group ?? me.groups[0] ?? '');
  const [asking, setAsking] = React.useState(false);
  const [error, setError] = React.useState<unknown>(null);
  const groups = [...new Set([...(environment.group ? [environment.group] : []), ...me.groups])];

  const submit = async () => {
    if (visibility === 'people' && names(people).length === 0) {
      setError(new Error(s.share.needPeople));
      return;
    }
    setAsking(true);
    setError(null);
    try {
      const shared = await client.share(environment.owner, environment.name, {
        visibility,
        people: visibility === 'people' ? names(people) : [],
        group: visibility === 'group' ? group : null
      });
      close();
      Notification.success(s.share.done(shared), { autoClose: 5000 });
    } catch (problem) {
      setError(problem);
      setAsking(false);
    }
  };
  const blocked = asking || (visibility === 'group' && group === '');
  return (
    <SheetView
      onSubmit={() => void submit()}
      actions={
        <>
          <Action label={s.cancel} onClick={close} />
          <Action
            label={visibility === 'private' ? s.share.submitPrivate : s.share.submit}
            submit
            primary
            disabled={blocked}
          />
        </>
      }
    >
      {chooser}
      <fieldset className="himalia-Choices">
        <legend className="himalia-Field-label">{s.share.who}</legend>
        {ORDER.map(option => (
          <label key={option} className="himalia-Choice">
            <input
              type="radio"
              name="himalia-visibility"
              value={option}
              checked={visibility === option}
              autoFocus={visibility === option}
              disabled={option === 'group' && groups.length === 0}
              onChange={() => setVisibility(option)}
            />
            <span>{s.share.option[option].label}</span>
            <span className="himalia-Muted">
              {option === 'group' && groups.length === 0 ? s.share.noGroups : s.share.option[option].caption}
            </span>
          </label>
        ))}
      </fieldset>
      {visibility === 'people' && (
        <Field label={s.share.people}>
          <input
            className="jp-mod-styled"
            value={people}
            onChange={event => setPeople(event.target.value)}
            placeholder={s.share.peoplePlaceholder}
            autoComplete="off"
            spellCheck={false}
          />
        </Field>
      )}
      {visibility === 'group' && (
        <Field label={s.share.group}>
          <Select value={group} onChange={event => setGroup(event.target.value)}>
            {groups.map(name => (
              <option key={name}>{name}</option>
            ))}
          </Select>
        </Field>
      )}
      {visibility !== 'private' && <p className="himalia-Warning">{s.share.warning}</p>}
      <Trouble error={error} s={s} />
    </SheetView>
  );
}
