{{/* What the running release says against the change. With `helm template` nothing is seen, and nothing is refused. */}}
{{- define "holdfast.validate.live" -}}
{{- $root := . -}}
{{- $namespace := .Release.Namespace -}}
{{- $fullname := include "holdfast.fullname" . -}}
{{- $sets := include "holdfast.storage.sets" . | fromJsonArray -}}
{{- $names := list -}}
{{- range $set := $sets -}}
{{- $names = append $names $set.name -}}
{{- $live := lookup "apps/v1" "StatefulSet" $namespace $set.name | default dict -}}
{{- if and $live $root.Values.storage.drainOnScaleIn.enabled (gt (int (dig "spec" "replicas" 1 $live)) (int $set.replicas)) -}}
{{- if not (and $root.Values.admin.enabled (lookup "v1" "Secret" $namespace (include "holdfast.adminSecret" $root))) }}
storage.replicas: fewer storage nodes need the admin API to be drained first, and the running release does not have it: upgrade to admin.enabled=true alone first. Or drain them by hand and set storage.drainOnScaleIn.enabled=false.
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $live := dig "items" list (lookup "apps/v1" "StatefulSet" $namespace "" | default dict) -}}
{{- $labels := dig "metadata" "labels" dict $live -}}
{{- if and (eq (get $labels "app.kubernetes.io/instance") $root.Release.Name) (eq (get $labels "app.kubernetes.io/component") "storage") (regexMatch (printf "^%s-[0-9]" (regexQuoteMeta $root.Chart.Name)) (get $labels "helm.sh/chart")) -}}
{{- if and (not (has $live.metadata.name $names)) (gt (int (dig "spec" "replicas" 1 $live)) 0) -}}
{{- if not (hasPrefix (printf "%s-" $fullname) $live.metadata.name) }}
fullnameOverride, nameOverride: the running release has other names ({{ $live.metadata.name }}), and its storage nodes would be removed: keep them, or install another release.
{{- else -}}
{{- with get $labels "holdfast.io/zone" }}
storage.zones: {{ $live.metadata.name }} would be removed with {{ dig "spec" "replicas" 1 $live }} storage nodes in it: first set `replicas: 0` for {{ . }}, which moves their data, then take it out.
{{- else }}
storage.zones: the running release has none, and its storage nodes ({{ $live.metadata.name }}) would be removed: leave zones out, or install another release with them.
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $sled := lookup "apps/v1" "StatefulSet" $namespace (printf "%s-meta" $fullname) | default dict -}}
{{- $metas := lookup "apps/v1" "Deployment" $namespace (printf "%s-meta" $fullname) | default dict -}}
{{- if and $metas (eq .Values.meta.store "sled") }}
meta.store: the running release has its metadata in etcd, and it does not move: keep meta.store etcd.
{{- else if and $sled (eq .Values.meta.store "etcd") }}
meta.store: the running release has its metadata in sled, and it does not move: keep meta.store sled.
{{- end -}}
{{- end -}}

