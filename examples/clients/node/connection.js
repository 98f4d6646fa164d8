// How calls are made: deadlines, retries, TLS, a token, and what an error says.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const FILES = [
  'forwardpass/v1/inference_service.proto',
  'google/rpc/status.proto',
  'google/rpc/error_details.proto',
];
const LOADING = {
  longs: String, // seeds and versions have 64 bits, and JavaScript's numbers 53
  enums: String,
  defaults: true,
  oneofs: true,
  json: true, // unpacks the google.protobuf.Any that error details are sent as
};

const MESSAGE_BYTES = 64 * 1024 * 1024; // what the server takes unless it is told otherwise

const SERVICE_CONFIG = {
  // Calls the servers behind a DNS name in turn; the default is to stay with the first.
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: 'forwardpass.v1.InferenceService' }],
      // A full queue says in grpc-retry-pushback-ms when to come again, or with -1 not to: grpc-js
      // obeys. UNAVAILABLE must not be in this list. It is also what a broken connection gives,
      // and the request may be what ended the server: grpc-js would carry it to the next one.
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: '0.1s',
        maxBackoff: '1s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['RESOURCE_EXHAUSTED'],
      },
    },
  ],
};

const CHANNEL_OPTIONS = {
  'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
  'grpc.max_send_message_length': MESSAGE_BYTES,
  'grpc.max_receive_message_length': MESSAGE_BYTES, // 4 MiB unless set
  // What grpc-js keeps of a call for another try; 1 MiB unless set. A longer request is tried once,
  // and a stream's write() returns false only beyond it.
  'grpc.per_rpc_retry_buffer_size': 4 * 1024 * 1024,
  // Finds connections that died in silence, such as those that a NAT forgot.
  'grpc.keepalive_time_ms': 60_000,
  'grpc.keepalive_timeout_ms': 20_000,
  'grpc.keepalive_permit_without_calls': 1,
};

export class Connection {
  #service;
  #status;
  #metadata = new grpc.Metadata();
  #milliseconds;

  /**
   * @param {string} protos The folder that `forwardpass protos --out` wrote.
   * @param {string} address host:port, dns:///NAME:PORT or unix:/PATH.
   * @param {object} options
   * @param {number} options.seconds How long each call may take, retries included.
   * @param {string} [options.tlsCa] A PEM file of root certificates; without it nothing is encrypted.
   * @param {string} [options.token] A bearer token. Without TLS anyone on the way can read it.
   */
  constructor(protos, address, { seconds, tlsCa, token }) {
    const definition = protoLoader.loadSync(FILES, { ...LOADING, includeDirs: [protos] });
    const { InferenceService } = grpc.loadPackageDefinition(definition).forwardpass.v1;
    const credentials = tlsCa
      ? grpc.credentials.createSsl(readFileSync(tlsCa))
      : grpc.credentials.createInsecure();
    this.#service = new InferenceService(address, credentials, CHANNEL_OPTIONS);
    this.#status = definition['google.rpc.Status'];
    this.#milliseconds = seconds * 1000;
    if (token) this.#metadata.set('authorization', `Bearer ${token}`);
  }

  /**
   * Makes a call that has one answer. A server that starts or stops refuses it with UNAVAILABLE and
   * says when to come again: then it is made again until the deadline, without that never. Where
   * time runs out in the middle of a try, the refusal before it tells more than the deadline.
   */
  async call(method, request) {
    const deadline = Date.now() + this.#milliseconds;
    let refusal;
    for (;;) {
      try {
        return await this.#callOnce(method, request, deadline);
      } catch (error) {
        if (refusal && error.code === grpc.status.DEADLINE_EXCEEDED) throw refusal;
        const wait = error.code === grpc.status.UNAVAILABLE ? pushback(error) : undefined;
        if (wait === undefined || Date.now() + wait >= deadline) throw error;
        refusal = error;
        await sleep(wait);
      }
    }
  }

  #callOnce(method, request, deadline) {
    return new Promise((resolve, reject) => {
      this.#service[method](request, this.#metadata, { deadline }, (error, answer) =>
        error ? reject(error) : resolve(answer),
      );
    });
  }

  /** Opens a stream that may send and receive until the deadline. */
  openStream(method) {
    return this.#service[method](this.#metadata, this.#withDeadline());
  }

  /** Makes a call whose answer comes in parts. */
  callForStream(method, request) {
    return this.#service[method](request, this.#metadata, this.#withDeadline());
  }

  #withDeadline() {
    return { deadline: Date.now() + this.#milliseconds };
  }

  /** Returns what a failed call says: a reason for programs, a sentence for people, and the rest. */
  explain(error) {
    const [bytes] = error.metadata.get('grpc-status-details-bin');
    const details = bytes ? this.#status.deserialize(bytes).details : [];
    const find = (name) => details.find((detail) => detail['@type'].endsWith(`/google.rpc.${name}`));
    const info = find('ErrorInfo');
    return {
      code: grpc.status[error.code],
      message: error.details,
      // The reasons are listed in protos/README.md. There is none where no server answered.
      reason: info?.domain === 'forwardpass' ? info.reason : undefined,
      facts: info?.metadata,
      field: find('BadRequest')?.fieldViolations[0].field,
      requestId: find('RequestInfo')?.requestId,
      pushbackMs: pushback(error),
    };
  }

  close() {
    this.#service.close();
  }
}

/** Returns after how many milliseconds to make a call again; undefined where nobody says so. */
function pushback(error) {
  const [text] = error.metadata.get('grpc-retry-pushback-ms');
  return /^\d+$/.test(text) ? Number(text) : undefined;
}
