'use strict';

// A3: a server stands still for four ack timeouts; the sender is told a failure, and the message is stored.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults; and with a callback.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(server.url, { ...options, reconnectionDelay: 100 });
  let counter = 0;
  const told = [];
  const send = (content) =>
    alice.emit('chat message', content, `${alice.id}-${counter++}`, (error) => {
      told.push(`${content} ${error ? 'failed' : 'is delivered'}`);
      say(`the sender is told: ${told.at(-1)}${error ? ` (${error.message})` : ''}`);
    });

  // Looking on.
  let sends = 0;
  alice.onAnyOutgoing((_event, content) => content === '2' && say(`message 2, try ${++sends}`));
  let disconnects = 0;
  alice.on('disconnect', () => disconnects++);

  await until(() => alice.connected, 'the connection');
  send('1');
  await until(() => told.length === 1, 'message 1');
  process.kill(server.pid, 'SIGSTOP');
  say('the server stands still');
  send('2');
  await until(() => told.length === 2, 'what becomes of message 2', 10);
  process.kill(server.pid, 'SIGCONT');
  say('the server goes on');
  await until(async () => (await bench.stored()).includes('2'), 'message 2 to be stored');
  send('3');
  await until(() => told.length === 3, 'message 3');

  const stored = await bench.stored();
  return [
    told.join() === '1 is delivered,2 failed,3 is delivered' && stored.join() === '1,2,3' && disconnects === 0,
    `the sender was told: ${told.join(', ')}; stored ${stored.join(', ')}; ${disconnects} disconnects`,
  ];
}

main(schedule);
