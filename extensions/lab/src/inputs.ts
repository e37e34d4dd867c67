/** What people type into the fields of a run, as values. */

/** A line as a shell would split it: blanks part words, quotes and backslashes keep them together. Nothing is expanded. */
export function words(line: string): string[] {
  const found: string[] = [];
  let word: string | null = null;
  let quote = '';
  for (let at = 0; at < line.length; at++) {
    const char = line.charAt(at);
    if (char === '\\' && quote !== "'" && at + 1 < line.length) {
      at++;
      const literal: boolean = quote === '"' && !'"\\$`'.includes(line.charAt(at));
      word = (word ?? '') + (literal ? char : '') + line.charAt(at);
    } else if (quote !== '') {
      if (char === quote) {
        quote = '';
      } else {
        word += char;
      }
    } else if (char === '"' || char === "'") {
      quote = char;
      word ??= '';
    } else if (/\s/.test(char)) {
      if (word !== null) {
        found.push(word);
      }
      word = null;
    } else {
      word = (word ?? '') + char;
    }
  }
  if (quote !== '') {
    throw new UnclosedQuote(quote);
  }
  if (word !== null) {
    found.push(word);
  }
  return found;
}

export class UnclosedQuote extends Error {
  constructor(readonly quote: string) {
    super(`unclosed ${quote}`);
  }
}

/** One `name = value` per line; a value is JSON where it reads as JSON, otherwise text. */
export function parameters(text: string): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const line of text.split('\n')) {
    const trimmed = line.trim();
    if (trimmed === '' || trimmed.startsWith('#')) {
      continue;
    }
    const match = /^([A-Za-z_][A-Za-z0-9_]*)\s*[=:]\s*(.*)$/.exec(trimmed);
    if (!match) {
      throw new BadParameter(trimmed);
    }
    found[match[1] ?? ''] = value(match[2] ?? '');
  }
  return found;
}

export class BadParameter extends Error {
  constructor(readonly line: string) {
    super(`not a parameter: ${line}`);
  }
}

const PYTHON_WORDS: Record<string, unknown> = { True: true, False: false, None: null };

function value(text: string): unknown {
  if (Object.hasOwn(PYTHON_WORDS, text)) {
    return PYTHON_WORDS[text];
  }
  try {
    return JSON.parse(text);
  } catch {
    return /^'[^']*'$/.test(text) ? text.slice(1, -1) : text;
  }
}

export const TIME_UNITS = { min: 60, h: 3600, d: 86_400 } as const;
export type TimeUnit = keyof typeof TIME_UNITS;

/** Seconds, or null for an empty field (no limit). */
export function seconds(count: string, unit: TimeUnit): number | null {
  const number = Number(count.trim());
  return count.trim() === '' || !(number > 0) ? null : Math.round(number * TIME_UNITS[unit]);
}

/** Names in a field, parted by commas or blanks. */
export function names(text: string): string[] {
  return [...new Set(text.split(/[\s,;]+/).filter(name => name !== ''))];
}

/** A name the hub takes for a named server: at most 30 of a-z, 0-9 and single hyphens, a letter first. */
export function serverName(text: string): string {
  const name = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^[^a-z]+/, '')
    .slice(0, 30)
    .replace(/-+$/, '');
  return name || 'workspace';
}

const KINDS: Record<string, 'script' | 'notebook'> = { py: 'script', sh: 'script', ipynb: 'notebook' };

/** How a file runs as a job; null when it does not. */
export function kindOf(path: string): 'script' | 'notebook' | null {
  const extension = /\.([^./]+)$/.exec(path)?.[1] ?? '';
  return KINDS[extension.toLowerCase()] ?? null;
}
