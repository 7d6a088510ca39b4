'use strict';

// A7: a disk that is full for as long as there are tries; the message is dropped, and the next one is stored.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

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

  const makeRoom = bench.fillDisk(server);
  say('the server can write no more to any file');
  send('2');
  send('3');
  await until(() => sent[3] === 1, 'the end of the tries of message 2', 10);
  makeRoom();
  say('there is room again');
  await until(async () => (await bench.stored()).includes('3'), 'message 3', 10);

  const stored = await bench.stored();
  return [
    sent[2] === 4 && stored.join() === '1,3',
    `sent 1, 2, 3 (2 in ${sent[2]} tries); stored ${stored.join(', ')}`,
  ];
}

main(schedule);
