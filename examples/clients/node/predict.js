// node predict.js MODEL PICTURE... : names the likeliest classes of JPEG or PNG files.

import { readFile } from 'node:fs/promises';

import { main, print } from './command.js';

await main({ 'top-k': { type: 'string', default: '3' } }, predict);

async function predict(connection, [name, ...pictures], options) {
  const answer = await connection.call('Predict', {
    model: { name },
    images: await Promise.all(pictures.map((path) => readFile(path))),
    topK: Number(options['top-k']),
  });
  for (const [row, { classes }] of answer.classifications.entries()) {
    print({ picture: pictures[row], version: answer.model.version, classes });
  }
}
