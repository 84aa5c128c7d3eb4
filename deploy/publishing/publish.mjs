#!/usr/bin/env node
// Publishes call jobs to outdial, and exits 0 only if the broker has confirmed every one of them.
//
//     npm ci
//     AMQP_URL=amqp://USER:PASSWORD@HOST:5672/VHOST node publish.mjs jobs.ndjson
//
// Without a file it reads standard input. One job a line, as JSON; `outdial schema job` tells the fields:
//
//     {"job_id": "crm-4711", "campaign_id": "spring-sale", "phone": "+1 415 555 0123", "name": "Ada"}
//
// For each job that is confirmed it prints `job_id traceparent`. What went wrong stands on standard error; no phone
// number is ever printed. When it fails, run it again with the same file: nobody is called twice by that.

import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import amqp from 'amqplib';

const EXCHANGE = 'outdial.jobs';
// Any routing key will do: the queue takes them all.
const ROUTING_KEY = 'jobs';

// Messages sent and not yet confirmed. One at a time would wait for the broker's disk each time; without a bound, a
// slow broker would fill this program's memory.
const IN_FLIGHT_MAX = 500;
const CONNECT_MS = 20_000;
// A broker that is out of memory or disk takes messages and says nothing: nobody waits for it for ever.
const CONFIRM_MS = 30_000;
const CLOSE_MS = 5_000;

const JOB_ID = /^[A-Za-z0-9._:-]{1,128}$/;
const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** A connection with one channel, on which the broker confirms every message. */
class Publisher {
  static async connect(url) {
    const publisher = new Publisher();
    const connection = await amqp.connect(url);
    publisher.connection = connection;
    // Why it broke, for those whose confirms will never come. An 'error' that nobody listens to ends the process.
    const note = (error) => {
      publisher.lost ??= error;
    };
    connection.on('error', note);
    // Confirms: without them a message that the broker never got, or lost as it restarted, is lost in silence.
    publisher.channel = await connection.createConfirmChannel();
    publisher.channel.on('error', note);
    publisher.returned = new Set();
    // Its confirm follows: the broker has dealt with it. That is no success.
    publisher.channel.on('return', (message) => publisher.returned.add(message.properties.messageId));
    return publisher;
  }

  /** Sends a job, and is fulfilled once the broker has confirmed it. */
  send(jobId, body, traceparent) {
    const confirmed = new Promise((resolve, reject) => {
      const options = {
        contentType: 'application/json',
        // On the broker's disk, so that it outlives a restart. The confirm comes after that.
        persistent: true,
        // The job's own id: it names the message in returns and dead letters, where nobody has to open the body.
        // outdial takes it for the job's id where the body has none.
        messageId: jobId,
        // A message that no queue would get comes back. Otherwise the broker confirms it and throws it away.
        mandatory: true,
        // outdial continues this trace, up to the call at the provider.
        headers: { traceparent },
      };
      // Throws on a channel that is closed, which rejects, too.
      this.channel.publish(EXCHANGE, ROUTING_KEY, body, options, (refused) => {
        if (refused) {
          reject(this.lost ?? new Error(`refused by the broker, or the link broke: ${refused.message}`));
        } else if (this.returned.has(jobId)) {
          reject(new Error(`returned by the broker: no queue is bound to ${EXCHANGE}`));
        } else {
          resolve();
        }
      });
    });
    return within(CONFIRM_MS, confirmed);
  }

  async close() {
    // Everything is confirmed, or told as not confirmed: a connection that doesn't close is left to the process's end.
    await within(CLOSE_MS, this.connection.close()).catch(() => {});
  }
}

/** One pass over the jobs. */
class Run {
  confirmed = 0;
  failed = 0;
  bad = 0;
  inFlight = 0;
  settled = () => {};

  async publish(publisher, input, givenTraceparent) {
    try {
      await this.sendAll(publisher, input, givenTraceparent);
    } catch (why) {
      this.failed += 1;
      console.error(`the jobs can't be read: ${why.message}`);
    }
    while (this.inFlight > 0) await this.oneSettled();
  }

