#!/bin/sh
# Prints alerts.yaml as the object that the Prometheus operator wants:
#
#   deploy/prometheus/rule.sh | kubectl apply -f -
set -eu
cat <<YAML
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: outdial
  namespace: outdial
  labels: {app.kubernetes.io/name: outdial}
spec:
YAML
sed 's/^./  &/' "$(dirname "$0")/alerts.yaml"
