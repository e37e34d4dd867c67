/** Numbers with units people say. */

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : 1;
  return `${value.toFixed(digits).replace(/\.0$/, '')} ${UNITS[unit]}`;
}

/** "8 s", "4 min 10 s", "2 h 14 min", "3 d 4 h". */
export function duration(seconds: number): string {
  const total = Math.max(0, Math.floor(seconds));
  const parts: [number, string][] = [
    [Math.floor(total / 86_400), 'd'],
    [Math.floor(total / 3600) % 24, 'h'],
    [Math.floor(total / 60) % 60, 'min'],
    [total % 60, 's']
  ];
  const from = parts.findIndex(([count]) => count > 0);
  if (from < 0) {
    return '0 s';
  }
  return parts
    .slice(from, from + 2)
    .filter(([count], place) => place === 0 || count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}

/** Seconds between two times of the wire; `until` null means now. */
export function elapsed(since: string, until: string | null, now: number): number {
  return ((until === null ? now : Date.parse(until)) - Date.parse(since)) / 1000;
}
