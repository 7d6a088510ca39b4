'use strict';

// A2: a network that falls silent is noticed later than all tries are spent; the message is dropped.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();
  const link = await bench.link(server);

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(link.url, { ...options, reconnectionDelay: 100 });
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
  // The only one with a callback: its acknowledgement has to be there before the silence.
  let isAcknowledged = false;
  alice.emit('chat message', '1', `${alice.id}-${counter++}`, () => (isAcknowledged = true));
  await until(() => isAcknowledged, 'the acknowledgement of message 1');

  // The connection is some milliseconds old: it will be found dead 4.5 s after its handshake, at the earliest.
  for (const stream of ['upstream', 'downstream']) await link.add('timeout', stream, { timeout: 0 });
  say('the network is silent');
  send('2');
  send('3');
  await until(() => sent[3] === 1, 'the end of the tries of message 2', 10);
  const tries = sent[2];
  const seen = `${tries} tries of 2, given up while ${alice.connected ? 'connected' : 'disconnected'}`;
  await until(() => !alice.connected, 'the heartbeat to notice', 10);
  for (const stream of ['upstream', 'downstream']) await link.remove('timeout', stream);
  await until(async () => (await bench.stored()).includes('3'), 'message 3', 10);

  const stored = await bench.stored();
  return [tries === 4 && stored.join() === '1,3', `sent 1, 2, 3 (${seen}); stored ${stored.join(', ')}`];
}

main(schedule);