{{/* Where metadata lies does not change: another etcd, or another place in it, would be an empty cluster. */}}
{{- define "holdfast.validate.live.etcd" -}}
{{- $namespace := .Release.Namespace -}}
{{- $fullname := include "holdfast.fullname" . -}}
{{- $config := lookup "v1" "ConfigMap" $namespace (printf "%s-meta" $fullname) | default dict | dig "data" "meta-service.toml" "" -}}
{{- if and (eq .Values.meta.store "etcd") (contains "[etcd]" $config) -}}
{{- $hosts := include "holdfast.etcd.hosts" . | fromJsonArray -}}
{{- $was := contains (printf "//%s-etcd-0.%s-etcd.%s.svc." $fullname $fullname $namespace) $config -}}
{{- if and $was (not .Values.etcd.enabled) }}
etcd.enabled: the running release has its metadata in the chart's own etcd, which would be removed: keep it. If you have restored a snapshot of it at etcd.endpoints, then `kubectl -n {{ $namespace }} delete configmap {{ $fullname }}-meta`, and upgrade.
{{- else if and (not $was) .Values.etcd.enabled }}
etcd.enabled: the running release has its metadata in an etcd of yours, and it does not move: keep etcd.enabled=false and etcd.endpoints.
{{- else if and $was (not (contains (printf "//%s:" (first $hosts)) $config)) }}
clusterDomain: is part of the names by which the members of etcd know each other: keep it.
{{- end -}}
{{- if not (contains (printf "\nprefix = %s\n" (include "holdfast.toml.value" .Values.etcd.prefix)) $config) }}
etcd.prefix: the running release has its metadata below another one ({{ regexFind "prefix = .*" $config }}), and it does not move: keep it.
{{- end -}}
{{- end -}}
{{- $etcd := lookup "apps/v1" "StatefulSet" $namespace (printf "%s-etcd" $fullname) | default dict -}}
{{- if and $etcd .Values.etcd.enabled (eq .Values.meta.store "etcd") -}}
{{- $args := dig "spec" "template" "spec" "containers" list $etcd | first | default dict | dig "args" list | join " " -}}
{{- if ne (contains "--listen-peer-urls=https" $args) .Values.etcd.tls.enabled }}
etcd.tls.enabled: members know each other by URLs, so this is fixed when etcd forms: keep it.
{{- end -}}
{{- if ne (int (dig "spec" "replicas" 0 $etcd)) (int .Values.etcd.replicas) }}
etcd.replicas: there are {{ dig "spec" "replicas" 0 $etcd }} members, and etcd's members do not change with a number: keep it.
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A StatefulSet never changes what it makes claims of: an API server would refuse in the middle of the upgrade. */}}
{{- define "holdfast.validate.live.claims" -}}
{{- $root := . -}}
{{- $namespace := .Release.Namespace -}}
{{- $fullname := include "holdfast.fullname" . -}}
{{- $names := dict -}}
{{- range include "holdfast.storage.sets" . | fromJsonArray -}}{{- $_ := set $names .name "storage" -}}{{- end -}}
{{- if eq .Values.meta.store "sled" -}}
{{- $_ := set $names (printf "%s-meta" $fullname) "meta" -}}
{{- else if .Values.etcd.enabled -}}
{{- $_ := set $names (printf "%s-etcd" $fullname) "etcd" -}}
{{- end -}}
{{- range $name, $component := $names -}}
{{- $set := lookup "apps/v1" "StatefulSet" $namespace $name | default dict -}}
{{- $wanted := include "holdfast.claim" (dict "root" $root "component" $component "values" (get $root.Values $component)) | fromYamlArray | first -}}
{{- range $claim := dig "spec" "volumeClaimTemplates" list $set -}}
{{- $size := dig "spec" "resources" "requests" "storage" "" $claim -}}
{{- $orphan := printf "`kubectl -n %s delete statefulset %s --cascade=orphan`, and upgrade: pods go on running." $namespace $name -}}
{{- if ne (include "holdfast.bytes" $size) (include "holdfast.bytes" $wanted.spec.resources.requests.storage) }}
{{ $component }}.persistence.size: claims of {{ $name }} were made with {{ $size }}, which a StatefulSet never changes. Make them larger one by one (kubectl edit pvc), then {{ $orphan }}
{{- end -}}
{{- range $field, $path := dict "storageClass" (list "spec" "storageClassName") "accessModes" (list "spec" "accessModes") "selector" (list "spec" "selector") "labels" (list "metadata" "labels") "annotations" (list "metadata" "annotations") -}}
{{- $now := dig (first $path) (last $path) "" $claim | default "" | toJson -}}
{{- if ne $now (dig (first $path) (last $path) "" $wanted | toJson) }}
{{ $component }}.persistence.{{ $field }}: claims of {{ $name }} were made with {{ $now }}, which a StatefulSet never changes. Keep it; or, if only later claims shall have it, {{ $orphan }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Kinds that others bring. Rendering alone knows none of them, and every API server knows this first one. */}}
{{- define "holdfast.validate.live.kinds" -}}
{{- $known := .Capabilities.APIVersions -}}
{{- if $known.Has "apiregistration.k8s.io/v1" -}}
{{- $metrics := .Values.metrics -}}
{{- $certificates := and (eq .Values.meta.store "etcd") .Values.etcd.tls.enabled .Values.etcd.tls.certManager.enabled -}}
{{- range list
      (list $metrics.serviceMonitor.enabled "metrics.serviceMonitor" "monitoring.coreos.com/v1/ServiceMonitor" "the Prometheus operator")
      (list $metrics.podMonitor.enabled "metrics.podMonitor" "monitoring.coreos.com/v1/PodMonitor" "the Prometheus operator")
      (list $metrics.prometheusRule.enabled "metrics.prometheusRule" "monitoring.coreos.com/v1/PrometheusRule" "the Prometheus operator")
      (list $certificates "etcd.tls.certManager" "cert-manager.io/v1/Certificate" "cert-manager") -}}
{{- if and (first .) (not ($known.Has (index . 2))) }}
{{ index . 1 }}.enabled: this Kubernetes cluster does not know {{ index . 2 }}: install {{ last . }} first, or set it to false.
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
