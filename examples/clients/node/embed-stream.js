// node embed-stream.js MODEL PICTURE... : prints the feature vector of each JPEG or PNG file.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';

import { main, print } from './command.js';

await main({}, embed);

async function embed(connection, [name, ...pictures]) {
  const stream = connection.openStream('EmbedStream');
  try {
    await Promise.all([send(stream, name, pictures), receive(stream, pictures)]);
  } finally {
    stream.cancel(); // does nothing to a stream that has ended
  }
}

async function send(stream, name, pictures) {
  for (const [row, path] of pictures.entries()) {
    const request = { model: { name }, images: [await readFile(path)] };
    // The server holds back who sends faster than the model runs. Whoever writes on regardless
    // fills this process's memory.
    if (!stream.write({ request })) {
      console.error(`${row + 1} of ${pictures.length} sent: waiting for the server`);
      await once(stream, 'drain');
    }
  }
  stream.end();
}

async function receive(stream, pictures) {
  let row = 0;
  // Answers come in the order of the requests. One that fails does not end the stream.
  for await (const { response, error } of stream) {
    const picture = pictures[row++];
    print(
      error
        ? { picture, error }
        : { picture, spaceId: response.spaceId, vector: floats(response.embeddings.content) },
    );
  }
}

/** Returns the numbers of a float32 tensor, which are little-endian. */
function floats(content) {
  return Array.from({ length: content.length / 4 }, (_, index) => content.readFloatLE(4 * index));
}
