'use strict';

// The chat's events: a message is acknowledged when it is stored, and only then.

const { complain } = require('./log.js');

const EVENT = 'chat message';

class Refused extends Error {}

/** Handles the events of all clients of one server. */
class Chat {
  #storage;
  #delivery;
  #points;
  #acknowledges;
  #stopping = false;

  /**
   * @param {import('./storage.js').Storage} storage
   * @param {import('./delivery.js').Delivery} delivery
   * @param {import('../tutorial-node/switches.js').Points} points where to delay or to crash
   * @param {{acknowledges: boolean}} settings
   */
  constructor(storage, delivery, points, { acknowledges }) {
    this.#storage = storage;
    this.#delivery = delivery;
    this.#points = points;
    this.#acknowledges = acknowledges;
  }

  /** Serves a new connection. */
  connect(socket) {
    socket.on(EVENT, (...values) => this.#receive(values));
    this.#delivery.connect(socket, serverOffset(socket.handshake.auth), this.#points.replay());
  }

  /** Takes no more messages; resolves when those that were taken are stored or have failed. */
  async finish() {
    this.#stopping = true;
    this.#storage.hurry();
    await this.#storage.idle();
  }

  async #receive(values) {
    try {
      const { content, clientOffset, acknowledge } = this.#accept(values);
      await this.#store(content, clientOffset);
      if (this.#acknowledges) acknowledge();
    } catch (error) {
      // Silence makes the client try again.
      complain(`not acknowledged: ${error.message}`);
    }
  }

  #accept(values) {
    if (this.#stopping) throw new Refused('the server is stopping');
    return parse(values);
  }

  // Nothing may be awaited before the message is queued: that is what keeps a client's messages in order.
  async #store(content, clientOffset) {
    const delayed = this.#points.message('before-insert', clientOffset);
    try {
      const { step, id } = await this.#storage.write(clientOffset, content, delayed);
      if (step === 'refused') throw new Refused(`row ${id} has this offset and another content`);
      if (step === 'stored') await this.#points.message('after-insert', clientOffset);
    } finally {
      this.#delivery.look(); // however the write ended: the row may be there
    }
  }
}

function parse([content, clientOffset, callback, ...more]) {
  if (typeof content !== 'string' || typeof clientOffset !== 'string') throw new Refused('expected two strings');
  if (more.length > 0) throw new Refused('expected (content, client offset)');
  if (clientOffset === '') throw new Refused('the client offset is empty');
  if (!content.isWellFormed() || !clientOffset.isWellFormed()) throw new Refused('not Unicode text');
  return { content, clientOffset, acknowledge: typeof callback === 'function' ? callback : () => {} };
}

// The id of the last row that a client says it has; 0 when it does not say, or says something else.
function serverOffset(auth) {
  const offset = auth?.serverOffset;
  return Number.isSafeInteger(offset) ? Math.max(offset, 0) : 0;
}

module.exports = { Chat, EVENT };
