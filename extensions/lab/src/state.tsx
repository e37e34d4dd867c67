/** State is colour + word + icon, the same everywhere. Words are the states' own names. */

import * as React from 'react';

type Tone = 'running' | 'waiting' | 'working' | 'good' | 'bad' | 'ended' | 'warning';

const TONES: Record<string, Tone> = {
  Running: 'running',
  Queuing: 'waiting',
  ResourceAllocating: 'waiting',
  Creating: 'working',
  EnvPreparing: 'working',
  Starting: 'working',
  Stopping: 'working',
  Updating: 'working',
  Deleting: 'working',
  Committing: 'working',
  Pushing: 'working',
  Verifying: 'working',
  Succeeded: 'good',
  Saved: 'good',
  Failed: 'bad',
  Stopped: 'ended'
};

const SHAPES: Record<Tone, React.ReactElement> = {
  running: <path d="M5 3.5v9l7-4.5z" />,
  waiting: (
    <path d="M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zm0 1.6a4.9 4.9 0 1 1 0 9.8 4.9 4.9 0 0 1 0-9.8zM7.3 4.6v3.9l3 1.8.7-1.2-2.3-1.4V4.6z" />
  ),
  working: <path d="M8 1.5v1.7A4.8 4.8 0 1 1 3.2 8H1.5A6.5 6.5 0 1 0 8 1.5z" />,
  good: <path d="M6.4 12.4 2.2 8.2l1.3-1.3 2.9 2.9 6.1-6.1 1.3 1.3z" />,
  bad: <path d="M4 2.8 8 6.7l4-3.9L13.2 4 9.3 8l3.9 4-1.2 1.2L8 9.3l-4 3.9L2.8 12l3.9-4-3.9-4z" />,
  ended: <path d="M4 4h8v8H4z" />,
  warning: <path d="M8 1.8 15 14H1zm-.8 4.4v4h1.6v-4zm0 5v1.5h1.6v-1.5z" />
};

export function State({ name }: { name: string }): React.ReactElement {
  const tone = TONES[name] ?? 'ended';
  return (
    <span className={`himalia-State himalia-mod-${tone}`}>
      <svg viewBox="0 0 16 16" width="12" height="12" aria-hidden="true">
        {SHAPES[tone]}
      </svg>
      {name}
    </span>
  );
}
