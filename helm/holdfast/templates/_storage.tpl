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

{{/* A hook that moves all data off the storage nodes of one StatefulSet that will go: root, set, weight, hook, suffix, more. */}}
{{- define "holdfast.drain" -}}
{{- $drain := .root.Values.storage.drainOnScaleIn -}}
{{- $args := list "sites" "shrink" "--prefix" (printf "%s-" .set.name) "--to" (.set.replicas | toString) "--wait" -}}
apiVersion: batch/v1
kind: Job
{{ include "holdfast.metadata" (dict "root" .root "component" "drain"
    "name" (include "holdfast.shortened" (dict "name" (printf "%s-%s" .set.name .suffix) "length" 52))
    "annotations" (dict
      "helm.sh/hook" .hook
      "helm.sh/hook-weight" (.weight | toString)
      "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded")) }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {{ int $drain.timeoutSeconds }}
  template:
    {{- include "holdfast.toolPod" (dict "root" .root "component" "drain" "credentials" true
        "annotations" $drain.podAnnotations "resources" $drain.resources "serviceAccountName" $drain.serviceAccountName
        "args" (concat $args (.more | default list))) | nindent 4 }}
{{- end -}}
