/** Small things of React that every view here uses. */

import { ISignal } from '@lumino/signaling';
import * as React from 'react';
import { Problem } from './problem';
import type { Strings } from './strings';

/** Renders again whenever the signal is emitted. */
export function useSignal(signal: ISignal<unknown, unknown>): void {
  const [, again] = React.useReducer((n: number) => n + 1, 0);
  React.useEffect(() => {
    const slot = () => again();
    signal.connect(slot);
    return () => void signal.disconnect(slot);
  }, [signal]);
}

/** The time, once a second while `ticking`. */
export function useNow(ticking: boolean): number {
  const [now, setNow] = React.useState(() => Date.now());
  React.useEffect(() => {
    setNow(Date.now());
    if (!ticking) {
      return undefined;
    }
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [ticking]);
  return now;
}

export interface Loaded<T> {
  value: T | null;
  error: unknown;
  again: () => void;
}

/** What a promise gives, read when the view appears. */
export function useLoaded<T>(load: () => Promise<T>): Loaded<T> {
  const [state, setState] = React.useState<{ value: T | null; error: unknown }>({ value: null, error: null });
  const [round, again] = React.useReducer((n: number) => n + 1, 0);
  React.useEffect(() => {
    let current = true;
    load().then(
      value => current && setState({ value, error: null }),
      (error: unknown) => current && setState({ value: null, error })
    );
    return () => {
      current = false;
    };
    // The first `load` is the one: it only closes over what its view was made with.
  }, [round]);
  return { ...state, again };
}

/** True once something took longer than people notice. */
export function useSlow(waiting: boolean): boolean {
  const [slow, setSlow] = React.useState(false);
  React.useEffect(() => {
    if (!waiting) {
      setSlow(false);
      return undefined;
    }
    const timer = setTimeout(() => setSlow(true), 300);
    return () => clearTimeout(timer);
  }, [waiting]);
  return slow;
}

export function Waiting({ s }: { s: Strings }): React.ReactElement | null {
  return useSlow(true) ? <p className="himalia-Muted">{s.loading}</p> : null;
}

/** What went wrong, with the id that support asks for. */
export function Trouble({ error, s }: { error: unknown; s: Strings }): React.ReactElement | null {
  if (error === null || error === undefined) {
    return null;
  }
  return (
    <div className="himalia-Trouble" role="alert">
      {s.problem(error)}
      {error instanceof Problem && error.requestId !== '' && <RequestId id={error.requestId} s={s} />}
    </div>
  );
}

export function RequestId({ id, s }: { id: string; s: Strings }): React.ReactElement {
  return <div className="himalia-RequestId">{s.requestId(id)}</div>;
}

export interface FieldProps {
  label: string;
  hint?: React.ReactNode;
  children: React.ReactNode;
}

export function Field({ label, hint, children }: FieldProps): React.ReactElement {
  return (
    <div className="himalia-Field">
      <label>
        <span className="himalia-Field-label">{label}</span>
        {children}
      </label>
      {hint && <div className="himalia-Field-hint">{hint}</div>}
    </div>
  );
}

export interface ActionProps {
  label: string;
  onClick?: () => void;
  primary?: boolean;
  warn?: boolean;
  disabled?: boolean;
  submit?: boolean;
  focus?: boolean;
}

/** A button in the look of the lab's dialogs. */
export function Action(props: ActionProps): React.ReactElement {
  const { label, onClick, primary, warn, disabled, submit, focus } = props;
  const node = React.useRef<HTMLButtonElement>(null);
  React.useEffect(() => {
    if (focus) {
      node.current?.focus();
    }
  }, [focus]);
  const kind = warn ? 'jp-mod-warn' : primary ? 'jp-mod-accept' : 'jp-mod-reject';
  return (
    <button
      ref={node}
      type={submit ? 'submit' : 'button'}
      className={`jp-Dialog-button jp-mod-styled ${kind}`}
      disabled={disabled}
      onClick={onClick}
    >
      {label}
    </button>
  );
}

/** A select in the look of the lab's fields. */
export function Select(props: React.SelectHTMLAttributes<HTMLSelectElement>): React.ReactElement {
  return (
    <span className="himalia-Select">
      <select className="jp-mod-styled" {...props} />
    </span>
  );
}
