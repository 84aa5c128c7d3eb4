#!/usr/bin/env python3
"""Publishes call jobs to outdial, and exits 0 only if the broker has confirmed every one of them.

    pip install -r requirements.txt
    AMQP_URL=amqp://USER:PASSWORD@HOST:5672/VHOST python3 publish.py jobs.ndjson

Without a file it reads standard input. One job a line, as JSON; `outdial schema job` tells the fields:

    {"job_id": "crm-4711", "campaign_id": "spring-sale", "phone": "+1 415 555 0123", "name": "Ada"}

For each job that is confirmed it prints `job_id traceparent`. What went wrong stands on standard error; no phone
number is ever printed. When it fails, run it again with the same file: nobody is called twice by that.
"""

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import sys

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

EXCHANGE = "outdial.jobs"
# Any routing key will do: the queue takes them all.
ROUTING_KEY = "jobs"

# Messages sent and not yet confirmed. One at a time would wait for the broker's disk each time; without a bound,
# a slow broker would fill this program's memory.
IN_FLIGHT_MAX = 500
CONNECT_SECONDS = 20
# A broker that is out of memory or disk takes messages and says nothing: nobody waits for it for ever.
CONFIRM_SECONDS = 30
CLOSE_SECONDS = 5

JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class NotConfirmed(Exception):
    """The broker has not said that it keeps the message. It may have it all the same."""


class Publisher:
    """A connection with one channel, on which the broker confirms every message.

    Not pika's BlockingConnection: that one sends nothing more until the last message is confirmed, and waits for it
    without a limit of time.
    """

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.ready = loop.create_future()
        self.closed = loop.create_future()
        self.connection = None
        self.channel = None
        # By delivery tag: the channel's messages are numbered from 1, and confirmed by these numbers.
        self.sent = 0
        self.in_flight = {}
        self.returned = set()

    async def connect(self, parameters):
        self.connection = AsyncioConnection(
            parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.on_channel),
            on_open_error_callback=self.on_closed,
            on_close_callback=self.on_closed,
        )
        try:
            await asyncio.wait_for(self.ready, CONNECT_SECONDS)
        except TimeoutError:
            raise NotConfirmed(f"no answer within {CONNECT_SECONDS} s") from None

    def on_channel(self, channel):
        channel.add_on_close_callback(self.on_lost)
        channel.add_on_return_callback(self.on_return)

        def confirming(_):
            self.channel = channel
            if not self.ready.done():
                self.ready.set_result(None)

        # Confirms: without them a message that the broker never got, or lost as it restarted, is lost in silence.
        channel.confirm_delivery(self.on_confirm, callback=confirming)

    def send(self, job_id, body, traceparent):
        """Sends a job. The future that it gives back is done once the broker has confirmed it."""
        if self.channel is None or not self.channel.is_open:
            raise NotConfirmed("there is no connection to the broker any more")
        properties = pika.BasicProperties(
            content_type="application/json",
            # Persistent: on the broker's disk, so that it outlives a restart. The confirm comes after that.
            delivery_mode=pika.DeliveryMode.Persistent.value,
            # The job's own id: it names the message in returns and dead letters, where nobody has to open the body.
            # outdial takes it for the job's id where the body has none.
            message_id=job_id,
            # outdial continues this trace, up to the call at the provider.
            headers={"traceparent": traceparent},
        )
        # Mandatory: a message that no queue would get comes back. Otherwise the broker confirms it and throws it away.
        self.channel.basic_publish(EXCHANGE, ROUTING_KEY, body, properties, mandatory=True)
        self.sent += 1
        outcome = asyncio.get_running_loop().create_future()
        self.in_flight[self.sent] = (job_id, outcome)
        return outcome

    def on_return(self, _channel, _method, properties, _body):
        # Its confirm follows: the broker has dealt with it. That is no success.
        self.returned.add(properties.message_id)

    def on_confirm(self, frame):
        tag, refused = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Nack)
        tags = [t for t in self.in_flight if t <= tag] if frame.method.multiple else [tag]
        for job_id, outcome in [self.in_flight.pop(t) for t in tags if t in self.in_flight]:
            if outcome.done():
                continue  # given up already
            if refused:
                outcome.set_exception(NotConfirmed("refused by the broker, which is full or short of a majority"))
            elif job_id in self.returned:
                outcome.set_exception(NotConfirmed(f"returned by the broker: no queue is bound to {EXCHANGE}"))
            else:
                outcome.set_result(None)

    def on_lost(self, _, why):
        """The channel is closed: what isn't confirmed by now will never be."""
        outcomes = [self.ready, *(outcome for _, outcome in self.in_flight.values())]
        self.in_flight.clear()
        for outcome in outcomes:
            if not outcome.done():
                outcome.set_exception(NotConfirmed(repr(why)))

    def on_closed(self, connection, why):
        self.on_lost(connection, why)
        if not self.closed.done():
            self.closed.set_result(None)

    async def close(self):
        if self.connection is None or not self.connection.is_open:
            return
        self.connection.close()
        try:
            await asyncio.wait_for(self.closed, CLOSE_SECONDS)
        except TimeoutError:
            pass  # everything is confirmed, or told as not confirmed: the end of the process closes it


