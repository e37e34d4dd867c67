/**
 * The text of a log as lines a page can show: colours and cursor codes of terminals are taken out, a carriage return
 * writes its line anew (progress bars), and only the last lines are kept.
 */

// Built from codes, since a source file should hold no control characters.
const ESCAPE = String.fromCharCode(27);
const BELL = String.fromCharCode(7);
const SEQUENCES = new RegExp(
  `${ESCAPE}(?:\\[[0-?]*[ -/]*[@-~]|\\][^${BELL}${ESCAPE}]*(?:${BELL}|${ESCAPE}\\\\)|[@-Z\\\\^_])`,
  'g'
);
const UNFINISHED = new RegExp(`${ESCAPE}(?:\\[[0-?]*[ -/]*|\\][^${BELL}]{0,200})?$`);

export class LogText {
  constructor(private readonly most = 20_000) {}

  /** Lines that were dropped from the front. */
  get dropped(): number {
    return this._dropped;
  }

  get lines(): readonly string[] {
    return this._lines;
  }

  append(text: string): void {
    let rest = this.held + text;
    // An escape sequence or CRLF may be cut in two by the end of a chunk.
    const cut = UNFINISHED.exec(rest)?.index ?? (rest.endsWith('\r') ? rest.length - 1 : rest.length);
    this.held = rest.slice(cut);
    rest = rest.slice(0, cut).replace(SEQUENCES, '').replace(/\r\n/g, '\n');
    const [first = '', ...more] = rest.split('\n');
    this.extend(first);
    for (const line of more) {
      this._lines.push('');
      this.extend(line);
    }
    this.trim();
  }

  private extend(text: string): void {
    const at = this._lines.length - 1;
    const whole = (this._lines[at] ?? '') + text;
    this._lines[Math.max(at, 0)] = whole.includes('\r') ? overwrite(whole) : whole;
  }

  private trim(): void {
    const excess = this._lines.length - this.most;
    // A tenth of slack, so that a long log is not copied at each chunk.
    if (excess > this.most / 10) {
      this._lines.splice(0, excess);
      this._dropped += excess;
    }
  }

  private readonly _lines: string[] = [''];
  private _dropped = 0;
  private held = '';
}

/** What a terminal would show of a line with carriage returns: the last writing, and what it did not cover. */
function overwrite(line: string): string {
  return line.split('\r').reduce((before, after) => after + before.slice(after.length));
}
