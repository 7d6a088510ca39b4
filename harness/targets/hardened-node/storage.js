'use strict';

// The table of messages. One connection writes, one reads: the database is in WAL mode, so nobody's lock holds up
// the reader, unless a rollback journal is asked for.

const { closeSync, openSync } = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const Database = require('libsql');

const SETUP_TIMEOUT_MS = 5000;
// Short, as the messages behind a locked one wait for it; the client sends again what was not stored.
const BUSY_TIMEOUT_MS = 200;
const TRY_AGAIN_MS = 10;
const PAGE_ROWS = 200;

/** The messages of one database file, which is created when it is missing. */
class Storage {
  #writer;
  #insert;
  #find;
  #read;
  #last;
  #stored;
  #busyTimeout = BUSY_TIMEOUT_MS;
  #queue = Promise.resolve();

  /**
   * @param {string} path the database file
   * @param {{unique: boolean, journal: 'wal'|'delete', stored: () => void}} settings whether a client offset can be
   *   stored only once, the journal mode, and what to call right after each commit that stored a message
   * @throws when the file cannot be opened or written, or is no database
   */
  constructor(path, { unique, journal, stored }) {
    this.#stored = stored;
    closeSync(openSync(path, 'a')); // SQLite itself would open a file that cannot be written, and fail later
    prepare(path, unique, journal);
    this.#writer = connect(path, 0);
    this.#insert = this.#writer.prepare('INSERT INTO messages (client_offset, content) VALUES (?, ?)');
    this.#find = this.#writer.prepare(
      'SELECT id, CAST(content AS BLOB) AS content FROM messages WHERE client_offset = ?',
    );
    const reader = connect(path, 0);
    // As a BLOB, because libsql ends a text that it reads at its first NUL.
    this.#read = reader.prepare(
      `SELECT id, CAST(content AS BLOB) AS content FROM messages WHERE id > ? ORDER BY id LIMIT ${PAGE_ROWS}`,
    );
    this.#last = reader.prepare('SELECT coalesce(max(id), 0) AS id FROM messages');
  }

  /**
   * Stores one message, behind all that were given before. Fails with the database's own error; the row can be there
   * nevertheless, as a commit can be reported as failed and have happened.
   *
   * @param {string} clientOffset
   * @param {string} content
   * @param {Promise<unknown>} [delayed] awaited when it is this message's turn
   * @returns {Promise<{step: 'stored'|'duplicate'|'refused', id: number}>} `refused`: the offset is another content's
   */
  write(clientOffset, content, delayed) {
    const written = this.#queue
      .then(() => delayed)
      .then(() => this.#patiently(() => this.#store(clientOffset, content)));
    this.#queue = written.catch(() => {});
    return written;
  }

  /** Waits for no more locks: what is still queued fails at once when the database is locked. */
  hurry() {
    this.#busyTimeout = 0;
  }

  /** Resolves when nothing is queued. */
  idle() {
    return this.#queue;
  }

  /** The rows above an id, in id order: the first of them, not necessarily all. */
  rowsAbove(id) {
    return this.#read.all(id).map((row) => ({ id: row.id, content: text(row.content) }));
  }

  /** The id of the last row, 0 when there is none. */
  lastId() {
    return this.#last.get().id;
  }

  // libsql blocks, so its own busy timeout would keep the event loop, and with it the pongs, for as long as somebody
  // holds a lock. A write without a lock takes less than a millisecond and a disk flush, which the loop can spare: a
  // thread would cost more at every start than it gives.
  async #patiently(write) {
    const start = performance.now();
    for (;;) {
      try {
        return write();
      } catch (error) {
        if (!isBusy(error) || performance.now() - start >= this.#busyTimeout) throw error;
      }
      await sleep(TRY_AGAIN_MS);
    }
  }

  #store(clientOffset, content) {
    this.#rollBack(); // what an earlier roll back could not end
    this.#writer.exec('BEGIN IMMEDIATE');
    try {
      const outcome = this.#insertOnce(clientOffset, content);
      this.#writer.exec('COMMIT');
      if (outcome.step === 'stored') this.#stored();
      return outcome;
    } catch (error) {
      try {
        this.#rollBack();
      } catch {
        // The first error says more, and the next write rolls back again.
      }
      throw error;
    }
  }

  #insertOnce(clientOffset, content) {
    try {
      return { step: 'stored', id: this.#insert.run(clientOffset, content).lastInsertRowid };
    } catch (error) {
      if (error.code !== 'SQLITE_CONSTRAINT_UNIQUE') throw error;
      const row = this.#find.get(clientOffset);
      return { step: text(row.content) === content ? 'duplicate' : 'refused', id: row.id };
    }
  }

  #rollBack() {
    if (this.#writer.inTransaction) this.#writer.exec('ROLLBACK');
  }
}

function prepare(path, unique, journal) {
  const database = connect(path, SETUP_TIMEOUT_MS);
  const [{ journal_mode: mode }] = database.pragma(`journal_mode = ${journal}`);
  if (mode !== journal) throw new Error(`its journal mode cannot be ${journal}, it is ${mode}`);
  database.exec(`CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT ${unique ? 'UNIQUE' : ''}, content TEXT
  )`);
  database.close();
}

function connect(path, timeout) {
  const database = new Database(path, { timeout });
  database.exec('PRAGMA synchronous = FULL'); // in WAL mode, a commit survives a power loss only so
  return database;
}

function text(blob) {
  return Buffer.from(blob).toString();
}

function isBusy(error) {
  return /^SQLITE_(BUSY|LOCKED)/.test(error.code);
}

module.exports = { Storage };
