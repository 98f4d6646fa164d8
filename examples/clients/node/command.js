// What the programs share: their options, and how they end.

import { parseArgs } from 'node:util';

import { Connection } from './connection.js';

const OPTIONS = {
  protos: { type: 'string', default: 'protos' },
  server: { type: 'string', default: process.env.FORWARDPASS_SERVER ?? '127.0.0.1:8001' },
  timeout: { type: 'string', default: '10' },
  'tls-ca': { type: 'string' },
};

/**
 * Runs a program; a call that fails is printed as JSON, and makes the exit code 1.
 *
 * @param {object} options What the program takes beside, as `parseArgs` wants it.
 * @param {function} run Given the connection, the arguments and the options.
 */
export async function main(options, run) {
  const { values, positionals } = parseArgs({
    options: { ...OPTIONS, ...options },
    allowPositionals: true,
  });
  const connection = new Connection(values.protos, values.server, {
    seconds: Number(values.timeout),
    tlsCa: values['tls-ca'],
    // Not an option: others on this machine can see those.
    token: process.env.FORWARDPASS_TOKEN,
  });
  try {
    await run(connection, positionals, values);
  } catch (error) {
    // Only what a call fails with has metadata.
    if (!error.metadata) throw error;
    print({ error: connection.explain(error) });
    process.exitCode = 1;
  } finally {
    connection.close();
  }
}

/** Prints a line of JSON. */
export function print(value) {
  console.log(JSON.stringify(value));
}
