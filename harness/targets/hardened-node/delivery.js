'use strict';

// Sends every stored row once to every connection, in id order.
//
// The table is the truth: a row is sent because it is in the table, not because somebody says to have stored it.
// Each connection has a cursor and gets the rows above it; whether such a row is old or new makes no difference, so a
// live row can neither overtake nor repeat a replayed one.

const { setTimeout: sleep } = require('node:timers/promises');
const { complain } = require('./log.js');

const READ_AGAIN_MS = 200;
// A client that takes its packets slowly must not have the whole table wait for it in memory.
const MOST_PACKETS_WAITING = 1000;
const ROOM_AGAIN_MS = 10;

/** Follows the table and keeps every connection supplied. */
class Delivery {
  #storage;
  #send;
  #supplies = new Map();

  /**
   * @param {import('./storage.js').Storage} storage where the rows are
   * @param {(socket: import('socket.io').Socket, row: {id: number, content: string}) => void} send sends one row
   */
  constructor(storage, send) {
    this.#storage = storage;
    this.#send = send;
  }

  /**
   * Sends a connection the rows above `offset`, from now on. An offset above the last row cannot come from this
   * table: that connection gets what is new.
   *
   * @param {import('socket.io').Socket} socket
   * @param {number} offset
   * @param {Promise<unknown>} [delayed] awaited before its first rows are sent
   */
  connect(socket, offset, delayed) {
    const supply = { socket, offset, delayed, cursor: undefined, passes: Promise.resolve(), queued: false };
    this.#supplies.set(socket, supply);
    socket.on('disconnect', () => this.#supplies.delete(socket));
    this.#queue(supply);
  }

  /** The table may have new rows. */
  look() {
    for (const supply of this.#supplies.values()) this.#queue(supply);
  }

  /** Resolves when every connection has taken what was in the table, and all else that was sent to it. */
  async settled() {
    const taken = [...this.#supplies.values()].map(async (supply) => {
      await supply.passes;
      await room(supply.socket.conn, 0);
    });
    await Promise.all(taken);
  }

  /** A pass that has not begun will see the new rows too. */
  #queue(supply) {
    if (supply.queued) return;
    supply.queued = true;
    supply.passes = supply.passes.then(() => {
      supply.queued = false;
      return this.#pass(supply);
    });
  }

  async #pass(supply) {
    while (supply.socket.connected) {
      const rows = await this.#rows(supply);
      if (rows.length === 0) return;
      await supply.delayed;
      for (const row of rows) this.#send(supply.socket, row);
      supply.cursor = rows.at(-1).id;
      await room(supply.socket.conn, MOST_PACKETS_WAITING);
    }
  }

  async #rows(supply) {
    while (supply.socket.connected) {
      try {
        supply.cursor ??= Math.min(supply.offset, this.#storage.lastId());
        return this.#storage.rowsAbove(supply.cursor);
      } catch (error) {
        complain(`cannot read the messages, trying again: ${error.message}`);
      }
      await sleep(READ_AGAIN_MS);
    }
    return [];
  }
}

async function room(connection, mostPackets) {
  while (connection.readyState === 'open' && connection.writeBuffer.length > mostPackets) {
    await sleep(ROOM_AGAIN_MS);
  }
}

module.exports = { Delivery };
