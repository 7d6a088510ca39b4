'use strict';

// A20: several INSERTs wait for a lock; one of them succeeds, is acknowledged and broadcast, and is not in the table.

const { io } = require('socket.io-client');
const { main, say, sleep, until } = require('./common.js');

const BUSY_TIMEOUT_MS = 100; // of the server's connection to its database
const TRIES = 20;

async function schedule(bench) {
  const server = await bench.server();

  // Six pages, as the tutorial has them. The callback is only there to see what each is told.
  const acknowledged = [];
  const pages = ['alice', 'bob', 'carol', 'dave', 'erin', 'frank'].map((name) => {
    let counter = 0;
    const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
    const socket = io(server.url, options);
    const send = (content) => new Promise((resolve) => {
      socket.emit('chat message', content, `${socket.id}-${counter++}`, (error) => {
        if (!error) acknowledged.push(content);
        resolve();
      });
    });
    return { name, socket, send };
  });
  const received = new Map();
  pages[0].socket.on('chat message', (content, id) => received.set(content, id));
  await until(() => pages.every(({ socket }) => socket.connected), 'six connections');

  for (let number = 1; number <= TRIES; number++) {
    const lock = await bench.lock();
    const answers = pages.map(({ name, send }) => send(`${name} ${number}`));
    await sleep(BUSY_TIMEOUT_MS * 1.5); // the first INSERT has given up, the second waits
    await lock.release();
    await Promise.all(answers);
    await sleep(BUSY_TIMEOUT_MS); // every statement is finalized
    const rows = await bench.rows();
    const lost = acknowledged.filter((content) => !rows.some((row) => row.content === content));
    say(`try ${number}: ${acknowledged.length} messages are acknowledged so far, and there are ${rows.length} rows`);
    if (lost.length > 0) {
      for (const content of lost) {
        say(`"${content}" was acknowledged, broadcast with id ${received.get(content)}, and is no row`);
      }
      return [true, `in try ${number}, acknowledged and not in the table: ${lost.join(', ')}`];
    }
  }
  return [false, `every acknowledged message was in the table, in ${TRIES} tries`];
}

main(schedule, { seconds: 60 });
