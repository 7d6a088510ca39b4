'use strict';

// The chat server of the Socket.IO tutorial, step 8, with its weaknesses. Only the switches are additions.

const { createServer } = require('node:http');
const { open } = require('sqlite');
const { Server } = require('socket.io');
const sqlite3 = require('sqlite3');
const { readSwitches, timers } = require('./switches.js');

const SQLITE_CONSTRAINT = 19;

const { options, points } = readSwitches(['without-unique', 'without-acknowledgement', 'without-recovery']);

async function openDatabase() {
  const db = await open({ filename: options.database, driver: sqlite3.Database });
  // One unit: by default that is the 1 s which the package has anyway.
  db.configure('busyTimeout', options['unit-ms']);
  const unique = options['without-unique'] ? '' : 'UNIQUE';
  await db.exec(`CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    client_offset TEXT ${unique},
    content TEXT
  )`);
  return db;
}

function serverOptions() {
  const settings = timers(options['unit-ms']);
  if (!options['without-recovery']) settings.connectionStateRecovery = {};
  if (options['max-http-buffer-size']) settings.maxHttpBufferSize = options['max-http-buffer-size'];
  return settings;
}

async function main() {
  const db = await openDatabase();
  const http = createServer();
  const io = new Server(http, serverOptions());

  io.on('connection', async (socket) => {
    socket.on('chat message', async (content, clientOffset, callback) => {
      // A client that asked for no acknowledgement passes no callback: the call throws, which ends the process.
      const acknowledge = options['without-acknowledgement'] ? () => {} : () => callback();
      await points.message('before-insert', clientOffset);
      let result;
      try {
        result = await db.run('INSERT INTO messages (content, client_offset) VALUES (?, ?)', content, clientOffset);
        points.stored();
      } catch (error) {
        // Stored by an earlier attempt. About any other error the client hears nothing, and tries again.
        if (error.errno === SQLITE_CONSTRAINT) acknowledge();
        return;
      }
      await points.message('after-insert', clientOffset);
      io.emit('chat message', content, result.lastID);
      acknowledge();
    });

    if (!socket.recovered) {
      const delayed = points.replay();
      const offset = socket.handshake.auth.serverOffset || 0;
      try {
        await db.each('SELECT id, content FROM messages WHERE id > ?', [offset], async (_error, row) => {
          await delayed;
          socket.emit('chat message', row.content, row.id);
        });
      } catch {
        // The client gets what it lacks when it connects the next time.
      }
    }
  });

  http.listen(options.port, options.host, () => {
    console.log(`listening on http://${options.host}:${http.address().port}`);
  });
}

main();
