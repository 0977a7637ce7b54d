{{/*
The environment, mounts and volumes of a service's container. Each takes
(dict "root" $ "name" "planner" "service" <merged values> "facts" <facts>).
*/}}

{{- define "holdfast.env" -}}
{{- $root := .root -}}
{{- $bus := $root.Values.bus -}}
- name: HOLDFAST_NATS_URL
  value: {{ include "holdfast.busUrl" $root | quote }}
- name: HOLDFAST_HTTP_HOST
  value: 0.0.0.0
- name: HOLDFAST_HTTP_PORT
  value: {{ include "holdfast.httpPort" $root | quote }}
- name: HOLDFAST_DRAIN_S
  value: {{ .service.drainSeconds | quote }}
{{- range $key, $value := .service.settings }}
- name: HOLDFAST_{{ $key | snakecase | upper }}
  value: {{ include "holdfast.text" $value }}
{{- end }}
{{- if and $bus.accounts (ne .name "planner") }}
# In an account of its own: the planner makes the streams, and the JetStream API has another name.
- name: HOLDFAST_NATS_API_PREFIX
  value: HOLDFAST.API
- name: HOLDFAST_TOPOLOGY
  value: check
{{- end }}
{{- with $bus.auth }}
{{- if .secret }}
- name: {{ ternary "HOLDFAST_NATS_CREDS" "HOLDFAST_NATS_NKEY_SEED_FILE" (eq .kind "creds") }}
  value: {{ include "holdfast.busAuthDir" $root }}/{{ .key }}
{{- end }}
{{- end }}
{{- with $bus.tls }}
{{- if .secret }}
{{- if .ca }}
- name: HOLDFAST_NATS_TLS_CA
  value: {{ include "holdfast.busTlsDir" $root }}/{{ .ca }}
{{- end }}
{{- if .cert }}
- name: HOLDFAST_NATS_TLS_CERT
  value: {{ include "holdfast.busTlsDir" $root }}/{{ .cert }}
- name: HOLDFAST_NATS_TLS_KEY
  value: {{ include "holdfast.busTlsDir" $root }}/{{ .key }}
{{- end }}
{{- end }}
{{- end }}
{{- if $root.Values.payloadKeys.secret }}
- name: HOLDFAST_PAYLOAD_KEYS_DIR
  value: {{ include "holdfast.payloadKeysDir" $root }}
{{- end }}
{{- if .facts.secrets }}
- name: HOLDFAST_SECRETS_DIR
  value: {{ include "holdfast.secretsDir" $root }}
{{- end }}
{{- if eq .name "human-contact" }}
{{- $people := $root.Values.people }}
{{- if $people.enabled }}
- name: HOLDFAST_PEOPLE_HTTP_HOST
  value: 0.0.0.0
- name: HOLDFAST_PEOPLE_HTTP_PORT
  value: {{ include "holdfast.peoplePort" $root | quote }}
{{- with include "holdfast.peopleUrl" $root }}
- name: HOLDFAST_PEOPLE_URL
  value: {{ . | quote }}
{{- end }}
{{- with $people.proxies }}
- name: HOLDFAST_PEOPLE_PROXIES
  value: {{ join "," . | quote }}
{{- end }}
{{- else }}
- name: HOLDFAST_PEOPLE_HTTP_PORT
  value: "-1"
{{- end }}
{{- if $people.linkKey.secret }}
- name: HOLDFAST_PEOPLE_LINK_KEY_FILE
  value: {{ include "holdfast.linkKeyDir" $root }}/{{ $people.linkKey.key }}
{{- end }}
{{- end }}
{{- if eq .name "tool-executor" }}
# Below the volume, not the volume: the executor makes it, so that it belongs to its own user.
- name: HOLDFAST_WORK_DIR
  value: {{ include "holdfast.workVolume" $root }}/work
{{- end }}
{{- with $root.Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_METRICS_EXPORTER
  value: {{ ternary "otlp" "none" $root.Values.tracing.metrics }}
- name: OTEL_LOGS_EXPORTER
  value: {{ ternary "otlp" "none" $root.Values.tracing.logs }}
{{- end }}
# The root file system is read-only: programs that want a home or a cache find it here.
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
{{- with .service.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "holdfast.mounts" -}}
{{- $root := .root -}}
- name: tmp
  mountPath: /tmp
{{- if $root.Values.bus.auth.secret }}
- name: bus-auth
  mountPath: {{ include "holdfast.busAuthDir" $root }}
  readOnly: true
{{- end }}
{{- if $root.Values.bus.tls.secret }}
- name: bus-tls
  mountPath: {{ include "holdfast.busTlsDir" $root }}
  readOnly: true
{{- end }}
{{- if $root.Values.payloadKeys.secret }}
- name: payload-keys
  mountPath: {{ include "holdfast.payloadKeysDir" $root }}
  readOnly: true
{{- end }}
{{- if .facts.secrets }}
{{- range $index, $secret := .service.secrets }}
- name: secret-{{ $index }}
  mountPath: {{ include "holdfast.secretsDir" $root }}/{{ $secret.as | default $secret.name }}
  readOnly: true
{{- end }}
{{- end }}
{{- if and (eq .name "human-contact") $root.Values.people.linkKey.secret }}
- name: link-key
  mountPath: {{ include "holdfast.linkKeyDir" $root }}
  readOnly: true
{{- end }}
{{- if eq .name "tool-executor" }}
- name: work
  mountPath: {{ include "holdfast.workVolume" $root }}
{{- end }}
{{- with .service.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "holdfast.volumes" -}}
{{- $root := .root -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .service.tmpSize }}
{{- with $root.Values.bus.auth }}
{{- if .secret }}
- name: bus-auth
  secret:
    secretName: {{ include "holdfast.ownSecret" (dict "secret" .secret "name" $.name) }}
    defaultMode: 0440
    items:
      - {key: {{ .key | quote }}, path: {{ .key | quote }}}
{{- end }}
{{- end }}
{{- with $root.Values.bus.tls }}
{{- if .secret }}
- name: bus-tls
  secret:
    secretName: {{ include "holdfast.ownSecret" (dict "secret" .secret "name" $.name) }}
    defaultMode: 0440
    items:
      {{- range compact (list .ca .cert (ternary .key "" (ne .cert ""))) }}
      - {key: {{ . | quote }}, path: {{ . | quote }}}
      {{- end }}
{{- end }}
{{- end }}
{{- with $root.Values.payloadKeys.secret }}
- name: payload-keys
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if .facts.secrets }}
{{- range $index, $secret := .service.secrets }}
- name: secret-{{ $index }}
  secret:
    secretName: {{ $secret.name }}
    defaultMode: 0440
    {{- with $secret.keys }}
    items:
      {{- range . }}
      - {key: {{ . | quote }}, path: {{ . | quote }}}
      {{- end }}
    {{- end }}
{{- end }}
{{- end }}
{{- if eq .name "human-contact" }}
{{- with $root.Values.people.linkKey }}
{{- if .secret }}
- name: link-key
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    items:
      - {key: {{ .key | quote }}, path: {{ .key | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .name "tool-executor" }}
{{- $work := $root.Values.workDirectory }}
- name: work
  {{- if $work.persistent }}
  persistentVolumeClaim:
    claimName: {{ $work.existingClaim | default (printf "%s-work" (include "holdfast.fullname" $root)) }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $work.size }}
  {{- end }}
{{- end }}
{{- with .service.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
