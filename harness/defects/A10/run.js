'use strict';

// A10: a page is reloaded while a message is on its way and others wait in its queue; all of them are gone.

const { fork } = require('node:child_process');
const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

/** The sender, as the tutorial's page has it, in a process of its own; it sends what it is told. */
function page(url) {
  const socket = io(url, { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 });
  let counter = 0;
  const send = (content) => socket.emit('chat message', content, `${socket.id}-${counter++}`);

  socket.on('connect', () => process.send('connected'));
  socket.onAnyOutgoing((_event, content) => process.send(`sent ${content}`));
  process.on('message', (contents) => {
    contents.forEach(send);
    process.send(`queued ${contents}`);
  });
  process.on('disconnect', () => process.exit());
}

async function schedule(bench) {
  const server = await bench.server();
  const link = await bench.link(server);
  const open = async () => {
    const child = fork(__filename, ['--page', link.url]);
    const told = [];
    child.on('message', (text) => told.push(text) && say(`the page: ${text}`));
    await until(() => told.includes('connected'), 'the page to connect');
    return { child, told };
  };

  const before = await open();
  before.child.send(['1']);
  await until(async () => (await bench.stored()).includes('1'), 'message 1');
  await link.add('timeout', 'upstream', { timeout: 0 }); // nothing passes from the page to the server
  before.child.send(['2', '3', '4']);
  await until(() => before.told.includes('sent 2') && before.told.includes('queued 2,3,4'), 'three messages');
  before.child.kill('SIGKILL');
  await until(() => before.child.signalCode !== null, 'the end of the page');
  await link.remove('timeout', 'upstream');

  say('the page is loaded again');
  const after = await open();
  after.child.send(['5']);
  await until(async () => (await bench.stored()).includes('5'), 'message 5');
  after.child.kill('SIGKILL');

  const stored = await bench.stored();
  return [stored.join() === '1,5', `sent 1, 2, 3, 4, and 5 after the reload; stored ${stored.join(', ')}`];
}

if (process.argv[2] === '--page') page(process.argv[3]);
else main(schedule);
