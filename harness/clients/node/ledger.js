/** What is told of messages and their attempts; nothing in here makes anything happen. */

"use strict";

const { tell } = require("./told.js");

/** One message; `attempts` counts them. */
class Message {
  attempts = 0;
  settled = false;

  constructor(id, content, offset) {
    Object.assign(this, { id, content, offset });
  }
}

/** All messages of a driver. */
class Ledger {
  #policy;
  #ackTimeoutMs;
  #messages = new Map();
  #byArguments = new Map();
  // The attempts that have neither an answer nor another end, the oldest first.
  #underWay = new Set();

  /** Called with each message that is settled. */
  onSettled = () => {};

  /** Called with each attempt that ended at its ack timeout. */
  onTimedOut = () => {};

  /**
   * @param {import("./policies.js").Policy} policy
   * @param {number} ackTimeoutMs
   */
  constructor(policy, ackTimeoutMs) {
    this.#policy = policy;
    this.#ackTimeoutMs = ackTimeoutMs;
  }

  /** Know a message; the same one again after a reload. */
  post(id, content, offset) {
    const message = this.#messages.get(id) ?? new Message(id, content, offset);
    this.#messages.set(id, message);
    this.alias(message, message.offset);
    return message;
  }

  /** Know a message by another offset, too. */
  alias(message, offset) {
    this.#byArguments.set(JSON.stringify([message.content, offset]), message);
  }

  /** Which message is emitted with these arguments, if any. */
  find(content, offset) {
    return this.#byArguments.get(JSON.stringify([content, offset]));
  }

  /** An emission was handed to the engine; one that asks for no acknowledgement has no end either. */
  begin(message, offset, connection, asks) {
    this.#passed(message);
    const attempt = { message, number: ++message.attempts, connection, acknowledged: false, fresh: true };
    tell({ event: "attempt", message: message.id, attempt: attempt.number, offset, connection });
    if (asks) {
      this.#underWay.add(attempt);
      process.nextTick(() => (attempt.fresh = false));
      if (this.#policy.timed) {
        // Nobody is told of the last ack timeout in a queue. This timer runs right behind that of the client, which
        // was made in the same tick with the same time.
        setTimeout(() => this.#end(attempt, this.#noAnswer(), true), this.#ackTimeoutMs);
      }
    }
    return attempt;
  }

  /** The acknowledgement of an attempt arrived. */
  acknowledged(attempt) {
    if (attempt.acknowledged) {
      return;
    }
    attempt.acknowledged = true;
    const { message } = attempt;
    const late = !this.#underWay.delete(attempt);
    tell({ event: "ok", message: message.id, attempt: attempt.number, late });
    if (this.#policy.silent && !late) {
      this.settle(message, "acknowledged");
    }
  }

  /** The client told an error of a message: every attempt of it that is under way has ended. */
  unanswered(message, error) {
    const timedOut = error?.message === "operation has timed out";
    const reason = timedOut ? this.#noAnswer() : `${error?.message ?? error}`;
    for (const attempt of this.#underWay) {
      if (attempt.message === message) {
        this.#end(attempt, reason, timedOut);
      }
    }
  }

  /** A connection ended, and with it every attempt on it. */
  lost(connection, reason) {
    for (const attempt of this.#underWay) {
      if (attempt.connection === connection) {
        this.#end(attempt, reason, false);
      }
    }
  }

  /** An emission was dropped before anything was sent. */
  dropped(message, offset, reason) {
    const attempt = ++message.attempts;
    tell({ event: "attempt", message: message.id, attempt, offset, connection: 0 });
    tell({ event: "fail", message: message.id, attempt, reason });
  }

  /** The user is told what became of a message. */
  settle(message, outcome) {
    if (!message.settled) {
      message.settled = true;
      this.onSettled(message);
      tell({ event: "settled", message: message.id, outcome });
    }
  }

  /**
   * What the next attempt shows of those before it. The client's queue tells nobody of an ack timeout in it, but it
   * sends the head again then, or the next message. Not so for what it sends twice in one go, when it connects.
   */
  #passed(next) {
    const passed = new Map();
    for (const attempt of this.#underWay) {
      const { message, fresh } = attempt;
      const shown = message === next || (this.#policy.queued && !message.settled);
      if (shown && !fresh && !passed.has(message)) {
        passed.set(message, attempt);
      }
    }
    for (const attempt of passed.values()) {
      this.#end(attempt, this.#noAnswer(), true);
    }
  }

  #noAnswer() {
    return `no answer in ${this.#ackTimeoutMs / 1000} s`;
  }

  #end(attempt, reason, timedOut) {
    const { message, number } = attempt;
    if (this.#underWay.delete(attempt)) {
      tell({ event: "info", message: message.id, attempt: number, reason, timed_out: timedOut });
      if (timedOut) {
        this.onTimedOut(attempt);
      }
    }
  }
}

module.exports = { Ledger };
