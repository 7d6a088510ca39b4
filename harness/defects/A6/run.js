'use strict';

// A6: a database that is locked and free again before the last try; the message is stored once, late.

const { io } = require('socket.io-client');
const { main, say, sleep, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(server.url, { ...options, reconnectionDelay: 100 });
  let counter = 0;
  const send = (content) => alice.emit('chat message', content, `${alice.id}-${counter++}`);

  // Looking on.
  const sent = { 1: 0, 2: 0, 3: 0 };
  alice.onAnyOutgoing((_event, content) => {
    sent[content] += 1;
    say(`message ${content}, try ${sent[content]}`);
  });
  alice.on('disconnect', (reason) => say(`alice is disconnected: ${reason}`));

  await until(() => alice.connected, 'the connection');
  send('1');
  await until(async () => (await bench.stored()).includes('1'), 'message 1');

  const lock = await bench.lock();
  say('the database is locked');
  send('2');
  await until(() => sent[2] === 3, 'the third try', 10);
  await sleep(500); // the third try has met the lock: the server waits a tenth of a second for it
  const early = (await bench.stored()).includes('2');
  await lock.release();
  say('the database is free again');
  send('3');
  await until(async () => (await bench.stored()).includes('3'), 'message 3', 10);

  const stored = await bench.stored();
  return [
    !early && sent[2] === 4 && stored.join() === '1,2,3',
    `sent 1, 2, 3 (2 in ${sent[2]} tries); stored ${stored.join(', ')}`,
  ];
}

main(schedule, { words: ['holds', 'does not hold'] });
