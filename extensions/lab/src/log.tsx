/** The live log of a job: it follows, it can be searched, it goes on where it was. */

import * as React from 'react';
import type { Himalia } from './context';
import { LogText } from './logtext';
import { Trouble } from './react';
import { Job, isLive } from './schema';
import { ServerEvent, follow } from './sse';

interface LogProps {
  himalia: Himalia;
  job: Job;
  /** The log said that the job has ended. */
  onEnd: () => void;
}

interface Chunk {
  offset: number;
  text: string;
}

export function Log({ himalia, job, onEnd }: LogProps): React.ReactElement {
  const { s } = himalia;
  const { log, lost, error } = useLog(himalia, job.id, onEnd);
  const [refused, setRefused] = React.useState<unknown>(null);
  const [following, setFollowing] = React.useState(true);
  const [query, setQuery] = React.useState('');
  const [match, setMatch] = React.useState(0);
  const box = React.useRef<HTMLDivElement>(null);
  const matches = React.useMemo(() => find(log.lines, query), [log.lines.length, log.revision, query]);
  const current = matches[Math.min(match, matches.length - 1)];

  React.useEffect(() => {
    if (following && query === '' && box.current) {
      box.current.scrollTop = box.current.scrollHeight;
    }
  });
  React.useEffect(() => {
    box.current?.querySelector('.himalia-mod-current')?.scrollIntoView({ block: 'center' });
  }, [current?.line, query]);

  const scrolled = () => {
    const node = box.current;
    if (node) {
      setFollowing(node.scrollHeight - node.scrollTop - node.clientHeight < 24);
    }
  };
  const turn = (step: number) => setMatch((match + step + matches.length) % Math.max(matches.length, 1));
  const search = (event: React.KeyboardEvent) => {
    if (event.key === 'Enter') {
      event.preventDefault();
      turn(event.shiftKey ? -1 : 1);
    } else if (event.key === 'Escape') {
      setQuery('');
    }
  };
  const empty = log.lines.length === 1 && log.lines[0] === '';
  return (
    <div className="himalia-Log">
      <div className="himalia-Log-bar">
        <label className="himalia-Log-follow" title={s.log.followCaption}>
          <input type="checkbox" checked={following} onChange={event => setFollowing(event.target.checked)} />
          {s.log.follow}
        </label>
        <input
          className="jp-mod-styled himalia-Log-find"
          type="search"
          value={query}
          onChange={event => {
            setQuery(event.target.value);
            setMatch(0);
          }}
          onKeyDown={search}
          placeholder={s.log.findPlaceholder}
          aria-label={s.log.find}
        />
        {query !== '' && (
          <>
            <span className="himalia-Muted himalia-Log-count" role="status">
              {s.log.matches(matches.length === 0 ? 0 : Math.min(match, matches.length - 1) + 1, matches.length)}
            </span>
            <button type="button" className="jp-Button jp-mod-minimal" title={s.log.previous} onClick={() => turn(-1)}>
              ↑
            </button>
            <button type="button" className="jp-Button jp-mod-minimal" title={s.log.next} onClick={() => turn(1)}>
              ↓
            </button>
          </>
        )}
        <span className="himalia-Log-space" />
        <button
          type="button"
          className="himalia-Link"
          onClick={() => download(himalia, job).then(() => setRefused(null), setRefused)}
        >
          {s.log.download}
        </button>
      </div>
      {lost && <p className="himalia-Muted himalia-Log-note">{s.log.lost}</p>}
      <Trouble error={error ?? refused} s={s} />
      {log.dropped > 0 && <p className="himalia-Muted himalia-Log-note">{s.log.dropped(log.dropped)}</p>}
      <div className="himalia-Log-text" ref={box} onScroll={scrolled} tabIndex={0} role="log" aria-label={s.jobs.log}>
        {empty ? (
          <p className="himalia-Muted">{isLive(job) ? s.log.waiting : s.log.none}</p>
        ) : (
          <Lines log={log} query={query} current={current} />
        )}
      </div>
    </div>
  );
}

/** What is shown of a log; the number changes with each change of the text. */
interface Shown {
  lines: readonly string[];
  dropped: number;
  revision: number;
}

