#!/bin/sh
# Prints a broker's definitions: the topology, and users of least privilege, in a virtual host of its own. By whoever owns the broker:
#
#   VHOST=outdial WORKER_PASSWORD=… PUBLISHER_PASSWORD=… LISTENER_PASSWORD=… deploy/rabbitmq/definitions.sh > definitions.json
#   rabbitmqctl import_definitions definitions.json && rm definitions.json
#
#   outdial-worker      consumes jobs, publishes events and dead letters; declares nothing (set amqp.declare = false)
#   outdial-publisher   publishes jobs, and nothing else
#   outdial-listener    makes queues of its own (listen.…, or named by the broker), binds them to events, reads them
set -eu
vhost=${VHOST:-outdial}
for secret in "${WORKER_PASSWORD:?}" "${PUBLISHER_PASSWORD:?}" "${LISTENER_PASSWORD:?}" "$vhost"; do
    case $secret in *[\"\\]*)
        echo "a password or virtual host has \" or \\ in it, which this can't write down" >&2
        exit 2
        ;;
    esac
done
cat <<JSON
{
  "vhosts": [{"name": "$vhost"}],
  "users": [
    {"name": "outdial-worker", "password": "$WORKER_PASSWORD", "tags": ""},
    {"name": "outdial-publisher", "password": "$PUBLISHER_PASSWORD", "tags": ""},
    {"name": "outdial-listener", "password": "$LISTENER_PASSWORD", "tags": ""}
  ],
  "permissions": [
    {"user": "outdial-worker", "vhost": "$vhost", "configure": "^$",
     "write": "^outdial\\\\.(jobs|events|dead)$", "read": "^outdial\\\\.(jobs|dead)$"},
    {"user": "outdial-publisher", "vhost": "$vhost", "configure": "^$", "write": "^outdial\\\\.jobs$", "read": "^$"},
    {"user": "outdial-listener", "vhost": "$vhost", "configure": "^(listen\\\\.|amq\\\\.gen-)",
     "write": "^(listen\\\\.|amq\\\\.gen-)", "read": "^(listen\\\\..*|amq\\\\.gen-.*|outdial\\\\.events)$"}
  ],
  "exchanges": [
    {"name": "outdial.jobs", "vhost": "$vhost", "type": "topic", "durable": true, "auto_delete": false, "arguments": {}},
    {"name": "outdial.dead", "vhost": "$vhost", "type": "topic", "durable": true, "auto_delete": false, "arguments": {}},
    {"name": "outdial.events", "vhost": "$vhost", "type": "topic", "durable": true, "auto_delete": false, "arguments": {}}
  ],
  "queues": [
    {"name": "outdial.dead", "vhost": "$vhost", "durable": true, "auto_delete": false, "arguments": {"x-queue-type": "quorum"}},
    {"name": "outdial.jobs", "vhost": "$vhost", "durable": true, "auto_delete": false, "arguments": {
      "x-queue-type": "quorum", "x-delivery-limit": 50, "x-dead-letter-exchange": "outdial.dead",
      "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}}
  ],
  "bindings": [
    {"source": "outdial.dead", "vhost": "$vhost", "destination": "outdial.dead", "destination_type": "queue", "routing_key": "#", "arguments": {}},
    {"source": "outdial.jobs", "vhost": "$vhost", "destination": "outdial.jobs", "destination_type": "queue", "routing_key": "#", "arguments": {}}
  ]
}
JSON
