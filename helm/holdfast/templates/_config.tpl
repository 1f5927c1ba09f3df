{{/* TOML of a map. Not toToml: numbers of a values file are floating point by the time they get there, and
     `shards = 16.0` is no integer; and a value of null must leave its key out. */}}
{{- define "holdfast.toml" -}}
{{- $prefix := .prefix -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "holdfast.toml.key" $key }} = {{ include "holdfast.toml.value" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value }}
{{- $name := printf "%s%s" $prefix (include "holdfast.toml.key" $key) }}

[{{ $name }}]
{{- include "holdfast.toml" (dict "table" $value "prefix" (printf "%s." $name)) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{- define "holdfast.toml.value" -}}
{{- if typeIs "json.Number" . -}}
{{- . -}}
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ printf "%.0f" . }}{{ else }}{{ printf "%v" . }}{{ end -}}
{{- else if kindIs "slice" . -}}
[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "holdfast.toml.value" $value }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{- $first := true }}{{ range $key, $value := . }}{{ if not (kindIs "invalid" $value) }}{{ if not $first }},{{ end }} {{ include "holdfast.toml.key" $key }} = {{ include "holdfast.toml.value" $value }}{{ $first = false }}{{ end }}{{ end }} }
{{- else if kindIs "string" . -}}
{{- toJson . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* A component's file: its values' config over the chart's. */}}
{{- define "holdfast.configFile" -}}
{{- include "holdfast.toml" (dict "table" (mergeOverwrite (deepCopy .own) (deepCopy .config)) "prefix" "") | trim }}
{{ end -}}

{{/* host:port of meta-service: those that are ready and, when that fails, all that there are. */}}
{{- define "holdfast.metaAddresses" -}}
{{- $name := printf "%s-meta" (include "holdfast.fullname" .) -}}
{{- $ready := include "holdfast.dns" (dict "root" . "name" $name) -}}
{{- $all := include "holdfast.dns" (dict "root" . "name" (printf "%s-headless" $name)) -}}
{{- list (printf "%s:7000" $ready) (printf "%s:7000" $all) | toJson -}}
{{- end -}}

{{- define "holdfast.gateway.config" -}}
{{- $any := include "holdfast.anyAddress" . -}}
{{- $service := .Values.gateway.service -}}
{{- /* A Service of both families sends clients to pods' addresses of both; [::] takes IPv4, too. */}}
{{- $both := or (hasSuffix "DualStack" $service.ipFamilyPolicy) (has "IPv6" $service.ipFamilies) -}}
{{- $own := dict
      "mqtt_listen" (printf "%s:1883" ($both | ternary "[::]" $any))
      "grpc_listen" (printf "%s:7001" $any)
      "http_listen" (printf "%s:8081" $any)
      "meta" (include "holdfast.metaAddresses" . | fromJsonArray) -}}
{{- include "holdfast.configFile" (dict "own" $own "config" .Values.gateway.config) -}}
{{- end -}}

{{- define "holdfast.storage.config" -}}
{{- $any := include "holdfast.anyAddress" . -}}
{{- $own := dict
      "data_dir" "/var/lib/holdfast/data"
      "grpc_listen" (printf "%s:7002" $any)
      "http_listen" (printf "%s:8081" $any)
      "meta" (include "holdfast.metaAddresses" . | fromJsonArray) -}}
{{- include "holdfast.configFile" (dict "own" $own "config" .Values.storage.config) -}}
{{- end -}}

{{- define "holdfast.meta.config" -}}
{{- $any := include "holdfast.anyAddress" . -}}
{{- $own := dict
      "grpc_listen" (printf "%s:7000" $any)
      "http_listen" (printf "%s:8081" $any)
      "store" .Values.meta.store
      "shards" .Values.cluster.shards
      "replication_factor" .Values.cluster.replicationFactor -}}
{{- if .Values.admin.enabled -}}
{{- $_ := set $own "admin" (dict "listen" (printf "%s:8080" $any) "password_file" "/etc/holdfast-admin/password") -}}
{{- end -}}
{{- if eq .Values.meta.store "sled" -}}
{{- $_ := set $own "data_dir" "/var/lib/holdfast/data" -}}
{{- else -}}
{{- $_ := set $own "etcd" (include "holdfast.etcd.client" . | fromJson) -}}
{{- end -}}
{{- include "holdfast.configFile" (dict "own" $own "config" .Values.meta.config) -}}
{{- end -}}

{{/* meta-service's [etcd]. */}}
{{- define "holdfast.etcd.client" -}}
{{- $client := dict "endpoints" .Values.etcd.endpoints "prefix" .Values.etcd.prefix -}}
{{- if .Values.etcd.enabled -}}
{{- $endpoints := list -}}
{{- range $host := include "holdfast.etcd.hosts" . | fromJsonArray -}}
{{- $endpoints = append $endpoints (printf "%s://%s:2379" (include "holdfast.etcd.scheme" $) $host) -}}
{{- end -}}
{{- $_ := set $client "endpoints" $endpoints -}}
{{- end -}}
{{- with .Values.etcd.auth.user -}}
{{- $_ := set $client "user" . -}}
{{- $_ := set $client "password_file" "/etc/holdfast-etcd-auth/password" -}}
{{- end -}}
{{- if .Values.etcd.tls.enabled -}}
{{- $_ := set $client "ca_file" "/etc/holdfast-etcd-tls/ca.crt" -}}
{{- if .Values.etcd.tls.certKey -}}
{{- $_ := set $client "cert_file" "/etc/holdfast-etcd-tls/tls.crt" -}}
{{- $_ := set $client "key_file" "/etc/holdfast-etcd-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- toJson $client -}}
{{- end -}}

{{/* Names of the chart's own etcd members in DNS, as a JSON array. */}}
{{- define "holdfast.etcd.hosts" -}}
{{- $root := . -}}
{{- $name := printf "%s-etcd" (include "holdfast.fullname" .) -}}
{{- $service := include "holdfast.dns" (dict "root" . "name" $name) -}}
{{- $hosts := list -}}
{{- range $ordinal := until (int .Values.etcd.replicas) -}}
{{- $hosts = append $hosts (printf "%s-%d.%s" $name $ordinal $service) -}}
{{- end -}}
{{- toJson $hosts -}}
{{- end -}}

{{- define "holdfast.etcd.scheme" -}}
{{- ternary "https" "http" .Values.etcd.tls.enabled -}}
{{- end -}}

{{- define "holdfast.etcdServerTlsSecret" -}}
{{- if .Values.etcd.tls.certManager.enabled -}}
{{- printf "%s-etcd-server" (include "holdfast.fullname" .) -}}
{{- else -}}
{{- .Values.etcd.tls.server.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.etcdTlsSecret" -}}
{{- if .Values.etcd.tls.certManager.enabled -}}
{{- printf "%s-etcd-client" (include "holdfast.fullname" .) -}}
{{- else -}}
{{- .Values.etcd.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* A time of a config in whole seconds, rounded up: config, path, default in ms. */}}
{{- define "holdfast.seconds" -}}
{{- $value := .config -}}
{{- range .path -}}
{{- $value = (kindIs "map" $value | ternary $value dict) | dig . nil -}}
{{- end -}}
{{- if kindIs "invalid" $value -}}{{- $value = .default -}}{{- end -}}
{{- div (add (int64 $value) 999) 1000 -}}
{{- end -}}

{{/* Least terminationGracePeriodSeconds of a gateway, a storage node and a meta-service. */}}
{{- define "holdfast.gateway.leastGrace" -}}
{{- $config := .Values.gateway.config -}}
{{- $drain := include "holdfast.seconds" (dict "config" $config "path" (list "mqtt" "drain_timeout_ms") "default" 10000) -}}
{{- $delay := include "holdfast.seconds" (dict "config" $config "path" (list "mqtt" "drain_delay_ms") "default" 0) -}}
{{- add (int .Values.gateway.preStopSeconds) (int $drain) (int $delay) 20 -}}
{{- end -}}

{{- define "holdfast.storage.leastGrace" -}}
{{- $drain := include "holdfast.seconds" (dict "config" .Values.storage.config "path" (list "drain_timeout_ms") "default" 10000) -}}
{{- add (int $drain) 20 -}}
{{- end -}}

{{- define "holdfast.meta.leastGrace" -}}
{{- add (int .Values.meta.preStopSeconds) 20 -}}
{{- end -}}

{{/* A quantity in whole bytes: an API server writes 1024Mi as 1Gi. */}}
{{- define "holdfast.bytes" -}}
{{- $text := kindIs "string" . | ternary . (toJson .) -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000
      "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit | default 1) | int64 -}}
{{- end -}}