function useLog({ client }: Himalia, id: string, onEnd: () => void): { log: Shown; lost: boolean; error: unknown } {
  const [log, setLog] = React.useState<Shown>({ lines: [''], dropped: 0, revision: 0 });
  const [lost, setLost] = React.useState(false);
  const [error, setError] = React.useState<unknown>(null);
  React.useEffect(() => {
    const text = new LogText();
    const abort = new AbortController();
    let offset = 0;
    let frame = 0;
    // Chunks may come faster than a screen is drawn.
    const draw = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setLog(shown => ({ lines: text.lines, dropped: text.dropped, revision: shown.revision + 1 }));
      });
    };
    const handle = (event: ServerEvent): boolean => {
      if (event.event === 'log') {
        const chunk = JSON.parse(event.data) as Chunk;
        // The event's id is where the next one begins; the text alone does not tell, for broken bytes are replaced in it.
        offset = /^\d+$/.test(event.id) ? Number(event.id) : chunk.offset + new TextEncoder().encode(chunk.text).length;
        text.append(chunk.text);
        draw();
      }
      return event.event === 'end';
    };
    follow({
      open: (lastEventId, signal) => client.logStream(id, offset, lastEventId, signal),
      handle,
      connected: yes => setLost(!yes),
      signal: abort.signal
    }).then(
      () => abort.signal.aborted || onEnd(),
      problem => setError(problem)
    );
    return () => {
      abort.abort();
      cancelAnimationFrame(frame);
    };
  }, [id]);
  return { log, lost, error };
}

interface Match {
  line: number;
}

function find(lines: readonly string[], query: string): Match[] {
  if (query === '') {
    return [];
  }
  const wanted = query.toLowerCase();
  return lines.flatMap((text, line) => (text.toLowerCase().includes(wanted) ? [{ line }] : []));
}

const BLOCK = 200;

interface LinesProps {
  log: Shown;
  query: string;
  current: Match | undefined;
}

/** Lines in blocks, so that what was drawn once is not drawn again with each chunk. */
function Lines({ log, query, current }: LinesProps): React.ReactElement {
  const blocks: React.ReactElement[] = [];
  const skip = log.dropped % BLOCK;
  for (let start = -skip; start < log.lines.length; start += BLOCK) {
    const from = Math.max(start, 0);
    const text = log.lines.slice(from, start + BLOCK).join('\n');
    const at = current && current.line >= from && current.line < start + BLOCK ? current.line - from : -1;
    blocks.push(<Block key={log.dropped + start} text={text} query={query} current={at} />);
  }
  return <>{blocks}</>;
}

interface BlockProps {
  text: string;
  query: string;
  current: number;
}

const Block = React.memo(function Block({ text, query, current }: BlockProps): React.ReactElement {
  if (query === '' || !text.toLowerCase().includes(query.toLowerCase())) {
    return <pre>{text}</pre>;
  }
  return (
    <pre>
      {text.split('\n').map((line, place) => (
        <React.Fragment key={place}>
          {place > 0 && '\n'}
          {marked(line, query, place === current)}
        </React.Fragment>
      ))}
    </pre>
  );
});

function marked(line: string, query: string, current: boolean): React.ReactNode {
  const parts: React.ReactNode[] = [];
  const lower = line.toLowerCase();
  const wanted = query.toLowerCase();
  // Lower case may be longer than what it comes from (İ); then places do not match and nothing is marked.
  let from = 0;
  let at = lower.length === line.length ? lower.indexOf(wanted) : -1;
  while (at >= 0) {
    parts.push(
      line.slice(from, at),
      <mark key={at} className={current ? 'himalia-mod-current' : undefined}>
        {line.slice(at, at + wanted.length)}
      </mark>
    );
    from = at + wanted.length;
    at = lower.indexOf(wanted, from);
  }
  parts.push(line.slice(from));
  return parts;
}

async function download({ client }: Himalia, job: Job): Promise<void> {
  const response = await client.log(job.id);
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement('a');
  link.href = url;
  link.download = `${job.id}.log`;
  link.click();
  URL.revokeObjectURL(url);
}
