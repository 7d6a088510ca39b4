'use strict';

// B4: six clients write at once; messages are broadcast in another order than that of their rows.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

const TRIES = 60;

async function schedule(bench) {
  const server = await bench.server();

  // Pages as the tutorial has them: one that looks, and six that write.
  const options = { transports: ['websocket'], ackTimeout: 1000, retries: 3 };
  const open = () => io(server.url, { ...options, auth: { serverOffset: 0 } });
  const writers = Array.from({ length: 6 }, open);
  await until(() => writers.every((socket) => socket.connected), 'six connections');
  writers[0].emit('chat message', 'first', `${writers[0].id}-first`);
  await until(async () => (await bench.stored()).length === 1, 'the first message');
  const rita = open();
  const received = [];
  rita.on('chat message', (content, serverOffset) => received.push({ content, id: serverOffset }));
  await until(() => received.length === 1, 'what is sent to who joins');

  for (let number = 1; number <= TRIES; number++) {
    const before = received.length;
    writers.forEach((socket, writer) => {
      for (let i = 0; i < 30; i++) {
        socket.emit('chat message', `${number}.${writer}.${i}`, `${socket.id}-${number}-${i}`);
      }
    });
    await until(() => received.length === before + 180, '180 messages', 15);
    const ids = received.slice(before).map(({ id }) => id);
    const late = ids.filter((id, i) => i > 0 && id < ids[i - 1]);
    say(`try ${number}: ${late.length} of 180 messages came behind a message of a higher row`);
    if (late.length > 0) {
      const i = ids.indexOf(late[0]);
      return [true, `in try ${number} the rows came in the order ${ids.slice(Math.max(0, i - 2), i + 3).join(', ')}`];
    }
  }
  return [false, `every message came in the order of the rows, in ${TRIES} tries`];
}

main(schedule, { seconds: 60, inMemory: true });
