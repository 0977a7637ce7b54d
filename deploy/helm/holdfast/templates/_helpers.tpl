{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "holdfast" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-holdfast" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects all pods of this release. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of (dict "root" $ "name" "planner"): what selects the pods of a service. */}}
{{- define "holdfast.serviceSelector" -}}
{{ include "holdfast.selector" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "holdfast.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{ include "holdfast.selector" . }}
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of (dict "root" $ "name" "planner"): the labels of what belongs to a service. */}}
{{- define "holdfast.serviceLabels" -}}
{{ include "holdfast.labels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{/* Of (dict "root" $ "name" "planner"): the labels of its pods, which no other version of the chart changes. */}}
{{- define "holdfast.podLabels" -}}
{{ include "holdfast.serviceSelector" . }}
app.kubernetes.io/part-of: holdfast
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of (dict "root" $ "name" "planner"): `defaults` with what `services.<name>` says over them, as YAML. */}}
{{- define "holdfast.service" -}}
{{- $service := mergeOverwrite (deepCopy .root.Values.defaults) (index .root.Values.services .name) -}}
{{- $_ := set $service "settings" (mergeOverwrite (deepCopy .root.Values.settings) ($service.settings | default dict)) -}}
{{- $_ := set $service "image" (mergeOverwrite (deepCopy .root.Values.image) ($service.image | default dict)) -}}
{{- toYaml $service -}}
{{- end -}}

{{/* Of an `image` value and the chart's appVersion: what to pull. */}}
{{- define "holdfast.image" -}}
{{- $name := .image.repository -}}
{{- with .image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the public chart calls its objects: its rule, since a template of ours cannot ask it. */}}
{{- define "holdfast.natsName" -}}
{{- $name := .Values.nats.nameOverride | default "nats" -}}
{{- if .Values.nats.fullnameOverride -}}
{{- .Values.nats.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.busUrl" -}}
{{- if .Values.nats.enabled -}}
nats://{{ include "holdfast.natsName" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:4222
{{- else -}}
{{ .Values.bus.url }}
{{- end -}}
{{- end -}}

{{/* The ports in the bus's addresses, as a YAML list. */}}
{{- define "holdfast.busPorts" -}}
{{- $ports := list -}}
{{- range splitList "," (include "holdfast.busUrl" .) -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" (trim . | trimSuffix "/") | trimPrefix ":" | default "4222" | int) -}}
{{- end -}}
{{- toYaml ($ports | uniq) -}}
{{- end -}}

{{/* Where NATS says how much its consumers have before them. */}}
{{- define "holdfast.monitor" -}}
{{- if .Values.keda.natsMonitor -}}
{{ .Values.keda.natsMonitor }}
{{- else if .Values.nats.enabled -}}
{{ include "holdfast.natsName" . }}-headless.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:8222
{{- else -}}
{{ fail "keda.enabled needs keda.natsMonitor, the host:port of the NATS servers' monitoring (8222), when nats.enabled is false" }}
{{- end -}}
{{- end -}}

{{/* Of (dict "secret" "holdfast-{service}" "name" "planner"): the name of a service's own secret. */}}
{{- define "holdfast.ownSecret" -}}
{{- .secret | replace "{service}" .name -}}
{{- end -}}

{{/* A setting's value as the environment has it: no exponents. */}}
{{- define "holdfast.text" -}}
{{- if kindIs "string" . -}}{{ . | quote }}{{- else -}}{{ toJson . | quote }}{{- end -}}
{{- end -}}

{{- define "holdfast.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.user }}
runAsGroup: {{ .Values.podSecurity.group }}
fsGroup: {{ .Values.podSecurity.group }}
# Not at every mount: the tool-executor wants its work directory to be its own, and closed to the group.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "holdfast.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "holdfast.peopleUrl" -}}
{{- $people := .Values.people -}}
{{- if $people.url -}}
{{ $people.url }}
{{- else if $people.ingress.enabled -}}
{{ ternary "https" "http" (gt (len $people.ingress.tls) 0) }}://{{ $people.ingress.host }}
{{- end -}}
{{- end -}}
