{{/*
What the services are, which no value changes: the consumers of each, what it needs to reach, and whether it reads secrets.
The consumers are those of `services/runtime/nats/topology.py`; tests/conformance/helm holds the two together.

  partitions   consumers that every partition's stream has
  others       consumers of the other streams: name -> stream
  secrets      whether manifests can make it read secrets
  ports        what it reaches outside of the cluster, beside HTTPS
  outside      whether it reaches anything but the bus at all
*/}}
{{- define "holdfast.facts" -}}
planner:
  partitions: [planner]
  others: {planner-requests: HOLDFAST_REQUESTS, planner-timers: HOLDFAST_TIMERS}
  secrets: false
  outside: false
  ports: []
llm-gateway:
  partitions: [llm-gateway]
  others: {}
  secrets: true
  outside: true
  ports: [443]
tool-executor:
  partitions: [tool-executor, tool-executor-answers]
  others: {}
  secrets: true
  outside: true
  ports: [443]
human-contact:
  partitions: [human-contact, human-contact-answers]
  others: {human-contact-timers: HOLDFAST_PEOPLE_TIMERS}
  secrets: true
  outside: true
  ports: [443, 465, 587, 993]
notifier:
  partitions: [notifier]
  others: {notifier-timers: HOLDFAST_NOTIFY_TIMERS}
  secrets: true
  outside: true
  ports: [443, 465, 587]
{{- end -}}

{{/* Seconds that a service may need after its consumers have drained: open requests, MCP servers, spans. */}}
{{- define "holdfast.afterDrainSeconds" -}}15{{- end -}}

{{/* Where things are in a container. */}}
{{- define "holdfast.secretsDir" -}}/var/run/holdfast/secrets{{- end -}}
{{- define "holdfast.busAuthDir" -}}/var/run/holdfast/bus-auth{{- end -}}
{{- define "holdfast.busTlsDir" -}}/var/run/holdfast/bus-tls{{- end -}}
{{- define "holdfast.payloadKeysDir" -}}/var/run/holdfast/payload-keys{{- end -}}
{{- define "holdfast.linkKeyDir" -}}/var/run/holdfast/link-key{{- end -}}
{{- define "holdfast.workVolume" -}}/var/lib/holdfast{{- end -}}
{{- define "holdfast.httpPort" -}}9464{{- end -}}
{{- define "holdfast.peoplePort" -}}8080{{- end -}}
