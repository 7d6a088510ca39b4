'use strict';

// A20 without Socket.IO: two INSERTs on one connection of node-sqlite3, and another process that holds a lock.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const sqlite3 = require('sqlite3');

// Holds a lock for 0.15 s: the busy timeout of the first INSERT is over, that of the second is not.
const LOCKER = `
  const database = new (require('sqlite3').Database)(process.argv[1]);
  database.exec('BEGIN IMMEDIATE', () => {
    console.log('locked');
    setTimeout(() => database.exec('ROLLBACK'), 150);
  });`;

async function main() {
  const folder = mkdtempSync(path.join(tmpdir(), 'reproduce-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const filename = path.join(folder, 'a.db');
  const db = new sqlite3.Database(filename);
  db.configure('busyTimeout', 100);
  await promisify(db.exec.bind(db))('CREATE TABLE messages (id INTEGER PRIMARY KEY, content TEXT)');

  const locker = spawn(process.execPath, ['-e', LOCKER, filename], { cwd: __dirname });
  const unlocked = once(locker, 'exit');
  await once(locker.stdout, 'data');
  const insert = (content) =>
    new Promise((resolve) => {
      db.run('INSERT INTO messages (content) VALUES (?)', content, function inserted(error) {
        console.log(`${content}: ${error?.message ?? `stored with id ${this.lastID}`}`);
        resolve(error ? undefined : content);
      });
    });
  const reported = (await Promise.all([insert('first'), insert('second')])).filter(Boolean);
  await unlocked;

  const rows = (await promisify(db.all.bind(db))('SELECT content FROM messages')).map(({ content }) => content);
  console.log(`rows: ${rows.join(', ') || 'none'}`);
  const lost = reported.filter((content) => !rows.includes(content));
  console.log(lost.length > 0 ? `reproduced: no row of ${lost}` : 'not reproduced: every row is there');
  process.exitCode = lost.length > 0 ? 0 : 1;
}

main();
