{{/* The StatefulSets of storage nodes, as a JSON array of name, replicas and zone. */}}
{{- define "holdfast.storage.sets" -}}
{{- $root := . -}}
{{- $sets := list -}}
{{- range $zone := .Values.storage.zones -}}
{{- $replicas := hasKey $zone "replicas" | ternary (get $zone "replicas") $root.Values.storage.replicas -}}
{{- $sets = append $sets (dict "name" (include "holdfast.zoneName" (dict "root" $root "zone" $zone.name)) "replicas" (int $replicas) "zone" $zone.name) -}}
{{- else -}}
{{- $sets = append $sets (dict "name" (printf "%s-storage" (include "holdfast.fullname" .)) "replicas" (int .Values.storage.replicas) "zone" "") -}}
{{- end -}}
{{- toJson $sets -}}
{{- end -}}

{{- define "holdfast.storage.total" -}}
{{- $total := 0 -}}
{{- range include "holdfast.storage.sets" . | fromJsonArray -}}
{{- $total = add $total (int .replicas) -}}
{{- end -}}
{{- $total -}}
{{- end -}}