class Run:
    """One pass over the jobs."""

    def __init__(self, given_traceparent):
        self.given_traceparent = given_traceparent
        self.confirmed = 0
        self.failed = 0
        self.bad = 0
        self.room = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def publish(self, publisher, lines):
        waiting = set()
        number = 0
        # On a thread, so that heartbeats go on while whoever writes the jobs takes their time.
        while line := await asyncio.to_thread(lines.readline):
            number += 1
            body = line.strip()
            if not body:
                continue
            try:
                job_id = id_of(body)
            except ValueError as fault:
                self.bad += 1
                tell(f"line {number}: {fault}")
                continue
            await self.room.acquire()
            # What happened to one message would happen to the next: with the first that isn't confirmed it stops.
            if self.failed:
                break
            traceparent = self.given_traceparent or new_traceparent()
            try:
                outcome = publisher.send(job_id, body, traceparent)
            except Exception as fault:  # the library's own, too: whatever it is, nobody has confirmed it
                self.failed += 1
                tell(f"{job_id}: not confirmed: {fault}")
                break
            task = asyncio.create_task(self.settle(job_id, traceparent, outcome))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        if waiting:
            await asyncio.wait(waiting)

    async def settle(self, job_id, traceparent, outcome):
        try:
            await asyncio.wait_for(outcome, CONFIRM_SECONDS)
        except TimeoutError:
            self.failed += 1
            tell(f"{job_id}: not confirmed within {CONFIRM_SECONDS} s")
        except NotConfirmed as why:
            self.failed += 1
            tell(f"{job_id}: not confirmed: {why}")
        else:
            self.confirmed += 1
            print(job_id, traceparent, flush=True)
        finally:
            self.room.release()


def id_of(body):
    """The job's id. What else may be wrong with a job outdial finds out: it ends in `outdial.dead`, with the reason."""
    try:
        job = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise ValueError("not JSON in UTF-8") from None
    job_id = job.get("job_id") if isinstance(job, dict) else None
    # By its id outdial knows a job again. Take one that your own records give the call, not a random one: then
    # publishing the job once more, by whatever mishap, is harmless. The second message is dropped.
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        raise ValueError("job_id is needed: 1 to 128 of A-Z a-z 0-9 . _ : -")
    return job_id


def new_traceparent():
    """A new trace by W3C Trace Context, sampled. A program that traces passes on its own current span instead."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def tell(text):
    print(text, file=sys.stderr, flush=True)


def stop(text):
    tell(text)
    sys.exit(2)


async def main(lines, parameters, given_traceparent):
    publisher, run = Publisher(), Run(given_traceparent)
    try:
        await publisher.connect(parameters)
    except NotConfirmed as why:
        tell(f"no connection to the broker: {why}")
        return 1
    await run.publish(publisher, lines)
    await publisher.close()
    tell(f"{run.confirmed} confirmed, {run.failed} not confirmed, {run.bad} bad lines")
    if run.failed:
        tell("run it again with the same jobs: those that outdial has are dropped, nobody is called twice")
    return 1 if run.failed or run.bad else 0


if __name__ == "__main__":
    # Ctrl-C ends it at once, also while it reads. What isn't confirmed then is sent again by the next run.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # pika's own log tells again, in many lines, what is told here in one.
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
    if len(sys.argv) > 2 or "AMQP_URL" not in os.environ:
        stop("usage: AMQP_URL=amqp://USER:PASSWORD@HOST:5672/VHOST publish.py [FILE]")
    try:
        broker = pika.URLParameters(os.environ["AMQP_URL"])
    except Exception:  # not shown: its text may have a part of the password
        stop("AMQP_URL is not a URL of the form amqp://USER:PASSWORD@HOST:5672/VHOST (%2F is the virtual host /)")
    trace = os.environ.get("TRACEPARENT")
    if trace and not TRACEPARENT.fullmatch(trace):
        stop("TRACEPARENT is not one of W3C Trace Context: 00-TRACE-SPAN-FLAGS")
    try:
        jobs = open(sys.argv[1], "rb") if len(sys.argv) == 2 else sys.stdin.buffer
    except OSError as fault:
        stop(str(fault))
    with jobs:
        sys.exit(asyncio.run(main(jobs, broker, trace)))
