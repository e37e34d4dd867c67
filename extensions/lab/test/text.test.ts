import assert from 'node:assert/strict';
import test from 'node:test';
import { bytes, duration, elapsed } from '../src/format';
import { BadParameter, UnclosedQuote, kindOf, names, parameters, seconds, serverName, words } from '../src/inputs';
import { LogText } from '../src/logtext';

const ESC = '\u001b';

function shown(...chunks: string[]): string[] {
  const log = new LogText();
  chunks.forEach(chunk => log.append(chunk));
  return [...log.lines];
}

test('sizes and times read as people say them', () => {
  assert.deepEqual([0, 999, 1000, 80_400, 99_960, 412_000_000, 9.1e9].map(bytes), [
    '0 B',
    '999 B',
    '1 kB',
    '80.4 kB',
    '100 kB',
    '412 MB',
    '9.1 GB'
  ]);
  assert.deepEqual([-3, 8.9, 60, 250, 8040, 273_600, 86_405].map(duration), [
    '0 s',
    '8 s',
    '1 min',
    '4 min 10 s',
    '2 h 14 min',
    '3 d 4 h',
    '1 d'
  ]);
  assert.equal(elapsed('2026-01-01T00:00:00Z', '2026-01-01T00:01:00Z', 0), 60);
  assert.equal(elapsed('1970-01-01T00:00:00Z', null, 5000), 5);
});

test('arguments are split as a shell splits them', () => {
  assert.deepEqual(words(`  --lr 0.1 --name "a b" 'c d'e f\\ g "" "x\\"y\\n" `), [
    '--lr',
    '0.1',
    '--name',
    'a b',
    'c de',
    'f g',
    '',
    'x"y\\n'
  ]);
  assert.deepEqual(words(''), []);
  assert.throws(() => words('"open'), UnclosedQuote);
});

test('parameters are JSON where they read as JSON', () => {
  assert.deepEqual(parameters("lr = 0.1\n# no\n\nlayers: [1, 2]\nname = ada \nflag=True\nquoted = 'x'"), {
    lr: 0.1,
    layers: [1, 2],
    name: 'ada',
    flag: true,
    quoted: 'x'
  });
  assert.throws(() => parameters('just words'), BadParameter);
});

test('a run time is seconds, or no limit', () => {
  assert.equal(seconds('1.5', 'h'), 5400);
  assert.equal(seconds(' ', 'min'), null);
});

test('names are found between commas and blanks, once each', () => {
  assert.deepEqual(names('ben, eve;ben  zoe'), ['ben', 'eve', 'zoe']);
});

test('the name of a workspace is one the hub takes', () => {
  const rule = /^[a-z]([a-z0-9]*(-[a-z0-9]+)*)?$/;
  for (const [text, name] of [
    ['vision-3', 'vision-3'],
    ['My_Env.2--x', 'my-env-2-x'],
    ['3d', 'd'],
    ['***', 'workspace'],
    ['a'.repeat(29) + '-b', 'a'.repeat(29)]
  ] as const) {
    assert.equal(serverName(text), name);
    assert.match(name, rule);
  }
});

test('files that run as jobs are known by their ends', () => {
  assert.deepEqual(['a/train.py', 'Eval.IPYNB', 'run.sh', 'data.csv', 'Makefile', 'x.py/readme'].map(kindOf), [
    'script',
    'notebook',
    'script',
    null,
    null,
    null
  ]);
});

test('a log shows what a terminal would, without colours', () => {
  assert.deepEqual(shown(`${ESC}[1;31mred${ESC}[0m\nplain`, ' text\n'), ['red', 'plain text', '']);
  assert.deepEqual(shown('10%\r50%\r', '100%\ndone'), ['100%', 'done']);
  assert.deepEqual(shown('a long line\rshort'), ['shortg line']);
  assert.deepEqual(shown('windows\r', '\nline'), ['windows', 'line']);
});

test('an escape sequence that comes in two pieces is still taken out', () => {
  assert.deepEqual(shown(`a${ESC}`, '[3', '2mb'), ['ab']);
});

test('a long log keeps its last lines and counts those it dropped', () => {
  const log = new LogText(10);
  for (let n = 1; n <= 100; n++) {
    log.append(`${n}\n`);
  }
  assert.equal(log.dropped + log.lines.length, 101);
  assert.ok(log.lines.length <= 11);
  assert.equal(log.lines.at(-2), '100');
});
