// node generate-stream.js MODEL : prints the parts of a text as they are written.

import { main, print } from './command.js';

const OPTIONS = {
  prompt: { type: 'string' },
  length: { type: 'string' },
  temperature: { type: 'string' },
  seed: { type: 'string' },
};

await main(OPTIONS, generate);

async function generate(connection, [name], { prompt, length, temperature, seed }) {
  // What is undefined is not sent, and the server's own choice.
  const request = { model: { name }, prompt, length, temperature, seed };
  for await (const { part } of connection.callForStream('GenerateStream', { request })) {
    print({ texts: part.texts, seed: part.seed });
  }
}