  async sendAll(publisher, input, givenTraceparent) {
    let number = 0;
    for await (const line of linesOf(input)) {
      number += 1;
      const body = trimmed(line);
      if (body.length === 0) continue;
      const jobId = idOf(body);
      if (jobId === undefined) {
        this.bad += 1;
        console.error(`line ${number}: not JSON in UTF-8, or without a job_id: 1 to 128 of A-Z a-z 0-9 . _ : -`);
        continue;
      }
      while (this.inFlight >= IN_FLIGHT_MAX) await this.oneSettled();
      // What happened to one message would happen to the next: with the first that isn't confirmed it stops.
      if (this.failed > 0) break;
      this.inFlight += 1;
      const traceparent = givenTraceparent || newTraceparent();
      publisher
        .send(jobId, body, traceparent)
        .then(
          () => {
            this.confirmed += 1;
            console.log(`${jobId} ${traceparent}`);
          },
          (why) => {
            this.failed += 1;
            console.error(`${jobId}: not confirmed: ${why.message}`);
          },
        )
        .finally(() => {
          this.inFlight -= 1;
          this.settled();
        });
    }
  }

  /** Each message in flight has a limit of time, and so has this. */
  oneSettled() {
    return new Promise((resolve) => {
      this.settled = resolve;
    });
  }
}

/** Lines, byte for byte: readline would end one at U+2028 as well, which JSON allows in a text. */
async function* linesOf(input) {
  let rest = Buffer.alloc(0);
  for await (const chunk of input) {
    rest = Buffer.concat([rest, chunk]);
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      yield rest.subarray(0, end);
      rest = rest.subarray(end + 1);
    }
  }
  yield rest;
}

function trimmed(line) {
  const blank = (byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d;
  let [from, to] = [0, line.length];
  while (from < to && blank(line[from])) from += 1;
  while (from < to && blank(line[to - 1])) to -= 1;
  return line.subarray(from, to);
}

/** The job's id. What else may be wrong with a job outdial finds out: it ends in `outdial.dead`, with the reason. */
function idOf(body) {
  let id;
  try {
    id = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body))?.job_id;
  } catch {
    return undefined; // not shown: the text of the error has a part of the job
  }
  // By its id outdial knows a job again. Take one that your own records give the call, not a random one: then
  // publishing the job once more, by whatever mishap, is harmless. The second message is dropped.
  return typeof id === 'string' && JOB_ID.test(id) ? id : undefined;
}

/** A new trace by W3C Trace Context, sampled. A program that traces passes on its own current span instead. */
function newTraceparent() {
  return `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01`;
}

async function within(ms, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

function stop(text, code) {
  console.error(text);
  process.exit(code);
}

const [file, ...tooMany] = process.argv.slice(2);
const { AMQP_URL: url, TRACEPARENT: given } = process.env;
if (!url || tooMany.length > 0) {
  stop('usage: AMQP_URL=amqp://USER:PASSWORD@HOST:5672/VHOST node publish.mjs [FILE]', 2);
}
if (!URL.canParse(url)) {
  // Not shown: it has a password in it.
  stop('AMQP_URL is not a URL of the form amqp://USER:PASSWORD@HOST:5672/VHOST (%2F is the virtual host /)', 2);
}
if (given && !TRACEPARENT.test(given)) stop('TRACEPARENT is not one of W3C Trace Context: 00-TRACE-SPAN-FLAGS', 2);

const publisher = await within(CONNECT_MS, Publisher.connect(url)).catch((why) =>
  stop(`no connection to the broker: ${why.message}`, 1),
);
const run = new Run();
await run.publish(publisher, file ? createReadStream(file) : process.stdin, given);
await publisher.close();
console.error(`${run.confirmed} confirmed, ${run.failed} not confirmed, ${run.bad} bad lines`);
if (run.failed > 0) {
  console.error('run it again with the same jobs: those that outdial has are dropped, nobody is called twice');
}
process.exit(run.failed > 0 || run.bad > 0 ? 1 : 0);
